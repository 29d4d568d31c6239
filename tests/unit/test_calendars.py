# SPDX-License-Identifier: Apache-2.0
"""Days on which nothing is done to a VM: how they are written, and where an end moves."""

from __future__ import annotations

import datetime
import zoneinfo
from datetime import date, timedelta

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from blazar_vmexpire.calendars import Calendar, NoOpenDay

DAY = timedelta(days=1)
UTC = "UTC"
ZURICH = "Europe/Zurich"


def at(text: str) -> datetime.datetime:
    """Read a moment."""
    return datetime.datetime.fromisoformat(text)


def days(text: str, time_zone: str = UTC) -> Calendar:
    """Read a calendar as the configuration has it."""
    return Calendar.parse(text.split(","), time_zone)


# How they are written


@pytest.mark.parametrize(
    ("written", "closed", "still_open"),
    [
        ("sat", ["2026-03-07"], ["2026-03-06", "2026-03-08"]),
        (" Sunday, SAT", ["2026-03-07", "2026-03-08"], ["2026-03-09"]),
        ("2026-12-24", ["2026-12-24"], ["2026-12-23", "2026-12-25", "2027-12-24"]),
        ("2026-12-24..2026-12-26", ["2026-12-24", "2026-12-26"], ["2026-12-27", "2025-12-25"]),
        ("12-25", ["2026-12-25", "2040-12-25"], ["2026-12-26"]),
        ("07-01..07-14", ["2026-07-01", "2027-07-14"], ["2026-06-30", "2026-07-15"]),
        (
            "12-20 .. 01-05",
            ["2026-12-20", "2026-12-31", "2027-01-01", "2027-01-05"],
            ["2026-12-19", "2027-01-06", "2026-07-01"],
        ),
        ("02-29", ["2028-02-29"], ["2027-02-28", "2027-03-01"]),
        ("02-20..02-29", ["2027-02-28", "2028-02-29"], ["2027-03-01", "2028-03-01"]),
        ("02-29..03-02", ["2027-03-01", "2028-02-29"], ["2027-02-28", "2028-03-03"]),
    ],
)
def test_days_are_closed_as_they_are_written(
    written: str, closed: list[str], still_open: list[str]
) -> None:
    calendar = days(written)
    assert [day for day in closed if not calendar.closed_on(date.fromisoformat(day))] == []
    assert [day for day in still_open if calendar.closed_on(date.fromisoformat(day))] == []


@pytest.mark.parametrize(
    ("written", "time_zone", "sentence"),
    [
        ("saturn", UTC, "closed day 'saturn' is not known: write a weekday (sat), a date"),
        ("", UTC, "closed day '' is not known"),
        ("12-24..2026-12-26", UTC, "closed day '12-24..2026-12-26' is not known"),
        ("sat..sun", UTC, "closed day 'sat..sun' is not known"),
        ("2026-02-29", UTC, "closed day '2026-02-29' is no date: there is no 2026-02-29"),
        ("02-30", UTC, "closed day '02-30' is no date"),
        ("2026-12-26..2026-12-24", UTC, "end before they begin: write the earlier day first"),
        ("2026-01-01..2027-02-01", UTC, "are too many: at most 366 in a row"),
        ("sat", "Mars/Olympus", "time zone 'Mars/Olympus' is not known: it must be a name of"),
        ("sat", "", "time zone '' is not known"),
        ("sat", "../../etc/passwd", "time zone '../../etc/passwd' is not known"),
    ],
)
def test_what_cannot_be_read_is_said(written: str, time_zone: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        days(written, time_zone)
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    "written",
    [
        "mon,tue,wed,thu,fri,sat,sun",
        "01-01..12-31",
        "07-01..06-30",
        # Open on a Monday that is 29 February: every 28 years.
        "tue,wed,thu,fri,sat,sun,01-01..02-28,03-01..12-31",
        "2026-01-01..2026-12-31,2027-01-01..2027-12-31",
        "0001-01-01..0001-12-31,0002-01-01..0002-12-31",
        "9999-01-01..9999-12-31,9998-01-01..9998-12-31",
    ],
)
def test_a_calendar_leaves_days(written: str) -> None:
    with pytest.raises(NoOpenDay, match="leaves no day within a year"):
        days(written)


