# SPDX-License-Identifier: Apache-2.0
"""Implicit leases in Blazar's own tables: create, move, close, reopen, mend.

The only module that writes Blazar's tables. Everything runs in the caller's transaction, so that a
VM's own row and its lease change together or not at all. Blazar's manager knows nothing of these
transactions; it guards a lease by its ``status`` alone. So each change here is a compare-and-set on
that status, and a lease that Blazar has in transition is left alone.

A lease that also holds a reservation of another resource type is that type's: nothing is done to it
but that our reservation leaves it.

A lease of ours is ACTIVE from its first moment (start event DONE), carries no trust (a dead trust
sends a lease to ERROR and its end is never called), and has dates in whole minutes (one with
seconds in its start can never be updated). The ids of its reservation and events follow from its
own id, so that rows that were detached from it are found again.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from blazar import status as blazar_status
from blazar.db.sqlalchemy import models as blazar_models
from oslo_utils import uuidutils

from blazar_vmexpire import RESOURCE_TYPE
from blazar_vmexpire.exceptions import LeaseBusy
from blazar_vmexpire.lifecycle import floor_minute

LEASES: sa.Table = blazar_models.Lease.__table__
RESERVATIONS: sa.Table = blazar_models.Reservation.__table__
EVENTS: sa.Table = blazar_models.Event.__table__

_ACTIVE = blazar_status.lease.ACTIVE
_TERMINATED = blazar_status.lease.TERMINATED
EVENT_TYPES = _START, _BEFORE_END, _END = "start_lease", "before_end_lease", "end_lease"
_DONE = blazar_status.event.DONE
_UNDONE = blazar_status.event.UNDONE

#: Length of leases.name.
_NAME_LENGTH = 80


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What an implicit lease has to be. Dates are naive UTC in whole minutes."""

    lease_id: str
    server_id: str
    server_name: str
    project_id: str
    user_id: str
    start_date: datetime.datetime
    end_date: datetime.datetime
    before_end_at: datetime.datetime
    """When Blazar fires its before_end event; brought into the lease if it lies outside."""


@dataclasses.dataclass(frozen=True, slots=True)
class EventFacts:
    """A row of Blazar's ``events``."""

    id: str
    event_type: str
    time: datetime.datetime | None
    status: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class ReservationFacts:
    """A row of Blazar's ``reservations``."""

    id: str
    resource_id: str | None
    resource_type: str | None
    status: str | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """A lease as Blazar's tables have it at this moment."""

    lease_id: str
    status: str | None
    project_id: str | None
    user_id: str | None
    trust_id: str | None
    start_date: datetime.datetime
    end_date: datetime.datetime
    degraded: bool
    updated_at: datetime.datetime | None
    reservations: tuple[ReservationFacts, ...]
    events: tuple[EventFacts, ...]

    @property
    def in_transition(self) -> bool:
        """Whether Blazar's manager is at work on it, or died over it."""
        return self.status in blazar_status.lease.TRANSITIONAL

    @property
    def end_has_come(self) -> bool:
        """Whether Blazar's manager has ended it, or has begun to."""
        return self.status == _TERMINATED or any(
            event.event_type == _END and event.status != _UNDONE for event in self.events
        )

    @property
    def waits_for_its_start(self) -> bool:
        """Whether Blazar's manager has made it, and its engine is still to begin it."""
        return self.status == blazar_status.lease.PENDING and any(
            event.event_type == _START and event.status == _UNDONE for event in self.events
        )

    @property
    def mark(self) -> str:
        """Names this very transition: another one, later, has another mark."""
        return f"{self.status} since {self.updated_at}"

    @property
    def before_end_at(self) -> datetime.datetime | None:
        """When its before_end event fires: moved by the owner's ``before_end_date``."""
        for event in self.events:
            if event.event_type == _BEFORE_END:
                return event.time
        return None


def lease_name(server_name: str, server_id: str) -> str:
    """Name a lease after its VM: the VM's name as far as it fits, and its UUID.

    Characters that Blazar's tables may not hold (its usual MySQL charset has three bytes a
    character), or that would upset a terminal, become ``?``.
    """
    readable = "".join(c if c.isprintable() and ord(c) <= 0xFFFF else "?" for c in server_name)
    return f"{readable[: _NAME_LENGTH - len(server_id) - 1]} {server_id}".strip()


#: The ids of its parts are a lease's own but for two digits, those of a UUID's version and variant.
#: Version 8 is for whoever makes ids in a way of their own (RFC 9562); Blazar's are of version 4.
#: The variant has four digits: one for each part.
_PARTS = {"reservation": "8", _START: "9", _BEFORE_END: "a", _END: "b"}


