# SPDX-License-Identifier: Apache-2.0
"""``blazar-vmexpire-manage plan``: what will happen to every VM, and what would change."""

from __future__ import annotations

import csv
import dataclasses
import datetime
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import sqlalchemy as sa
from oslo_config import cfg
from oslo_utils import timeutils

from blazar_vmexpire import RESOURCE_TYPE, exclusions, service
from blazar_vmexpire.cloud import Cloud, connect, errors
from blazar_vmexpire.cmd.manage_base import (
    CommandError,
    Commands,
    Progress,
    connected,
    date,
    print_json,
    print_table,
    shown,
    terms_book,
)
from blazar_vmexpire.db.api import Expiration
from blazar_vmexpire.db.engine import Database
from blazar_vmexpire.db.models import chores, expirations
from blazar_vmexpire.planning import Planned, Planning, per_day
from blazar_vmexpire.terms import Session
from blazar_vmexpire.worker import judging

_PAGE = 1000
#: Characters of a line that people can read.
_COLUMNS = {
    "server_id": 36,
    "state": 11,
    "rule": 16,
    "ends_at": 16,
    "on_end_action": 13,
    "next_step": 17,
    "next_at": 16,
    "server_name": 20,
    "change": 0,
}


def add_commands(commands: Commands[Any]) -> None:
    """Add ``plan``."""
    plan = commands.add_parser(
        "plan",
        help="say what will happen to every VM, and what would change",
        description="Say for every VM in Nova which rule counts, when it ends, what happens next,"
        " and what would be different from today: with the rules file of the configuration, or"
        " with another one. Last, what ends on each day and what that frees. Nothing is changed"
        " anywhere, and it takes no more than a look at Nova's list of servers.",
    )
    plan.add_argument(
        "--rules", metavar="FILE", help="a rules file to try, instead of that of [virtual:vm]"
    )
    plan.add_argument(
        "--at",
        metavar="DATE",
        type=date,
        help="what comes next as of that date, as 2027-01-10T04:50 in UTC (default: now)",
    )
    plan.add_argument(
        "--scope",
        choices=["all", "none"],
        help="as if [virtual:vm] scope were so: all shows what comes before it is switched on",
    )
    plan.add_argument(
        "--changes", action="store_true", help="only VMs for which something would change"
    )
    plan.add_argument(
        "--format",
        choices=["table", "json", "csv"],
        default="table",
        help="table: for people (dates are UTC); json, csv: for programs",
    )
    plan.set_defaults(run=_plan)


def _plan(conf: cfg.ConfigOpts, arguments: Any) -> None:
    if arguments.rules is not None:
        conf.set_override("rules_file", arguments.rules, RESOURCE_TYPE)
    if arguments.scope is not None:
        conf.set_override("scope", arguments.scope, RESOURCE_TYPE)
    book = terms_book(conf)
    cloud = connect(conf)
    now = arguments.at or timeutils.utcnow()
    try:
        with connected(conf) as database:
            with database.begin() as connection:
                excluded = exclusions.load(connection, now)
                first = connection.scalar(
                    sa.select(chores.c.last_finished_at).where(
                        chores.c.name == service.RECONCILIATION
                    )
                )
            session = Session(book, judging.listed_projects(cloud), excluded, book.options())
            planning = Planning(
                session,
                now,
                spread=datetime.timedelta(0) if first else book.adoption_spread,
                service_project_id=cloud.keystone.service_project_id,
            )
            plans = _plans(cloud, database, planning)
            if arguments.changes:
                plans = (planned for planned in plans if planned.change)
            _PRINT[arguments.format](plans)
    except errors.CloudError as error:
        raise CommandError(f"the cloud could not be read to its end: {error}") from error


def _plans(cloud: Cloud, database: Database, planning: Planning) -> Iterator[Planned]:
    progress, done = Progress(), 0
    for page in cloud.nova.pages(_PAGE):
        with database.begin() as connection:
            found = connection.execute(
                sa.select(expirations).where(
                    expirations.c.server_id.in_([raw["id"] for raw in page])
                )
            )
            rows = {row.server_id: Expiration.of(row) for row in found}
        yield from planning.plan(page, rows)
        done += len(page)
        progress.show(f"{done} servers")


def _print_table(plans: Iterable[Planned]) -> None:
    kept: list[Planned] = []
    changes = 0

    def rows() -> Iterator[list[Any]]:
        nonlocal changes
        for planned in plans:
            kept.append(planned)
            changes += bool(planned.change)
            yield [_cell(getattr(planned, name)) for name in _COLUMNS]

    print_table(_COLUMNS, rows())
    print(f"\n{len(kept)} servers; something would change for {changes} of them")
    days = per_day(kept)
    if days:
        print("\nWhat ends on each day (UTC), and what that frees:\n")
        print_table(
            {"day": 10, "servers": 7, "vcpus": 7, "ram_gb": 8, "disk_gb": 8},
            [
                [day, freed.servers, freed.vcpus, freed.ram_mb // 1024, freed.disk_gb]
                for day, freed in days.items()
            ],
        )


def _cell(value: Any) -> Any:
    return f"{value:%Y-%m-%d %H:%M}" if isinstance(value, datetime.datetime) else value


def _print_json(plans: Iterable[Planned]) -> None:
    kept = list(plans)
    print_json(
        {
            "servers": [dataclasses.asdict(planned) for planned in kept],
            "days": [
                {"day": day.isoformat(), **dataclasses.asdict(freed)}
                for day, freed in per_day(kept).items()
            ],
        }
    )


def _print_csv(plans: Iterable[Planned]) -> None:
    names = [field.name for field in dataclasses.fields(Planned)]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(names)
    for planned in plans:
        writer.writerow([_csv_cell(getattr(planned, name)) for name in names])


def _csv_cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime.datetime):
        return f"{value:%Y-%m-%dT%H:%M:%SZ}"
    text = shown(value)
    # A spreadsheet would take a server's name for a formula.
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") and len(text) > 1 else text


_PRINT = {"table": _print_table, "json": _print_json, "csv": _print_csv}
