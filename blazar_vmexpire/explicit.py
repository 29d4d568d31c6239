# SPDX-License-Identifier: Apache-2.0
"""Leases that owners make for their VMs themselves, in place of the implicit one.

Blazar asks before it makes one (:func:`request`), and may still roll it back. So until it has
started, nothing more is written than that it was asked for; the lease that the VM has stays what
counts. What takes its place then (:func:`take_over`) differs in nothing but its id, and that its
owner chose it; when it is deleted an implicit one comes back (:func:`let_go`).
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Collection, Mapping
from typing import Any

import sqlalchemy as sa

from blazar_vmexpire import (
    RESOURCE_TYPE,
    adoption,
    choice,
    extension,
    lease_sets,
    leases,
    lifecycle,
)
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db import holds
from blazar_vmexpire.db.api import Expiration
from blazar_vmexpire.db.models import expirations
from blazar_vmexpire.exceptions import LeaseBusy
from blazar_vmexpire.extension import Caller, Conflict, NotAllowed
from blazar_vmexpire.lifecycle import State, Terms
from blazar_vmexpire.terms import Verdict

#: What a reservation may say: what an owner writes, and what Blazar adds.
_KEYS = {"resource_type", "server_id", *choice.KEYS, "lease_id", "start_date", "end_date"}

#: States in which a VM is its owner's, with nothing begun: then its lease can be another one.
_CAN_BE_REPLACED = (State.ACTIVE, State.NOTICED)
#: States in which a lease that was asked for may still take its place.
_CAN_WAIT = (*lifecycle.LEASED, State.REVIVING, State.VANISHED)

#: Where a row's ``chosen`` has the id of the lease that its owner made, and of the end before it.
_LEASE, _INSTEAD_OF = "explicit", "explicit_instead_of"
#: And the one that was asked for.
_PENDING = "explicit_pending"

#: How long Blazar is given to make a lease, before it is looked at.
_SETTLE = datetime.timedelta(seconds=2)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """A lease that was asked for, until it takes its place or is known not to. Dates: naive UTC."""

    lease_id: str
    reservation_id: str
    end_date: datetime.datetime
    instead_of: datetime.datetime
    """The end that the VM had when it was asked for."""
    generation: int
    """That the VM had then."""
    actions: Mapping[str, str]
    """As :func:`blazar_vmexpire.choice.parse` returns them."""
    default_before_end: datetime.datetime | None
    """When Blazar fires its before_end event where nobody has said when it should."""
    caller: Caller
    seen: tuple[str, datetime.datetime] | None = None
    """How the lease was found (:attr:`blazar_vmexpire.leases.Facts.mark`), since when."""

    @classmethod
    def of(cls, row: Expiration) -> Pending | None:
        """Read the one of a VM, if there is one."""
        raw = row.chosen.get(_PENDING)
        if raw is None:
            return None
        date = datetime.datetime.fromisoformat
        return cls(
            lease_id=raw["lease_id"],
            reservation_id=raw["reservation_id"],
            end_date=date(raw["end_date"]),
            instead_of=date(raw["instead_of"]),
            generation=raw["generation"],
            actions=raw["actions"],
            default_before_end=raw["default_before_end"] and date(raw["default_before_end"]),
            caller=Caller(**raw["caller"]),
            seen=raw["seen"] and (raw["seen"][0], date(raw["seen"][1])),
        )

    def noted(self, row: Expiration) -> dict[str, Any]:
        """Say what is to be written to the ``chosen`` of a VM's row."""
        return {**row.chosen, _PENDING: dataclasses.asdict(self)}


def without_pending(row: Expiration) -> dict[str, Any]:
    """Say what ``chosen`` is when a lease that was asked for is not waited for any more."""
    return {key: value for key, value in row.chosen.items() if key != _PENDING}


def is_explicit(row: Expiration) -> bool:
    """Say whether the lease of a VM is one that its owner made."""
    return row.lease_id is not None and row.chosen.get(_LEASE) == row.lease_id


