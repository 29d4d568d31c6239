# SPDX-License-Identifier: Apache-2.0
"""Foreign text made safe, and dates and durations in words: pure functions."""

from __future__ import annotations

import datetime
import re
import textwrap
import unicodedata

#: Invisible characters that scripts and emoji cannot do without: the zero-width (non-)joiners.
_JOINERS = frozenset("\u200c\u200d")

#: Wide on purpose: it is better to hide a word too many.
_ADDRESS = re.compile(r"[^\s<>()\[\],;:\"']+@[^\s<>(),;:\"']*[^\s<>(),;:\"'.]")

_WHITE_SPACE = re.compile(r"\s+", re.ASCII)

_MINUTE = datetime.timedelta(minutes=1)
_UNITS = (
    ("day", datetime.timedelta(days=1)),
    ("hour", datetime.timedelta(hours=1)),
    ("minute", _MINUTE),
)


def one_line(text: str, limit: int = 255) -> str:
    """Make any text from outside (names, reasons, servers' answers) one line that hides nothing.

    Line breaks and other control characters become spaces, runs of white space become one space.
    Invisible characters go, among them those that turn the direction of writing and lone
    surrogates, which no encoding takes. The result can be put into a header, a log line or the
    body of a mail; of what can be seen, nothing is changed.

    :param limit: the most characters that are kept, at least 1; a text that is cut ends in ``…``.
    """
    # Nearly every text can be printed as it is, which is found out a hundred times as fast.
    line = " ".join((text if text.isprintable() else _harmless(text)).split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def _harmless(text: str) -> str:
    kept = []
    for character in text:
        category = unicodedata.category(character)
        if category in {"Cc", "Zl", "Zp"}:
            kept.append(" ")
        elif (category == "Cf" and character not in _JOINERS) or category == "Cs":
            continue
        else:
            kept.append(character)
    return "".join(kept)


def without_addresses(text: str) -> str:
    """Take mail addresses out of a text: of what is logged, nobody needs them."""
    return _ADDRESS.sub("<address>", text)


def plain_body(text: str) -> str:
    """Make a rendered text fit to be sent: lines end in a line feed, the last one too.

    White space at the ends of lines and of the text goes, as does what no mail may hold: control
    characters but for the tabulator, and lone surrogates.
    """
    lines = [
        (line if line.isprintable() else _sendable(line)).rstrip() for line in text.splitlines()
    ]
    return "\n".join(lines).strip("\n") + "\n"


def _sendable(line: str) -> str:
    return "".join(c for c in line if c == "\t" or unicodedata.category(c) not in {"Cc", "Cs"})


def paragraph(text: str, width: int = 72) -> str:
    """Wrap a text to lines of at most ``width`` characters, and let an empty line follow.

    Words that are longer stay whole, and so does what a no-break space holds together. An empty
    text stays empty.
    """
    words = _WHITE_SPACE.sub(" ", text).strip()
    if not words:
        return ""
    lines = textwrap.fill(words, width, break_long_words=False, break_on_hyphens=False)
    return f"{lines}\n\n"


def utc(date: datetime.datetime) -> str:
    """Write a naive UTC date as ``2026-12-20 09:14 UTC``; seconds are cut off."""
    return f"{minutes(date)} UTC"


def minutes(date: datetime.datetime) -> str:
    """Write a date as Blazar's API takes it, ``2026-12-20 09:14``; seconds are cut off."""
    return f"{date:%Y-%m-%d %H:%M}"


def units(length: datetime.timedelta) -> list[tuple[int, str]]:
    """Take a duration apart: how many of ``day``, ``hour`` and ``minute``, the largest first.

    At most two units that stand next to each other are named, and what is smaller is cut off: never
    more time is named than there is. The sign does not count. Less than a minute is nothing.
    """
    rest = abs(length)
    counts = []
    for name, unit in _UNITS:
        counts.append((rest // unit, name))
        rest %= unit
    while counts and not counts[0][0]:
        del counts[0]
    return [(count, name) for count, name in counts[:2] if count]


def length_in_words(length: datetime.timedelta) -> str:
    """Say how long a duration is: "9 days and 4 hours", "45 minutes", "less than a minute".

    It names what :func:`units` does.
    """
    counts = units(length)
    if not counts:
        return "less than a minute"
    return " and ".join(
        f"{count} {name}" if count == 1 else f"{count} {name}s" for count, name in counts
    )


def times(count: int) -> str:
    """Say how often: "once", "3 times"."""
    return "once" if count == 1 else f"{count} times"


def in_words(distance: datetime.timedelta) -> str:
    """Say how far away a moment is: "in 9 days and 4 hours", "now", "2 hours ago".

    :param distance: the moment minus now; negative for what is past.
    """
    if not distance:
        return "now"
    words = length_in_words(distance)
    return f"in {words}" if distance > datetime.timedelta(0) else f"{words} ago"
