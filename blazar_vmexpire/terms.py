# SPDX-License-Identifier: Apache-2.0
"""Which VMs expire, and on what terms."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import hashlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

import sqlalchemy as sa
from oslo_config import cfg

from blazar_vmexpire import RESOURCE_TYPE, exclusions, lifecycle, rules, subjects
from blazar_vmexpire.calendars import Calendar
from blazar_vmexpire.db import projects
from blazar_vmexpire.db.api import Expiration
from blazar_vmexpire.db.projects import ProjectFacts
from blazar_vmexpire.exceptions import ConfigError
from blazar_vmexpire.exclusions import Exclusion, Exclusions
from blazar_vmexpire.labels import Labels
from blazar_vmexpire.lifecycle import Terms
from blazar_vmexpire.notices import KINDS
from blazar_vmexpire.rules import NOBODY, Mailing, Rules, Subject
from blazar_vmexpire.sense import misfits
from blazar_vmexpire.subjects import Facts, Whose


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a VM expires, and on what terms."""

    expires: bool
    terms: Terms
    """Of one that does not expire: what the options say."""
    rule: str | None = None
    """The rule of the rules file that the terms come from; None: the options alone."""
    why: str | None = None
    """Why it does not expire."""
    until: datetime.datetime | None = None
    """When that may be over, naive UTC; None: nobody has said so."""
    dry_run: bool = False
    """Whether nothing is done to it, whatever the terms are."""
    mailing: Mailing = NOBODY
    """Whom the mails about it go to, beside its owner."""

    @property
    def digest(self) -> str:
        """Say a short text that is another one whenever the verdict is."""
        return _digest(self.expires, self.rule, self.terms, self.dry_run)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the options say of all VMs, as they were read at one moment: reading them is slow."""

    scope: str
    excluded_projects: frozenset[str]
    dry_run: bool
    defaults: Terms


#: Says which exclusion applies to a VM at this moment, if any.
Find = Callable[[Subject], Exclusion | None]


class TermsBook:
    """Says for every VM whether it expires, and on what terms.

    :param conf: options; ``[virtual:vm]`` is read anew at each question, so that an option that
        was changed while the service runs counts from then on. The rules file is read by
        :meth:`load` and :meth:`reload` only.
    :param rules: instead of those of the rules file.
    """

    def __init__(self, conf: cfg.ConfigOpts, rules: Rules | None = None) -> None:
        self._conf = conf
        self._rules = Rules() if rules is None else rules

    @property
    def adoption_spread(self) -> datetime.timedelta:
        """How far the first ends of an existing cloud are spread."""
        spread: datetime.timedelta = self._conf[RESOURCE_TYPE].adoption_spread
        return spread

    @property
    def own_metadata(self) -> tuple[str, ...]:
        """Keys of a VM's metadata that we write: no terms depend on them."""
        return Labels.of(self._conf).keys

    @property
    def rules_count(self) -> int:
        """How many rules there are."""
        return len(self._rules)

    def load(self, before_end: Collection[str], on_end: Collection[str]) -> None:
        """Read the rules file that the options name, if they name one.

        :param before_end: names of the actions that can run before the end.
        :param on_end: names of the actions that can run at the end.
        :raises blazar_vmexpire.rules.RulesError: it cannot be used; the rules stay as they were.
        """
        path = self._conf[RESOURCE_TYPE].rules_file
        found = Rules() if path is None else rules.load(path)
        found.check(self.defaults(), before_end, on_end, KINDS)
        self._rules = found

    def options(self) -> Options:
        """Read the options."""
        options = self._conf[RESOURCE_TYPE]
        return Options(
            scope=options.scope,
            excluded_projects=frozenset(options.excluded_projects),
            dry_run=options.dry_run,
            defaults=self.defaults(),
        )

    def defaults(self) -> Terms:
        """Say the terms that the options give."""
        options = self._conf[RESOURCE_TYPE]
        return Terms(
            lease_duration=options.lease_duration,
            extension_duration=options.extension_duration,
            max_total_duration=options.max_total_duration,
            max_extensions=options.max_extensions,
            extension_window=options.extension_window,
            first_notice=datetime.timedelta(hours=options.hours_before_end_lease),
            reminders=tuple(options.reminders),
            minimum_notice=options.minimum_notice,
            quarantine=options.quarantine,
            before_end_action=options.before_end_action,
            on_end_action=options.on_end_action,
            allowed_actions=tuple(options.allowed_actions),
            calendar=_calendar(tuple(options.calendar_closed), options.calendar_time_zone),
        )

    def verdict(
        self, connection: sa.Connection, row: Expiration, now: datetime.datetime
    ) -> Verdict:
        """Judge a VM that was taken in, by what is known of it.

        :param now: naive UTC.
        """
        assert row.project_id is not None  # noqa: S101 - from its adoption on
        project = projects.read(connection, [row.project_id]).get(row.project_id)
        whose = Whose(server_id=row.server_id, project_id=row.project_id, user_id=row.user_id)
        return self.judge(
            subjects.subject(whose, row.facts, project),
            lambda subject: exclusions.of_subject(connection, now=now, **_selectors(subject)),
            row.chosen,
            self.options(),
        )

    def session(
        self,
        connection: sa.Connection,
        now: datetime.datetime,
        project_ids: Collection[str] | None = None,
    ) -> Session:
        """Read what it takes to judge many VMs.

        :param now: naive UTC.
        :param project_ids: theirs; None for those of any project.
        """
        excluded = exclusions.load(connection, now)
        return Session(
            self,
            projects.read_all(connection)
            if project_ids is None
            else projects.read(connection, project_ids),
            excluded,
            self.options(),
        )

    def judge(
        self,
        subject: Subject,
        excluded: Find,
        chosen: Mapping[str, Any] | None,
        options: Options,
    ) -> Verdict:
        """Judge a VM.

        :param excluded: says which exclusion applies to it.
        :param chosen: what its owner has chosen within the terms.
        :param options: as they are now.
        """
        defaults = options.defaults
        if options.scope != "all":
            return Verdict(
                expires=False,
                terms=defaults,
                why=f"scope is {options.scope}",
                mailing=self._rules.mailing,
            )
        if subject.project in options.excluded_projects:
            return Verdict(
                expires=False,
                terms=defaults,
                why=f"project {subject.project} is one of excluded_projects",
                mailing=self._rules.mailing,
            )
        exclusion = excluded(subject)
        if exclusion is not None:
            return Verdict(
                expires=False,
                terms=defaults,
                why=f"{exclusion.kind} {exclusion.value} is excluded by {exclusion.author}:"
                f" {exclusion.reason}",
                until=exclusion.expires_at,
                mailing=self._rules.mailing,
            )
        decision = self._rules.decide(subject, defaults)
        if not decision.expires:
            return Verdict(
                expires=False,
                terms=defaults,
                rule=decision.rule,
                why=f"rule {decision.rule!r} says so",
                mailing=decision.mailing,
            )
        return Verdict(
            expires=True,
            rule=decision.rule,
            terms=lifecycle.with_choice(decision.terms, chosen or {}),
            dry_run=options.dry_run,
            mailing=decision.mailing,
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Session:
    """What it takes to judge any number of VMs, as it was read at one moment."""

    book: TermsBook
    projects: Mapping[str, ProjectFacts]
    excluded: Exclusions
    options: Options

    def judge(self, whose: Whose, facts: Facts, chosen: Mapping[str, Any] | None = None) -> Verdict:
        """Judge a VM by what is known of it."""
        project = self.projects.get(whose.project_id)
        return self.book.judge(
            subjects.subject(whose, facts, project),
            lambda subject: self.excluded.find(**_selectors(subject)),
            chosen,
            self.options,
        )

    def judge_row(self, row: Expiration) -> Verdict:
        """Judge a VM that was taken in."""
        whose = Whose(server_id=row.server_id, project_id=row.project_id or "", user_id=row.user_id)
        return self.judge(whose, row.facts, row.chosen)


def _selectors(subject: Subject) -> dict[str, Any]:
    """Say by what an exclusion finds a VM."""
    return {
        "domain_id": subject.domain,
        "project_id": subject.project,
        "user_id": subject.user,
        "flavor": subject.flavor,
        "server_id": subject.server_id,
    }


@functools.lru_cache(maxsize=1024)
def _digest(expires: bool, rule: str | None, terms: Terms, dry_run: bool) -> str:
    text = f"{expires} {rule!r} {terms!r} {dry_run}"
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


@functools.lru_cache(maxsize=64)
def _calendar(closed: tuple[str, ...], time_zone: str) -> Calendar | None:
    """Read a calendar, once: it is asked for with each VM.

    :raises ValueError: it cannot be read, or leaves no day.
    """
    return Calendar.parse(closed, time_zone) if closed else None


def check(conf: cfg.ConfigOpts, before_end: Collection[str], on_end: Collection[str]) -> None:
    """Check what option types cannot check alone: that the terms make sense together.

    :param before_end: names of the actions that can run before the end.
    :param on_end: names of the actions that can run at the end.
    :raises ConfigError: with a sentence that names the option, its value, and what would be right.
    """
    options = conf[RESOURCE_TYPE]
    if options.scope != "none" and not options.undeliverable_contact:
        raise ConfigError(
            f"[{RESOURCE_TYPE}] undeliverable_contact is not set: it must be a mail address that"
            " gets the notices whose owner cannot be reached (or set scope = none)"
        )
    if options.migration_host and options.migration_aggregate:
        raise ConfigError(
            f"[{RESOURCE_TYPE}] migration_host and migration_aggregate are both set: it must be one"
            " of them, or neither"
        )
    try:
        # A wrong name is wrong even while no day is closed.
        Calendar.parse((), options.calendar_time_zone)
        terms = TermsBook(conf).defaults()
    except ValueError as error:
        raise ConfigError(
            f"[{RESOURCE_TYPE}] calendar_closed, calendar_time_zone: {error}"
        ) from error
    for misfit in misfits(terms, before_end, on_end):
        option = "calendar_closed, calendar_time_zone: " if misfit.term == "calendar" else ""
        raise ConfigError(f"[{RESOURCE_TYPE}] {option}{misfit.sentence}")