def awaited(connection: sa.Connection, server_ids: Collection[str]) -> set[str]:
    """Say which reservations are those of leases that may still take their place."""
    x = expirations.c
    found = connection.execute(
        sa.select(expirations).where(
            x.server_id.in_(list(server_ids)),
            x.state.in_([state.value for state in _CAN_WAIT]),
            pending_in_sql(),
        )
    )
    pending = [Pending.of(Expiration.of(row)) for row in found]
    return {one.reservation_id for one in pending if one is not None}


def asked_for_meanwhile(connection: sa.Connection, row: Expiration) -> bool:
    """Say whether a lease was asked for since a row was read, and hold it so that none can be."""
    present = db_api.get(connection, row.server_id, for_update=True)
    return present is not None and Pending.of(present) is not None and Pending.of(row) is None


def pending_in_sql() -> sa.ColumnElement[bool]:
    """VMs for which a lease was asked for."""
    return sa.func.coalesce(expirations.c.chosen, "").contains(f'"{_PENDING}"')


# Asking -----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What somebody wants, as Blazar passes it on."""

    values: Mapping[str, Any]
    """What they say of the reservation, with the ``start_date`` and ``end_date`` of the lease, and
    its ``lease_id`` once there is one."""
    reservation_id: str | None
    """None before there is one."""
    default_before_end: datetime.timedelta
    """How long before the end Blazar fires its before_end event by itself; zero for never."""


def known(connection: sa.Connection, server_id: str, caller: Caller) -> Expiration:
    """Hold the row of a VM whose leases somebody can change.

    :raises NotAllowed: there is none; whoever is of another project is told the same.
    """
    row = db_api.get(connection, server_id, for_update=True)
    if (
        row is None
        or row.state in (State.SEEN, State.DELETED)
        or (row.project_id != caller.project_id and not caller.is_admin)
    ):
        raise NotAllowed(
            f"server {server_id} is not one of your project's whose leases you can change"
        )
    return row


def request(
    connection: sa.Connection,
    row: Expiration,
    wish: Wish,
    *,
    caller: Caller,
    verdict: Verdict,
    possible: Mapping[str, Collection[str]],
    now: datetime.datetime,
) -> None:
    """Note that a lease is asked for; or, before Blazar has made one, see whether it may be.

    :param row: the VM's, held: see :func:`known`.
    :param verdict: as :func:`blazar_vmexpire.choice.own_verdict` gives it.
    :param possible: as for :func:`blazar_vmexpire.choice.parse`.
    :raises NotAllowed: something in it cannot be.
    :raises Conflict: nothing would help in the state that the VM is in.
    """
    values, terms = wish.values, verdict.terms
    _check_body(values, now)
    if wish.reservation_id and leases.beside(connection, values["lease_id"], wish.reservation_id):
        raise NotAllowed(
            f"a lease with a {RESOURCE_TYPE} reservation holds nothing else: make another lease for"
            " what else you want to reserve"
        )
    _check_state(row, wish, verdict)
    extension.check(connection, row, values["end_date"], caller=caller, terms=terms, now=now)
    actions = choice.parse(values, terms, possible)
    new_end = values["end_date"] if values["end_date"] != row.ends_at else None
    choice.check(row, actions, terms, now, new_end)
    if wish.reservation_id is None:
        return
    distance = wish.default_before_end
    assert row.ends_at is not None  # noqa: S101 - every live row has it
    pending = Pending(
        lease_id=values["lease_id"],
        reservation_id=wish.reservation_id,
        end_date=values["end_date"],
        instead_of=row.ends_at,
        generation=row.generation,
        actions=actions,
        default_before_end=values["end_date"] - distance if distance else None,
        caller=caller,
    )
    # Without another generation: until it has taken its place, it must change nothing, and it must
    # not make the notices begin anew.
    next_at = min(row.next_at or now + _SETTLE, now + _SETTLE)
    connection.execute(
        sa.update(expirations)
        .where(expirations.c.server_id == row.server_id)
        .values(chosen=db_api.as_json(pending.noted(row)), next_at=next_at)
    )


