# SPDX-License-Identifier: Apache-2.0
"""Durations as people write them: pure functions."""

from __future__ import annotations

import datetime
import re

_UNITS = {
    "d": datetime.timedelta(days=1),
    "h": datetime.timedelta(hours=1),
    "m": datetime.timedelta(minutes=1),
    "s": datetime.timedelta(seconds=1),
}
_DURATION = re.compile(r"(?P<count>\d{1,6})(?P<unit>[dhms])", re.ASCII)


def parse_duration(text: str) -> datetime.timedelta:
    """Read a duration such as ``60d``, ``36h``, ``5m``, ``30s`` or ``0``.

    :raises ValueError: when the text is nothing of the kind; the message says what would be.
    """
    text = text.strip()
    if text == "0":
        return datetime.timedelta(0)
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(
            f"{text!r} is not a duration: write a whole number and a unit,"
            " such as 60d, 36h, 5m or 30s, or 0 for none"
        )
    return int(match["count"]) * _UNITS[match["unit"]]


def format_duration(duration: datetime.timedelta) -> str:
    """Write a duration in the form that :func:`parse_duration` reads, in its largest whole unit."""
    if not duration:
        return "0"
    for unit, length in _UNITS.items():
        if not duration % length:
            return f"{duration // length}{unit}"
    return f"{round(duration.total_seconds())}s"
