# SPDX-License-Identifier: Apache-2.0
"""``blazar-vmexpire-manage forecast``: how much ends on each of the coming days, and frees."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import datetime
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import sqlalchemy as sa
from oslo_config import cfg
from oslo_utils import timeutils
from rich.console import Console
from rich.progress_bar import ProgressBar
from rich.table import Table

from blazar_vmexpire.cmd.manage_base import (
    Commands,
    connected,
    print_json,
    print_table,
    terms_book,
)
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db.engine import Database
from blazar_vmexpire.planning import Freed, Planned, Planning, per_day
from blazar_vmexpire.terms import TermsBook

#: By their day; the last key, None, is all that ends later than that.
Days = Mapping[datetime.date | None, Freed]

_NAMES = [field.name for field in dataclasses.fields(Freed)]
_MOST_DAYS = 3660


def add_commands(commands: Commands[Any]) -> None:
    """Add ``forecast``."""
    forecast = commands.add_parser(
        "forecast",
        help="show how much ends on each of the coming days, and what that frees",
        description="Show for each day (UTC) how many VMs end, and the vCPUs, RAM and disk that"
        " this frees: by the rules and options of the configuration and what is known of the VMs."
        " Nova is not asked, and nothing is changed. What is overdue counts as of today; that"
        " many ends may have to wait for their turn is not foreseen.",
    )
    forecast.add_argument(
        "--days",
        metavar="N",
        type=_days,
        default=30,
        help="how many days, today included (default: 30)",
    )
    forecast.add_argument(
        "--format",
        choices=["chart", "table", "json", "csv"],
        default="chart",
        help="chart: bars, for people; table: the same in numbers; json, csv: for programs",
    )
    forecast.set_defaults(run=_forecast)


def _days(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if not 1 <= number <= _MOST_DAYS:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of days: 1 to {_MOST_DAYS}")
    return number


def _forecast(conf: cfg.ConfigOpts, arguments: Any) -> None:
    book = terms_book(conf)
    now = timeutils.utcnow()
    with connected(conf) as database:
        days = _in_range(per_day(_plans(database, book, now)), now.date(), arguments.days)
    _PRINT[arguments.format](days)


def _plans(database: Database, book: TermsBook, now: datetime.datetime) -> Iterator[Planned]:
    with database.begin() as connection:
        session = book.session(connection, now)
    planning = Planning(session, now, spread=datetime.timedelta(0), service_project_id="")
    for page in db_api.pages(database, sa.true()):
        yield from planning.plan_known(page)


def _in_range(found: Mapping[datetime.date, Freed], first: datetime.date, number: int) -> Days:
    """Have every day of the range, be it empty, and all after it together."""
    days: dict[datetime.date | None, Freed] = {
        first + datetime.timedelta(days=n): Freed() for n in range(number)
    }
    days[None] = Freed()
    for day, freed in found.items():
        days[max(day, first) if max(day, first) in days else None] += freed
    return days


def _print_chart(days: Days) -> None:
    most = max((freed.servers for day, freed in days.items() if day), default=0)
    table = Table(box=None, pad_edge=False, header_style="bold", expand=True)
    table.add_column("day", no_wrap=True)
    table.add_column("", ratio=1)
    for title in ("VMs", "vCPUs", "RAM GB", "disk GB"):
        table.add_column(title, justify="right", no_wrap=True)
    for day, freed in days.items():
        bar = ProgressBar(total=max(most, 1), completed=freed.servers)
        cells = map(str, _numbers(freed))
        table.add_row(_title(day, "%a %Y-%m-%d"), bar if day else "", *cells)
    # Dates and numbers only: no markup, no names of others.
    Console(file=sys.stdout, highlight=False).print(table)


def _print_table(days: Days) -> None:
    print_table(
        {"day": 10, "servers": 7, "vcpus": 7, "ram_gb": 8, "disk_gb": 8},
        ([_title(day, "%Y-%m-%d"), *_numbers(freed)] for day, freed in days.items()),
    )


def _print_json(days: Days) -> None:
    print_json(
        {
            "days": [
                {"day": day.isoformat(), **dataclasses.asdict(freed)}
                for day, freed in days.items()
                if day
            ],
            "later": dataclasses.asdict(days[None]),
        }
    )


def _print_csv(days: Days) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["day", *_NAMES])
    for day, freed in days.items():
        writer.writerow([_title(day, "%Y-%m-%d"), *(getattr(freed, name) for name in _NAMES)])


def _title(day: datetime.date | None, form: str) -> str:
    return "later" if day is None else f"{day:{form}}"


def _numbers(freed: Freed) -> list[int]:
    return [freed.servers, freed.vcpus, freed.ram_mb // 1024, freed.disk_gb]


_PRINT = {
    "chart": _print_chart,
    "table": _print_table,
    "json": _print_json,
    "csv": _print_csv,
}
