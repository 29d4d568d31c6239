# SPDX-License-Identifier: Apache-2.0
"""When a digest comes, what can wait for it, and what it says."""

from __future__ import annotations

import dataclasses
import datetime
import zoneinfo
from datetime import timedelta

import icalendar
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from blazar_vmexpire import lifecycle
from blazar_vmexpire.conf.types import DailyOrOff
from blazar_vmexpire.daily import Daily
from blazar_vmexpire.lifecycle import Terms
from blazar_vmexpire.notices import DIGESTED, Kind, Notice, Renderer, parse_sender, samples
from blazar_vmexpire.notices.invitation import entry, together
from blazar_vmexpire.notices.language import language
from blazar_vmexpire.worker.gathering import told_at
from tests.unit.test_lifecycle import ANY_TERMS, END, MOMENTS, NOW, WHOLE_MINUTES, terms

DAY = timedelta(days=1)

# The option


@pytest.mark.parametrize(
    ("text", "time", "zone"),
    [
        ("daily 08:00 UTC", datetime.time(8), "UTC"),
        ("daily  23:59  America/Sao_Paulo ", datetime.time(23, 59), "America/Sao_Paulo"),
    ],
)
def test_a_time_of_the_day_as_it_is_written(text: str, time: datetime.time, zone: str) -> None:
    found = DailyOrOff()(text)
    assert found == Daily(time=time, time_zone=zone)
    assert DailyOrOff()(str(found)) == found


def test_off_is_no_time() -> None:
    assert DailyOrOff()("off") is None
    assert DailyOrOff()._formatter(None) == "off"


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("", "daily 08:00 UTC"),
        ("on", "daily 08:00 UTC"),
        ("daily 08:00", "daily 08:00 UTC"),
        ("daily 8:00 UTC", "daily 08:00 UTC"),
        ("weekly 08:00 UTC", "daily 08:00 UTC"),
        ("daily 24:00 UTC", "00:00 to 23:59"),
        ("daily 08:60 UTC", "00:00 to 23:59"),
        ("daily 08:00 Mars/Olympus", "IANA"),
        ("daily 08:00 ../../etc/passwd", "IANA"),
    ],
)
def test_a_wrong_time_is_refused_by_a_sentence_that_says_what_is_right(
    text: str, right: str
) -> None:
    with pytest.raises(ValueError, match=right):
        DailyOrOff()(text)


# When it comes


@pytest.mark.parametrize(
    ("written", "after", "comes"),
    [
        ("08:00 UTC", "2026-03-02 07:59", "2026-03-02 08:00"),
        ("08:00 UTC", "2026-03-02 08:00", "2026-03-03 08:00"),
        ("08:00 Europe/Zurich", "2026-03-28 12:00", "2026-03-29 06:00"),
        ("08:00 Europe/Zurich", "2026-10-24 12:00", "2026-10-25 07:00"),
        # At a time that the clocks skip, it comes an hour later; at one that comes twice, once.
        ("02:30 Europe/Zurich", "2026-03-28 12:00", "2026-03-29 01:30"),
        ("02:30 Europe/Zurich", "2026-10-24 12:00", "2026-10-25 00:30"),
        ("02:30 Europe/Zurich", "2026-10-25 00:30", "2026-10-26 01:30"),
        # Far from Greenwich the day there is another one.
        ("23:00 Pacific/Kiritimati", "2026-03-02 08:00", "2026-03-02 09:00"),
        ("01:00 Pacific/Pago_Pago", "2026-03-02 08:00", "2026-03-02 12:00"),
    ],
)
def test_when_it_comes_next(written: str, after: str, comes: str) -> None:
    daily = Daily.parse(f"daily {written}")
    found = daily.next_after(datetime.datetime.fromisoformat(after))
    assert found == datetime.datetime.fromisoformat(comes)


ZONES = st.sampled_from(
    ["UTC", "Europe/Zurich", "America/New_York", "Australia/Lord_Howe", "Africa/Cairo"]
)
DAILIES = st.builds(
    Daily, time=st.times().map(lambda t: t.replace(second=0, microsecond=0)), time_zone=ZONES
)


@given(DAILIES, MOMENTS)
def test_it_comes_once_each_day(daily: Daily, moment: datetime.datetime) -> None:
    first = daily.next_after(moment)
    second = daily.next_after(first)
    assert moment < first <= moment + timedelta(hours=25)
    assert timedelta(hours=23) <= second - first <= timedelta(hours=25)
    assert daily.day(second) - daily.day(first) == DAY
    zone = zoneinfo.ZoneInfo(daily.time_zone)
    wall = first.replace(tzinfo=datetime.UTC).astimezone(zone)
    skipped = wall.time() != daily.time
    assert not skipped or timedelta(0) < wall.replace(tzinfo=None) - datetime.datetime.combine(
        wall.date(), daily.time
    ) <= timedelta(hours=1)


# What can wait for it

MORNING = Daily.parse("daily 08:00 UTC")


def test_a_first_notice_waits_for_the_next_digest() -> None:
    plan = lifecycle.agenda(END, terms())
    at = plan.reminders[0].at
    assert told_at(MORNING, plan, at, None, terms()) == at + timedelta(hours=22)


