# SPDX-License-Identifier: Apache-2.0
"""``blazar-vmexpire-manage failed``: expirations that an operator has to look at."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from oslo_config import cfg
from oslo_utils import timeutils

from blazar_vmexpire import retrial
from blazar_vmexpire.cmd.manage_base import (
    CommandError,
    Commands,
    add_format,
    administrator,
    connected,
    print_json_list,
    print_table,
    server_id,
    terms_book,
)
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db.api import Expiration
from blazar_vmexpire.db.engine import Database, retried
from blazar_vmexpire.db.models import expirations, history
from blazar_vmexpire.lifecycle import State
from blazar_vmexpire.terms import TermsBook

#: How many are tried again in one transaction.
_PAGE = 100


def add_commands(commands: Commands[Any]) -> None:
    """Add ``failed`` and ``failed retry``."""
    failed = commands.add_parser(
        "failed",
        help="list the VMs whose expiration failed; 'failed retry' tries again",
        description="List the VMs whose expiration failed for good: the state and step in which it"
        " did, since when, why, and what would help.",
    )
    add_format(failed)
    failed.set_defaults(run=_list)
    group = failed.add_subparsers(title="commands", metavar="COMMAND")

    retry = group.add_parser(
        "retry",
        help="try again",
        description="Try again. The VM is given back (unlocked, started) if something was begun,"
        " its lease is live again with an end that leaves minimum_notice, and its owner is told of"
        " that end before anything is done.",
    )
    retry.add_argument(
        "server_ids", metavar="SERVER_ID", nargs="*", type=server_id, help="the VM's UUID"
    )
    retry.add_argument("--all", action="store_true", help="all that failed")
    retry.add_argument("--reason", help="why, for the history")
    retry.set_defaults(run=_retry)


def _list(conf: cfg.ConfigOpts, arguments: Any) -> None:
    widths = {
        "server_id": 36,
        "server_name": 20,
        "project_id": 32,
        "failed_in": 18,
        "since": 19,
        "reason_and_remedy": 0,
    }
    with connected(conf) as database:
        found = _failures(database)
        if arguments.format == "json":
            print_json_list(found)
            return
        plain = ("server_id", "server_name", "project_id", "failed_in", "since")
        print_table(
            widths,
            (
                [
                    *(failure[name] for name in plain),
                    "; ".join(failure[name] for name in ("reason", "remedy") if failure[name]),
                ]
                for failure in found
            ),
        )


def _failures(database: Database) -> Iterator[dict[str, Any]]:
    """Yield what is known of each failure; what the history has no more is None."""
    for page in db_api.pages(database, expirations.c.state == State.FAILED):
        ids = [row.server_id for row in page]
        with database.begin() as connection:
            last = (
                sa.select(sa.func.max(history.c.id))
                .where(history.c.server_id.in_(ids), history.c.event == "failed")
                .group_by(history.c.server_id)
            )
            entries = {
                entry.server_id: entry
                for entry in connection.execute(sa.select(history).where(history.c.id.in_(last)))
            }
        for row in page:
            entry = entries.get(row.server_id)
            details = json.loads(entry.details) if entry is not None else {}
            state = details.get("in_state")
            yield {
                "server_id": row.server_id,
                "server_name": row.server_name,
                "project_id": row.project_id,
                "failed_in": "/".join(part for part in (state, _step(row, state)) if part) or None,
                "since": None if entry is None else entry.at,
                "reason": details.get("reason", row.last_error),
                "remedy": details.get("remedy"),
            }


def _step(row: Expiration, state: str | None) -> str | None:
    """Say which step of its action it was at; None when nothing had been begun in that state."""
    place = {State.ENDING: "end", State.QUARANTINED: "quarantine"}.get(State(state or row.state))
    step: str | None = row.progress.get(place, {}).get("step") if place else None
    return step


def _retry(conf: cfg.ConfigOpts, arguments: Any) -> None:
    wanted: Sequence[str] = arguments.server_ids
    if bool(wanted) == arguments.all:
        raise CommandError("say which VMs to try again: their UUIDs, or --all")
    book = terms_book(conf)
    others: list[str] = []
    with connected(conf) as database:
        for ids in _batches(database, wanted):
            for row in _retry_page(database, ids, arguments.reason, book):
                print(f"server {row.server_id} is tried again: its end is {row.ends_at} UTC")
                ids.remove(row.server_id)
            others += ids
    if others and not arguments.all:
        raise CommandError(f"not failed, and therefore left as they are: {', '.join(others)}")


def _batches(database: Database, wanted: Sequence[str]) -> Iterator[list[str]]:
    if wanted:
        unique = list(dict.fromkeys(wanted))
        for begin in range(0, len(unique), _PAGE):
            yield unique[begin : begin + _PAGE]
        return
    for page in db_api.pages(database, expirations.c.state == State.FAILED, _PAGE):
        yield [row.server_id for row in page]


@retried
def _retry_page(
    database: Database, ids: Sequence[str], reason: str | None, book: TermsBook
) -> list[Expiration]:
    with database.begin() as connection:
        rows = [
            retrial.retry(
                connection,
                server_id,
                actor=administrator(),
                reason=reason,
                book=book,
                now=timeutils.utcnow(),
            )
            for server_id in ids
        ]
    return [row for row in rows if row is not None]
