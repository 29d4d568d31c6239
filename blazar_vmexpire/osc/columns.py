# SPDX-License-Identifier: Apache-2.0
"""Cells of tables: time left in words, colours on a terminal, foreign text made safe.

For programs (``-f json`` and the like) each of them is a plain value.
"""

from __future__ import annotations

import datetime
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from cliff.columns import FormattableColumn
from osc_lib import utils

from blazar_vmexpire import words

_RED, _YELLOW = 31, 33

#: When the time left is red, and yellow: where the last and the first notice are by default.
_SHORT = datetime.timedelta(days=2)
_SOON = datetime.timedelta(days=10)

_STATES = {
    "noticed": _YELLOW,
    "reviving": _YELLOW,
    "vanished": _YELLOW,
    "quarantined": _RED,
    "ending": _RED,
    "failed": _RED,
}


class TimeLeft(FormattableColumn[int | None]):
    """Whole seconds until an end: below 0 when it is past, None if there is none."""

    @classmethod
    def of(cls, ends_at: str | None) -> TimeLeft:
        """Say how much is left of now until an end, as the API writes it."""
        if ends_at is None:
            return cls(None)
        now = datetime.datetime.now(datetime.UTC)
        return cls(round((datetime.datetime.fromisoformat(ends_at) - now).total_seconds()))

    def human_readable(self) -> str:
        """Say it in words."""
        if self._value is None:
            return ""
        left = datetime.timedelta(seconds=self._value)
        if self._value < 0:
            return _coloured(words.in_words(left), _RED)
        colour = _RED if left < _SHORT else _YELLOW if left < _SOON else None
        return _coloured(words.length_in_words(left), colour)

    def __lt__(self, other: object) -> bool:
        """Sort what has no end last."""
        theirs = other._value if isinstance(other, TimeLeft) else None
        return self._value is not None and (theirs is None or self._value < theirs)


class StateOf(FormattableColumn[str]):
    """The state of an expiration."""

    def human_readable(self) -> str:
        """Colour what needs attention."""
        return _coloured(self._value, _STATES.get(self._value))


class Text(FormattableColumn[str | None]):
    """A text that somebody else has written: no escape sequence of it reaches a terminal."""

    def human_readable(self) -> str:
        """Show it on one line."""
        return "" if self._value is None else words.one_line(self._value)


class Pairs(FormattableColumn[Mapping[str, Any] | None]):
    """Names and values."""

    def human_readable(self) -> str:
        """Show those that have a value."""
        known = {key: value for key, value in (self._value or {}).items() if value is not None}
        return words.one_line(utils.format_dict(known) or "", limit=1000)


class Lines(FormattableColumn[Sequence[Mapping[str, Any]]]):
    """Several of the same kind."""

    def human_readable(self) -> str:
        """Show one a line."""
        return "\n".join(Pairs(line).human_readable() for line in self._value)


def _coloured(text: str, colour: int | None) -> str:
    """Colour a text, on a terminal whose owner wants that.

    Each word by itself: a table may have to break the line in between.
    """
    if colour is None or not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return text
    return " ".join(f"\x1b[{colour}m{word}\x1b[0m" for word in text.split(" "))
