# SPDX-License-Identifier: Apache-2.0
"""Foreign text made safe, and durations in words."""

from __future__ import annotations

import datetime
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blazar_vmexpire import words

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=400)
DURATIONS = st.timedeltas(
    min_value=-datetime.timedelta(days=4000), max_value=datetime.timedelta(days=4000)
)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("web-1", "web-1"),
        ("  two   spaces ", "two spaces"),
        ("a\r\nBcc: x@y", "a Bcc: x@y"),
        ("a\x00b\x1b[31mc", "a b [31mc"),
        ("line\u2028separator\u2029s\x85s", "line separator s s"),
        ("abc\u202etxt.exe", "abctxt.exe"),
        ("zero\u200bwidth\ufeff", "zerowidth"),
        ("half \ud83d a rocket", "half a rocket"),
        (
            "\N{ROCKET} \N{MAN}\u200d\N{PERSONAL COMPUTER}",
            "\N{ROCKET} \N{MAN}\u200d\N{PERSONAL COMPUTER}",
        ),
        ("שרת", "שרת"),
        ("\u200e\u202a\n", ""),
    ],
)
def test_one_line(text: str, line: str) -> None:
    assert words.one_line(text) == line


def test_one_line_cuts_what_is_too_long() -> None:
    assert words.one_line("x" * 255) == "x" * 255
    assert words.one_line("x" * 256) == "x" * 254 + "…"
    assert words.one_line("four five", 6) == "four…"


@given(ANY_TEXT, st.integers(min_value=1, max_value=300))
def test_one_line_is_one_line_that_can_be_encoded(text: str, limit: int) -> None:
    line = words.one_line(text, limit)
    assert len(line) <= limit
    assert len(line.splitlines()) <= 1
    assert line.encode("utf-8")[:0] == b""
    assert not any(unicodedata.category(c) in {"Cc", "Cs", "Zl", "Zp"} for c in line)
    assert words.one_line(line, limit) == line


@given(ANY_TEXT)
def test_plain_body_is_stable_and_ends_in_a_line_feed(text: str) -> None:
    body = words.plain_body(text)
    assert body.endswith("\n")
    assert "\r" not in body
    assert "\x00" not in body
    assert body.encode("utf-8").decode("utf-8") == body
    assert words.plain_body(body) == body


def test_paragraph_wraps_and_leaves_long_words_whole() -> None:
    name = "n" * 100
    assert words.paragraph(f" one\n two {name} three", 20) == f"one two\n{name}\nthree\n\n"
    assert words.paragraph(" \n ") == ""


@pytest.mark.parametrize(
    ("distance", "text"),
    [
        (datetime.timedelta(days=9, hours=4, minutes=24), "in 9 days and 4 hours"),
        (datetime.timedelta(days=9), "in 9 days"),
        (datetime.timedelta(days=1), "in 1 day"),
        (datetime.timedelta(days=1, minutes=59), "in 1 day"),
        (datetime.timedelta(hours=25), "in 1 day and 1 hour"),
        (datetime.timedelta(hours=23, minutes=59, seconds=59), "in 23 hours and 59 minutes"),
        (datetime.timedelta(hours=1, minutes=1), "in 1 hour and 1 minute"),
        (datetime.timedelta(minutes=45, seconds=59), "in 45 minutes"),
        (datetime.timedelta(seconds=59), "in less than a minute"),
        (datetime.timedelta(0), "now"),
        (datetime.timedelta(seconds=-1), "less than a minute ago"),
        (datetime.timedelta(hours=-2), "2 hours ago"),
        (datetime.timedelta(days=-1, hours=-3), "1 day and 3 hours ago"),
    ],
)
def test_in_words(distance: datetime.timedelta, text: str) -> None:
    assert words.in_words(distance) == text


def _read(text: str) -> datetime.timedelta:
    """Read a length back from its words."""
    return sum(
        (
            datetime.timedelta(**{f"{unit}s": int(count)})
            for count, unit in re.findall(r"(\d+) (day|hour|minute)", text)
        ),
        datetime.timedelta(0),
    )


@given(DURATIONS)
def test_words_name_never_more_than_there_is_and_miss_little(
    distance: datetime.timedelta,
) -> None:
    read = _read(words.in_words(distance))
    missed = abs(distance) - read
    assert missed >= datetime.timedelta(0)
    unit = "hours" if read >= datetime.timedelta(days=1) else "minutes"
    assert missed < datetime.timedelta(**{unit: 1})


@given(DURATIONS)
def test_words_are_grammatical(distance: datetime.timedelta) -> None:
    text = words.in_words(distance)
    assert not re.search(r"\b0 |\b1 \w+s\b|\b(?!1 )\d+ (day|hour|minute)\b", text)
    if distance:
        assert text.startswith("in ") == (distance > datetime.timedelta(0))
        assert text.endswith(" ago") == (distance < datetime.timedelta(0))


def test_dates_are_cut_to_the_minute() -> None:
    date = datetime.datetime(2026, 12, 20, 9, 14, 59, 999999)
    assert words.utc(date) == "2026-12-20 09:14 UTC"
    assert words.minutes(date) == "2026-12-20 09:14"
