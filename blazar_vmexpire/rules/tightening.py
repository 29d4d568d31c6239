# SPDX-License-Identifier: Apache-2.0
"""Terms that what an owner can edit leads to: never looser than without it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from blazar_vmexpire.lifecycle import Terms, notice_margin
from blazar_vmexpire.rules.schema import HARSHNESS, TERMS, Tighter


def tighten(terms: Terms, *wanted: Mapping[str, Any]) -> Terms:
    """Put what rules want in the place of what terms have, where it is tighter.

    :param wanted: values by field, in the order of the rules in the file. Where neither of two
        values is tighter than the other, the first rule's counts, as everywhere.
    """
    changes: dict[str, Any] = {}
    for values in reversed(wanted):
        for field, value in values.items():
            had = changes.get(field, getattr(terms, field))
            changes[field] = _TIGHTER[field](had, value)
    return dataclasses.replace(terms, **changes)


def tighten_as_far_as_it_fits(terms: Terms, wanted: Sequence[Mapping[str, Any]]) -> Terms:
    """Tighten terms by several rules, which were checked one by one but not together.

    The durations of one of them need not hold the quarantine of another. Then the longest
    quarantine counts that they hold; the terms' own always fits, because each rule was checked
    with it.
    """
    tightened = tighten(terms, *wanted)
    room = _room(tightened)
    fitting = [
        values["quarantine"]
        for values in wanted
        if "quarantine" in values and values["quarantine"] <= room
    ]
    return dataclasses.replace(tightened, quarantine=max([terms.quarantine, *fitting]))


def _room(terms: Terms) -> Any:
    """Say how long a quarantine may be."""
    durations = [terms.lease_duration, terms.extension_duration]
    if terms.extension_window:
        durations.append(terms.extension_window)
    return min(durations) - terms.minimum_notice - notice_margin(terms)


def _limit(had: Any, value: Any) -> Any:
    return min(had, value) if had and value else had or value


def _harsher(had: str, value: str) -> str:
    # Of an operator's own action nobody knows how harsh it is: it stays.
    if had not in HARSHNESS:
        return had
    return max(had, value, key=HARSHNESS.index)


_RULES: Mapping[Tighter, Callable[[Any, Any], Any]] = {
    Tighter.SMALLER: min,
    Tighter.LIMIT: _limit,
    Tighter.GREATER: max,
    Tighter.HARSHER: _harsher,
    Tighter.ANY: lambda _, value: value,
}

_TIGHTER = {
    term.field or name: _RULES[term.tighter]
    for name, term in TERMS.items()
    if term.tighter is not Tighter.UNKNOWN
}
