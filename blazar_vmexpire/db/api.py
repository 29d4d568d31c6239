# SPDX-License-Identifier: Apache-2.0
"""Reading and writing our tables, in the caller's transaction.

The statements that claim rows and fence what their claimers write are in
``blazar_vmexpire.worker.claims``.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from oslo_db import exception as oslo_db_exception

from blazar_vmexpire.db import journal
from blazar_vmexpire.db.engine import Database
from blazar_vmexpire.db.journal import Happening
from blazar_vmexpire.db.models import expirations, history, notices


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Expiration:
    """A row of ``vm_expirations``. Dates are naive UTC."""

    server_id: str
    server_name: str
    project_id: str | None
    user_id: str | None
    lease_id: str | None
    state: str
    generation: int
    server_created_at: datetime.datetime | None
    adopted_at: datetime.datetime | None
    ends_at: datetime.datetime | None
    extensions: int
    next_at: datetime.datetime | None
    attempts: int
    questions: int
    answered: int
    claimed_by: str | None
    claimed_until: datetime.datetime | None
    progress: Mapping[str, Any]
    last_error: str | None
    waiting_since: datetime.datetime | None
    deletion_told_at: datetime.datetime | None
    unexplained_at: datetime.datetime | None
    facts: Mapping[str, Any]
    facts_digest: str | None
    rule: str | None
    terms_digest: str | None
    on_end_action: str | None
    term_seconds: int | None
    chosen: Mapping[str, Any]
    shown_end: datetime.datetime | None
    shown_state: str | None
    show_after: datetime.datetime | None

    @classmethod
    def of(cls, row: sa.Row[Any]) -> Expiration:
        """Make one of a row of the table."""
        columns = dict(row._mapping)
        columns["progress"] = json.loads(columns["progress"])
        for name in ("facts", "chosen"):
            columns[name] = json.loads(columns[name] or "{}")
        return cls(**columns)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NoticeRow:
    """A row of ``vm_expiration_notices``. Dates are naive UTC."""

    id: int
    server_id: str
    kind: str
    generation: int
    created_at: datetime.datetime
    due_at: datetime.datetime | None
    attempts: int
    recipient: str | None
    message_id: str
    digest: str | None
    """The digest that it goes with: empty until that is put together; None: a mail of its own."""
    accepted_at: datetime.datetime | None
    told_end: datetime.datetime | None
    details: Mapping[str, Any]
    last_error: str | None
    refused: Mapping[str, int]

    @classmethod
    def of(cls, row: sa.Row[Any]) -> NoticeRow:
        """Make one of a row of the table."""
        columns = dict(row._mapping)
        columns["details"] = json.loads(columns["details"])
        columns["refused"] = json.loads(columns["refused"] or "{}")
        return cls(**columns)


#: The kind that stands for a notice where an administrator has forced an end without one.
FORCED = "forced"

#: Whether what cannot be undone was asked of Nova for a VM: as :func:`as_json` writes ``progress``.
IRREVERSIBLE = expirations.c.progress.contains('"irreversible": true')


def as_json(value: Mapping[str, Any]) -> str:
    """Write a JSON column: dates as ISO 8601, ASCII only (whatever the column's charset is)."""
    return _JSON.encode(value)


def _plain(value: object) -> str:
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    raise TypeError(f"{value!r} does not belong in a JSON column")


_JSON = json.JSONEncoder(default=_plain, sort_keys=True)


def storable(text: str, length: int) -> str:
    """Cut a text to a column, without what some database refuses (NUL, lone surrogates)."""
    readable = text.replace("\0", "�").encode("utf-8", "replace").decode("utf-8")
    return readable[:length]


def get(
    connection: sa.Connection, server_id: str, *, for_update: bool = False
) -> Expiration | None:
    """Read a VM's row, or None; ``for_update`` holds it until the transaction ends."""
    statement = sa.select(expirations).where(expirations.c.server_id == server_id)
    if for_update:
        statement = statement.with_for_update()
    row = connection.execute(statement).one_or_none()
    return None if row is None else Expiration.of(row)


def pages(
    database: Database, where: sa.ColumnElement[bool], size: int = 1000
) -> Iterator[list[Expiration]]:
    """Read VMs' rows, by UUID, a page at a time: a cloud has 100,000 of them.

    A transaction a page: nobody waits for a reader of the whole table.
    """
    last = ""
    while True:
        with database.begin() as connection:
            found = connection.execute(
                sa.select(expirations)
                .where(where, expirations.c.server_id > last)
                .order_by(expirations.c.server_id)
                .limit(size)
            ).all()
        if found:
            yield [Expiration.of(row) for row in found]
        if len(found) < size:
            return
        last = found[-1].server_id


def see(
    connection: sa.Connection,
    server_id: str,
    now: datetime.datetime,
    *,
    deletion_told: bool = False,
) -> None:
    """Take note that Nova spoke of a VM: it is to be looked at in Nova, now.

    A row that rests (``deleted``) is woken, too: an administrator can restore a deleted VM.

    :param deletion_told: what Nova said is that it was deleted. That does not make it so; but when
        it is found gone, it explains it.
    """
    if ask(connection, [server_id], now, deletion_told=deletion_told):
        return
    try:
        with connection.begin_nested():
            connection.execute(
                expirations.insert(), [{"server_id": server_id, "state": "seen", "next_at": now}]
            )
    except oslo_db_exception.DBDuplicateEntry:
        # Somebody else saw it at the same moment: then its row is there, and due.
        pass


def ask(
    connection: sa.Connection,
    server_ids: Sequence[str],
    now: datetime.datetime,
    *,
    deletion_told: bool = False,
) -> int:
    """Have VMs that have a row looked at in Nova, now, and say how many there were.

    :param deletion_told: Nova notified that they were deleted.
    """
    columns = {"deletion_told_at": now} if deletion_told else {}
    changed: int = connection.execute(
        sa.update(expirations)
        .where(expirations.c.server_id.in_(server_ids))
        .values(next_at=now, questions=expirations.c.questions + 1, **columns)
    ).rowcount
    return changed


def poke(connection: sa.Connection, server_ids: Sequence[str], now: datetime.datetime) -> int:
    """Make rows due now, for what they have to do anyway, and say how many there were."""
    changed: int = connection.execute(
        sa.update(expirations).where(expirations.c.server_id.in_(server_ids)).values(next_at=now)
    ).rowcount
    return changed


def record(
    connection: sa.Connection,
    row: Expiration,
    event: str,
    now: datetime.datetime,
    *,
    actor: str | None = None,
    request_id: str | None = None,
    **details: Any,
) -> None:
    """Add to a VM's history.

    :param actor: id of the user who caused it; None for the service itself.
    """
    entry = _entry(row, event, now, details)
    write_history(connection, [entry | {"actor": actor, "request_id": request_id}])


def record_by_id(
    connection: sa.Connection,
    server_id: str,
    project_id: str | None,
    event: str,
    now: datetime.datetime,
    **details: Any,
) -> bool:
    """Add to the history of a VM, which need not have a row any more, what is not in it yet.

    :returns: False when the same event with the same details is there already.
    """
    if _is_there(connection, server_id, event, details):
        return False
    row = get(connection, server_id)
    entry = {
        "server_id": server_id,
        "project_id": project_id,
        "at": now,
        "event": event,
        "generation": 0 if row is None else row.generation,
        "details": details,
    }
    write_history(connection, [entry])
    return True


def record_once(
    connection: sa.Connection,
    row: Expiration,
    event: str,
    now: datetime.datetime,
    **details: Any,
) -> bool:
    """Add to a VM's history what is not in it yet.

    :returns: False when the same event with the same details is there already.
    """
    if _is_there(connection, row.server_id, event, details):
        return False
    record(connection, row, event, now, **details)
    return True


def _is_there(
    connection: sa.Connection, server_id: str, event: str, details: Mapping[str, Any]
) -> bool:
    h = history.c
    there = connection.execute(
        sa.select(h.id).where(
            h.server_id == server_id, h.event == event, h.details == as_json(details)
        )
    ).first()
    return there is not None


def record_many(
    connection: sa.Connection,
    event: str,
    now: datetime.datetime,
    entries: Sequence[tuple[Expiration, Mapping[str, Any]]],
) -> None:
    """Add the same event to many VMs' histories, each with its details."""
    write_history(connection, [_entry(row, event, now, details) for row, details in entries])


def _entry(
    row: Expiration, event: str, now: datetime.datetime, details: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "server_id": row.server_id,
        "project_id": row.project_id,
        "at": now,
        "event": event,
        "generation": row.generation,
        "details": details,
    }


def write_history(connection: sa.Connection, entries: Sequence[Mapping[str, Any]]) -> None:
    """Add entries to VMs' histories.

    :param entries: the columns of each, ``details`` as a mapping. Several are of the same event.
    """
    if not entries:
        return
    connection.execute(
        history.insert(), [{**entry, "details": as_json(entry["details"])} for entry in entries]
    )
    told, first = journal.of(connection), entries[0]
    if len(entries) > 1:
        told.pages[first["event"]] += len(entries)
        return
    told.happenings.append(
        Happening(
            first["server_id"],
            first["event"],
            first["details"],
            first.get("actor"),
            first.get("request_id"),
        )
    )


def notices_of(connection: sa.Connection, server_id: str) -> list[NoticeRow]:
    """Read a VM's notices, oldest first."""
    found = connection.execute(
        sa.select(notices).where(notices.c.server_id == server_id).order_by(notices.c.id)
    )
    return [NoticeRow.of(row) for row in found]


def kinds_told(connection: sa.Connection, row: Expiration) -> set[str]:
    """Say the kinds of notices that were resolved for the end that a VM has."""
    return set(
        connection.scalars(
            sa.select(notices.c.kind).where(
                notices.c.server_id == row.server_id, notices.c.generation == row.generation
            )
        )
    )


def add_notice(
    connection: sa.Connection,
    row: Expiration,
    kind: str,
    now: datetime.datetime,
    *,
    message_id: str,
    details: Mapping[str, Any] | None = None,
    accepted_at: datetime.datetime | None = None,
) -> bool:
    """Resolve to tell a VM's owner something: once a VM, kind and generation.

    :param accepted_at: it needs no sending: the owner did it themselves, or was told otherwise,
        then.
    :returns: False when that was resolved before.
    """
    already = connection.execute(
        sa.select(notices.c.id).where(
            notices.c.server_id == row.server_id,
            notices.c.kind == kind,
            notices.c.generation == row.generation,
        )
    ).first()
    if already is not None:
        return False
    connection.execute(
        notices.insert(),
        [
            {
                "server_id": row.server_id,
                "kind": kind,
                "generation": row.generation,
                "created_at": now,
                "due_at": None if accepted_at else now,
                "accepted_at": accepted_at,
                "told_end": row.ends_at if accepted_at else None,
                "message_id": message_id,
                "details": as_json(details or {}),
            }
        ],
    )
    return True


@dataclasses.dataclass(frozen=True, slots=True)
class Extended:
    """Who extended a VM."""

    user_id: str | None
    by_admin: bool


def extended_by(
    connection: sa.Connection,
    server_id: str,
    generation: int,
    since: datetime.datetime | None = None,
) -> Extended | None:
    """Say who made a generation of a VM by extending it; None where that is not how it came.

    :param since: an extension before this does not count; None: any does.
    """
    found = connection.execute(
        sa.select(history.c.actor, history.c.details)
        .where(
            history.c.server_id == server_id,
            history.c.generation == generation,
            history.c.event == "extended",
            *([] if since is None else [history.c.at >= since]),
        )
        .limit(1)
    ).first()
    if found is None:
        return None
    return Extended(found.actor, bool(json.loads(found.details).get("by_admin")))


def carry_notices(connection: sa.Connection, row: Expiration, generation: int) -> None:
    """Let what was said of a VM's end, or is to be said, hold for the next generation, too.

    :param row: as it was.
    """
    connection.execute(
        sa.update(notices)
        .where(notices.c.server_id == row.server_id, notices.c.generation == row.generation)
        .values(generation=generation)
    )


def update_notice(connection: sa.Connection, notice_id: int, **columns: Any) -> None:
    """Write columns of a notice."""
    connection.execute(sa.update(notices).where(notices.c.id == notice_id).values(**columns))
