# SPDX-License-Identifier: Apache-2.0
"""Notices that wait to be told together, and which digest each of them goes with.

A notice is in one digest at most. Which one is committed before that is sent: so a worker that dies
when the mail server has taken it, and the one who sends it again, send the same, under the same
name; and what has come to be told meanwhile is in another.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence

import sqlalchemy as sa

from blazar_vmexpire.db.api import Expiration, NoticeRow
from blazar_vmexpire.db.models import expirations, notices
from blazar_vmexpire.lifecycle import LEASED

#: The name of a digest that is not put together yet.
WAITING = ""


def let_wait(connection: sa.Connection, notice_id: int, until: datetime.datetime) -> None:
    """Have a notice told in a digest.

    :param until: when, naive UTC; earlier if something else is told to the same owner earlier.
    """
    connection.execute(
        sa.update(notices).where(notices.c.id == notice_id).values(digest=WAITING, due_at=until)
    )


def has_several(connection: sa.Connection, user_id: str) -> bool:
    """Say whether a user has several VMs with a live lease: one alone need not wait."""
    x = expirations.c
    found = connection.execute(
        sa.select(x.server_id)
        .where(x.user_id == user_id, x.state.in_([state.value for state in LEASED]))
        .limit(2)
    )
    return len(found.all()) > 1


def owners_due(connection: sa.Connection, now: datetime.datetime) -> list[str]:
    """List the users to whom something is to be told in a digest now, the longest due first."""
    n, x = notices.c, expirations.c
    return list(
        connection.scalars(
            sa.select(x.user_id)
            .join(notices, n.server_id == x.server_id)
            .where(n.digest.is_not(None), n.due_at <= now, x.user_id.is_not(None))
            .group_by(x.user_id)
            .order_by(sa.func.min(n.due_at))
        )
    )


def waiting_for(
    connection: sa.Connection, user_id: str
) -> list[tuple[Expiration, list[NoticeRow]]]:
    """Read the VMs of a user of which something waits for a digest, with all that waits of each."""
    n, x = notices.c, expirations.c
    ids = connection.scalars(
        sa.select(n.server_id)
        .join(expirations, x.server_id == n.server_id)
        .where(x.user_id == user_id, n.digest.is_not(None), n.due_at.is_not(None))
        .distinct()
    ).all()
    rows = connection.execute(
        sa.select(expirations).where(x.server_id.in_(ids)).order_by(x.server_id)
    )
    waiting: dict[str, list[NoticeRow]] = {server_id: [] for server_id in ids}
    found = connection.execute(
        sa.select(notices).where(n.server_id.in_(ids), n.due_at.is_not(None)).order_by(n.id)
    )
    for notice in found:
        waiting[notice.server_id].append(NoticeRow.of(notice))
    return [(Expiration.of(row), waiting[row.server_id]) for row in rows]


def join(
    connection: sa.Connection,
    name: str,
    members: Sequence[tuple[Expiration, NoticeRow]],
    message_id: str,
) -> set[int]:
    """Put notices into a digest, as far as what they tell is true.

    :param name: of the digest.
    :param members: each with its VM's row, as it was when it was looked at.
    :param message_id: of the digest.
    :returns: the ids of those that are in it. The others are in another one, need not be told any
        more, or their VM's end has changed meanwhile.
    """
    n, x = notices.c, expirations.c
    now_so = {
        row.server_id: (row.generation, row.state, row.ends_at)
        for row in connection.execute(
            sa.select(x.server_id, x.generation, x.state, x.ends_at).where(
                x.server_id.in_([row.server_id for row, _ in members])
            )
        )
    }
    true = [
        notice.id
        for row, notice in members
        if now_so.get(row.server_id) == (row.generation, row.state, row.ends_at)
    ]
    belongs = (n.id.in_(true), n.digest.in_([WAITING, name]), n.due_at.is_not(None))
    connection.execute(
        sa.update(notices).where(*belongs).values(digest=name, message_id=message_id)
    )
    return set(connection.scalars(sa.select(n.id).where(*belongs)))
