# SPDX-License-Identifier: Apache-2.0
"""Finding, in Blazar's tables, what is not as it has to be with leases of VMs.

Set-wise: a statement for each question, over all VMs at once. Nothing is written here.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from blazar import status as blazar_status

from blazar_vmexpire import RESOURCE_TYPE, lifecycle
from blazar_vmexpire.db.models import expirations
from blazar_vmexpire.lease_sets import another_types
from blazar_vmexpire.leases import EVENT_TYPES, EVENTS, LEASES, RESERVATIONS
from blazar_vmexpire.lifecycle import State

_ACTIVE = blazar_status.lease.ACTIVE
_TERMINATED = blazar_status.lease.TERMINATED
_TRANSITIONAL = blazar_status.lease.TRANSITIONAL
_DONE = blazar_status.event.DONE
_UNDONE = blazar_status.event.UNDONE
_START, _BEFORE_END, _END = EVENT_TYPES

#: VMs whose lease has to be live.
_LIVE = expirations.c.state.in_(sorted(lifecycle.LEASED))


def over(now: datetime.datetime) -> sa.ColumnElement[bool]:
    """VMs whose lease is over for good, unless its owner has the VM back."""
    x = expirations.c
    return x.state.in_([State.ENDING.value, State.ENDED.value, State.DELETED.value]) | (
        (x.state == State.FAILED.value) & (x.ends_at <= now)
    )


def _quiet(now: datetime.datetime, grace: datetime.timedelta) -> sa.ColumnElement[bool]:
    """Leases on which no living manager can be at work.

    An owner can write ``updated_at``, too. A date in the future proves nothing, one of the last
    minutes only puts off what is done here.
    """
    lease = LEASES.c
    touched = sa.func.coalesce(lease.updated_at, lease.created_at)
    return sa.or_(
        lease.status.is_(None),
        lease.status.not_in(_TRANSITIONAL),
        touched.is_(None),
        touched <= now - grace,
        touched > now + grace,
    )


# Live leases: what is found is looked at by `blazar_vmexpire.leases.faults` ---------------------

Unsound = sa.Select[tuple[str]]
"""Selects the ``server_id`` of VMs whose lease has to be looked at."""


def unsound(now: datetime.datetime) -> list[Unsound]:
    """Select VMs whose lease is gone or is not what it has to be.

    Compares what an owner can write, which shows in ``leases`` itself, and what a dead manager
    leaves there and in ``events``; see :func:`unsound_parts` for the rest. A VM that is due already
    is left out: it is going to be looked at. May name a lease that is in transition only.
    """
    x, lease, event = expirations.c, LEASES.c, EVENTS.c
    waiting = sa.and_(_LIVE, sa.or_(x.next_at.is_(None), x.next_at > now))
    wrong = sa.or_(
        lease.id.is_(None),
        lease.status.is_(None),
        lease.status != _ACTIVE,
        lease.project_id.is_(None),
        lease.project_id != x.project_id,
        lease.user_id.is_(None),
        lease.user_id != x.user_id,
        lease.trust_id.is_not(None),
        lease.end_date != x.ends_at,
        lease.start_date > x.adopted_at,
        lease.degraded.is_(sa.true()),
    )
    return [
        sa.select(x.server_id)
        .select_from(expirations.outerjoin(LEASES, lease.id == x.lease_id))
        .where(waiting, wrong),
        # Found by the index on the status: there are few.
        sa.select(x.server_id)
        .select_from(EVENTS.join(expirations, x.lease_id == event.lease_id))
        .where(
            event.status.in_([blazar_status.event.IN_PROGRESS, blazar_status.event.ERROR]),
            event.event_type.in_([_START, _END]),
            waiting,
        ),
    ]


def unsound_parts(now: datetime.datetime) -> list[Unsound]:
    """Select VMs whose lease lacks its reservation, or an event, or has another one.

    Dearer than :func:`unsound`, and seldom of use: no owner can do this to a lease that stays
    ACTIVE; something has written to Blazar's tables, or lost rows.
    """
    x, reservation, event, lease = expirations.c, RESERVATIONS.c, EVENTS.c, LEASES.c
    live = expirations.join(LEASES, lease.id == x.lease_id)
    right_reservation = sa.and_(
        reservation.resource_type == RESOURCE_TYPE,
        reservation.resource_id == x.server_id,
        reservation.status == blazar_status.reservation.ACTIVE,
    )
    right_event = sa.or_(
        (event.event_type == _START) & (event.status == _DONE) & (event.time == lease.start_date),
        (event.event_type == _BEFORE_END) & event.time.is_not(None),
        (event.event_type == _END) & (event.status == _UNDONE) & (event.time == lease.end_date),
    )

    def lacking(table: sa.Table, right: sa.ColumnElement[bool], number: int) -> Unsound:
        return (
            sa.select(x.server_id)
            .select_from(live.outerjoin(table, table.c.lease_id == x.lease_id))
            .where(_LIVE, sa.or_(x.next_at.is_(None), x.next_at > now))
            .group_by(x.server_id)
            .having(
                sa.or_(
                    sa.func.count(sa.case((right, 1))) != number,
                    sa.func.count(table.c.id) != number,
                )
            )
        )

    return [
        lacking(RESERVATIONS, right_reservation, 1),
        lacking(EVENTS, right_event, len(EVENT_TYPES)),
    ]


# What should not be there -----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Stray:
    """A reservation of ours in a lease that is not the one its VM has."""

    reservation_id: str
    server_id: str | None
    """What it is for, as the reservation has it."""
    lease_id: str
    lease_status: str | None
    another_types: bool
    """Whether its lease holds another resource type's reservation: then that lease stays."""


