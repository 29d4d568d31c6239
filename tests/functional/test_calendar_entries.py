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
    assert f"{ends_at:%Y-%m-%d %H:%M} UTC" in text_of_last(world)


def text_of_last(world: World) -> str:
    """Return the text of the last mail, its lines joined."""
    return " ".join(world.mails[-1].get_content().split())


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
    assert "will not be" in text_of_last(world).partition(".")[0]
    assert "It does not expire any more." in text_of_last(world)
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
    assert "will not be" in text_of_last(world).partition(".")[0]
    assert f"holds it until {until:%Y-%m-%d %H:%M} UTC" in text_of_last(world)


TELL_DELETIONS = pytest.mark.options({"vmexpire_mail": {"tell_deletions": "true"}})


def delete(world: World, server_id: str) -> None:
    """Have somebody delete a VM, and let what follows happen."""
    world.cloud.compute.vanish(server_id)
    world.see(server_id)
    world.live(world.clock.now() + timedelta(minutes=1))
    assert world.state(server_id) == "deleted"


@TELL_DELETIONS
@pytest.mark.parametrize("mail_server", ["there", "away"])
def test_who_deletes_a_vm_themselves_has_its_entry_taken_out(
    world: World, mail_server: str
) -> None:
    server_id, ends_at = told_of_its_end(world)
    if mail_server == "away":
        world.mail.answers["DATA"] = "451 later"
    delete(world, server_id)
    world.mail.answers.clear()
    world.live(world.clock.now() + timedelta(hours=6))
    is_cancelled(world, server_id, ends_at)
    assert "is gone before its end on" in str(world.mails[-1]["Subject"])
    assert "It was deleted by its owner, another member" in text_of_last(world)
    assert "Why:" not in text_of_last(world)
    world.live(world.clock.now() + timedelta(days=30))
    assert len(world.mails) == 2


@TELL_DELETIONS
def test_whose_vm_is_gone_unexplained_is_told_that(world: World) -> None:
    server_id, ends_at = told_of_its_end(world)
    world.cloud.compute.lose(server_id)
    world.see(server_id)
    world.live(world.clock.now() + timedelta(hours=2))
    assert world.state(server_id) == "deleted"
    is_cancelled(world, server_id, ends_at)
    assert "nothing tells who deleted it" in text_of_last(world)


@TELL_DELETIONS
def test_a_deletion_is_told_to_nobody_who_was_told_of_no_end(world: World) -> None:
    delete(world, world.adopt())
    assert world.mails == []


def test_by_default_a_deletion_is_told_to_nobody(world: World) -> None:
    server_id, _ = told_of_its_end(world)
    delete(world, server_id)
    world.live(world.clock.now() + timedelta(days=30))
    assert len(world.mails) == 1


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