def reservation_id(lease_id: str) -> str:
    """Say the id of the reservation of an implicit lease."""
    return _following(lease_id, "reservation")


def event_id(lease_id: str, event_type: str) -> str:
    """Say the id of an event of an implicit lease."""
    return _following(lease_id, event_type)


def _following(lease_id: str, part: str) -> str:
    return f"{lease_id[:14]}8{lease_id[15:19]}{_PARTS[part]}{lease_id[20:]}"


def _following_in_sql(lease_id: sa.ColumnElement[str], part: str) -> sa.ColumnElement[str]:
    """Say the same as :func:`_following`, where the database has the lease."""
    return (
        sa.func.substr(lease_id, 1, 14)
        + "8"
        + sa.func.substr(lease_id, 16, 4)
        + _PARTS[part]
        + sa.func.substr(lease_id, 21)
    )


def new_lease_id() -> str:
    """Make up the id of a new lease."""
    new: str = uuidutils.generate_uuid()
    return new


def create(connection: sa.Connection, wanted: Sequence[Wanted], now: datetime.datetime) -> None:
    """Write leases, four statements for any number of them."""
    if not wanted:
        return
    connection.execute(LEASES.insert(), [_lease_row(terms, now) for terms in wanted])
    connection.execute(RESERVATIONS.insert(), [_reservation_row(terms, now) for terms in wanted])
    _add_events(connection, wanted, now)


def read(connection: sa.Connection, lease_id: str) -> Facts | None:
    """Read a lease of ours with all that belongs to it.

    :returns: None when it is not there, or is another resource type's as well: then the VM has no
        lease of its own.
    """
    lease = connection.execute(sa.select(LEASES).where(LEASES.c.id == lease_id)).one_or_none()
    if lease is None:
        return None
    r = RESERVATIONS.c
    reservations = [
        ReservationFacts(*row)
        for row in connection.execute(
            sa.select(r.id, r.resource_id, r.resource_type, r.status).where(r.lease_id == lease_id)
        )
    ]
    own = reservation_id(lease_id)
    if any(r.resource_type not in (RESOURCE_TYPE, None) and r.id != own for r in reservations):
        return None
    e = EVENTS.c
    events = connection.execute(
        sa.select(e.id, e.event_type, e.time, e.status).where(e.lease_id == lease_id)
    )
    return Facts(
        lease_id=lease.id,
        status=lease.status,
        project_id=lease.project_id,
        user_id=lease.user_id,
        trust_id=lease.trust_id,
        start_date=lease.start_date,
        end_date=lease.end_date,
        degraded=bool(lease.degraded),
        updated_at=lease.updated_at,
        reservations=tuple(reservations),
        events=tuple(EventFacts(*row) for row in events),
    )


def server_of(connection: sa.Connection, reservation: str) -> str | None:
    """Say which VM a reservation of ours is for."""
    found: str | None = connection.execute(
        sa.select(RESERVATIONS.c.resource_id).where(
            RESERVATIONS.c.id == reservation, RESERVATIONS.c.resource_type == RESOURCE_TYPE
        )
    ).scalar_one_or_none()
    return found


def beside(connection: sa.Connection, lease_id: str, reservation: str) -> bool:
    """Say whether a lease holds other reservations than this one, of whatever resource type."""
    r = RESERVATIONS.c
    return (
        connection.execute(
            sa.select(r.id).where(r.lease_id == lease_id, r.id != reservation).limit(1)
        ).first()
        is not None
    )


def faults(facts: Facts, wanted: Wanted) -> list[str]:
    """List what is wrong with a lease that should be live, in words."""
    return row_faults(facts, wanted) + _part_faults(facts, wanted)


def row_faults(facts: Facts, wanted: Wanted) -> list[str]:
    """List what is wrong in the row of the lease itself: all that an owner can write.

    They can detach its events as well, but then Blazar leaves the row in UPDATING.
    """
    return [
        f"{name} is {is_!r} instead of {should!r}"
        for name, is_, should in (
            ("status", facts.status, _ACTIVE),
            ("project_id", facts.project_id, wanted.project_id),
            ("user_id", facts.user_id, wanted.user_id),
            ("trust_id", facts.trust_id, None),
            ("start_date", facts.start_date, wanted.start_date),
            ("end_date", facts.end_date, wanted.end_date),
            ("degraded", facts.degraded, False),
        )
        if is_ != should
    ]


