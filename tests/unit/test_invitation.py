# SPDX-License-Identifier: Apache-2.0
"""Calendar entries, read back by the library that wrote them and by another one."""

from __future__ import annotations

import dataclasses
import datetime
import email
import email.policy
from email.headerregistry import Address
from email.message import EmailMessage
from typing import Any

import icalendar
import pytest
import vobject
from hypothesis import example, given
from hypothesis import strategies as st

from blazar_vmexpire import words
from blazar_vmexpire.notices import KINDS, Notice, Renderer, build_message, samples
from blazar_vmexpire.notices.invitation import entry
from blazar_vmexpire.notices.language import language

SENDER = Address("Cloud", addr_spec="vm-expiration@cloud.example.org")
LINK = "https://cloud.example.org/horizon/project/instances/7d2c1f0e/"


def made(generation: int = 3, **changes: Any) -> icalendar.Calendar:
    notice = dataclasses.replace(samples.REMINDER, **changes)
    found = entry(notice, generation=generation, sender=SENDER, said_in=language("en"), link=LINK)
    assert found is not None
    return found


def read_back(calendar: icalendar.Calendar) -> tuple[icalendar.Event, Any]:
    """Read an entry with both libraries."""
    content = calendar.to_ical()
    assert max(len(line) for line in content.split(b"\r\n")) <= 75
    (event,) = icalendar.Calendar.from_ical(content).walk("VEVENT")
    return event, vobject.readOne(content.decode()).vevent


def test_an_entry_as_both_libraries_read_it() -> None:
    event, other = read_back(made())
    ends = datetime.datetime(2026, 12, 20, 9, 14, tzinfo=datetime.UTC)
    assert event.start == ends == other.dtstart.value
    assert event["UID"] == other.uid.value == f"{samples.REMINDER.server_id}@cloud.example.org"
    assert event["SEQUENCE"] == int(other.sequence.value) == 6
    assert event["SUMMARY"] == other.summary.value == 'VM "web-1" (physics): its lease ends'
    assert other.organizer.value == "mailto:vm-expiration@cloud.example.org"
    assert other.url.value == LINK
    assert f"vm expiration extend {samples.REMINDER.server_id}" in other.description.value
    assert other.valarm.trigger.value == datetime.timedelta(days=-1)
    assert other.transp.value == "TRANSPARENT"


@pytest.mark.parametrize("off", ["ended", "exempted", "gone"])
def test_an_extension_moves_the_entry_and_an_end_or_exemption_cancels_it(off: str) -> None:
    later = datetime.datetime(2027, 1, 10, 4, 50)
    entries = [made(3), made(4, ends_at=later), made(4, ends_at=later, kind=off)]
    events = [read_back(one)[1] for one in entries]
    assert len({event.uid.value for event in events}) == 1
    sequences = [int(event.sequence.value) for event in events]
    assert sequences == sorted(set(sequences))
    assert [event.status.value for event in events] == ["CONFIRMED", "CONFIRMED", "CANCELLED"]
    assert [str(one["METHOD"]) for one in entries] == ["PUBLISH", "PUBLISH", "CANCEL"]
    assert events[1].dtstart.value == later.replace(tzinfo=datetime.UTC)
    assert not hasattr(events[2], "valarm")


def test_which_notices_have_one() -> None:
    notices = [dataclasses.replace(samples.REMINDER, kind=kind) for kind in KINDS]

    def has_one(notice: Notice) -> bool:
        said_in = language("en")
        return entry(notice, generation=1, sender=SENDER, said_in=said_in) is not None

    having = {notice.kind for notice in notices if has_one(notice)}
    assert having == set(KINDS) - {"restored", "put_back"}
    endless = dataclasses.replace(samples.REMINDER, ends_at=None)
    assert not has_one(endless)


@given(st.text(max_size=255), st.text(max_size=64))
@example("x\r\nATTENDEE:mailto:victim@example.org", "y\nEND:VEVENT\nBEGIN:VEVENT")
@example("a;b,c\\n:d\"'", "é" * 64)
@example("\N{ROCKET}" * 100, "\\")
def test_names_change_nothing_but_the_summary(server: str, project: str) -> None:
    event, other = read_back(made(server_name=server, project_name=project))
    assert set(event) == set(read_back(made())[0])
    shown = words.one_line(server) or samples.REMINDER.server_id
    where = words.one_line(project) or samples.REMINDER.project_id
    assert event["SUMMARY"] == f'VM "{shown}" ({where}): its lease ends'
    assert other.summary.value == event["SUMMARY"]


@pytest.mark.parametrize("kind", ["reminder", "ended"])
def test_it_is_attached_beside_text_and_html(kind: str) -> None:
    notice = dataclasses.replace(samples.REMINDER, kind=kind, server_name="wéb")
    calendar = made(kind=kind, server_name="wéb")
    message = build_message(
        Renderer().render(notice),
        notice=notice,
        recipient="alice@example.org",
        from_address="vm-expiration@cloud.example.org",
        message_id="<x@cloud.example.org>",
        date=notice.now,
        calendar=calendar,
    )
    raw = message.as_bytes()
    assert raw.isascii()
    parsed = email.message_from_bytes(raw, policy=email.policy.default)
    assert isinstance(parsed, EmailMessage)
    assert parsed.get_content_type() == "multipart/mixed"
    alternative, attached = parsed.iter_parts()
    assert [part.get_content_type() for part in alternative.iter_parts()] == [
        "text/plain",
        "text/html",
    ]
    assert attached.get_content_type() == "text/calendar"
    assert attached["Content-Type"].params["method"] == calendar["METHOD"]
    assert attached.get_filename() == "vm-expiration.ics"
    assert attached.get_content().encode() == calendar.to_ical()