def test_a_quarantine_has_to_find_days_too() -> None:
    mondays = days("tue,wed,thu,fri,sat,sun")
    mondays.check(7 * DAY)
    for quarantine in (3 * DAY, 7 * DAY + timedelta(hours=1)):
        with pytest.raises(NoOpenDay, match=r"that is also open [38] days earlier"):
            mondays.check(quarantine)


def test_it_is_shown_as_it_is_configured_and_is_the_same_in_any_order() -> None:
    calendar = days("sun, 12-20..01-05, SAT, 2026-12-24, 05-01", ZURICH)
    shown = "the calendar (sat, sun, 2026-12-24, 05-01, 12-20..01-05; Europe/Zurich)"
    assert str(calendar) == shown
    same = days("05-01, sat, 12-20..01-05, saturday, 2026-12-24, sun", ZURICH)
    assert calendar == same
    assert hash(calendar) == hash(same)


# Where an end moves


@pytest.mark.parametrize(
    ("written", "time_zone", "end", "moved"),
    [
        ("sat,sun", UTC, "2026-03-06 10:00", "2026-03-06 10:00"),
        ("sat,sun", UTC, "2026-03-07 10:00", "2026-03-09 10:00"),
        ("sat,sun", UTC, "2026-03-08 23:59", "2026-03-09 23:59"),
        ("12-20..01-05", UTC, "2026-12-24 10:00", "2027-01-06 10:00"),
        ("12-20..01-05,wed", UTC, "2026-12-24 10:00", "2027-01-07 10:00"),
        ("2028-02-29", UTC, "2028-02-29 00:00", "2028-03-01 00:00"),
        # In Zurich it is Saturday already, or Sunday still.
        ("sat,sun", ZURICH, "2026-03-06 23:30", "2026-03-08 23:30"),
        ("sat,sun", ZURICH, "2026-03-08 22:30", "2026-03-09 22:30"),
        # The clocks go forward on Sunday 29 March 2026, and back on Sunday 25 October.
        ("sat,sun", ZURICH, "2026-03-28 10:00", "2026-03-30 09:00"),
        ("sat,sun", ZURICH, "2026-10-24 10:00", "2026-10-26 11:00"),
        # 02:30 is skipped on that Sunday, and comes twice on the other.
        ("sat", ZURICH, "2026-03-28 01:30", "2026-03-29 01:30"),
        ("sat", ZURICH, "2026-10-24 00:30", "2026-10-25 00:30"),
        ("sun", ZURICH, "2026-10-25 01:30", "2026-10-26 01:30"),
    ],
)
def test_an_end_moves_to_the_next_open_day(
    written: str, time_zone: str, end: str, moved: str
) -> None:
    assert days(written, time_zone).open_end(at(end)) == at(moved)


@pytest.mark.parametrize(
    ("quarantine", "end", "moved"),
    [
        # It would begin on Sunday; Monday the same; Tuesday is the first with a Monday before.
        (DAY, "2026-03-08 10:00", "2026-03-10 10:00"),
        (DAY, "2026-03-09 10:00", "2026-03-10 10:00"),
        (DAY, "2026-03-10 10:00", "2026-03-10 10:00"),
        (7 * DAY, "2026-03-09 10:00", "2026-03-09 10:00"),
        # Monday at noon is half a day after Monday; at ten it is not.
        (timedelta(hours=12), "2026-03-09 12:00", "2026-03-09 12:00"),
        (timedelta(hours=12), "2026-03-09 10:00", "2026-03-10 10:00"),
        (timedelta(0), "2026-03-09 10:00", "2026-03-09 10:00"),
    ],
)
def test_its_quarantine_falls_on_an_open_day_too(
    quarantine: timedelta, end: str, moved: str
) -> None:
    assert days("sat,sun").open_end(at(end), quarantine) == at(moved)


