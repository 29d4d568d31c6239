# SPDX-License-Identifier: Apache-2.0
"""Saying what will happen to every VM, and what other rules would change, without doing anything.

The verdicts, dates and moves are those that the service comes to: the same functions are asked.
Nova and Keystone are read, or our own tables alone; nothing is written anywhere.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import enum
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from oslo_log import log as logging

from blazar_vmexpire import adoption, lifecycle, subjects
from blazar_vmexpire.adoption import Newcomer
from blazar_vmexpire.cloud import errors
from blazar_vmexpire.cloud.servers import GONE, Server
from blazar_vmexpire.db.api import Expiration
from blazar_vmexpire.lifecycle import State, Terms
from blazar_vmexpire.subjects import Facts
from blazar_vmexpire.terms import Session, Verdict

LOG = logging.getLogger(__name__)

#: Actions at the end after which the VM still holds what it had.
_FREE_NOTHING = frozenset({"stop"})
#: States of what is not in Nova, as far as is known.
_NOT_THERE = frozenset({State.SEEN.value, State.DELETED.value, State.VANISHED.value})
#: States in which nothing more will happen by itself.
_AT_REST = frozenset({State.EXEMPT.value, State.DELETED.value, State.FAILED.value})


class Step(enum.StrEnum):
    """What happens next to a VM."""

    NOTICE = "notice"
    BEFORE_END = "before-end action"
    QUARANTINE = "quarantine"
    END = "end"
    RELEASE = "release"
    UNDER_WAY = "under way"
    NONE = "-"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What will happen to one VM. Dates are naive UTC."""

    server_id: str
    server_name: str
    project_id: str
    state: str | None
    """Where its expiration stands; None: it is not known yet."""
    rule: str | None
    """The rule that its terms come from; None: the options."""
    ends_at: datetime.datetime | None
    """None: it does not expire, or has ended and is kept."""
    on_end_action: str | None
    next_step: Step
    next_at: datetime.datetime | None
    change: str
    """What would be different from today; empty: nothing."""
    vcpus: int
    ram_mb: int
    disk_gb: int

    @property
    def frees(self) -> bool:
        """Whether its end gives something back to the cloud."""
        return self.ends_at is not None and self.on_end_action not in _FREE_NOTHING


class _Who(NamedTuple):
    server_id: str
    server_name: str
    project_id: str


@dataclasses.dataclass(slots=True)
class Freed:
    """What ends on one day, and what that gives back."""

    servers: int = 0
    vcpus: int = 0
    ram_mb: int = 0
    disk_gb: int = 0

    def add(self, planned: Planned) -> None:
        """Count a VM that ends."""
        self.servers += 1
        if planned.frees:
            self.vcpus += planned.vcpus
            self.ram_mb += planned.ram_mb
            self.disk_gb += planned.disk_gb

    def __iadd__(self, other: Freed) -> Freed:
        """Count what ends on another day, too."""
        for field in dataclasses.fields(self):
            total = getattr(self, field.name) + getattr(other, field.name)
            setattr(self, field.name, total)
        return self


def per_day(plans: Iterable[Planned]) -> dict[datetime.date, Freed]:
    """Sum up what ends on each day (UTC), in the order of the days."""
    days: dict[datetime.date, Freed] = collections.defaultdict(Freed)
    for planned in plans:
        # One that failed stays as it is.
        if planned.ends_at is not None and planned.next_step != Step.NONE:
            days[planned.ends_at.date()].add(planned)
    return dict(sorted(days.items()))


