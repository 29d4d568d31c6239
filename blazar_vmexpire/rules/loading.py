# SPDX-License-Identifier: Apache-2.0
"""From a file to rules."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from blazar_vmexpire.calendars import Calendar
from blazar_vmexpire.rules import mailing, reading, validating
from blazar_vmexpire.rules.book import Rule, Rules
from blazar_vmexpire.rules.errors import Problem, RulesError
from blazar_vmexpire.rules.mailing import Mailing
from blazar_vmexpire.rules.matching import compile_match
from blazar_vmexpire.rules.reading import Document
from blazar_vmexpire.rules.schema import HARSHNESS, MATCH_KEYS, TERMS, Tighter

#: Bytes that a file may have: a thousand rules need less.
LONGEST = 1_000_000


def load(path: str | os.PathLike[str]) -> Rules:
    """Read a rules file.

    What the rules set is checked as far as the file alone tells; see :meth:`Rules.check` for the
    rest.

    :raises RulesError: the file cannot be read, or something is wrong in it.
    """
    source = os.fspath(path)
    try:
        with Path(path).open("rb") as file:
            content = file.read(LONGEST + 1)
        text = content.decode()
    except OSError as error:
        raise RulesError(source, [Problem(f"it cannot be read: {error.strerror}")]) from error
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RulesError(source, [Problem("this is not UTF-8", line)]) from error
    if len(content) > LONGEST:
        raise RulesError(source, [Problem(f"the file has more than {LONGEST} bytes")])
    return parse(text, source)


def parse(text: str, source: str) -> Rules:
    """Read the text of a rules file.

    :param source: the file's path, for messages.
    :raises RulesError: something is wrong in it.
    """
    document = reading.read(text, source)
    problems = list(validating.problems(document))
    if not problems:
        problems = [*_contradictions(document), *_calendars(document)]
    if problems:
        raise RulesError(source, problems)
    everybody = _mailing(document, (), mailing.NOBODY)
    return Rules(
        [_rule(document, number, everybody) for number in range(len(document.value["rules"]))],
        source,
        everybody,
    )


def _contradictions(document: Document) -> Iterator[Problem]:
    """Say what is wrong in a file that the schema allows."""
    lines: dict[str, int] = {}
    catches_all: str | None = None
    for number, rule in enumerate(document.value["rules"]):
        path: reading.Path = ("rules", number)
        name, line = rule["name"], document.places[path].line
        if not name.isprintable():
            yield Problem("its name has characters that cannot be printed", line, name)
        if name in lines:
            yield Problem(
                f"its name is that of the rule in line {lines[name]}: each rule needs its own",
                line,
                name,
            )
        lines.setdefault(name, line)
        if catches_all is not None:
            yield Problem(
                f"it is never reached: rule {catches_all!r} above it matches every VM. The first"
                " rule that matches counts: move it up",
                line,
                name,
            )
        elif "match" not in rule:
            catches_all = name
        for term, sentence in _wrong_terms(rule):
            yield Problem(sentence, document.places[*path, "set", term].line, name)
        for key, sentence in _wrong_mailing(rule):
            yield Problem(sentence, document.places[*path, key].line, name)


def _wrong_terms(rule: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    terms = rule.get("set", {})
    if terms.get("expire") is False and len(terms) > 1:
        others = ", ".join(term for term in terms if term != "expire")
        yield (
            "expire",
            f"set.expire: false leaves no VM that {others} could be for: take out either",
        )
    keys = _only_tightens(rule)
    if not keys:
        return
    because = f"this rule matches on what an owner can edit ({', '.join(keys)}), so"
    trusted = "Say trust_owner: true if owners may choose this"
    for term in terms:
        if TERMS[term].tighter is Tighter.UNKNOWN:
            yield term, f"set.{term}: {because} it may only tighten terms. {trusted}"
    action = terms.get("on_end_action", HARSHNESS[0])
    if action not in HARSHNESS:
        yield (
            "on_end_action",
            f"set.on_end_action: {because} its action must be one of {', '.join(HARSHNESS)}: of"
            f" {action!r} nobody knows how harsh it is. {trusted}",
        )


def _wrong_mailing(rule: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key in mailing.KEYS:
        if key not in rule:
            continue
        if rule.get("set", {}).get("expire") is False:
            yield key, f"{key}: nobody is told of VMs that do not expire: take it out"
        elif keys := _only_tightens(rule):
            yield (
                key,
                f"{key}: this rule matches on what an owner can edit ({', '.join(keys)}), so it may"
                " only tighten terms. Say trust_owner: true if owners may choose this",
            )


def _only_tightens(rule: Mapping[str, Any]) -> list[str]:
    """List the match keys because of which a rule may only tighten terms."""
    if rule.get("trust_owner"):
        return []
    return [key for key in rule.get("match", {}) if MATCH_KEYS[key].of_owner]


def _calendars(document: Document) -> Iterator[Problem]:
    for number, rule in enumerate(document.value["rules"]):
        if "calendar" in rule.get("set", {}):
            try:
                _calendar(rule["set"]["calendar"])
            except ValueError as error:
                line = document.places["rules", number, "set", "calendar"].line
                yield Problem(f"set.calendar: {error}", line, rule["name"])


def _mailing(document: Document, path: reading.Path, base: Mailing) -> Mailing:
    """Read whom a part of the file says mails go to."""
    raw = document.value
    for step in path:
        raw = raw[step]
    lines = {
        key: [document.places[*path, key, n].line for n in range(len(raw[key]))]
        for key in mailing.KEYS
        if key in raw
    }
    return mailing.read(raw, lines, base)


def _rule(document: Document, number: int, everybody: Mailing) -> Rule:
    rule = document.value["rules"][number]
    terms = dict(rule.get("set", {}))
    expires = terms.pop("expire", True)
    lines = {term: document.places["rules", number, "set", term].line for term in terms}
    return Rule(
        name=rule["name"],
        asks_for=frozenset(rule.get("match", {})),
        matches=compile_match(rule.get("match", {})),
        expires=expires,
        sets={TERMS[term].field or term: _CONVERTED[term](terms[term]) for term in terms},
        only_tightens=bool(_only_tightens(rule)),
        mailing=_mailing(document, ("rules", number), everybody),
        line=document.places["rules", number].line,
        lines=lines,
    )


def _calendar(value: Mapping[str, Any]) -> Calendar | None:
    return Calendar.parse(value["closed"], value["time_zone"]) if value["closed"] else None


def _as_it_is(value: Any) -> Any:
    return value


_CONVERTED: Mapping[str, Callable[[Any], Any]] = {
    name: validating.duration if "duration" in term.schema else _as_it_is
    for name, term in TERMS.items()
} | {
    "max_extensions": int,
    "reminders": lambda items: tuple(validating.duration(item) for item in items),
    "hours_before_end_lease": lambda hours: datetime.timedelta(hours=hours),
    "allowed_actions": tuple,
    "calendar": _calendar,
}