@pytest.mark.parametrize(
    ("hours", "waits"),
    [
        # Half of the time that is left then.
        (49, timedelta(hours=23)),
        (26, timedelta(minutes=10)),
        (1, timedelta(minutes=10)),
        (0.25, timedelta(minutes=7.5)),
        (0.01, timedelta(seconds=30)),
    ],
)
def test_a_last_notice_waits_while_it_is_of_use(hours: float, waits: timedelta) -> None:
    left = timedelta(hours=hours)
    those = terms(reminders=(left,))
    plan = lifecycle.agenda(END, those)
    at = plan.reminders[-1].at
    assert told_at(MORNING, plan, at, NOW, those) - at == waits


@given(WHOLE_MINUTES, DAILIES, ANY_TERMS)
@example(END, MORNING, terms(first_notice=timedelta(0), minimum_notice=timedelta(minutes=1)))
def test_no_minimum_notice_is_missed_by_waiting(
    end: datetime.datetime, daily: Daily, terms: Terms
) -> None:
    plan = lifecycle.agenda(end, terms)
    at = told_at(daily, plan, plan.reminders[0].at, None, terms)
    assert at > plan.reminders[0].at
    # Accepted then, nothing has to move; nor has it before.
    assert lifecycle.needed_end(plan, at, None, terms) is None
    assert lifecycle.needed_end(plan, at, at, terms) is None
    assert plan.disruption_at - at >= terms.minimum_notice


@given(WHOLE_MINUTES, DAILIES, ANY_TERMS, MOMENTS)
def test_whatever_waits_is_told_soon(
    end: datetime.datetime, daily: Daily, terms: Terms, now: datetime.datetime
) -> None:
    for accepted_at in (None, now):
        at = told_at(daily, lifecycle.agenda(end, terms), now, accepted_at, terms)
        assert now < at <= now + timedelta(hours=25)


# What it says

RENDERER = Renderer(dashboard_url="https://cloud.example.org/horizon")


def digest(*changes: dict[str, object]) -> list[Notice]:
    return [dataclasses.replace(samples.REMINDER, **change) for change in changes]  # type: ignore[arg-type]


def test_a_digest_as_its_reader_sees_it() -> None:
    rendered = RENDERER.render_digest(samples.digest())
    assert rendered.subject == (
        '3 VMs (physics) will end, "db-1" first: it will be stopped in 2 days,'
        " on 2026-12-13 04:50 UTC"
    )
    assert (
        "    2026-12-13 04:50 UTC  db-1: will be stopped in 2 days; cannot be extended any more\n"
        "    2026-12-15 04:50 UTC  test-3: will be stopped in 4 days, and then be deleted on"
        " 2026-12-17 04:50 UTC\n"
        "    2026-12-20 09:14 UTC  web-1: will be deleted in 9 days and 4 hours\n"
    ) in rendered.text
    assert (
        "    openstack vm expiration extend \\\n"
        "      91c3d7b5-0e2f-4a68-b4d6-f0e1d2c3b4a5 \\\n"
        "      7d2c1f0e-58a4-4b6e-9a3f-0c1d2e3f4a5b\n"
    ) in rendered.text
    assert "    https://cloud.example.org/horizon/project/instances/\n" in rendered.text


def test_names_stay_one_column_whatever_is_in_them() -> None:
    (row,) = [
        line
        for line in RENDERER.render_digest(
            digest({"server_name": "a  b\n    c"}, {"server_name": "x" * 255})
        ).text.splitlines()
        if line.startswith("    2026") and " a b c: " in line
    ]
    assert len(row.split("  ")) == 4


def test_where_none_can_be_extended_there_is_no_command() -> None:
    text = RENDERER.render_digest(digest({"extensions_used": 1}, {"extensions_used": 1})).text
    assert "vm expiration extend" not in text
    assert "please ask the administrators" in text


def test_every_kind_of_news_is_told() -> None:
    assert not DIGESTED - set(Kind)
    for those in samples.digests():
        rendered = RENDERER.render_digest(those)
        assert "None" not in rendered.subject + rendered.text
        assert "\n\n\n" not in rendered.text
        assert "  " not in rendered.subject
        rows = [line for line in rendered.text.splitlines() if line.startswith("    2026-")]
        assert len(rows) == len(those)


def test_an_own_template_is_used_and_checked(tmp_path: object) -> None:
    own = f"{tmp_path}/digest.txt.j2"
    with open(own, "w") as file:
        file.write(
            '{% extends "builtin/digest.txt.j2" %}'
            "{% block subject %}[Cloud] {{ vms|length }}{% endblock %}"
        )
    renderer = Renderer([str(tmp_path)])
    assert renderer.check() == []
    assert renderer.render_digest(samples.digest()).subject == "[Cloud] 3"
    with open(own, "w") as file:
        file.write("Subject: x\n\n{{ oops }}")
    assert any("oops" in problem for problem in renderer.check())
    assert "3 VMs" in renderer.render_digest(samples.digest()).subject


def test_entries_of_several_vms_are_one_calendar() -> None:
    sender = parse_sender("vm-expiration@cloud.example.org")
    made = together(
        entry(notice, generation=1, sender=sender, said_in=language("en"))
        for notice in samples.digest()
    )
    assert made is not None
    calendar = icalendar.Calendar.from_ical(made.to_ical())
    assert calendar["METHOD"] == "PUBLISH"
    uids = [event["UID"] for event in calendar.walk("VEVENT")]
    assert uids == [f"{n.server_id}@cloud.example.org" for n in samples.digest()]
    assert len(calendar.walk("VALARM")) == len(uids)
    assert together([None, None]) is None
