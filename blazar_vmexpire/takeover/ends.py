# SPDX-License-Identifier: Apache-2.0
"""What becomes of a VM's end when it has one in another system, too. All dates are naive UTC.

Nobody loses anything by it: an end that somebody has chosen here is never moved to an earlier date,
nor is one that was taken over before. So doing it again changes nothing, and both systems can run
side by side for a while. No end comes so soon that its owner cannot be told of it in time.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
from collections.abc import Callable, Collection

import sqlalchemy as sa

from blazar_vmexpire import extension, lifecycle, steering
from blazar_vmexpire.conf.types import format_duration
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db.api import Expiration
from blazar_vmexpire.extension import Caller
from blazar_vmexpire.lifecycle import State
from blazar_vmexpire.terms import TermsBook, Verdict

#: The action at the end that the notices of other systems tell of.
_SAID = "delete"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What another system says of a VM."""

    server_id: str
    ends_at: datetime.datetime
    told: int = 0
    """How many notices of that end its owner has had. They said that it is deleted then."""
    told_at: datetime.datetime | None = None
    """When they had the first; None: nobody knows."""


class Outcome(enum.StrEnum):
    """What becomes of a VM's end."""

    MOVED = "moved"
    SAME = "has that end"
    CHOSEN = "has an end that was chosen here, or was taken over before"
    NOT_EXPIRING = "does not expire here"
    BUSY = "held, ending, or over: left alone"
    GONE = "gone"
    UNKNOWN = "not known here"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What becomes of one VM."""

    server_id: str
    outcome: Outcome
    server_name: str = ""
    ends_at: datetime.datetime | None = None
    """The end that it has here."""
    found: datetime.datetime
    """The end that it has there."""
    new_end: datetime.datetime | None = None
    """The end that it gets; None: it keeps its own."""
    told: tuple[str, ...] = ()
    """The kinds of notices that its owner has had, and is not sent again."""


Judge = Callable[[Expiration], Verdict]
"""Says on what terms a VM expires here."""


def decide(
    row: Expiration | None, found: Found, judge: Judge, now: datetime.datetime, *, capped: bool
) -> Result:
    """Say what becomes of a VM's end; nothing is written.

    :param row: the VM's; None: it has none.
    :param capped: whether the other system let owners write any date: then it comes no later than
        an owner may choose here.
    """
    result = Result(
        server_id=found.server_id,
        outcome=Outcome.SAME,
        server_name="" if row is None else row.server_name,
        ends_at=None if row is None else row.ends_at,
        found=found.ends_at,
    )
    if row is None or row.state == State.SEEN:
        return dataclasses.replace(result, outcome=Outcome.UNKNOWN)
    if row.state in (State.DELETED, State.VANISHED):
        return dataclasses.replace(result, outcome=Outcome.GONE)
    verdict = judge(row)
    if row.state == State.EXEMPT or not verdict.expires:
        return dataclasses.replace(result, outcome=Outcome.NOT_EXPIRING)
    if row.state not in lifecycle.LIVE or row.ends_at is None:
        return dataclasses.replace(result, outcome=Outcome.BUSY)
    terms = verdict.terms
    wanted = lifecycle.floor_minute(found.ends_at)
    if capped:
        latest = lifecycle.latest_allowed(row.ends_at, now, row.server_created_at, terms)
        wanted = min(wanted, latest)
    told = _told(found, wanted, verdict, now)
    if wanted < row.ends_at:
        if row.term_seconds is None:
            return dataclasses.replace(result, outcome=Outcome.CHOSEN)
        if not told:
            wanted = min(row.ends_at, max(wanted, lifecycle.told_in_time(now, terms)))
    if wanted == row.ends_at:
        return result
    return dataclasses.replace(result, outcome=Outcome.MOVED, new_end=wanted, told=told)


def take(
    connection: sa.Connection,
    found: Found,
    *,
    book: TermsBook,
    caller: Caller,
    now: datetime.datetime,
    capped: bool,
) -> Result:
    """Give a VM the end that it has in another system, as :func:`decide` says.

    :param caller: the administrator who does it; the history has it, with their reason.
    """

    def judge(row: Expiration) -> Verdict:
        return book.verdict(connection, row, now)

    row = db_api.get(connection, found.server_id, for_update=True)
    result = decide(row, found, judge, now, capped=capped)
    if row is None or result.new_end is None:
        return result
    try:
        row = steering.set_end(
            connection, row.server_id, result.new_end, caller=caller, book=book, now=now
        )
    except extension.Refused:
        # It is to be held next, say.
        return dataclasses.replace(result, outcome=Outcome.BUSY, new_end=None, told=())
    if result.told:
        _note(connection, row, found, result.told, judge(row), caller, now)
    return result


def _told(
    found: Found, ends_at: datetime.datetime, verdict: Verdict, now: datetime.datetime
) -> tuple[str, ...]:
    """Say which of the notices of an end count as sent, because the other system has sent its own.

    They count where what they said is true here, and was said in time: the end is that one, nothing
    is done to the VM before it, and at least as much as they said is left of it. Where nobody knows
    when it was said, it may have been of an end that was moved since: then only the first counts,
    and only from now on.
    """
    terms = verdict.terms
    if (
        not found.told
        or (found.told_at is not None and found.told_at < ends_at - 2 * terms.first_notice)
        or verdict.dry_run
        or terms.quarantine
        or ends_at != lifecycle.floor_minute(found.ends_at)
        or not lifecycle.as_gentle(terms.on_end_action, _SAID)
        or ends_at < lifecycle.earliest_allowed(_told_at(found, now), terms)
        or ends_at <= now
    ):
        return ()
    due = [r.kind for r in lifecycle.agenda(ends_at, terms).reminders if r.at <= now]
    return tuple(due[: found.told if found.told_at else 1])


def _told_at(found: Found, now: datetime.datetime) -> datetime.datetime:
    """Say since when its owner has known, for certain."""
    return min(found.told_at or now, now)


def _note(
    connection: sa.Connection,
    row: Expiration,
    found: Found,
    kinds: Collection[str],
    verdict: Verdict,
    caller: Caller,
    now: datetime.datetime,
) -> None:
    """Note which notices of the end that it has now its owner need not be sent."""
    details = {
        "on_end_action": verdict.terms.on_end_action,
        "quarantine": format_duration(verdict.terms.quarantine),
        "dry_run": str(verdict.dry_run),
    }
    told_at = _told_at(found, now)
    for kind in kinds:
        db_api.add_notice(
            connection, row, kind, now, message_id="-", details=details, accepted_at=told_at
        )
    db_api.record(
        connection,
        row,
        "notices_taken_over",
        now,
        actor=caller.user_id,
        kinds=list(kinds),
        told_at=found.told_at,
        ends_at=row.ends_at,
        **caller.why,
    )
