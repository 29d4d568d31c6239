# SPDX-License-Identifier: Apache-2.0
"""The life of a VM's expiration: states, dates and caps.

Nothing here does I/O or looks at a clock: moments go in, moments come out, all naive UTC.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import functools
import zlib
from collections.abc import Collection, Mapping
from typing import Any

from automaton import machines

from blazar_vmexpire.calendars import Calendar
from blazar_vmexpire.conf.types import format_duration

Moment = datetime.datetime
Duration = datetime.timedelta

_MINUTE = datetime.timedelta(minutes=1)
_NONE = datetime.timedelta(0)


class State(enum.StrEnum):
    """Where a VM's expiration stands."""

    SEEN = "seen"
    """Nova spoke of the VM; nobody has looked at it yet."""
    ACTIVE = "active"
    """It has its lease, and no notice of this lease's end was accepted so far."""
    NOTICED = "noticed"
    """Its owner has been told of the end."""
    QUARANTINED = "quarantined"
    """Locked and stopped, waiting for its end or its owner."""
    ENDING = "ending"
    """Its lease is over; the action at the end is under way."""
    ENDED = "ended"
    """Its lease is over, and it is kept: shelved, or stopped."""
    REVIVING = "reviving"
    """Extended after something was begun: that is being undone."""
    HELD = "held"
    """Its clock is stopped for a while, by an administrator: it has its lease, its owner has it."""
    EXEMPT = "exempt"
    """Out of scope: it has no lease, and nothing is done to it."""
    VANISHED = "vanished"
    """Nova answered 404; kept until that is sure."""
    FAILED = "failed"
    """A step failed for good: an operator has to look."""
    DELETED = "deleted"
    """The VM is gone."""


class Event(enum.StrEnum):
    """What moves an expiration from one state to another."""

    ADOPT = "adopt"
    NOTICE = "notice"
    EXTEND = "extend"
    UNDO = "undo"
    QUARANTINE = "quarantine"
    END = "end"
    KEPT = "kept"
    REVIVED = "revived"
    HOLD = "hold"
    RELEASE = "release"
    EXEMPT = "exempt"
    VANISH = "vanish"
    REAPPEAR = "reappear"
    RETURN = "return"
    GONE = "gone"
    FAIL = "fail"
    RETRY = "retry"
    POSTPONE = "postpone"


#: States in which a VM has a live lease whose clock runs.
LIVE = frozenset({State.ACTIVE, State.NOTICED, State.QUARANTINED})

#: States in which a VM has a live lease, whether its clock runs or not.
LEASED = LIVE | {State.HELD}

#: States in which something may have been done to the VM that an extension has to undo.
_UNDOABLE = (
    State.QUARANTINED,
    State.ENDING,
    State.ENDED,
    State.REVIVING,
    State.VANISHED,
    State.FAILED,
)


def _declare() -> machines.FiniteMachine:
    machine = machines.FiniteMachine()
    for state in State:
        machine.add_state(state.value, terminal=False)

    def allow(event: Event, end: State, *starts: State) -> None:
        for start in starts:
            machine.add_transition(start.value, end.value, event.value)

    allow(Event.ADOPT, State.ACTIVE, State.SEEN, State.DELETED, State.EXEMPT, State.ENDED)
    allow(Event.NOTICE, State.NOTICED, State.ACTIVE, State.NOTICED)
    allow(Event.NOTICE, State.QUARANTINED, State.QUARANTINED)
    allow(Event.EXTEND, State.ACTIVE, State.ACTIVE, State.NOTICED)
    allow(Event.EXTEND, State.HELD, State.HELD)
    allow(Event.EXTEND, State.REVIVING, *_UNDOABLE)
    allow(Event.UNDO, State.REVIVING, State.ACTIVE, State.NOTICED, *_UNDOABLE)
    allow(Event.QUARANTINE, State.QUARANTINED, State.NOTICED)
    allow(Event.END, State.ENDING, State.NOTICED, State.QUARANTINED)
    allow(Event.POSTPONE, State.NOTICED, State.QUARANTINED, State.ENDING)
    allow(Event.KEPT, State.ENDED, State.ENDING)
    allow(Event.REVIVED, State.ACTIVE, State.REVIVING)
    allow(Event.HOLD, State.HELD, State.ACTIVE, State.NOTICED, State.HELD)
    # What has ended has no clock that could be stopped.
    allow(Event.HOLD, State.REVIVING, *(s for s in _UNDOABLE if s != State.ENDED))
    allow(Event.RELEASE, State.ACTIVE, State.HELD)
    allow(Event.EXEMPT, State.EXEMPT, *LEASED, State.ENDING, State.ENDED, State.FAILED)
    allow(
        Event.VANISH,
        State.VANISHED,
        *LEASED,
        State.ENDED,
        State.REVIVING,
        State.FAILED,
        State.EXEMPT,
    )
    allow(Event.REAPPEAR, State.ACTIVE, State.VANISHED)
    allow(Event.RETURN, State.ENDED, State.VANISHED)
    allow(Event.GONE, State.DELETED, State.ENDING, State.VANISHED)
    allow(Event.FAIL, State.FAILED, *LIVE, State.ENDING, State.REVIVING)
    allow(Event.RETRY, State.REVIVING, State.FAILED)
    machine.default_start_state = State.SEEN.value
    machine.freeze()
    return machine


