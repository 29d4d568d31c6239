# SPDX-License-Identifier: Apache-2.0
"""Moving the end of a VM's lease, as its owner or an administrator asks.

Every way to move it ends here: Blazar asks the plug-in before it writes a date (:func:`move_end`),
and our own API moves the VM's row and its lease together (:func:`extend`).
"""

from __future__ import annotations

import dataclasses
import datetime
import re
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from blazar_vmexpire import adoption, leases, lifecycle, words
from blazar_vmexpire.conf.types import format_duration
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db import holds
from blazar_vmexpire.db.api import Expiration
from blazar_vmexpire.db.holds import Hold
from blazar_vmexpire.db.models import expirations
from blazar_vmexpire.exceptions import LeaseBusy
from blazar_vmexpire.lifecycle import Event, State, Terms

#: How long Blazar is given to write the date it asked about, before the lease is looked at.
SETTLE = datetime.timedelta(seconds=2)

#: How long a lease that Blazar had in hand may take to follow the VM's row.
_FOLLOW_WITHIN = datetime.timedelta(minutes=10)
#: Until when that is, in a row's ``progress``.
_FOLLOWS_UNTIL = "lease_follows_until"

_DATE = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?"
    r"(Z|[+-][0-9]{2}:[0-9]{2})?"
)


class Refused(Exception):
    """The end stays where it is; the message says why."""


class NotFound(Refused):
    """There is no such VM, or none that expires, as far as the caller may know."""

    def __init__(self, server_id: str) -> None:
        super().__init__(f"no expiration of server {server_id} could be found")


class NotAllowed(Refused):
    """The end may not be moved there; the message says how far it may."""


class Conflict(Refused):
    """No date would help in the state that the VM is in."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks."""

    user_id: str | None
    project_id: str | None
    request_id: str | None
    is_admin: bool
    reason: str | None = None
    """Why they ask; of administrators."""

    @property
    def why(self) -> dict[str, str]:
        """What the history tells of that."""
        return {} if self.reason is None else {"reason": self.reason}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """How far the owner of a VM may move its end at a moment."""

    latest: datetime.datetime
    """Never before the end it has; that one, if they may not extend at all."""
    opens_at: datetime.datetime | None = None
    """From when on they may extend, if that is yet to come."""
    used_up: bool = False
    """Whether they have extended as often as they may."""


def room(row: Expiration, terms: Terms, now: datetime.datetime) -> Room:
    """Say how far the owner of a VM may move its end.

    :param row: of a VM that has an end.
    """
    assert row.ends_at is not None  # noqa: S101 - the caller's to see to
    if _used_up(row, terms):
        return Room(latest=row.ends_at, used_up=True)
    opens_at = _opens_at(row, row.ends_at, terms, now)
    if opens_at is not None:
        return Room(latest=row.ends_at, opens_at=opens_at)
    return Room(latest=_latest(row, row.ends_at, terms, now)[0])


