# SPDX-License-Identifier: Apache-2.0
"""Many VMs at once, written straight into the tables."""

from __future__ import annotations

import datetime

import sqlalchemy as sa

from blazar_vmexpire.db.engine import Database
from blazar_vmexpire.db.models import expirations, notices, passes
from blazar_vmexpire.leases import EVENTS, LEASES, RESERVATIONS
from blazar_vmexpire.lifecycle import State


def end_together(database: Database, ends_at: datetime.datetime, told_at: datetime.datetime) -> int:
    """Give every VM the same end, of which its owner has been told; its lease is live (again).

    :param ends_at: naive UTC, a whole minute.
    :param told_at: when the notice of it was accepted.
    :returns: how many they are.
    """
    x = expirations.c
    with database.begin() as connection:
        count: int = connection.execute(
            sa.update(expirations).values(
                state=State.NOTICED,
                ends_at=ends_at,
                next_at=ends_at,
                waiting_since=None,
                progress="{}",
                claimed_until=None,
            )
        ).rowcount
        connection.execute(sa.delete(passes))
        connection.execute(sa.delete(notices))
        connection.execute(sa.update(LEASES).values(end_date=ends_at, status="ACTIVE"))
        connection.execute(sa.update(RESERVATIONS).values(status="active"))
        connection.execute(
            sa.update(EVENTS)
            .where(EVENTS.c.event_type == "end_lease")
            .values(time=ends_at, status="UNDONE")
        )
        connection.execute(
            sa.update(EVENTS)
            .where(EVENTS.c.event_type == "before_end_lease")
            .values(time=told_at, status="DONE")
        )
        given = {
            "kind": "reminder/2d",
            "created_at": told_at,
            "accepted_at": told_at,
            "attempts": 0,
            "recipient": "alice@example.org",
            "message_id": "<crowd@example.org>",
            "details": "{}",
        }
        values = [sa.literal(v, notices.c[k].type) for k, v in given.items()]
        connection.execute(
            notices.insert().from_select(
                [*given, "server_id", "generation", "told_end"],
                sa.select(*values, x.server_id, x.generation, x.ends_at),
            )
        )
    return count
