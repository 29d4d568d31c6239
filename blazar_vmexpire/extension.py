# SPDX-License-Identifier: Apache-2.0
"""Moving the end of a VM's lease, as its owner or an administrator asks.

Every way to update a lease meets this: Blazar asks the plug-in before it writes a date.
"""

from __future__ import annotations

import dataclasses
import datetime

import sqlalchemy as sa

from blazar_vmexpire import lifecycle
from blazar_vmexpire.conf.types import format_duration
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db.api import Expiration
from blazar_vmexpire.db.models import expirations
from blazar_vmexpire.lifecycle import Event, State, Terms

#: How long Blazar is given to write the date it asked about, before the lease is looked at.
_SETTLE = datetime.timedelta(seconds=2)


class NotAllowed(Exception):
    """The end may not be moved there; the message says how far it may."""


class TooLate(Exception):
    """The end has begun, and what has been asked of Nova cannot be taken back."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks."""

    user_id: str | None
    project_id: str | None
    request_id: str | None
    is_admin: bool


def move_end(
    connection: sa.Connection,
    server_id: str,
    new_end: datetime.datetime,
    *,
    caller: Caller,
    terms: Terms,
    now: datetime.datetime,
) -> Expiration | None:
    """Move the end of a VM's lease in our row; the lease itself is the caller's to write.

    Whatever races with this has exactly one winner: the row is held, and its ``generation`` raised,
    so that a step that was begun for the old date can no longer be finished or made irreversible.

    :param new_end: naive UTC, a whole minute.
    :returns: the row as it is now; None when the end is where it was, which changes nothing.
    :raises NotAllowed: past the latest or before the earliest allowed date, or no such VM.
    :raises TooLate: the VM is being deleted.
    """
    row = db_api.get(connection, server_id, for_update=True)
    if row is None or row.ends_at is None or row.state in (State.SEEN, State.DELETED):
        raise NotAllowed(f"server {server_id} has no lease that could be moved")
    if row.state == State.ENDING and row.progress.get("irreversible"):
        raise TooLate(
            f"the lease of server {server_id} ended at {row.ends_at:%Y-%m-%d %H:%M} UTC and the"
            " server is being deleted: it is too late to extend it"
        )
    if new_end == row.ends_at and row.state in lifecycle.LIVE:
        db_api.poke(connection, [server_id], now + _SETTLE)
        return None
    if not caller.is_admin:
        _check(row, new_end, terms, now)
    later = new_end > row.ends_at
    state = lifecycle.after(row.state, Event.EXTEND)
    moved = dataclasses.replace(
        row,
        ends_at=new_end,
        state=state.value,
        generation=row.generation + 1,
        extensions=row.extensions + (1 if later else 0),
    )
    connection.execute(
        sa.update(expirations)
        .where(expirations.c.server_id == server_id)
        .values(
            ends_at=new_end,
            state=state.value,
            generation=moved.generation,
            extensions=moved.extensions,
            attempts=0,
            last_error=None,
            next_at=now + _SETTLE,
        )
    )
    db_api.record(
        connection,
        moved,
        "extended" if later else "shortened",
        now,
        actor=caller.user_id,
        request_id=caller.request_id,
        old_end=row.ends_at,
        new_end=new_end,
        by_admin=caller.is_admin,
    )
    if not later and caller.project_id == row.project_id:
        # They know, for they did it themselves.
        db_api.add_notice(connection, moved, "shortened", now, message_id="-", accepted=True)
    return moved


def _check(
    row: Expiration, new_end: datetime.datetime, terms: Terms, now: datetime.datetime
) -> None:
    assert row.ends_at is not None  # noqa: S101 - move_end has seen to it
    latest = lifecycle.latest_allowed(row.ends_at, now, row.server_created_at, terms)
    if new_end > latest:
        by_total = (
            terms.max_total_duration
            and row.server_created_at is not None
            and latest < lifecycle.floor_minute(now + terms.extension_duration)
        )
        rule = (
            f"creation of the server + max_total_duration"
            f" {format_duration(terms.max_total_duration)}"
            if by_total
            else f"now + extension_duration {format_duration(terms.extension_duration)}"
        )
        if latest == row.ends_at:
            rule = f"the end it has, which is later than {rule}"
        raise NotAllowed(
            f"end_date {new_end:%Y-%m-%d %H:%M} is past the latest allowed,"
            f" {latest:%Y-%m-%d %H:%M} UTC ({rule})"
        )
    earliest = lifecycle.earliest_allowed(now, terms)
    if new_end < row.ends_at and new_end < earliest:
        raise NotAllowed(
            f"end_date {new_end:%Y-%m-%d %H:%M} is before the earliest allowed,"
            f" {earliest:%Y-%m-%d %H:%M} UTC (now + minimum_notice"
            f" {format_duration(terms.minimum_notice)}"
            + (f" + quarantine {format_duration(terms.quarantine)}" if terms.quarantine else "")
            + ")"
        )