def parse_date(text: str, name: str = "end_date") -> datetime.datetime:
    """Read a date that somebody wrote, as Blazar's API takes it or in ISO 8601.

    :param text: ``2027-01-10 04:50`` or ``2027-01-10T04:50:00Z``; UTC unless it has an offset.
    :param name: what they call it.
    :returns: naive UTC, cut to the minute, as Blazar's dates are.
    :raises NotAllowed: it is no such date.
    """
    try:
        if not _DATE.fullmatch(text):
            raise ValueError(text)
        moment = datetime.datetime.fromisoformat(text)
        if moment.tzinfo is not None:
            moment = moment.astimezone(datetime.UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):
        raise NotAllowed(
            f"{name} {text[:40]!r} is no date: it must be like 2027-01-10 04:50 or"
            " 2027-01-10T04:50Z, in UTC"
        ) from None
    return lifecycle.floor_minute(moment)


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
    :returns: the row as it is now; None when the end is where it was, which changes nothing, in any
        state.
    :raises NotFound: there is no such VM.
    :raises NotAllowed: past the latest or before the earliest allowed date.
    :raises Conflict: the VM is being deleted, has no lease, or may not be extended now.
    """
    row, old_end = _movable(connection, server_id)
    if new_end == old_end:
        # Blazar asks about a new name, too.
        db_api.poke(connection, [server_id], now + SETTLE)
        return None
    hold = holds.current(connection, server_id, now)
    _check(row, old_end, new_end, caller, terms, hold, now)
    return _move(
        connection,
        row,
        old_end,
        new_end,
        caller=caller,
        hold=hold,
        now=now,
        next_at=now + SETTLE,
        progress=row.progress,
    )


def extend(
    connection: sa.Connection,
    server_id: str,
    *,
    end_date: datetime.datetime | None,
    caller: Caller,
    terms: Terms,
    now: datetime.datetime,
) -> Expiration:
    """Give a VM a later end, and give it back if anything was done to it.

    A race has exactly one winner, as for :func:`move_end`. A lease that is live is written in the
    same transaction; one that is over is reopened under its id once the VM is its owner's again
    (state ``reviving``); one that Blazar is at work on follows as soon as it has finished.

    :param end_date: naive UTC, a whole minute; None for the latest allowed date, which is never
        earlier than the present end.
    :returns: the row as it is now.
    :raises NotFound: there is no such VM.
    :raises NotAllowed: past the latest or before the earliest allowed date, or past already.
    :raises Conflict: the VM is being deleted, has no lease, may not be extended now, or has no room
        left for an extension.
    """
    row, old_end = _movable(connection, server_id)
    latest, rule = _latest(row, old_end, terms, now)
    new_end = latest if end_date is None else end_date
    if new_end == old_end and _is_theirs(row):
        return row
    if end_date is None and (latest <= now or (latest == old_end and row.state in lifecycle.LIVE)):
        raise Conflict(
            f"server {server_id} cannot be extended any more: the latest allowed end is"
            f" {latest:%Y-%m-%d %H:%M} UTC ({rule})"
        )
    hold = holds.current(connection, server_id, now)
    _check(row, old_end, new_end, caller, terms, hold, now)
    return _move(
        connection,
        row,
        old_end,
        new_end,
        caller=caller,
        hold=hold,
        now=now,
        next_at=now,
        progress=move_lease(connection, row, new_end, terms, now),
    )


def move_lease(
    connection: sa.Connection,
    row: Expiration,
    new_end: datetime.datetime,
    terms: Terms,
    now: datetime.datetime,
) -> dict[str, Any]:
    """Write a new end to a VM's lease, if it is live and sound, and say what its row notes of that.

    One that Blazar is at work on follows as soon as it has finished; one that is over is reopened
    once the VM is its owner's again.

    :param row: the VM's, which is kept, with the end that it has so far.
    :returns: the ``progress`` that the row has then.
    """
    progress = dict(row.progress)
    if not _write_lease(connection, row, new_end, terms, now):
        progress[_FOLLOWS_UNTIL] = (now + _FOLLOW_WITHIN).isoformat()
    return progress


def movable(connection: sa.Connection, server_id: str) -> Expiration:
    """Hold a VM's row whose end can still be moved, until the transaction ends.

    :raises NotFound: there is no such VM.
    :raises Conflict: the VM is being deleted, or has no lease.
    """
    return _movable(connection, server_id)[0]


def check(
    connection: sa.Connection,
    row: Expiration,
    new_end: datetime.datetime,
    *,
    caller: Caller,
    terms: Terms,
    now: datetime.datetime,
) -> None:
    """See that somebody may move a VM's end; nothing is written.

    :param row: of a VM that has an end.
    :param new_end: naive UTC, a whole minute; the end that it has may always stay.
    :raises Refused: they may not; the message says why.
    """
    assert row.ends_at is not None  # noqa: S101 - the caller's to see to
    hold = holds.current(connection, row.server_id, now)
    _check(row, row.ends_at, new_end, caller, terms, hold, now)


def move(
    connection: sa.Connection,
    row: Expiration,
    new_end: datetime.datetime,
    *,
    caller: Caller,
    now: datetime.datetime,
) -> Expiration:
    """Write another end, which was checked, to a VM's row that is held; its lease follows.

    :returns: the row as it is now, due at once.
    """
    assert row.ends_at is not None  # noqa: S101 - the caller's to see to
    return _move(
        connection,
        row,
        row.ends_at,
        new_end,
        caller=caller,
        hold=holds.current(connection, row.server_id, now),
        now=now,
        next_at=now,
        progress=row.progress,
    )


def lease_follows(row: Expiration, now: datetime.datetime) -> bool:
    """Say whether a lease may differ from its VM's row because Blazar had it in hand.

    It was extended by :func:`extend` a moment ago; nobody has damaged it.
    """
    until = row.progress.get(_FOLLOWS_UNTIL)
    return until is not None and now < datetime.datetime.fromisoformat(until)


def _movable(connection: sa.Connection, server_id: str) -> tuple[Expiration, datetime.datetime]:
    """Hold a VM's row whose end can still be moved, and say which end it has."""
    row = db_api.get(connection, server_id, for_update=True)
    if row is None or row.ends_at is None or row.state in (State.SEEN, State.DELETED):
        raise NotFound(server_id)
    if row.state == State.EXEMPT:
        raise Conflict(f"server {server_id} does not expire: it has no end that could be moved")
    if row.state == State.ENDING and row.progress.get("irreversible"):
        raise Conflict(
            f"the lease of server {server_id} ended at {row.ends_at:%Y-%m-%d %H:%M} UTC and the"
            " server is being deleted: it is too late to extend it"
        )
    return row, row.ends_at


