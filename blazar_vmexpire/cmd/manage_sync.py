# SPDX-License-Identifier: Apache-2.0
"""``blazar-vmexpire-manage sync``: compare Nova's server list with the leases, now."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import sqlalchemy as sa
from oslo_config import cfg

from blazar_vmexpire import service
from blazar_vmexpire.cloud import errors
from blazar_vmexpire.cmd.manage_base import (
    CommandError,
    Commands,
    Progress,
    add_format,
    duration,
    prepared,
    print_json,
)
from blazar_vmexpire.cmd.progress import bar
from blazar_vmexpire.db.models import expirations
from blazar_vmexpire.exceptions import ClaimLost
from blazar_vmexpire.intake.reconcile import Result
from blazar_vmexpire.lifecycle import State
from blazar_vmexpire.worker.claims import Chore
from blazar_vmexpire.worker.tools import Tools

#: Between two looks whether somebody else has finished, in seconds.
_PAUSE = 0.5

#: What is said of the numbers of a result.
_TITLES = {
    "listed": "listed by Nova",
    "adopted": "taken in",
    "woken": "known, and to be looked at",
    "busy": "building, broken or in the middle of a task: left for the next time",
    "out_of_scope": "out of scope, or excluded",
    "missing": "have a lease and were not listed: each is asked for by itself",
}


def add_commands(commands: Commands[Any]) -> None:
    """Add ``sync``."""
    sync = commands.add_parser(
        "sync",
        help="compare Nova's list of servers with the leases, now",
        description="Do now what is done every reconcile_interval: read the list of all servers"
        " from Nova, take in those that have no lease and should, and have those looked at of which"
        " Nova shows something new. It is done once at a time in the whole cloud: while a"
        " blazar-manager or worker is at it, this command waits until it has come to its end.",
    )
    sync.add_argument(
        "--wait",
        metavar="DURATION",
        type=duration,
        default="10m",
        help="how long to wait for one that is under way (default: 10m)",
    )
    add_format(sync)
    sync.set_defaults(run=_sync)


def _sync(conf: cfg.ConfigOpts, arguments: Any) -> None:
    with prepared(conf) as tools:
        chore = service.reconciliation_chore(tools)
        _claim(chore, arguments.wait.total_seconds())
        _print(_reconcile(tools, chore), arguments.format)


def _claim(chore: Chore, seconds: float) -> None:
    """Claim the chore, as soon as nobody else is at it.

    :raises CommandError: somebody was for all that time.
    """
    until = time.monotonic() + seconds
    progress = Progress()
    while not chore.claim(early=True):
        owner = chore.owner() or "another process"
        if time.monotonic() > until:
            raise CommandError(
                f"{owner} is reconciling, and has not come to its end: nothing was done by this"
                " command"
            )
        progress.show(f"waiting: {owner} is reconciling")
        time.sleep(_PAUSE)


def _reconcile(tools: Tools, chore: Chore) -> Result:
    problem: str | None = "it was interrupted"
    try:
        with chore.kept(), bar("servers", _expected(tools)) as report:
            result = service.reconcile(tools, chore, report)
        problem = None
    except ClaimLost as error:
        raise CommandError(str(error)) from error
    except errors.CloudError as error:
        problem = str(error)
        raise CommandError(
            f"Nova's list could not be compared to its end: {error}; what was taken in stays"
        ) from error
    finally:
        _finish(chore, problem)
    return result


def _finish(chore: Chore, problem: str | None) -> None:
    try:
        chore.finish(problem)
    except ClaimLost as error:
        raise CommandError(str(error)) from error


def _expected(tools: Tools) -> int:
    """Say about how many servers there are: as many as are known."""
    gone = (State.DELETED, State.SEEN, State.VANISHED)
    with tools.database.begin() as connection:
        found = connection.scalar(
            sa.select(sa.func.count())
            .select_from(expirations)
            .where(expirations.c.state.not_in(gone))
        )
    return found or 0


def _print(result: Result, form: str) -> None:
    found = dataclasses.asdict(result)
    if form == "json":
        print_json(found)
        return
    for name, title in _TITLES.items():
        print(f"{found[name]:>8}  {title}")