@pytest.mark.parametrize(
    ("earliest", "moved"),
    [
        ("2026-03-05 12:00", "2026-03-06 10:00"),
        ("2026-03-06 10:00", "2026-03-06 10:00"),
        ("2026-03-06 10:01", "2026-03-09 10:00"),
        ("2026-03-07 08:00", "2026-03-09 10:00"),
        ("2026-03-09 10:01", "2026-03-10 10:00"),
        ("2029-03-09 10:01", "2029-03-12 10:00"),
    ],
)
def test_what_is_late_moves_on_at_its_own_time_of_day(earliest: str, moved: str) -> None:
    friday = at("2026-03-06 10:00")
    assert days("sat,sun").open_end(friday, earliest=at(earliest)) == at(moved)


# What holds of all of them

YEAR_DAYS = st.dates(date(2000, 1, 1), date(2000, 12, 31)).map(lambda day: f"{day:%m-%d}")
DATES = st.dates(date(2024, 1, 1), date(2032, 12, 31))
ENTRIES = st.one_of(
    st.sampled_from(["mon", "wed", "fri", "sat", "sun"]),
    DATES.map(str),
    st.tuples(DATES, st.integers(0, 60)).map(lambda d: f"{d[0]}..{d[0] + d[1] * DAY}"),
    YEAR_DAYS,
    st.tuples(YEAR_DAYS, YEAR_DAYS).map("..".join),
)
ZONES = st.sampled_from(
    [UTC, ZURICH, "America/New_York", "Asia/Kathmandu", "Pacific/Chatham", "America/Santiago"]
)
ENDS = st.datetimes(at("2024-01-01"), at("2032-01-01")).map(
    lambda moment: moment.replace(second=0, microsecond=0)
)
QUARANTINES = st.just(timedelta(0)) | st.integers(1, 60 * 24 * 30).map(
    lambda minutes: timedelta(minutes=minutes)
)


def wall(moment: datetime.datetime, time_zone: str) -> datetime.datetime:
    """Say what the clocks of a place show."""
    utc = moment.replace(tzinfo=datetime.UTC)
    return utc.astimezone(zoneinfo.ZoneInfo(time_zone)).replace(tzinfo=None)


@settings(max_examples=60, deadline=None)
@example(["sat"], ZURICH, at("2026-03-28 01:30"), DAY)
# Midnight of 6 September 2026 is skipped in Santiago.
@example(["sat"], "America/Santiago", at("2026-09-05 04:00"), timedelta(0))
@given(st.lists(ENTRIES, max_size=5), ZONES, ENDS, QUARANTINES)
def test_the_first_day_that_will_do_at_the_same_time_of_day(
    closed: list[str], time_zone: str, end: datetime.datetime, quarantine: timedelta
) -> None:
    try:
        calendar = Calendar.parse(closed, time_zone)
        calendar.check(quarantine)
    except NoOpenDay:
        assume(False)
    moved = calendar.open_end(end, quarantine)

    assert moved >= end
    assert not calendar.closed_at(moved)
    assert not (quarantine and calendar.closed_at(moved - quarantine))
    assert calendar.open_end(moved, quarantine) == moved, "it moves once"
    # The same local time, but where the clocks skip that.
    shown, wanted = wall(moved, time_zone), wall(end, time_zone).time()
    skipped = datetime.datetime.combine(shown.date(), wanted)
    assert (
        shown.time() == wanted
        or wall(
            skipped.replace(tzinfo=zoneinfo.ZoneInfo(time_zone))
            .astimezone(datetime.UTC)
            .replace(tzinfo=None),
            time_zone,
        )
        != skipped
    )
    # No day between would have done.
    for days_earlier in range(1, (moved - end).days + 1):
        between = moved - days_earlier * DAY
        if wall(between, time_zone).time() == wanted and between >= end:
            assert calendar.closed_at(between) or calendar.closed_at(between - quarantine)
