# SPDX-License-Identifier: Apache-2.0
"""Rules in their order: which one counts for a VM, and what terms follow from it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from blazar_vmexpire.lifecycle import Terms
from blazar_vmexpire.rules.errors import Problem, RulesError
from blazar_vmexpire.rules.mailing import NOBODY, Copy, Mailing
from blazar_vmexpire.rules.matching import Subject, Test
from blazar_vmexpire.rules.tightening import tighten, tighten_as_far_as_it_fits
from blazar_vmexpire.sense import Misfit, misfits


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule of a file."""

    name: str
    asks_for: frozenset[str]
    """The keys of its ``match``."""
    matches: Test
    expires: bool
    sets: Mapping[str, Any]
    """What it sets: values by field of :class:`blazar_vmexpire.lifecycle.Terms`."""
    only_tightens: bool
    """Whether it matches on what an owner can edit, and is not trusted to loosen terms."""
    mailing: Mailing
    line: int
    """Where it begins, counted from 1."""
    lines: Mapping[str, int]
    """Where each term that it sets stands, as the file names it."""

    @property
    def catches_all(self) -> bool:
        """Whether it matches every VM."""
        return not self.asks_for

    def terms(self, defaults: Terms) -> Terms:
        """Say the terms of the VMs that it counts for."""
        return dataclasses.replace(defaults, **self.sets)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What the rules say about a VM."""

    expires: bool
    rule: str | None
    """The first rule that matched and could loosen terms; None: there is none, so that the options
    count."""
    tightened_by: tuple[str, ...] = ()
    """Rules above it that matched and may only tighten."""
    terms: Terms
    """For a VM that does not expire: those that the options give."""
    mailing: Mailing


class Rules:
    """The rules of a file.

    :param rules: in their order; without any, the options count for every VM.
    :param source: the file's path, for messages.
    :param mailing: of VMs that no rule says anything else of.
    """

    def __init__(
        self, rules: Sequence[Rule] = (), source: str = "", mailing: Mailing = NOBODY
    ) -> None:
        self._rules = tuple(rules)
        self._source = source
        self._mailing = mailing
        self._outcome = functools.lru_cache(maxsize=4096)(self._decide)

    def __len__(self) -> int:
        return len(self._rules)

    def __iter__(self) -> Iterator[Rule]:
        return iter(self._rules)

    @property
    def mailing(self) -> Mailing:
        """Whom mails go to about VMs that no rule says anything else of."""
        return self._mailing

    @property
    def asks_for(self) -> frozenset[str]:
        """Which match keys any of the rules uses: no other facts about a VM are needed."""
        return frozenset().union(*(rule.asks_for for rule in self._rules))

    def decide(self, subject: Subject, defaults: Terms) -> Decision:
        """Say whether a VM expires, and on what terms.

        The first rule that matches counts. Those that may only tighten are passed over, and
        tighten what comes out.

        :param defaults: what the options say.
        """
        tightening: list[int] = []
        for number, rule in enumerate(self._rules):
            if rule.matches(subject):
                if not rule.only_tightens:
                    return self._outcome(number, tuple(tightening), defaults)
                tightening.append(number)
        return self._outcome(None, tuple(tightening), defaults)

    def check(
        self,
        defaults: Terms,
        before_end: Collection[str],
        on_end: Collection[str],
        kinds: Collection[str],
    ) -> None:
        """Check that the terms that result from each rule make sense together.

        What is wrong with the defaults themselves is left to who set them.

        :param defaults: what the options say.
        :param before_end: names of the actions that can run before the end.
        :param on_end: names of the actions that can run at the end.
        :param kinds: of mails.
        :raises RulesError: with all that makes no sense.
        """
        find = functools.partial(misfits, before_end=before_end, on_end=on_end)
        problems = [*self._unknown_kinds(kinds)]
        for rule, terms, loose, of_whom in self._results(defaults):
            already = set(find(loose))
            problems += [
                Problem(misfit.sentence + of_whom, _line(rule, misfit), rule.name)
                for misfit in find(terms)
                if misfit not in already
            ]
        if problems:
            raise RulesError(self._source, problems)

    def _unknown_kinds(self, kinds: Collection[str]) -> Iterator[Problem]:
        copies: list[tuple[str | None, str, Copy]] = [
            (None, key, copy) for key, copy in self._mailing.copies
        ]
        copies += [
            (rule.name, key, copy)
            for rule in self._rules
            for key, copy in rule.mailing.copies
            # What a rule does not say itself is the file's.
            if getattr(rule.mailing, key) is not getattr(self._mailing, key)
        ]
        for name, key, copy in copies:
            for kind in sorted(copy.kinds.difference(kinds)):
                sentence = f"{key}.kinds: there is no mail of kind {kind!r}: known are"
                yield Problem(f"{sentence} {', '.join(kinds)}", copy.line, name)

    def _results(self, defaults: Terms) -> Iterator[tuple[Rule, Terms, Terms, str]]:
        """Say each rule's terms, those without it, and for which VMs, where that has to be said."""
        for number, rule in enumerate(self._rules):
            if not rule.only_tightens:
                yield rule, rule.terms(defaults), defaults, ""
                continue
            below = [base for base in self._rules[number:] if not base.only_tightens]
            for base in below:
                if base.expires:
                    terms = base.terms(defaults)
                    yield (
                        rule,
                        tighten(terms, rule.sets),
                        terms,
                        f" (for VMs of rule {base.name!r})",
                    )
            if not any(base.catches_all for base in below):
                yield rule, tighten(defaults, rule.sets), defaults, ""

    def _decide(self, number: int | None, tightening: tuple[int, ...], defaults: Terms) -> Decision:
        base = None if number is None else self._rules[number]
        tighter = [self._rules[n] for n in tightening]
        expires = base is None or base.expires
        terms = defaults if base is None or not expires else base.terms(defaults)
        if expires and tighter:
            terms = tighten_as_far_as_it_fits(terms, [rule.sets for rule in tighter])
        return Decision(
            expires=expires,
            rule=None if base is None else base.name,
            tightened_by=tuple(rule.name for rule in tighter),
            terms=terms,
            mailing=self._mailing if base is None else base.mailing,
        )


def _line(rule: Rule, misfit: Misfit) -> int:
    return rule.lines.get(misfit.term, rule.line)