def _is_theirs(row: Expiration) -> bool:
    """Say whether a VM is its owner's, with nothing done to it, or is being given back already."""
    return row.state == State.REVIVING or (
        row.state in (State.ACTIVE, State.NOTICED, State.HELD) and not row.progress.get("undo")
    )


def begun(row: Expiration) -> bool:
    """Say whether something was begun that has to be undone, whatever the state is called."""
    return bool(row.progress.get("undo") or images_begun(row))


def images_begun(row: Expiration) -> list[str]:
    """Say for which stages (``before_end``, ``end``) an image was begun that is not complete."""
    return [
        stage
        for stage in ("before_end", "end")
        if {"image_id", "attempt"} & row.progress.get(stage, {}).keys()
    ]


def _move(
    connection: sa.Connection,
    row: Expiration,
    old_end: datetime.datetime,
    new_end: datetime.datetime,
    *,
    caller: Caller,
    hold: Hold | None,
    now: datetime.datetime,
    next_at: datetime.datetime,
    progress: Mapping[str, Any],
) -> Expiration:
    """Write the new end to the row that is held, and to the VM's history."""
    extended = new_end > old_end and not caller.is_admin
    state = lifecycle.after(row.state, Event.UNDO if begun(row) else Event.EXTEND)
    moved = dataclasses.replace(
        row,
        ends_at=new_end,
        state=state.value,
        generation=row.generation + 1,
        extensions=row.extensions + (1 if extended else 0),
        attempts=0,
        last_error=None,
        next_at=next_at,
        waiting_since=None,
        term_seconds=None,
        progress=progress,
    )
    connection.execute(
        sa.update(expirations)
        .where(expirations.c.server_id == row.server_id)
        .values(
            {name: getattr(moved, name) for name in _WRITTEN}
            | {"progress": db_api.as_json(progress)}
        )
    )
    if hold is not None:
        holds.put(connection, dataclasses.replace(hold, ends_at=new_end))
    shortened = new_end < old_end
    db_api.record(
        connection,
        moved,
        "shortened" if shortened else "extended",
        now,
        actor=caller.user_id,
        request_id=caller.request_id,
        old_end=old_end,
        new_end=new_end,
        by_admin=caller.is_admin,
        **caller.why,
    )
    if shortened and caller.project_id == row.project_id:
        # They know, for they did it themselves.
        db_api.add_notice(connection, moved, "shortened", now, message_id="-", accepted_at=now)
    return moved


_WRITTEN = (
    "ends_at",
    "state",
    "generation",
    "extensions",
    "attempts",
    "last_error",
    "next_at",
    "waiting_since",
    "term_seconds",
)


def _write_lease(
    connection: sa.Connection,
    row: Expiration,
    new_end: datetime.datetime,
    terms: Terms,
    now: datetime.datetime,
) -> bool:
    """Write the new end to a VM's lease, if it is live and sound.

    One that was deleted or damaged is the worker's to find and to put back.

    :returns: False when it has to follow, or may have to, for no fault of its owner's: Blazar is at
        work on it, or has ended it, or has its end in hand already.
    """
    facts = leases.read(connection, row.lease_id) if row.lease_id else None
    if facts is None:
        return True
    if leases.faults(facts, adoption.wanted_lease(row, terms)):
        return not (facts.in_transition or facts.end_has_come)
    moved = dataclasses.replace(row, ends_at=new_end)
    try:
        leases.mend(connection, facts, adoption.moved_lease(moved, facts, terms), now)
    except LeaseBusy:
        return False
    return facts.end_date > now