def _part_faults(facts: Facts, wanted: Wanted) -> list[str]:
    found = []
    reservations = [(r.resource_type, r.resource_id, r.status) for r in facts.reservations]
    if reservations != [(RESOURCE_TYPE, wanted.server_id, blazar_status.reservation.ACTIVE)]:
        found.append(f"its reservations are {reservations}")
    for event_type, expected in (
        (_START, (wanted.start_date, _DONE)),
        (_END, (wanted.end_date, _UNDONE)),
    ):
        events = [(e.time, e.status) for e in facts.events if e.event_type == event_type]
        if events != [expected]:
            found.append(f"its {event_type} events are {events}")
    before_end = [e for e in facts.events if e.event_type == _BEFORE_END]
    if len(before_end) != 1 or before_end[0].time is None:
        found.append(f"it has {len(before_end)} before_end_lease events")
    return found


def mend(connection: sa.Connection, facts: Facts, wanted: Wanted, now: datetime.datetime) -> None:
    """Make a lease what it has to be, under the id it has: also to move, or to reopen it.

    Its reservation keeps its id, too, where it has but one: that of a lease that an owner made is
    Blazar's, and theirs to use.

    :raises LeaseBusy: when it is no longer as ``facts`` has it.
    """
    _compare_and_set(connection, facts, now, _lease_columns(wanted))
    lease_id = facts.lease_id
    connection.execute(
        sa.delete(EVENTS).where(
            (EVENTS.c.lease_id == lease_id)
            | EVENTS.c.id.in_([event_id(lease_id, event_type) for event_type in EVENT_TYPES])
        )
    )
    connection.execute(sa.delete(RESERVATIONS).where(_own_reservations([lease_id])))
    own = [r.id for r in facts.reservations]
    row = _reservation_row(wanted, now)
    connection.execute(
        RESERVATIONS.insert(), [row | {"id": own[0] if len(own) == 1 else row["id"]}]
    )
    _add_events(connection, [wanted], now)


def close(connection: sa.Connection, facts: Facts, now: datetime.datetime) -> None:
    """End a live lease as Blazar's own engine would leave it: TERMINATED, its events DONE.

    A manager that has its end event in hand at this moment finds the lease TERMINATED and lets go.

    :raises LeaseBusy: when it is no longer as ``facts`` has it.
    """
    _compare_and_set(connection, facts, now, {"status": _TERMINATED})
    connection.execute(
        sa.update(RESERVATIONS)
        .where(RESERVATIONS.c.lease_id == facts.lease_id)
        .values(status=blazar_status.reservation.DELETED, updated_at=now)
    )
    connection.execute(
        sa.update(EVENTS)
        .where(EVENTS.c.lease_id == facts.lease_id)
        .values(status=_DONE, updated_at=now)
    )


def destroy(connection: sa.Connection, lease_ids: Iterable[str]) -> None:
    """Remove leases with all that belongs to them; of those that are another type's, only ours."""
    ids = list(lease_ids)
    if not ids:
        return
    leave(connection, ids)
    # What is left now is another type's.
    ids = list(set(ids) - _shared(connection, ids))
    detached = [event_id(i, event_type) for i in ids for event_type in EVENT_TYPES]
    connection.execute(
        sa.delete(EVENTS).where(EVENTS.c.lease_id.in_(ids) | EVENTS.c.id.in_(detached))
    )
    connection.execute(sa.delete(LEASES).where(LEASES.c.id.in_(ids)))


def leave(connection: sa.Connection, lease_ids: Iterable[str]) -> None:
    """Remove our reservations from leases that are another resource type's."""
    connection.execute(sa.delete(RESERVATIONS).where(_own_reservations(list(lease_ids))))


def _shared(connection: sa.Connection, lease_ids: Sequence[str]) -> set[str]:
    """Say which leases hold a reservation of another resource type than ours."""
    r = RESERVATIONS.c
    return set(
        connection.scalars(
            sa.select(r.lease_id).where(
                r.lease_id.in_(lease_ids),
                r.resource_type != RESOURCE_TYPE,
                # One of ours in which somebody has written another type.
                r.id.not_in([reservation_id(i) for i in lease_ids]),
            )
        )
    )


def _own_reservations(lease_ids: Sequence[str]) -> sa.ColumnElement[bool]:
    r = RESERVATIONS.c
    ours = (r.resource_type == RESOURCE_TYPE) | r.resource_type.is_(None)
    return (r.lease_id.in_(lease_ids) & ours) | r.id.in_([reservation_id(i) for i in lease_ids])


def in_transition(connection: sa.Connection, lease_ids: Iterable[str]) -> set[str]:
    """Say which of some leases Blazar's manager is at work on, or died over."""
    return set(
        connection.scalars(
            sa.select(LEASES.c.id).where(
                LEASES.c.id.in_(list(lease_ids)),
                LEASES.c.status.in_(blazar_status.lease.TRANSITIONAL),
            )
        )
    )


