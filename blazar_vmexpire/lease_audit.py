# SPDX-License-Identifier: Apache-2.0
"""Finding, in Blazar's tables, leases of VMs that are not what they have to be.

Set-wise: a statement for each question, over all VMs at once. Nothing is written here.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from blazar import status as blazar_status

from blazar_vmexpire import RESOURCE_TYPE
from blazar_vmexpire.leases import EVENT_TYPES, EVENTS, LEASES, RESERVATIONS

_ACTIVE = blazar_status.lease.ACTIVE
_DONE = blazar_status.event.DONE
_UNDONE = blazar_status.event.UNDONE
_START, _BEFORE_END, _END = EVENT_TYPES

Unsound = sa.Select[tuple[str]]
"""Selects the ``server_id`` of VMs whose lease :func:`blazar_vmexpire.leases.faults` has to see."""


def unsound(expirations: sa.Table, states: Sequence[str]) -> Unsound:
    """Select VMs whose lease is gone or is not what it has to be.

    One statement over all VMs in these states. It compares what an owner can write, which shows in
    ``leases`` itself, and what a dead manager leaves there; see :func:`unsound_parts` for the rest.
    It may name a lease that is in transition only.
    """
    x, lease = expirations.c, LEASES.c
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
    return (
        sa.select(x.server_id)
        .select_from(expirations.outerjoin(LEASES, lease.id == x.lease_id))
        .where(x.state.in_(states), wrong)
    )


def unsound_parts(expirations: sa.Table, states: Sequence[str]) -> list[Unsound]:
    """Select VMs whose lease lacks its reservation, or an event, or has another one.

    Dearer than :func:`unsound`, and seldom of use: no owner can do this to a lease that stays
    ACTIVE; something has written to Blazar's tables, or lost rows.
    """
    x, reservation, event = expirations.c, RESERVATIONS.c, EVENTS.c
    live = expirations.join(LEASES, LEASES.c.id == x.lease_id)
    right_reservation = sa.and_(
        reservation.resource_type == RESOURCE_TYPE,
        reservation.resource_id == x.server_id,
        reservation.status == blazar_status.reservation.ACTIVE,
    )
    right_event = sa.or_(
        (event.event_type == _START) & (event.status == _DONE),
        (event.event_type == _BEFORE_END) & event.time.is_not(None),
        (event.event_type == _END) & (event.status == _UNDONE) & (event.time == LEASES.c.end_date),
    )

    def lacking(table: sa.Table, right: sa.ColumnElement[bool], number: int) -> Unsound:
        return (
            sa.select(x.server_id)
            .select_from(live.outerjoin(table, table.c.lease_id == x.lease_id))
            .where(x.state.in_(states))
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
