# SPDX-License-Identifier: Apache-2.0
"""Holding a VM, and releasing it, as an administrator asks: its clock stops for a while.

While it is held its owner gets no notices of its end, nothing is done to it, and its lease ends so
late that Blazar cannot end it: after the hold is over there is time to tell its owner. All dates
are naive UTC, and all functions work in the caller's transaction.
"""

from __future__ import annotations

import dataclasses
import datetime

import sqlalchemy as sa

from blazar_vmexpire import extension, lifecycle
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db import holds
from blazar_vmexpire.db.api import Expiration
from blazar_vmexpire.db.holds import Hold
from blazar_vmexpire.db.models import expirations
from blazar_vmexpire.lifecycle import Event, State, Terms
from blazar_vmexpire.terms import TermsBook

_LONGEST_TICKET = 255


class Refused(Exception):
    """The VM cannot be held so; the message says why."""


class Invalid(Refused):
    """Something is wrong with what the hold is to be; the message says what would be right."""


def hold(
    connection: sa.Connection,
    server_id: str,
    *,
    until: datetime.datetime,
    reason: str,
    ticket: str | None,
    author: str,
    book: TermsBook,
    now: datetime.datetime,
    request_id: str | None = None,
) -> Expiration:
    """Stop a VM's clock for a while; what was begun is undone. One that is held is held anew.

    Its generation is raised, so that a step that was begun can no longer be finished, or be made
    irreversible.

    :param until: when its clock goes on by itself.
    :param ticket: where more is to be read, for whoever lists the holds.
    :param author: the administrator who does it.
    :param book: says the VM's terms.
    :param request_id: of the request to our API by which they do it.
    :returns: the row as it is now.
    :raises Invalid: something is wrong with the hold.
    :raises Refused: there is no such VM, or nothing of it that could be stopped.
    """
    reason = reason.strip()
    if not reason:
        raise Invalid("a hold needs a reason: it stands in the history of the server")
    if ticket is not None and len(ticket) > _LONGEST_TICKET:
        raise Invalid(f"ticket {ticket[:40]!r}… is too long: {_LONGEST_TICKET} characters at most")
    if until <= now:
        raise Invalid(f"{until:%Y-%m-%d %H:%M} UTC has passed: a hold must end in the future")
    row, old_end = _stoppable(connection, server_id)
    terms = book.verdict(connection, row, now).terms
    there = holds.current(connection, server_id, now)
    own_end = old_end if there is None else there.ends_at
    event = Event.UNDO if extension.begun(row) else Event.HOLD
    held = _replan(
        connection,
        row,
        lifecycle.after(row.state, event),
        max(own_end, lifecycle.told_in_time(until, terms)),
        terms,
        now,
    )
    holds.put(
        connection,
        Hold(
            server_id=server_id,
            reason=reason,
            ticket=ticket,
            author=author,
            created_at=now,
            until=until,
            ends_at=own_end,
        ),
    )
    db_api.record(
        connection,
        held,
        "held",
        now,
        actor=author,
        request_id=request_id,
        reason=reason,
        ticket=ticket,
        until=until,
        old_end=old_end,
        new_end=held.ends_at,
    )
    return held


def release(
    connection: sa.Connection,
    server_id: str,
    *,
    reason: str | None,
    author: str,
    book: TermsBook,
    now: datetime.datetime,
    request_id: str | None = None,
) -> Expiration | None:
    """Let a VM's clock go on before its hold is over.

    It has the end again that it had before, unless its owner could not be told of that in time.

    :param author: the administrator who does it.
    :param book: says the VM's terms.
    :param request_id: of the request to our API by which they do it.
    :returns: the row as it is now; None when the VM is not held.
    """
    row = db_api.get(connection, server_id, for_update=True)
    hold = holds.get(connection, server_id)
    if row is None or hold is None:
        return None
    holds.drop(connection, [server_id])
    released = row
    if row.state not in (State.EXEMPT, State.DELETED):
        state = State(row.state)
        if state == State.HELD:
            state = lifecycle.after(state, Event.RELEASE)
        terms = book.verdict(connection, row, now).terms
        own_end = max(hold.ends_at, lifecycle.told_in_time(now, terms))
        released = _replan(connection, row, state, own_end, terms, now)
    db_api.record(
        connection,
        released,
        "released",
        now,
        actor=author,
        request_id=request_id,
        reason=reason,
        held_until=hold.until,
        old_end=row.ends_at,
        new_end=released.ends_at,
    )
    return released


def _stoppable(connection: sa.Connection, server_id: str) -> tuple[Expiration, datetime.datetime]:
    """Keep a VM's row whose clock can be stopped, and say which end it has.

    :raises Refused: there is nothing to stop.
    """
    row = db_api.get(connection, server_id, for_update=True)
    if row is None or row.ends_at is None or row.state in (State.SEEN, State.DELETED):
        raise Refused(f"server {server_id} is not one of those that expire")
    if row.state == State.ENDING and row.progress.get("irreversible"):
        raise Refused(
            f"server {server_id} is being deleted: that was asked of Nova, and cannot be taken back"
        )
    if not lifecycle.possible(row.state, Event.HOLD):
        raise Refused(
            f"server {server_id} is {row.state}: it has no clock running that could be stopped"
        )
    return row, row.ends_at


def _replan(
    connection: sa.Connection,
    row: Expiration,
    state: State,
    new_end: datetime.datetime,
    terms: Terms,
    now: datetime.datetime,
) -> Expiration:
    """Write another plan to the row that is kept, and its end to the lease."""
    planned = dataclasses.replace(
        row,
        state=state.value,
        generation=row.generation + 1,
        ends_at=new_end,
        attempts=0,
        last_error=None,
        next_at=now,
        waiting_since=None,
        # An end that somebody has moved stays where it is, whatever the terms.
        term_seconds=row.term_seconds if new_end == row.ends_at else None,
        progress=extension.move_lease(connection, row, new_end, terms, now),
    )
    connection.execute(
        sa.update(expirations)
        .where(expirations.c.server_id == row.server_id)
        .values(
            {name: getattr(planned, name) for name in _WRITTEN}
            | {"progress": db_api.as_json(planned.progress)}
        )
    )
    return planned


_WRITTEN = (
    "state",
    "generation",
    "ends_at",
    "attempts",
    "last_error",
    "next_at",
    "waiting_since",
    "term_seconds",
)
