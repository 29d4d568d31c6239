# SPDX-License-Identifier: Apache-2.0
"""All there is to know about one VM whose lease is live, read in one transaction."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence

from blazar_vmexpire import leases, lifecycle
from blazar_vmexpire.conf.types import format_duration
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db import holds
from blazar_vmexpire.db.api import Expiration, NoticeRow
from blazar_vmexpire.db.holds import Hold
from blazar_vmexpire.lifecycle import State
from blazar_vmexpire.notices import Kind
from blazar_vmexpire.terms import Verdict
from blazar_vmexpire.worker.tools import Tools

#: States of a VM that is held, or is to be held next.
_HOLDABLE = (State.ACTIVE, State.HELD)

#: How the kinds of notices begin that tell of the end to come.
TELL_OF_THE_END = ("reminder/", "shortened", "earlier", db_api.FORCED)

#: Kinds that say nothing any more once there is another end.
_OF_ONE_END = (Kind.EXTENDED, Kind.REVIVED, Kind.EXEMPTED, Kind.GONE)


@dataclasses.dataclass(slots=True)
class Case:
    """One VM at one moment."""

    row: Expiration
    facts: leases.Facts | None
    notices: list[NoticeRow]
    hold: Hold | None
    """Of one that is held, or could be, as long as it is not over."""
    verdict: Verdict
    terms: lifecycle.Terms
    """Of the verdict."""
    plan: lifecycle.Agenda
    now: datetime.datetime

    @property
    def accepted(self) -> list[NoticeRow]:
        """Notices of this very end that were accepted, in the order of their acceptance."""
        found = [
            n
            for n in self.notices
            if n.generation == self.row.generation
            and n.accepted_at is not None
            and n.kind.startswith(TELL_OF_THE_END)
        ]
        return sorted(found, key=lambda n: n.accepted_at or datetime.datetime.max)

    @property
    def accepted_at(self) -> datetime.datetime | None:
        """When the first notice of this very end was accepted."""
        return self.accepted[0].accepted_at if self.accepted else None

    @property
    def forced(self) -> bool:
        """Whether an administrator has said that this very end needs no notice in time."""
        return any(notice.kind == db_api.FORCED for notice in self.accepted)

    @property
    def mails_due(self) -> list[datetime.datetime]:
        """When mails of its own are tried next; what is in a digest is not its own to send."""
        return [n.due_at for n in self.notices if n.due_at is not None and n.digest is None]

    @property
    def tells(self) -> dict[str, str]:
        """What a notice of this end tells of it, beside its date: kept with the notice."""
        return {
            "on_end_action": self.terms.on_end_action,
            "quarantine": format_duration(self.terms.quarantine),
            # Only the operator gets what is told in a dry run.
            "dry_run": str(self.verdict.dry_run),
        }

    @property
    def told_otherwise(self) -> bool:
        """Whether all that was told is that something else would be done to it, or later."""
        told = [n.details for n in self.accepted if n.details.keys() >= self.tells.keys()]
        return bool(told) and not any(self.tells.items() <= details.items() for details in told)

    @property
    def before_end_at(self) -> datetime.datetime | None:
        """The date of the before-end action that the lease itself has, if it makes sense."""
        if self.facts is None or self.facts.before_end_at is None:
            return None
        if self.facts.start_date <= self.facts.before_end_at <= self.facts.end_date:
            return self.facts.before_end_at
        return None


def read(tools: Tools, row: Expiration) -> Case:
    """Read what is needed, and plan the end that the VM has."""
    now = tools.clock()
    with tools.database.begin() as connection:
        verdict = tools.book.verdict(connection, row, now)
        facts = leases.read(connection, row.lease_id) if row.lease_id else None
        notices = db_api.notices_of(connection, row.server_id)
        hold = holds.current(connection, row.server_id, now) if row.state in _HOLDABLE else None
    terms = verdict.terms
    assert row.ends_at is not None  # noqa: S101 - every live row has it
    case = Case(
        row=row,
        facts=facts,
        notices=notices,
        hold=hold,
        verdict=verdict,
        terms=terms,
        plan=lifecycle.agenda(row.ends_at, terms),
        now=now,
    )
    case.plan = lifecycle.agenda(row.ends_at, terms, case.before_end_at)
    return case


def overtaken(notices: Sequence[NoticeRow], generation: int) -> list[NoticeRow]:
    """Say which of a VM's notices need not be sent: a later one, or a new end, took their place.

    :param notices: of one VM, oldest first; those that have come to rest do not matter.
    :param generation: of the VM's expiration.
    """
    waiting = [n for n in notices if n.due_at is not None]
    of_the_end = [n for n in waiting if n.kind.startswith(TELL_OF_THE_END)]
    reminders = [
        n for n in of_the_end if n.generation == generation and n.kind.startswith("reminder/")
    ]
    return [
        *(n for n in of_the_end if n.generation != generation),
        *reminders[:-1],
        *(n for n in waiting if n.kind in _OF_ONE_END and n.generation != generation),
    ]