def refuse_pending(row: Expiration, reservation_id: str) -> None:
    """See that a reservation is not that of a lease which has yet to take its place.

    :raises Conflict: it is: nothing of it can be changed before.
    """
    pending = Pending.of(row)
    if pending is not None and pending.reservation_id == reservation_id:
        raise Conflict(
            f"lease {pending.lease_id} of server {row.server_id} has not started: update it once it"
            " is ACTIVE, or delete it"
        )


def _check_body(values: Mapping[str, Any], now: datetime.datetime) -> None:
    unknown = sorted(str(key)[:100] for key in set(values) - _KEYS)
    if unknown:
        raise NotAllowed(
            f"a {RESOURCE_TYPE} reservation has server_id, {' and '.join(choice.KEYS)}:"
            f" {', '.join(unknown)} {'is' if len(unknown) == 1 else 'are'} not known"
        )
    if values["start_date"] > now:
        raise NotAllowed(
            f"start_date {values['start_date']:%Y-%m-%d %H:%M} has not come: the lease of a server"
            " begins at once, so start_date must be 'now'"
        )


def _check_state(row: Expiration, wish: Wish, verdict: Verdict) -> None:
    if row.state == State.EXEMPT or not verdict.expires:
        raise Conflict(f"server {row.server_id} does not expire: it can have no lease")
    pending = Pending.of(row)
    # Blazar's answer may have been lost, and the question repeated.
    if pending is not None and pending.reservation_id != wish.reservation_id:
        raise Conflict(
            f"server {row.server_id} is about to get lease {pending.lease_id}: update that lease"
            " once it is ACTIVE, or delete it"
        )
    if is_explicit(row):
        raise Conflict(
            f"server {row.server_id} already has lease {row.lease_id}, which ends"
            f" {row.ends_at:%Y-%m-%d %H:%M} UTC: update that lease, or delete it"
        )
    if row.state not in _CAN_BE_REPLACED:
        raise Conflict(
            f"server {row.server_id} is {row.state}: no other lease can be made for it now. The one"
            f" that it has is {row.lease_id}"
        )


# Taking its place -------------------------------------------------------------------------------


def take_over(
    connection: sa.Connection,
    row: Expiration,
    pending: Pending,
    facts: leases.Facts,
    implicit: leases.Facts | None,
    *,
    verdict: Verdict,
    now: datetime.datetime,
) -> tuple[Expiration, dict[str, Any]]:
    """Put a lease that has started in the place of the one that a VM has, which goes.

    From then on it is what a lease of ours has to be: the VM's, without a trust, with our events.

    :param row: held.
    :param facts: the new lease.
    :param implicit: the old one; None where it is not there.
    :param verdict: as :func:`blazar_vmexpire.choice.own_verdict` gives it.
    :returns: the row as it is now, and what is still to be written to it.
    :raises LeaseBusy: one of the two leases is no longer as it was read.
    """
    caller = pending.caller
    taken = choice.change(
        connection, row, pending.actions, caller=caller, verdict=verdict, now=now, next_at=now
    )
    # Whoever has moved the end meanwhile, or holds it, did so later.
    held = holds.current(connection, row.server_id, now) is not None
    moved = row.generation != pending.generation and row.ends_at != pending.instead_of
    if not held and not moved and pending.end_date != row.ends_at:
        taken = extension.move(connection, taken, pending.end_date, caller=caller, now=now)
    if implicit is not None:
        if not lease_sets.unchanged(connection, {implicit.lease_id: implicit.status}):
            raise LeaseBusy(f"lease {implicit.lease_id} is no longer {implicit.status}")
        leases.destroy(connection, [implicit.lease_id])
    columns: dict[str, Any] = {
        "lease_id": facts.lease_id,
        "adopted_at": facts.start_date,
        # They have chosen the end, be it the one that it had.
        "term_seconds": None,
        "chosen": {
            **without_pending(taken),
            _LEASE: facts.lease_id,
            _INSTEAD_OF: row.ends_at,
        },
    }
    taken = dataclasses.replace(taken, **columns)
    leases.mend(connection, facts, _wanted(taken, pending, facts, verdict.terms), now)
    db_api.record(
        connection,
        taken,
        "explicit_lease",
        now,
        actor=caller.user_id,
        request_id=caller.request_id,
        lease_id=facts.lease_id,
        instead_of=row.lease_id,
        ends_at=taken.ends_at,
    )
    return taken, columns