class Planning:
    """Plans every VM that Nova lists.

    :param session: what it takes to judge VMs, by the rules that are planned with.
    :param now: the moment that is planned for, naive UTC.
    :param spread: how far the first ends of VMs that are taken in are spread.
    :param service_project_id: whose VMs never expire.
    """

    def __init__(
        self,
        session: Session,
        now: datetime.datetime,
        *,
        spread: datetime.timedelta,
        service_project_id: str,
    ) -> None:
        self._session = session
        self._now = now
        self._spread = spread
        self._service_project_id = service_project_id

    def plan(
        self, listed: Iterable[Mapping[str, object]], rows: Mapping[str, Expiration]
    ) -> Iterator[Planned]:
        """Plan the VMs of a page of Nova's list.

        :param listed: servers as Nova lists them; those it cannot say anything of are left out.
        :param rows: what is known of them, by UUID.
        """
        for raw in listed:
            try:
                server = Server.from_json(raw)
            except errors.Unavailable as error:
                LOG.warning("Server %s is left out: %s", raw.get("id"), error)
                continue
            if server.status not in GONE:
                row = rows.get(server.id)
                if row is None or row.state in (State.SEEN, State.DELETED):
                    yield self._newcomer(server)
                else:
                    facts = subjects.facts_of_server(server, self._session.book.own_metadata)
                    yield self._known(
                        dataclasses.replace(
                            row,
                            server_name=server.name,
                            facts=facts,
                            project_id=server.project_id,
                            user_id=server.user_id,
                        )
                    )

    def plan_known(self, rows: Iterable[Expiration]) -> Iterator[Planned]:
        """Plan VMs by what Nova last showed of them; nobody is asked.

        :param rows: those that are gone are left out.
        """
        for row in rows:
            if row.state not in _NOT_THERE and row.project_id is not None:
                yield self._known(row)

    def _newcomer(self, server: Server) -> Planned:
        book = self._session.book
        who = _Who(server.id, server.name, server.project_id)
        newcomer = Newcomer.of(server, book.own_metadata, self._session.judge)
        verdict = newcomer.verdict
        if server.project_id == self._service_project_id:
            verdict = Verdict(
                expires=False, terms=verdict.terms, why="it is in the service project"
            )
        if not verdict.expires:
            return self._planned(who, None, newcomer.facts, verdict, None, "")
        if not adoption.settled(server):
            why = f"would be taken in when it has come to rest: it is {server.status} now"
            return self._planned(who, None, newcomer.facts, verdict, None, why)
        share = self._spread * lifecycle.share(server.id)
        ends_at = lifecycle.first_end(self._now, verdict.terms, share)
        return self._planned(
            who, None, newcomer.facts, verdict, ends_at, f"taken in: ends {_date(ends_at)}"
        )

    def _known(self, row: Expiration) -> Planned:
        """Plan a VM that was taken in.

        :param row: with what is seen of the VM now.
        """
        facts = row.facts
        who = _Who(row.server_id, row.server_name, row.project_id or "")
        verdict = self._session.judge_row(row)
        if not verdict.expires:
            change = "" if row.state == State.EXEMPT else f"let go: {verdict.why}"
            return self._planned(who, row, facts, verdict, None, change)
        if row.state == State.EXEMPT:
            begun_anew = lifecycle.first_end(self._now, verdict.terms)
            change = f"taken in again: ends {_date(begun_anew)}"
            return self._planned(who, row, facts, verdict, begun_anew, change)
        # What was kept at its end does not end again.
        ends_at, changes = None if row.state == State.ENDED else row.ends_at, []
        if ends_at is not None and row.state in lifecycle.LIVE:
            if row.term_seconds is not None:
                ends_at = lifecycle.followed_end(
                    ends_at,
                    datetime.timedelta(seconds=row.term_seconds),
                    self._now,
                    verdict.terms,
                    quarantined=row.state == State.QUARANTINED,
                )
            if row.waiting_since is None:
                ends_at = lifecycle.open_end(
                    ends_at, verdict.terms, quarantined=row.state == State.QUARANTINED
                )
            if ends_at != row.ends_at:
                changes.append(f"end moves from {_date(row.ends_at)} to {_date(ends_at)}")
            if row.on_end_action not in (None, verdict.terms.on_end_action):
                changes.append(f"{row.on_end_action} becomes {verdict.terms.on_end_action}")
        if row.terms_digest is not None and row.rule != verdict.rule:
            changes.append(f"rule {row.rule or '-'} becomes {verdict.rule or '-'}")
        return self._planned(who, row, facts, verdict, ends_at, "; ".join(changes))

    def _planned(
        self,
        who: _Who,
        row: Expiration | None,
        facts: Facts,
        verdict: Verdict,
        ends_at: datetime.datetime | None,
        change: str,
    ) -> Planned:
        state = None if row is None else row.state
        step, at = self._next(state, ends_at, verdict.terms)
        return Planned(
            server_id=who.server_id,
            server_name=who.server_name,
            project_id=who.project_id,
            state=state,
            rule=verdict.rule,
            ends_at=ends_at,
            on_end_action=verdict.terms.on_end_action if verdict.expires else None,
            next_step=step,
            next_at=at,
            change=change,
            # Of one that was taken in by an older version nothing may be known yet.
            vcpus=facts.get("vcpus", 0),
            ram_mb=facts.get("ram_mb", 0),
            disk_gb=facts.get("disk_gb", 0),
        )

    def _next(
        self, state: str | None, ends_at: datetime.datetime | None, terms: Terms
    ) -> tuple[Step, datetime.datetime | None]:
        """Say what happens next, and when."""
        if ends_at is None or state == State.FAILED:
            return Step.NONE, None
        if state == State.HELD:
            # Until when is said by its hold; what comes then, by the end that it has by then.
            return Step.RELEASE, None
        if state is not None and state not in lifecycle.LIVE | _AT_REST:
            return Step.UNDER_WAY, None
        plan = lifecycle.agenda(ends_at, terms)
        coming = [(reminder.at, Step.NOTICE) for reminder in plan.reminders]
        coming.append((plan.before_end_at, Step.BEFORE_END))
        if plan.quarantine_at is not None and state != State.QUARANTINED:
            coming.append((plan.quarantine_at, Step.QUARANTINE))
        coming.append((plan.ends_at, Step.END))
        # On one date the notice comes first; what is overdue comes at once.
        for at, step in sorted(coming, key=lambda each: each[0]):
            if at > self._now:
                return step, at
        return Step.END, max(ends_at, self._now)


def _date(moment: datetime.datetime | None) -> str:
    return "-" if moment is None else f"{moment:%Y-%m-%d %H:%M} UTC"