#: The machine, declared once: the docs' diagram is drawn from it.
MACHINE = _declare()

_TRANSITIONS = {(start, event): State(end) for start, event, end in MACHINE}


class UndeclaredTransition(Exception):
    """A transition that the machine does not declare: a defect, never a user's mistake."""


def after(state: str, event: Event) -> State:
    """Say the state that ``event`` leads to from ``state``.

    :raises UndeclaredTransition: when there is none.
    """
    try:
        return _TRANSITIONS[state, event.value]
    except KeyError:
        raise UndeclaredTransition(f"{event.value!r} cannot happen in state {state!r}") from None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The terms on which one VM expires. Durations are relative to now, or before the end."""

    lease_duration: Duration
    extension_duration: Duration
    max_total_duration: Duration
    """Counted from the VM's creation; zero for none."""
    max_extensions: int
    """How often an owner may extend; zero for as often as they like."""
    extension_window: Duration
    """How long before the end an owner may begin to extend; zero for at any time."""
    first_notice: Duration
    """Before the end."""
    reminders: tuple[Duration, ...]
    """Before the end, each."""
    minimum_notice: Duration
    quarantine: Duration
    """Before the end; zero for none."""
    before_end_action: str
    on_end_action: str
    allowed_actions: tuple[str, ...]
    """Actions that an owner may choose instead of those two."""
    calendar: Calendar | None
    """Days on which nothing is done to the VM; None where all days are the same."""
    language: str | None = dataclasses.field(default=None, repr=False)
    """Of the mails to its owner; None where nothing is said of that. It is not in the digest of a
    verdict: nothing about a VM follows from it."""

    @property
    def shortest_lease(self) -> Duration:
        """Between now and an end whose owner can still be told in time."""
        return self.minimum_notice + self.quarantine


#: Actions at the end, the gentlest first: what is left of the VM afterwards, and how near at hand.
_GENTLEST_FIRST = ("stop", "shelve", "snapshot", "delete")


#: Where an administrator's choice is, beside what an owner has chosen.
IMPOSED = "imposed"


def with_choice(terms: Terms, chosen: Mapping[str, Any]) -> Terms:
    """Apply the actions that an owner has chosen, as far as the terms allow them.

    What was allowed once and is not any more counts for nothing, for as long as that is so. What an
    administrator has set for this one VM counts in any case.

    :param chosen: ``before_end_action`` and ``on_end_action``, either or none, and in ``imposed``
        the same of an administrator; what else is in it does not matter.
    """
    applied = {
        name: chosen[name]
        for name in ("before_end_action", "on_end_action")
        if chosen.get(name) in terms.allowed_actions
    }
    applied |= chosen.get(IMPOSED, {})
    return dataclasses.replace(terms, **applied) if applied else terms


def as_gentle(action: str, other: str) -> bool:
    """Say whether an action at the end leaves at least as much of the VM as another one does.

    Of an operator's own action nothing is known: it is as gentle as itself.
    """
    if action == other:
        return True
    known = {name: place for place, name in enumerate(_GENTLEST_FIRST)}
    return action in known and other in known and known[action] < known[other]


def possible(state: str, event: Event) -> bool:
    """Say whether ``event`` can happen in ``state``."""
    return (state, event.value) in _TRANSITIONS


def floor_minute(moment: Moment) -> Moment:
    """Cut to the whole minute: Blazar's dates have no seconds (a lease with them is stuck)."""
    return moment.replace(second=0, microsecond=0)


def ceil_minute(moment: Moment) -> Moment:
    """Round up to the whole minute: for dates that must not come early."""
    floor = floor_minute(moment)
    return floor if floor == moment else floor + _MINUTE


