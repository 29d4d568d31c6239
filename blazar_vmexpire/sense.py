# SPDX-License-Identifier: Apache-2.0
"""Whether terms make sense together, be they from options or from a rule."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator

from blazar_vmexpire.conf.types import format_duration
from blazar_vmexpire.lifecycle import Terms, notice_margin


@dataclasses.dataclass(frozen=True, slots=True)
class Misfit:
    """Something that makes no sense."""

    term: str
    """The term that has to change, as the options name it; ``calendar`` is one."""
    sentence: str
    """What is wrong, with the value, and what would be right."""


def misfits(terms: Terms, before_end: Collection[str], on_end: Collection[str]) -> Iterator[Misfit]:
    """Say what makes no sense about terms.

    :param before_end: names of the actions that can run before the end.
    :param on_end: names of the actions that can run at the end.
    """
    for name, action, known in (
        ("before_end_action", terms.before_end_action, before_end),
        ("on_end_action", terms.on_end_action, on_end),
    ):
        if action not in known:
            yield Misfit(name, f"{name} = {action!r} is not known: it must be {_one_of(known)}")
    known = {*before_end, *on_end}
    for action in terms.allowed_actions:
        if action not in known:
            sentence = f"allowed_actions: {action!r} is not known: it must be {_one_of(known)}"
            yield Misfit("allowed_actions", sentence)
    if terms.calendar is not None:
        try:
            terms.calendar.check(terms.quarantine)
        except ValueError as error:
            yield Misfit("calendar", str(error))
    yield from _too_short(terms)


def _too_short(terms: Terms) -> Iterator[Misfit]:
    margin = notice_margin(terms)
    needs = (
        f"minimum_notice ({format_duration(terms.minimum_notice)}) and quarantine"
        f" ({format_duration(terms.quarantine)}) must fit in it, with {format_duration(margin)}"
    )
    window = terms.extension_window or None
    for name, duration, purpose in (
        ("lease_duration", terms.lease_duration, "to spare for sending the notice"),
        ("extension_duration", terms.extension_duration, "to spare for sending the notice"),
        (
            "extension_window",
            window,
            "to spare, so that whoever is told of the end can still extend (or 0 for at any time)",
        ),
    ):
        if duration is not None and duration < terms.shortest_lease + margin:
            yield Misfit(
                name, f"{name} = {format_duration(duration)} is too short: {needs} {purpose}"
            )


def _one_of(names: Collection[str]) -> str:
    return f"one of {', '.join(sorted(names))}"
