# SPDX-License-Identifier: Apache-2.0
"""``blazar-vmexpire-manage exclusion``: who is left out, by whom and why."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from oslo_config import cfg
from oslo_utils import timeutils

from blazar_vmexpire import exclusions
from blazar_vmexpire.cmd.manage_base import (
    CommandError,
    Commands,
    add_format,
    administrator,
    connected,
    date,
    print_json_list,
    print_table,
    server_id,
    shown,
)
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db.engine import Database, retried
from blazar_vmexpire.exclusions import AlreadyExcluded, Exclusion, Invalid, Kind

_SELECTORS: tuple[tuple[Kind, str, Callable[[str], str], str], ...] = (
    (Kind.DOMAIN, "ID", str, "all VMs of a domain's projects"),
    (Kind.PROJECT, "ID", str, "all VMs of a project"),
    (Kind.USER, "ID", str, "all VMs of a user"),
    (Kind.FLAVOR, "NAME", str, "all VMs of a flavor"),
    (Kind.SERVER, "UUID", server_id, "one VM"),
)


def add_commands(commands: Commands[Any]) -> None:
    """Add ``exclusion list``, ``exclusion add`` and ``exclusion remove``."""
    parser = commands.add_parser(
        "exclusion",
        help="list, add or remove what is left out: domains, projects, users, flavors, single VMs",
        description="VMs that are left out do not expire. Those that had a lease are let go of:"
        " unlocked and started if anything was begun, and their lease is removed.",
    )
    group = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    found = group.add_parser("list", help="list what is left out, by whom and why")
    found.add_argument("--all", action="store_true", help="also what is over")
    add_format(found)
    found.set_defaults(run=_list)

    add = group.add_parser(
        "add",
        help="leave somebody out",
        description="Leave VMs out, at once. The same again is refused: remove it first.",
    )
    _add_selectors(add.add_mutually_exclusive_group(required=True))
    add.add_argument("--reason", required=True, help="why; the history of each VM has it")
    add.add_argument(
        "--until",
        metavar="DATE",
        type=date,
        help="when it ends by itself, in UTC (like 2027-01-10T04:50); without it: never",
    )
    add.set_defaults(run=_add)

    remove = group.add_parser(
        "remove",
        help="take it back",
        description="Take an exclusion back. VMs that nothing else leaves out begin a full first"
        " term.",
    )
    which = remove.add_mutually_exclusive_group(required=True)
    which.add_argument("id", metavar="EXCLUSION_ID", nargs="?", type=int, help="as list shows it")
    _add_selectors(which)
    remove.add_argument("--reason", help="why; the history of a VM that is named has it")
    remove.set_defaults(run=_remove)


def _add_selectors(group: argparse._MutuallyExclusiveGroup) -> None:
    for kind, metavar, read, words in _SELECTORS:
        group.add_argument(f"--{kind}", metavar=metavar, type=read, help=words)


def _selected(arguments: Any) -> tuple[Kind, str]:
    """Say what was named; argparse has seen to it that one thing was."""
    return next(
        (kind, value) for kind in Kind if (value := getattr(arguments, kind.value)) is not None
    )


def _list(conf: cfg.ConfigOpts, arguments: Any) -> None:
    with connected(conf) as database, database.begin() as connection:
        now = timeutils.utcnow()
        found = [x for x in exclusions.listed(connection) if arguments.all or x.applies(now)]
    if arguments.format == "json":
        print_json_list(dataclasses.asdict(exclusion) for exclusion in found)
        return
    widths = {
        "id": 6,
        "kind": 7,
        "value": 36,
        "expires_at": 19,
        "created_at": 19,
        "author": 16,
        "reason": 0,
    }
    print_table(widths, ([getattr(exclusion, name) for name in widths] for exclusion in found))


def _add(conf: cfg.ConfigOpts, arguments: Any) -> None:
    kind, value = _selected(arguments)
    with connected(conf) as database:
        try:
            added, known, late = _add_to(database, kind, value, arguments)
        except (AlreadyExcluded, Invalid) as error:
            raise CommandError(str(error)) from error
    until = f"until {shown(added.expires_at)} UTC" if added.expires_at else "until it is removed"
    print(f"Exclusion {added.id}: {kind} {shown(added.value)} is left out {until}.")
    print(f"VMs that are known and that it concerns: {known}")
    if late:
        print("It is being deleted already: that cannot be taken back.")


@retried
def _add_to(
    database: Database, kind: Kind, value: str, arguments: Any
) -> tuple[Exclusion, int, bool]:
    with database.begin() as connection:
        added = exclusions.add(
            connection,
            kind=kind,
            value=value,
            reason=arguments.reason,
            author=administrator(),
            expires_at=arguments.until,
            now=timeutils.utcnow(),
        )
        row = db_api.get(connection, added.value) if kind == Kind.SERVER else None
        known = exclusions.concerned(connection, kind, added.value)
    return added, known, row is not None and bool(row.progress.get("irreversible"))


def _remove(conf: cfg.ConfigOpts, arguments: Any) -> None:
    with connected(conf) as database:
        removed, known = _remove_from(database, arguments)
    print(f"{removed.kind} {shown(removed.value)} is not left out any more.")
    print(f"VMs that are known and that it concerned: {known}")


@retried
def _remove_from(database: Database, arguments: Any) -> tuple[Exclusion, int]:
    with database.begin() as connection:
        exclusion = _wanted(connection, arguments)
        known = exclusions.concerned(connection, exclusion.kind, exclusion.value)
        removed = exclusions.remove(
            connection,
            exclusion,
            author=administrator(),
            reason=arguments.reason,
            now=timeutils.utcnow(),
        )
    if not removed:
        raise CommandError(f"exclusion {exclusion.id} was removed by somebody else just now")
    return exclusion, known


def _wanted(connection: sa.Connection, arguments: Any) -> Exclusion:
    if arguments.id is not None:
        exclusion = exclusions.get(connection, arguments.id)
        named = f"there is no exclusion {arguments.id}"
    else:
        kind, value = _selected(arguments)
        exclusion = exclusions.get_by_value(connection, kind, value)
        named = f"{kind} {value} is not excluded"
    if exclusion is None:
        raise CommandError(f"{named}: see exclusion list")
    return exclusion