def share(server_id: str) -> float:
    """Say an even share, 0 ≤ share < 1, that is the VM's own and stays the same."""
    return zlib.crc32(server_id.encode()) / 2**32


def first_end(now: Moment, terms: Terms, spread: Duration = _NONE) -> Moment:
    """Say when the first lease of a VM ends: a full term from now, never less.

    :param spread: what is added, for VMs that were there when expiration was switched on.
    """
    return open_end(ceil_minute(now + terms.lease_duration + spread), terms)


def closed(now: Moment, terms: Terms) -> bool:
    """Say whether it is a day on which nothing may be begun that an owner would feel."""
    return terms.calendar is not None and terms.calendar.closed_at(now)


def open_end(
    end: Moment, terms: Terms, *, quarantined: bool = False, earliest: Moment | None = None
) -> Moment:
    """Move an end to the next day that is open for it, and for the quarantine before it.

    :param quarantined: the VM is in quarantine already: only the end needs an open day.
    :param earliest: where it moves at least, if it has to move because something is late.
    """
    if terms.calendar is None:
        return end if earliest is None else max(end, ceil_minute(earliest))
    before = _NONE if quarantined else terms.quarantine
    return terms.calendar.open_end(end, before, earliest)


def next_end(now: Moment, created_at: Moment | None, extensions: int, terms: Terms) -> Moment:
    """Say when a lease ends that begins anew because a VM that was kept is in use again.

    A full term from now; but no way round a limit that the VM's owner has reached: then only as
    long as it takes to tell them of the end.

    :param extensions: how often it was extended so far.
    """
    latest = now + terms.lease_duration
    if terms.max_extensions and extensions >= terms.max_extensions:
        latest = now
    if terms.max_total_duration and created_at is not None:
        latest = min(latest, created_at + terms.max_total_duration)
    return open_end(
        ceil_minute(max(latest, now + terms.shortest_lease + notice_margin(terms))), terms
    )


def latest_allowed(
    current_end: Moment, now: Moment, created_at: Moment | None, terms: Terms
) -> Moment:
    """Say the latest end that an owner may choose.

    ``max(current end, min(now + extension_duration, created + max_total_duration))``: no owner is
    ever asked to give back what they already have.
    """
    latest = now + terms.extension_duration
    if terms.max_total_duration and created_at is not None:
        latest = min(latest, created_at + terms.max_total_duration)
    return max(current_end, floor_minute(latest))


def followed_end(
    ends_at: Moment, old_term: Duration, now: Moment, terms: Terms, *, quarantined: bool
) -> Moment:
    """Say where the end of a first term goes whose duration has changed.

    A longer term applies at once. A shorter one cuts nothing off that its owner needs to be told in
    time; nor does it for one who was told of the end, and whose VM waits for them in quarantine.

    :param old_term: the ``lease_duration`` that the end follows from.
    """
    if terms.lease_duration == old_term:
        return ends_at
    new_end = open_end(ends_at + (terms.lease_duration - old_term), terms)
    if new_end >= ends_at:
        return new_end
    if quarantined:
        return ends_at
    return min(ends_at, max(new_end, open_end(told_in_time(now, terms), terms)))


def window_opens_at(ends_at: Moment, terms: Terms) -> Moment | None:
    """Say from when on an owner may extend; None for at any time."""
    return ceil_minute(ends_at - terms.extension_window) if terms.extension_window else None


def earliest_allowed(now: Moment, terms: Terms) -> Moment:
    """Say the earliest end that an owner may shorten to: one whose notice still fits."""
    return ceil_minute(now + terms.shortest_lease)


@dataclasses.dataclass(frozen=True, slots=True)
class Reminder:
    """A notice that is due so long before the end; its kind names it in the notices table."""

    kind: str
    at: Moment


@dataclasses.dataclass(frozen=True, slots=True)
class Agenda:
    """What happens when, for a lease with a given end."""

    reminders: tuple[Reminder, ...]
    """In the order of their dates; no two on one date."""
    before_end_at: Moment
    quarantine_at: Moment | None
    ends_at: Moment

    @property
    def disruption_at(self) -> Moment:
        """When the first thing happens that an owner would feel."""
        return self.quarantine_at or self.ends_at

    def due_reminder(self, now: Moment, told: Collection[str]) -> Reminder | None:
        """Say which notice is to be sent now, if any.

        Of several whose date has passed only the last counts: the others would say the same.

        :param told: kinds that were accepted already, for this end.
        """
        due = [reminder for reminder in self.reminders if reminder.at <= now]
        if not due or due[-1].kind in told:
            return None
        return due[-1]

    def is_last(self, now: Moment, told: Collection[str]) -> bool:
        """Say whether no reminder comes any more before the next thing that an owner would feel.

        :param told: kinds that were resolved already, for this end: they do not come again.
        """
        felt = [at for at in (self.quarantine_at, self.ends_at) if at is not None and at > now]
        return not any(
            now < reminder.at < min(felt, default=now) and reminder.kind not in told
            for reminder in self.reminders
        )


