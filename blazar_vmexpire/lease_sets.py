# SPDX-License-Identifier: Apache-2.0
"""Closing and moving many live leases at a time.

What :mod:`blazar_vmexpire.leases` does to one lease, in a few statements for a thousand: when a
course of machines ends in one night, one at a time would take longer than the night.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Mapping

import sqlalchemy as sa
from blazar import status as blazar_status

from blazar_vmexpire import RESOURCE_TYPE
from blazar_vmexpire.leases import EVENTS, LEASES, RESERVATIONS


def another_types() -> sa.ColumnElement[bool]:
    """Of ``leases``: those that are another resource type's, because they hold what it reserved."""
    beside = RESERVATIONS.alias()
    return (
        sa.exists()
        .where(beside.c.lease_id == LEASES.c.id, beside.c.resource_type != RESOURCE_TYPE)
        .correlate(LEASES)
    )


def hold(connection: sa.Connection, ends: Mapping[str, datetime.datetime]) -> dict[str, str]:
    """Keep leases as they are until the transaction ends, and say which are what they have to be.

    :param ends: ids of leases, each with the end that it has to have.
    :returns: of those that have it and are ACTIVE, or TERMINATED already, the status by id. One
        that Blazar has in transition, or that is another type's as well, is not among them.
    """
    found = connection.execute(
        sa.select(LEASES.c.id, LEASES.c.status, LEASES.c.end_date)
        .where(LEASES.c.id.in_(list(ends)), ~another_types())
        .with_for_update()
    )
    resting = (blazar_status.lease.ACTIVE, blazar_status.lease.TERMINATED)
    return {
        row.id: row.status
        for row in found
        if row.status in resting and row.end_date == ends[row.id]
    }


def unchanged(connection: sa.Connection, seen: Mapping[str, str | None]) -> list[str]:
    """Keep leases as they were seen until the transaction ends.

    :param seen: their ids, each with its status.
    :returns: the ids of those that still have that status.
    """
    found = connection.execute(
        sa.select(LEASES.c.id, LEASES.c.status).where(LEASES.c.id.in_(list(seen))).with_for_update()
    )
    return [row.id for row in found if row.status == seen[row.id]]


def close(connection: sa.Connection, lease_ids: Collection[str], now: datetime.datetime) -> None:
    """End leases that are held, as :func:`blazar_vmexpire.leases.close` ends one."""
    if not lease_ids:
        return
    connection.execute(
        sa.update(LEASES)
        .where(LEASES.c.id.in_(lease_ids))
        .values(status=blazar_status.lease.TERMINATED, updated_at=now.replace(microsecond=0))
    )
    connection.execute(
        sa.update(RESERVATIONS)
        .where(RESERVATIONS.c.lease_id.in_(lease_ids))
        .values(status=blazar_status.reservation.DELETED, updated_at=now)
    )
    connection.execute(
        sa.update(EVENTS)
        .where(EVENTS.c.lease_id.in_(lease_ids), EVENTS.c.status != blazar_status.event.DONE)
        .values(status=blazar_status.event.DONE, updated_at=now)
    )


def move(
    connection: sa.Connection,
    lease_ids: Collection[str],
    end_date: datetime.datetime,
    now: datetime.datetime,
) -> None:
    """Give live leases that are held a new end.

    :param end_date: naive UTC, a whole minute.
    """
    if not lease_ids:
        return
    connection.execute(
        sa.update(LEASES)
        .where(LEASES.c.id.in_(lease_ids))
        .values(end_date=end_date, updated_at=now.replace(microsecond=0))
    )
    connection.execute(
        sa.update(EVENTS)
        .where(EVENTS.c.lease_id.in_(lease_ids), EVENTS.c.event_type == "end_lease")
        .values(time=end_date, status=blazar_status.event.UNDONE, updated_at=now)
    )


def set_events(
    connection: sa.Connection, event_ids: Collection[str], status: str, now: datetime.datetime
) -> None:
    """Write the status of events."""
    connection.execute(
        sa.update(EVENTS).where(EVENTS.c.id.in_(event_ids)).values(status=status, updated_at=now)
    )


def remove_detached_events(connection: sa.Connection) -> int:
    """Remove events of ours that have no lease any more, and say how many there were.

    Blazar's engine stops at the first of them that comes due, whosever events come after it. Ours
    are known by their ids: they are of version 8, Blazar's own of version 4.
    """
    removed: int = connection.execute(
        sa.delete(EVENTS).where(EVENTS.c.lease_id.is_(None), EVENTS.c.id.like("_" * 14 + "8%"))
    ).rowcount
    return removed
