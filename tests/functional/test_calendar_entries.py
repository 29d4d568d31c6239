# SPDX-License-Identifier: Apache-2.0
"""The calendar of an owner who takes in what the mails carry shows when their VM ends."""

from __future__ import annotations

import datetime
from datetime import timedelta
from typing import Any

import icalendar
import pytest
import vobject

from blazar_vmexpire import exclusions, holds
from tests.functional.world import World, calendar_of

pytestmark = pytest.mark.databases("sqlite")


def entries(world: World) -> list[Any]:
    """Read what is attached to the mails, in their order."""
    texts = [calendar_of(mail) for mail in world.mails]
    return [vobject.readOne(text) for text in texts if text is not None]


@pytest.mark.options({"virtual:vm": {"on_end_action": "delete"}})
@pytest.mark.options({"vmexpire_mail": {"tell_extensions": "true"}})
def test_an_entry_follows_the_end_and_goes_with_the_vm(world: World) -> None:
    server_id = world.adopt()
    first_end = world.row(server_id).ends_at
    assert first_end is not None
    world.live(first_end - timedelta(days=5))
    assert world.extend(server_id).status_code == 200
    world.settle()
    second_end = world.row(server_id).ends_at
    assert second_end is not None
    world.live(second_end + timedelta(minutes=1))
    assert world.state(server_id) == "deleted"

    found = entries(world)
    assert len(found) == len(world.mails)
    assert {one.vevent.uid.value for one in found} == {f"{server_id}@localhost"}
    sequences = [int(one.vevent.sequence.value) for one in found]
    assert sequences == sorted(sequences)
    ends = [one.vevent.dtstart.value.replace(tzinfo=None) for one in found]
    assert (ends[0], ends[-2]) == (first_end, second_end)
    assert sequences[-2] > sequences[0]
    # The extension moved it at once.
    assert (ends[1], sequences[1]) == (second_end, sequences[-2])
    assert [one.method.value for one in found] == [*["PUBLISH"] * (len(found) - 1), "CANCEL"]
    assert sequences[-1] > sequences[-2]


def told_of_its_end(world: World) -> tuple[str, datetime.datetime]:
    """Add a VM whose owner has been told of its end; return its UUID and that end."""
    server_id = world.adopt()
    ends_at = world.row(server_id).ends_at
    assert ends_at is not None
    world.live(ends_at - timedelta(days=5))
    assert len(world.mails) == 1
    return server_id, ends_at


def is_cancelled(world: World, server_id: str, ends_at: datetime.datetime) -> None:
    """Check, with both libraries, that the last mail cancels the entry of the first."""
    first, last = entries(world)
    assert (first.method.value, last.method.value) == ("PUBLISH", "CANCEL")
    assert (first.vevent.uid.value, last.vevent.uid.value) == (f"{server_id}@localhost",) * 2
    assert int(last.vevent.sequence.value) > int(first.vevent.sequence.value)
    assert last.vevent.status.value == "CANCELLED"
    assert last.vevent.dtstart.value.replace(tzinfo=None) == ends_at
    assert not hasattr(last.vevent, "valarm")
    (event,) = icalendar.Calendar.from_ical(str(calendar_of(world.mails[-1]))).walk("VEVENT")
    assert (event["UID"], event["STATUS"]) == (f"{server_id}@localhost", "CANCELLED")
    text = " ".join(world.mails[-1].get_content().split())
    assert "will not be" in text.partition(".")[0]
    assert f"{ends_at:%Y-%m-%d %H:%M} UTC" in text


def exempt(world: World, server_id: str) -> exclusions.Exclusion:
    """Have an administrator exempt a VM, and let what is due happen."""
    with world.harness.database.begin() as connection:
        added = exclusions.add(
            connection,
            kind=exclusions.Kind.SERVER,
            value=server_id,
            reason="a demonstration",
            author="root",
            expires_at=None,
            now=world.clock.now(),
        )
    world.settle()
    return added


def test_an_exemption_takes_the_entry_out_of_the_calendar(world: World) -> None:
    server_id, ends_at = told_of_its_end(world)
    exemption = exempt(world, server_id)
    assert world.state(server_id) == "exempt"
    is_cancelled(world, server_id, ends_at)
    assert "It does not expire any more." in " ".join(world.mails[-1].get_content().split())
    # Whoever comes back into scope is told of the new end, by a later entry.
    with world.harness.database.begin() as connection:
        exclusions.remove(
            connection, exemption, author="root", reason="over", now=world.clock.now()
        )
    world.settle()
    new_end = world.row(server_id).ends_at
    assert new_end is not None
    world.live(new_end - timedelta(days=5))
    *_, cancelled, again = entries(world)
    assert again.method.value == "PUBLISH"
    assert int(again.vevent.sequence.value) > int(cancelled.vevent.sequence.value)


def test_who_was_told_of_no_end_is_told_of_no_exemption(world: World) -> None:
    server_id = world.adopt()
    exempt(world, server_id)
    world.live(world.clock.now() + timedelta(days=1))
    assert (world.state(server_id), world.mails) == ("exempt", [])


def test_that_an_end_is_off_is_told_when_the_mail_server_is_back(world: World) -> None:
    server_id, ends_at = told_of_its_end(world)
    world.mail.answers["DATA"] = "451 later"
    exempt(world, server_id)
    assert len(world.mails) == 1
    world.mail.answers.clear()
    world.live(world.clock.now() + timedelta(hours=6))
    is_cancelled(world, server_id, ends_at)
    world.live(world.clock.now() + timedelta(days=30))
    assert len(world.mails) == 2


def test_a_hold_takes_the_entry_out_of_the_calendar(world: World) -> None:
    server_id, ends_at = told_of_its_end(world)
    until = world.clock.now() + timedelta(days=100)
    for _ in range(2):  # Held once more, it is told once.
        with world.harness.database.begin() as connection:
            holds.hold(
                connection,
                server_id,
                until=until,
                reason="it is looked into",
                ticket=None,
                author="root",
                book=world.harness.plugin.tools.book,
                now=world.clock.now(),
            )
        world.settle()
    assert world.state(server_id) == "held"
    is_cancelled(world, server_id, ends_at)
    assert f"holds it until {until:%Y-%m-%d %H:%M} UTC" in " ".join(
        world.mails[-1].get_content().split()
    )


def test_who_stands_in_for_an_owner_gets_no_entries(world: World) -> None:
    del world.cloud.identity.users[world.alice]
    server_id = world.adopt()
    ends_at = world.row(server_id).ends_at
    assert ends_at is not None
    world.live(ends_at - timedelta(days=5))
    assert (len(world.mails), entries(world)) == (1, [])


@pytest.mark.options({"vmexpire_mail": {"calendar": "false"}})
def test_entries_can_be_switched_off(world: World) -> None:
    server_id = world.adopt()
    ends_at = world.row(server_id).ends_at
    assert ends_at is not None
    world.live(ends_at - timedelta(days=5))
    assert (len(world.mails), entries(world)) == (1, [])