def _wanted(row: Expiration, pending: Pending, facts: leases.Facts, terms: Terms) -> leases.Wanted:
    if facts.before_end_at in (None, pending.default_before_end):
        return adoption.wanted_lease(row, lifecycle.with_choice(terms, row.chosen))
    return adoption.moved_lease(row, facts, lifecycle.with_choice(terms, row.chosen))


# Letting it go ----------------------------------------------------------------------------------


def let_go(
    connection: sa.Connection, row: Expiration, *, verdict: Verdict, now: datetime.datetime
) -> tuple[Expiration, dict[str, Any]]:
    """Give a VM whose explicit lease was deleted an implicit one again.

    It ends no later than that lease did, nor than the one before it, or an owner could choose now:
    what an administrator granted went with the lease. The actions are the terms' own again, unless
    less would be left of the VM then, and it is too late to tell its owner so: an owner who could
    have that told anew each time would never lose the VM.

    :param row: held.
    :param verdict: as :func:`blazar_vmexpire.choice.own_verdict` gives it.
    :returns: the row as it is now, and what is still to be written to it.
    """
    assert row.ends_at is not None  # noqa: S101 - every live row has it
    terms = verdict.terms
    before = row.chosen.get(_INSTEAD_OF)
    latest = lifecycle.latest_allowed(
        row.ends_at if before is None else datetime.datetime.fromisoformat(before),
        now,
        row.server_created_at,
        terms,
    )
    needed = lifecycle.earliest_allowed(now, terms)
    hold = holds.current(connection, row.server_id, now)
    if hold is not None:
        needed = lifecycle.told_in_time(hold.until, terms)
    ends_at = min(row.ends_at, max(latest, needed))
    left = row
    if _can_be_told(row, ends_at, terms, now):
        own = {key: getattr(terms, key) for key in choice.KEYS if key in row.chosen}
        left = choice.change(
            connection, row, own, caller=_NOBODY, verdict=verdict, now=now, next_at=now
        )
        left = dataclasses.replace(
            left, chosen={k: v for k, v in left.chosen.items() if k not in choice.KEYS}
        )
    if ends_at != row.ends_at:
        left = extension.move(connection, left, ends_at, caller=_NOBODY, now=now)
    chosen = {k: v for k, v in left.chosen.items() if k not in (_LEASE, _INSTEAD_OF)}
    columns: dict[str, Any] = {"lease_id": leases.new_lease_id(), "chosen": chosen}
    left = dataclasses.replace(left, **columns)
    leases.create(
        connection, [adoption.wanted_lease(left, lifecycle.with_choice(terms, chosen))], now
    )
    db_api.record(
        connection,
        left,
        "implicit_lease",
        now,
        lease_id=left.lease_id,
        instead_of=row.lease_id,
        ends_at=ends_at,
    )
    return left, columns


def _can_be_told(
    row: Expiration, ends_at: datetime.datetime, terms: Terms, now: datetime.datetime
) -> bool:
    """Say whether the terms' own actions can apply at an end, as far as its owner was told."""
    told = lifecycle.with_choice(terms, row.chosen).on_end_action
    in_time = lifecycle.told_in_time(now, terms) <= ends_at
    return in_time or lifecycle.as_gentle(terms.on_end_action, told)


#: Nobody asked for it: it follows.
_NOBODY = Caller(user_id=None, project_id=None, request_id=None, is_admin=False)