def _latest(
    row: Expiration, old_end: datetime.datetime, terms: Terms, now: datetime.datetime
) -> tuple[datetime.datetime, str]:
    """Say the latest end that an owner may choose, and the rule that it follows from."""
    cap = now + terms.extension_duration
    rule = f"now + extension_duration {format_duration(terms.extension_duration)}"
    if terms.max_total_duration and row.server_created_at is not None:
        whole_life = row.server_created_at + terms.max_total_duration
        if whole_life < cap:
            cap = whole_life
            total = format_duration(terms.max_total_duration)
            rule = f"creation of the server + max_total_duration {total}"
    latest = lifecycle.latest_allowed(old_end, now, row.server_created_at, terms)
    if latest > cap:
        rule = f"the end it has, which is later than {rule}"
    return latest, rule


def _check(
    row: Expiration,
    old_end: datetime.datetime,
    new_end: datetime.datetime,
    caller: Caller,
    terms: Terms,
    hold: Hold | None,
    now: datetime.datetime,
) -> None:
    if new_end <= now:
        raise NotAllowed(
            f"end_date {new_end:%Y-%m-%d %H:%M} has passed: it is {now:%Y-%m-%d %H:%M} UTC"
        )
    if new_end == old_end and row.state == State.QUARANTINED:
        raise NotAllowed(
            f"end_date {new_end:%Y-%m-%d %H:%M} is the end that it has: only another one gives the"
            " server back"
        )
    if hold is not None and new_end < lifecycle.told_in_time(hold.until, terms):
        raise NotAllowed(
            f"end_date {new_end:%Y-%m-%d %H:%M} is before the earliest allowed,"
            f" {lifecycle.told_in_time(hold.until, terms):%Y-%m-%d %H:%M} UTC: the server is held"
            f" until {hold.until:%Y-%m-%d %H:%M} UTC by an administrator"
        )
    if caller.is_admin:
        return
    if new_end > old_end:
        _check_limits(row, old_end, terms, now)
    latest, rule = _latest(row, old_end, terms, now)
    if new_end > latest:
        raise NotAllowed(
            f"end_date {new_end:%Y-%m-%d %H:%M} is past the latest allowed,"
            f" {latest:%Y-%m-%d %H:%M} UTC ({rule})"
        )
    earliest = lifecycle.earliest_allowed(now, terms)
    if new_end < old_end and new_end < earliest:
        raise NotAllowed(
            f"end_date {new_end:%Y-%m-%d %H:%M} is before the earliest allowed,"
            f" {earliest:%Y-%m-%d %H:%M} UTC (now + minimum_notice"
            f" {format_duration(terms.minimum_notice)}"
            + (f" + quarantine {format_duration(terms.quarantine)}" if terms.quarantine else "")
            + ")"
        )


def _used_up(row: Expiration, terms: Terms) -> bool:
    return 0 < terms.max_extensions <= row.extensions


def _opens_at(
    row: Expiration, old_end: datetime.datetime, terms: Terms, now: datetime.datetime
) -> datetime.datetime | None:
    """Say from when on an owner may extend; None for now."""
    opens_at = lifecycle.window_opens_at(old_end, terms)
    if opens_at is None or opens_at <= now or not _is_theirs(row):
        # What was done to a VM can be undone at any time.
        return None
    return opens_at


def _check_limits(
    row: Expiration, old_end: datetime.datetime, terms: Terms, now: datetime.datetime
) -> None:
    """See that an owner may extend now, to whatever date.

    :raises Conflict: they may not.
    """
    if _used_up(row, terms):
        raise Conflict(
            f"server {row.server_id} has been extended {words.times(row.extensions)}, as often as"
            f" max_extensions ({terms.max_extensions}) allows: only an administrator can extend it"
            " further"
        )
    opens_at = _opens_at(row, old_end, terms, now)
    if opens_at is not None:
        raise Conflict(
            f"server {row.server_id} cannot be extended before {opens_at:%Y-%m-%d %H:%M} UTC,"
            f" {words.in_words(opens_at - now)}: that is extension_window"
            f" {format_duration(terms.extension_window)} before its end"
        )
