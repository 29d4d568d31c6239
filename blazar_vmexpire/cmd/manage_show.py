# SPDX-License-Identifier: Apache-2.0
"""``blazar-vmexpire-manage list|show|history``: what is known of VMs and their expiration."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import sqlalchemy as sa
from oslo_config import cfg

from blazar_vmexpire import lifecycle
from blazar_vmexpire.cmd.manage_base import (
    CommandError,
    Commands,
    add_format,
    connected,
    print_json,
    print_json_list,
    print_table,
    server_id,
    shown,
)
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db.models import expirations, history


def add_commands(commands: Commands[Any]) -> None:
    """Add ``list``, ``show`` and ``history``."""
    found = commands.add_parser("list", help="list the VMs that are known, by UUID")
    found.add_argument(
        "--state", choices=[state.value for state in lifecycle.State], help="only those in it"
    )
    add_format(found)
    found.set_defaults(run=_list)

    show = commands.add_parser("show", help="show all that is known of a VM's expiration")
    show.add_argument("server_id", metavar="SERVER_ID", type=server_id, help="the VM's UUID")
    add_format(show)
    show.set_defaults(run=_show)

    past = commands.add_parser(
        "history", help="show what happened to a VM, by whom and why, oldest first"
    )
    past.add_argument("server_id", metavar="SERVER_ID", type=server_id, help="the VM's UUID")
    add_format(past)
    past.set_defaults(run=_history)


def _list(conf: cfg.ConfigOpts, arguments: Any) -> None:
    columns = {
        "server_id": 36,
        "state": 11,
        "ends_at": 19,
        "next_at": 19,
        "attempts": 8,
        "project_id": 32,
        "server_name": 0,
    }
    with connected(conf) as database:
        wanted = sa.true() if arguments.state is None else expirations.c.state == arguments.state
        rows = (row for page in db_api.pages(database, wanted) for row in page)
        if arguments.format == "json":
            print_json_list({name: getattr(row, name) for name in columns} for row in rows)
        else:
            print_table(columns, ([getattr(row, name) for name in columns] for row in rows))


def _show(conf: cfg.ConfigOpts, arguments: Any) -> None:
    with connected(conf) as database, database.begin() as connection:
        row = db_api.get(connection, arguments.server_id)
    if row is None:
        raise CommandError(f"nothing is known of server {arguments.server_id}")
    found = dataclasses.asdict(row)
    if arguments.format == "json":
        print_json(found)
        return
    found["progress"] = json.dumps(found["progress"])
    width = max(map(len, found))
    for name, value in found.items():
        print(f"{name.ljust(width)}  {shown(value)}")


def _history(conf: cfg.ConfigOpts, arguments: Any) -> None:
    with connected(conf) as database, database.begin() as connection:
        rows = connection.execute(
            sa.select(history)
            .where(history.c.server_id == arguments.server_id)
            .order_by(history.c.id)
        ).all()
    if not rows:
        raise CommandError(f"nothing is recorded of server {arguments.server_id}")
    if arguments.format == "json":
        print_json([{**row._mapping, "details": json.loads(row.details)} for row in rows])
        return
    columns = {"id": 8, "at": 19, "event": 24, "actor": 32, "generation": 10, "details": 0}
    print_table(columns, ([getattr(row, name) for name in columns] for row in rows))