def strays(
    connection: sa.Connection,
    now: datetime.datetime,
    grace: datetime.timedelta,
    after: str,
    limit: int,
) -> list[Stray]:
    """List reservations of ours in leases that no VM has.

    The lease of a VM is the one that its row names; an exempt VM has none. So what is found is a
    double, or of a VM that nobody knows, or was left behind while it was being made.

    :param after: the last ``reservation_id`` of the page before; empty for the first page.
    """
    x, r = expirations.c, RESERVATIONS.c
    named = sa.exists().where(x.lease_id == r.lease_id, x.state != State.EXEMPT.value)
    return _strays(
        connection,
        sa.select(*_STRAY, another_types())
        .join_from(RESERVATIONS, LEASES)
        .where(r.resource_type == RESOURCE_TYPE, r.id > after, ~named, _quiet(now, grace))
        .order_by(r.id)
        .limit(limit),
    )


def misplaced(
    connection: sa.Connection, now: datetime.datetime, grace: datetime.timedelta, limit: int
) -> list[Stray]:
    """List reservations of ours in leases that are another resource type's, whoever names them."""
    r, beside = RESERVATIONS.c, RESERVATIONS.alias()
    return _strays(
        connection,
        sa.select(*_STRAY, sa.true())
        .distinct()
        .join_from(RESERVATIONS, LEASES)
        .join(beside, beside.c.lease_id == r.lease_id)
        .where(
            r.resource_type == RESOURCE_TYPE,
            beside.c.resource_type != RESOURCE_TYPE,
            _quiet(now, grace),
        )
        .limit(limit),
    )


_STRAY = (
    RESERVATIONS.c.id,
    RESERVATIONS.c.resource_id,
    RESERVATIONS.c.lease_id,
    LEASES.c.status,
)


def _strays(connection: sa.Connection, statement: sa.Select[Any]) -> list[Stray]:
    return [
        Stray(row[0], row[1], row[2], row[3], bool(row[4])) for row in connection.execute(statement)
    ]


def unclosed(
    connection: sa.Connection, now: datetime.datetime, grace: datetime.timedelta, limit: int
) -> Sequence[sa.Row[Any]]:
    """List leases that are over, and not ``TERMINATED``: ``server_id``, ``lease_id``, ``status``.

    A manager that was at work on a lease when we closed it may write what it had in mind.
    """
    x, lease = expirations.c, LEASES.c
    return connection.execute(
        sa.select(x.server_id, x.lease_id, lease.status)
        .select_from(expirations.join(LEASES, lease.id == x.lease_id))
        .where(
            over(now),
            sa.or_(lease.status.is_(None), lease.status != _TERMINATED),
            ~another_types(),
            _quiet(now, grace),
        )
        .order_by(x.server_id)
        .limit(limit)
    ).all()


def restless_events(
    connection: sa.Connection, now: datetime.datetime, grace: datetime.timedelta, limit: int
) -> dict[str, list[str]]:
    """List events that no manager will come back to, by the status they should have.

    A manager that holds an event of a lease that we closed sets it back; and one that is killed
    leaves its whole batch behind. A before-end event is but a poke: whether a manager still holds
    it makes no difference.
    """
    x, e, lease = expirations.c, EVENTS.c, LEASES.c
    joined = EVENTS.join(expirations, x.lease_id == e.lease_id).join(LEASES, lease.id == e.lease_id)
    unfinished = sa.or_(e.status.is_(None), e.status.not_in([_DONE, _UNDONE]))

    def ids(*where: sa.ColumnElement[bool]) -> list[str]:
        return list(
            connection.scalars(
                sa.select(e.id).select_from(joined).where(*where, ~another_types()).limit(limit)
            )
        )

    return {
        _DONE: ids(over(now), lease.status == _TERMINATED, unfinished | (e.status == _UNDONE))
        + ids(_LIVE, e.event_type == _BEFORE_END, unfinished, e.time <= now - grace),
        _UNDONE: ids(_LIVE, e.event_type == _BEFORE_END, unfinished, e.time > now),
    }
