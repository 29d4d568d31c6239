# SPDX-License-Identifier: Apache-2.0
"""The calendar of an owner who takes in what the mails carry shows when their VM ends."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import vobject

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
