# SPDX-License-Identifier: Apache-2.0
"""The histories of all VMs as one stream, and how far each notifier has got in it.

An entry of a history is written in the transaction of what it tells of, so it is there exactly if
that has happened, and nothing has to be written twice. Its id is the place in the stream. Ids are
given out before they are committed: one that is lacking may still come, so what is behind it waits,
until it is so old that no transaction of that time can be under way any more.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Collection, Mapping
from typing import Any

import sqlalchemy as sa

from blazar_vmexpire.db.models import cursors, expirations, history

#: No transaction of ours takes as long: a database gives up waiting for locks much earlier.
SETTLED = datetime.timedelta(minutes=2)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An entry of a VM's history, and what is known of the VM. Dates are naive UTC."""

    id: int
    server_id: str
    project_id: str | None
    at: datetime.datetime
    event: str
    generation: int
    actor: str | None
    request_id: str | None
    details: Mapping[str, Any]
    # As they are when this is read; None of a VM that has no row any more.
    server_name: str | None
    user_id: str | None
    lease_id: str | None
    state: str | None
    ends_at: datetime.datetime | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """How far a notifier has got."""

    name: str
    position: int
    """The id of the last entry that it has taken."""
    attempts: int
    """How often the next one was tried in vain."""
    retry_at: datetime.datetime | None
    """Before that, naive UTC, it is not tried again."""


def cursor(connection: sa.Connection, name: str) -> Cursor:
    """Read a notifier's cursor. A new one begins behind all that there is: with what comes now."""
    found = connection.execute(sa.select(cursors).where(cursors.c.name == name)).one_or_none()
    if found is None:
        last = connection.scalar(sa.select(sa.func.max(history.c.id))) or 0
        connection.execute(cursors.insert(), [{"name": name, "position": last, "attempts": 0}])
        return Cursor(name=name, position=last, attempts=0, retry_at=None)
    return Cursor(
        name=name, position=found.position, attempts=found.attempts, retry_at=found.retry_at
    )


def write(
    connection: sa.Connection,
    name: str,
    position: int,
    *,
    attempts: int = 0,
    retry_at: datetime.datetime | None = None,
    last_error: str | None = None,
) -> None:
    """Write how far a notifier has got, and how the next entry was tried in vain."""
    connection.execute(
        sa.update(cursors)
        .where(cursors.c.name == name)
        .values(position=position, attempts=attempts, retry_at=retry_at, last_error=last_error)
    )


def read(connection: sa.Connection, after: int, now: datetime.datetime, limit: int) -> list[Entry]:
    """Read the next entries of the stream, in its order.

    :param after: the id of the entry before the first.
    """
    h, x = history.c, expirations.c
    found = connection.execute(
        sa.select(
            *(h[name] for name in _OF_HISTORY),
            *(x[name] for name in _OF_THE_VM),
        )
        .outerjoin(expirations, x.server_id == h.server_id)
        .where(h.id > after)
        .order_by(h.id)
        .limit(limit)
    )
    entries: list[Entry] = []
    for row in found:
        if row.id != after + 1 and row.at > now - SETTLED:
            break
        after = row.id
        columns = dict(row._mapping)
        columns["details"] = json.loads(columns["details"])
        entries.append(Entry(**columns))
    return entries


def too_old(connection: sa.Connection, after: int, before: datetime.datetime) -> tuple[int, int]:
    """Say how many entries after a place are older than a moment, and the id of the last of them.

    :returns: 0 and ``after``, if there are none.
    """
    h = history.c
    count, last = connection.execute(
        sa.select(sa.func.count(), sa.func.max(h.id)).where(h.id > after, h.at < before)
    ).one()
    return count, last or after


def backlog(
    connection: sa.Connection, names: Collection[str]
) -> list[tuple[str, int, datetime.datetime | None]]:
    """Say of some notifiers how many entries each has not taken, and when the first was made."""
    h, c = history.c, cursors.c
    return [
        (row[0], row[1], row[2])
        for row in connection.execute(
            sa.select(c.name, sa.func.count(h.id), sa.func.min(h.at))
            .outerjoin(history, h.id > c.position)
            .where(c.name.in_(names))
            .group_by(c.name)
        )
    ]


_OF_HISTORY = (
    "id",
    "server_id",
    "project_id",
    "at",
    "event",
    "generation",
    "actor",
    "request_id",
    "details",
)
_OF_THE_VM = ("server_name", "user_id", "lease_id", "state", "ends_at")