def agenda(ends_at: Moment, terms: Terms, before_end_at: Moment | None = None) -> Agenda:
    """Plan a lease's end.

    :param before_end_at: when the before-end action runs, if its owner moved it.
    """
    return Agenda(
        reminders=tuple(Reminder(kind, ends_at - offset) for kind, offset in _reminders(terms)),
        before_end_at=before_end_at or ends_at - terms.first_notice,
        quarantine_at=ends_at - terms.quarantine if terms.quarantine else None,
        ends_at=ends_at,
    )


@functools.lru_cache(maxsize=64)
def _reminders(terms: Terms) -> tuple[tuple[str, Duration], ...]:
    """List the notices of a lease by kind, each with how long before the end it is sent."""
    # However late the operator wants the first notice, minimum_notice has to fit before anything
    # is done, with time for a second try of the mail.
    first = max(terms.first_notice, terms.shortest_lease + notice_margin(terms))
    wanted = {first, *(r for r in terms.reminders if r < first)}
    if terms.extension_window and terms.extension_window < min(wanted):
        # One of them has to come while its reader can still extend.
        wanted.add(terms.extension_window)
    offsets = sorted(wanted, reverse=True)
    return tuple((f"reminder/{format_duration(offset)}", offset) for offset in offsets)


def notice_margin(terms: Terms) -> Duration:
    """Say how much earlier than strictly needed a notice is sent, or a lease is moved.

    A share of minimum_notice: a mail server that is down for a day then moves each lease a dozen
    times or so, not every few seconds.
    """
    return max(_MINUTE, terms.minimum_notice / 24)


def told_in_time(moment: Moment, terms: Terms) -> Moment:
    """Say the earliest end whose owner is told early enough, when nobody has told them by then."""
    return ceil_minute(moment + terms.shortest_lease + notice_margin(terms))


def needed_end(
    plan: Agenda, now: Moment, accepted_at: Moment | None, terms: Terms
) -> Moment | None:
    """Say where the end has to move so that nothing happens without notice; None: it may stay.

    :param accepted_at: when the first notice of this end was accepted by the mail server.
    """
    if accepted_at is not None:
        earliest = accepted_at + terms.minimum_notice
        if earliest <= plan.disruption_at:
            return None
        return ceil_minute(earliest + terms.quarantine)
    if now + terms.minimum_notice <= plan.disruption_at:
        return None
    return told_in_time(now, terms)


def undeliverable_deadline(plan: Agenda, terms: Terms) -> Moment:
    """Say when the end must move if no notice has been accepted by then."""
    return plan.disruption_at - terms.minimum_notice


def useful_until(plan: Agenda, now: Moment, accepted_at: Moment | None, terms: Terms) -> Moment:
    """Say how long a notice of an end can wait, for others to be told together with it.

    No longer than half of the time that is left until the next notice, or until something is done
    to the VM. The first notice, if it is early enough now, is early enough then: only a half of the
    margin is used up, so that time for a second try of the mail is left.

    :param accepted_at: when the first notice of this end was accepted by the mail server.
    """
    coming = [reminder.at for reminder in plan.reminders] + [plan.disruption_at, plan.ends_at]
    until = now + min((at - now for at in coming if at > now), default=_NONE) / 2
    if accepted_at is None:
        spare = notice_margin(terms) / 2
        until = min(until, undeliverable_deadline(plan, terms) - spare)
    return until


def backoff(attempts: int, first: Duration, longest: Duration, jitter: float) -> Duration:
    """Say how long to wait before the next try.

    :param attempts: failures so far, at least 1.
    :param jitter: a random number, 0 ≤ jitter < 1: the wait is between half of and the full
        ``first * 2 ** (attempts - 1)``, at most ``longest``, so that what failed together is not
        tried again together.
    """
    wait: Duration = min(first * 2 ** min(attempts - 1, 20), longest)
    return wait / 2 + wait / 2 * jitter
