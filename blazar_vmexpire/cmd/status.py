# SPDX-License-Identifier: Apache-2.0
"""``blazar-vmexpire-status upgrade check``: whether all is there that the service needs.

It reads Blazar's configuration and can be run at any time, before an upgrade and after it. Its exit
codes are those of every OpenStack service's ``status`` command.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from typing import Any

import blazar.config  # noqa: F401  (registers Blazar's options, its account's and its database's)
from keystoneauth1 import exceptions as ksa_exceptions
from oslo_config import cfg
from oslo_db import options as db_options
from oslo_upgradecheck import upgradecheck
from oslo_upgradecheck.upgradecheck import Code, Result

from blazar_vmexpire.cloud.errors import CloudError
from blazar_vmexpire.cmd import status_cloud, status_own
from blazar_vmexpire.cmd.manage_base import shown
from blazar_vmexpire.cmd.status_base import Check, Doubt
from blazar_vmexpire.cmd.told import TOLD_IN_ONE_SENTENCE, log_to_stderr, one_sentence
from blazar_vmexpire.conf import opts
from blazar_vmexpire.notices import BadAddress, MailUnavailable, Undeliverable

CHECKS: tuple[Check, ...] = (*status_own.CHECKS, *status_cloud.CHECKS)

#: What a check finds wrong, where the check has nothing better to say.
_WRONG = (
    *TOLD_IN_ONE_SENTENCE,
    BadAddress,
    CloudError,
    MailUnavailable,
    RuntimeError,
    Undeliverable,
    ksa_exceptions.ClientException,
)


class Checks(upgradecheck.UpgradeCommands):  # type: ignore[misc]
    """Our checks, as oslo.upgradecheck runs them."""

    display_title = "blazar-vmexpire"

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        super().__init__()
        self._conf = conf
        self._upgrade_checks = tuple(
            (check.title, functools.partial(Checks._result, check=check)) for check in CHECKS
        )

    def check(self) -> Code:
        """Do it, and print what was found."""
        # Who waits at a terminal is told at once that the database does not answer.
        self._conf.set_override("max_retries", 0, group="database")
        return super().check()

    def _result(self, *, check: Check) -> Result:
        matters = f"It matters because {check.why}."
        try:
            found = check.look(self._conf)
        except Doubt as doubt:
            code, found = Code.WARNING, str(doubt)
        except _WRONG as error:
            code, found = Code.FAILURE, one_sentence(error)
        else:
            return Result(Code.SUCCESS, f"{_sentence(found)} {matters}")
        return Result(code, f"{_sentence(found)} {matters} What would be right: {check.right}.")


def main(arguments: Sequence[str] | None = None, conf: cfg.ConfigOpts = cfg.CONF) -> int:
    """Run the command.

    :param arguments: without the program's name; None for those it was called with.
    :returns: the exit status: 0 when all is well, 1 when something is worth a look, 2 when
        something is wrong, 255 when the checks could not be run.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    # Not what blazar.conf has: there it is for the services.
    log_to_stderr(debug="--debug" in arguments or "-d" in arguments)
    opts.register_opts(conf)
    db_options.set_defaults(conf)
    try:
        status: Any = upgradecheck.main(
            conf,
            project="blazar",
            upgrade_command=Checks(conf),
            argv=list(arguments),
        )
    except cfg.Error as error:
        print(f"blazar-vmexpire-status: {one_sentence(error)}", file=sys.stderr)
        return 255
    return int(status)


def _sentence(text: str) -> str:
    """Write what was found as a sentence: no terminal takes any of it for a command."""
    said = shown(" ".join(text.split())).rstrip(".")
    return f"{said[:1].upper()}{said[1:]}."


if __name__ == "__main__":
    sys.exit(main())
