# SPDX-License-Identifier: Apache-2.0
"""``blazar-vmexpire-manage hold``: VMs whose clock is stopped, by whom, why, and until when."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from oslo_config import cfg
from oslo_utils import timeutils

from blazar_vmexpire import holds
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
    terms_book,
)
from blazar_vmexpire.db.api import Expiration
from blazar_vmexpire.db.engine import Database, retried
from blazar_vmexpire.db.models import expirations
from blazar_vmexpire.db.models import holds as table
from blazar_vmexpire.terms import TermsBook


def add_commands(commands: Commands[Any]) -> None:
    """Add ``hold list``, ``hold add`` and ``hold release``."""
    parser = commands.add_parser(
        "hold",
        help="list, add or release holds: VMs whose clock is stopped for a while",
        description="A VM that is held gets no notices, is not locked, stopped or ended, and its"
        " lease ends later than the hold. To leave a VM out for good, see exclusion.",
    )
    group = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    found = group.add_parser("list", help="list the VMs that are held, by whom and why")
    add_format(found)
    found.set_defaults(run=_list)

    add = group.add_parser(
        "add",
        help="stop a VM's clock",
        description="Stop a VM's clock. It is given back (unlocked, started) if anything was begun."
        " For a VM that is held already, this takes the place of its hold.",
    )
    add.add_argument("server_id", metavar="SERVER_ID", type=server_id, help="the VM's UUID")
    add.add_argument(
        "--until",
        metavar="DATE",
        type=date,
        required=True,
        help="when its clock goes on by itself, in UTC (like 2027-01-10T04:50)",
    )
    add.add_argument("--reason", required=True, help="why; the VM's history has it")
    add.add_argument("--ticket", help="where more is to be read")
    add.set_defaults(run=_add)

    release = group.add_parser(
        "release",
        help="let a VM's clock go on now",
        description="Let a VM's clock go on before its hold is over. It has the end again that it"
        " had before, unless its owner could not be told of that in time.",
    )
    release.add_argument("server_id", metavar="SERVER_ID", type=server_id, help="the VM's UUID")
    release.add_argument("--reason", help="why; the VM's history has it")
    release.set_defaults(run=_release)


def _list(conf: cfg.ConfigOpts, arguments: Any) -> None:
    h, x = table.c, expirations.c
    with connected(conf) as database, database.begin() as connection:
        found = connection.execute(
            sa.select(
                h.server_id,
                x.server_name,
                x.state,
                h.until,
                h.ends_at.label("end_without_it"),
                h.ticket,
                h.author,
                h.created_at,
                h.reason,
            )
            .join_from(table, expirations, x.server_id == h.server_id)
            .where(h.until > timeutils.utcnow())
            .order_by(h.until, h.server_id)
        ).all()
    if arguments.format == "json":
        print_json_list(dict(row._mapping) for row in found)
        return
    widths = {
        "server_id": 36,
        "server_name": 20,
        "state": 11,
        "until": 19,
        "end_without_it": 19,
        "ticket": 12,
        "author": 16,
        "created_at": 19,
        "reason": 0,
    }
    print_table(widths, found)


def _add(conf: cfg.ConfigOpts, arguments: Any) -> None:
    book = terms_book(conf)
    with connected(conf) as database:
        try:
            row = _add_to(database, book, arguments)
        except holds.Refused as error:
            raise CommandError(str(error)) from error
    print(
        f"server {row.server_id} is held until {shown(arguments.until)} UTC;"
        f" its lease ends {shown(row.ends_at)} UTC"
    )
    if row.state != "held":
        print(f"It is {row.state}: what was begun is being undone first.")


@retried
def _add_to(database: Database, book: TermsBook, arguments: Any) -> Expiration:
    with database.begin() as connection:
        return holds.hold(
            connection,
            arguments.server_id,
            until=arguments.until,
            reason=arguments.reason,
            ticket=arguments.ticket,
            author=administrator(),
            book=book,
            now=timeutils.utcnow(),
        )


def _release(conf: cfg.ConfigOpts, arguments: Any) -> None:
    book = terms_book(conf)
    with connected(conf) as database:
        row = _release_from(database, book, arguments)
    if row is None:
        raise CommandError(f"server {arguments.server_id} is not held: see hold list")
    print(f"server {row.server_id} is held no longer: its lease ends {shown(row.ends_at)} UTC")


@retried
def _release_from(database: Database, book: TermsBook, arguments: Any) -> Expiration | None:
    with database.begin() as connection:
        return holds.release(
            connection,
            arguments.server_id,
            reason=arguments.reason,
            author=administrator(),
            book=book,
            now=timeutils.utcnow(),
        )
