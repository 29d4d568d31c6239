# SPDX-License-Identifier: Apache-2.0
"""``blazar-vmexpire-manage``: what an administrator does on Blazar's own machine.

It reads Blazar's configuration and works on Blazar's database. Each group of commands is a module
beside this one; here they are put together, and what goes wrong is told in one sentence.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence

import blazar.config  # noqa: F401  (registers Blazar's options, its account's and its database's)
from oslo_config import cfg
from oslo_db import options as db_options

from blazar_vmexpire.cmd import (
    manage_brake,
    manage_db,
    manage_exclusion,
    manage_failed,
    manage_forecast,
    manage_hold,
    manage_import,
    manage_mail,
    manage_plan,
    manage_purge,
    manage_show,
    manage_sync,
    manage_withdraw,
)
from blazar_vmexpire.cmd.told import TOLD_IN_ONE_SENTENCE, log_to_stderr, one_sentence
from blazar_vmexpire.conf import opts

_NAME = "blazar-vmexpire-manage"


def main(arguments: Sequence[str] | None = None, conf: cfg.ConfigOpts = cfg.CONF) -> int:
    """Run the command.

    :param arguments: without the program's name; None for those it was called with.
    :returns: the exit status: 0, 1 when it could not do what was asked, 2 for wrong arguments.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    # Not what blazar.conf has: there it is for the services.
    debug = "--debug" in arguments or "-d" in arguments
    command = cfg.SubCommandOpt("command", title="commands", handler=_add_commands)
    conf.register_cli_opt(command)
    opts.register_opts(conf)
    db_options.set_defaults(conf)
    try:
        conf(
            arguments,
            project="blazar",
            prog=_NAME,
            description="Administration of blazar-vmexpire, on the machine that Blazar runs on.",
        )
        log_to_stderr(debug=debug)
        # Who waits at a terminal is told at once that the database does not answer.
        conf.set_override("max_retries", 0, group="database")
        conf.command.run(conf, conf.command)
    except TOLD_IN_ONE_SENTENCE as error:
        if debug:
            traceback.print_exc()
        print(f"{_NAME}: {one_sentence(error)}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Whoever read our output has seen enough; nothing can be flushed to it any more.
        sys.stdout = None
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def documented() -> argparse.ArgumentParser:
    """Make a parser of the commands alone: for the documentation."""
    parser = argparse.ArgumentParser(prog=_NAME)
    _add_commands(parser.add_subparsers(title="commands", metavar="COMMAND"))
    return parser


def _add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    for module in (
        manage_db,
        manage_show,
        manage_failed,
        manage_brake,
        manage_exclusion,
        manage_hold,
        manage_plan,
        manage_forecast,
        manage_sync,
        manage_import,
        manage_mail,
        manage_purge,
        manage_withdraw,
    ):
        module.add_commands(commands)


if __name__ == "__main__":
    sys.exit(main())