def count(connection: sa.Connection) -> int:
    """Say how many leases of VMs there are, whatever their status is."""
    return (
        connection.scalar(
            sa.select(sa.func.count(sa.distinct(RESERVATIONS.c.lease_id))).where(
                RESERVATIONS.c.resource_type == RESOURCE_TYPE
            )
        )
        or 0
    )


def page_of_ids(connection: sa.Connection, after: str, limit: int) -> list[str]:
    """List leases of VMs, in the order of their ids.

    :param after: the last id of the page before; empty for the first page.
    """
    r = RESERVATIONS.c
    return list(
        connection.scalars(
            sa.select(r.lease_id)
            .distinct()
            .where(r.resource_type == RESOURCE_TYPE, r.lease_id > after)
            .order_by(r.lease_id)
            .limit(limit)
        )
    )


def _compare_and_set(
    connection: sa.Connection, facts: Facts, now: datetime.datetime, columns: dict[str, Any]
) -> None:
    changed = connection.execute(
        sa.update(LEASES)
        .where(
            LEASES.c.id == facts.lease_id,
            LEASES.c.status.is_not_distinct_from(facts.status),
            LEASES.c.updated_at.is_not_distinct_from(facts.updated_at),
            LEASES.c.end_date == facts.end_date,
        )
        .values(updated_at=now.replace(microsecond=0), **columns)
    ).rowcount
    if changed != 1:
        raise LeaseBusy(f"lease {facts.lease_id} is no longer {facts.status}")


def _lease_columns(terms: Wanted) -> dict[str, Any]:
    return {
        "project_id": terms.project_id,
        "user_id": terms.user_id,
        "start_date": terms.start_date,
        "end_date": terms.end_date,
        "trust_id": None,
        "status": _ACTIVE,
        "degraded": False,
    }


def _lease_row(terms: Wanted, now: datetime.datetime) -> dict[str, Any]:
    return {
        "id": terms.lease_id,
        "name": lease_name(terms.server_name, terms.server_id),
        "created_at": now,
        **_lease_columns(terms),
    }


def _reservation_row(terms: Wanted, now: datetime.datetime) -> dict[str, Any]:
    return {
        "id": reservation_id(terms.lease_id),
        "created_at": now,
        "lease_id": terms.lease_id,
        "resource_id": terms.server_id,
        "resource_type": RESOURCE_TYPE,
        "status": blazar_status.reservation.ACTIVE,
    }


def _add_events(
    connection: sa.Connection, wanted: Sequence[Wanted], now: datetime.datetime
) -> None:
    """Write the events of leases that are there.

    The database makes two of three by itself, of the leases: telling it what it has already took a
    sixth of the time that it takes to take a VM in.
    """
    connection.execute(EVENTS.insert(), [_before_end_row(terms, now) for terms in wanted])
    its = LEASES.c
    ids = [terms.lease_id for terms in wanted]
    made = [
        sa.select(
            _following_in_sql(its.id, event_type),
            sa.literal(now),
            its.id,
            sa.literal(event_type),
            time,
            sa.literal(status),
        ).where(its.id.in_(ids))
        for event_type, time, status in (
            (_START, its.start_date, _DONE),
            (_END, its.end_date, _UNDONE),
        )
    ]
    columns = ("id", "created_at", "lease_id", "event_type", "time", "status")
    connection.execute(EVENTS.insert().from_select(columns, sa.union_all(*made)))


def _before_end_row(terms: Wanted, now: datetime.datetime) -> dict[str, Any]:
    time = max(floor_minute(terms.before_end_at), terms.start_date)
    return {
        "id": event_id(terms.lease_id, _BEFORE_END),
        "created_at": now,
        "lease_id": terms.lease_id,
        "event_type": _BEFORE_END,
        "time": time,
        "status": _UNDONE if time > now else _DONE,
    }


def allocations(
    connection: sa.Connection, reservation: str | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Read which VMs have reservations: by server UUID, each with ``id``, ``lease_id``, dates.

    :param reservation: only this one.
    """
    r = RESERVATIONS.c
    statement = (
        sa.select(r.resource_id, r.id, r.lease_id, LEASES.c.start_date, LEASES.c.end_date)
        .join(LEASES, LEASES.c.id == r.lease_id)
        .where(r.resource_type == RESOURCE_TYPE, r.resource_id.is_not(None))
    )
    if reservation is not None:
        statement = statement.where(r.id == reservation)
    found: dict[str, list[dict[str, Any]]] = {}
    for row in connection.execute(statement):
        found.setdefault(row.resource_id, []).append(
            {
                "id": row.id,
                "lease_id": row.lease_id,
                "start_date": row.start_date,
                "end_date": row.end_date,
            }
        )
    return found
