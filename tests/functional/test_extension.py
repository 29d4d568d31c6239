# SPDX-License-Identifier: Apache-2.0
"""Moving the end of a lease through Blazar's own API, and what else it lets an owner write."""

from __future__ import annotations

import datetime
from datetime import timedelta
from typing import Any

import pytest

from blazar_vmexpire.db import api as db_api
from tests.functional.world import DATE, World


@pytest.fixture
def server_id(world: World) -> str:
    """A VM of Alice's in the middle of its first term."""
    server_id = world.adopt()
    world.live(world.clock.now() + timedelta(days=10))
    return server_id


def ends_at(world: World, server_id: str) -> datetime.datetime:
    """Return the end that our row has, which Blazar's lease has to have as well."""
    found = world.row(server_id).ends_at
    assert found is not None
    assert world.lease(server_id).end_date == found
    return found


def message(answer: Any) -> str:
    """Return the sentence of an error."""
    return str(answer.json["error_message"])


def test_as_often_as_wanted_up_to_the_latest_allowed_date(world: World, server_id: str) -> None:
    world.live(ends_at(world, server_id) - timedelta(days=1))
    for _ in range(4):
        latest = world.clock.now().replace(second=0, microsecond=0) + timedelta(days=30)
        assert world.update(server_id, end_date=latest).status_code == 200
        world.settle()
        assert ends_at(world, server_id) == latest
        world.live(latest - timedelta(days=1))
    assert world.row(server_id).extensions == 4
    assert server_id in world.cloud.compute.vms


def test_beyond_the_cap_is_refused_with_a_sentence(world: World, server_id: str) -> None:
    before = ends_at(world, server_id)
    answer = world.update(server_id, end_date=before + timedelta(minutes=1))
    assert answer.status_code == 400
    assert f"{before:%Y-%m-%d %H:%M} UTC" in message(answer)
    assert "past the latest allowed" in message(answer)
    assert world.lease(server_id).status == "ACTIVE"
    assert ends_at(world, server_id) == before
    assert world.row(server_id).generation == 0


def test_shortening_down_to_the_earliest_allowed_date(world: World, server_id: str) -> None:
    now = world.clock.now()
    answer = world.update(server_id, end_date=now + timedelta(days=2) - timedelta(minutes=1))
    assert answer.status_code == 400
    assert f"before the earliest allowed, {now + timedelta(days=2):%Y-%m-%d %H:%M} UTC" in message(
        answer
    )
    assert world.update(server_id, end_date=now + timedelta(days=2)).status_code == 200
    world.settle()
    assert world.row(server_id).extensions == 0
    # Whoever shortens knows, so the end need not wait for a mail.
    world.mail.answers["DATA"] = "451 later"
    world.live(now + timedelta(days=2, minutes=1))
    assert server_id not in world.cloud.compute.vms


def test_an_administrator_is_not_capped(world: World, server_id: str) -> None:
    far = world.clock.now() + timedelta(days=3000)
    assert world.update(server_id, world.as_admin, end_date=far).status_code == 200
    world.settle()
    assert ends_at(world, server_id) == far
    assert ("extended", True) in [
        (event, details.get("by_admin")) for event, details in world.history(server_id)
    ]


def test_an_administrator_who_shortens_does_not_take_the_notice_away(
    world: World, server_id: str
) -> None:
    now = world.clock.now()
    soon = now + timedelta(hours=1)
    assert world.update(server_id, world.as_admin, end_date=soon).status_code == 200
    world.live(now + timedelta(hours=2))
    assert server_id in world.cloud.compute.vms
    assert len(world.mails) == 1
    moved = ends_at(world, server_id)
    assert moved >= now + timedelta(days=2)
    assert f"{moved:%Y-%m-%d %H:%M} UTC" in world.mails[0].get_content()


@pytest.mark.options({"virtual:vm": {"max_total_duration": "70d"}})
def test_the_whole_life_is_capped(world: World) -> None:
    created = world.clock.now() - timedelta(days=50)
    server_id = world.adopt(created_at=created)
    first = ends_at(world, server_id)
    assert first == world.clock.now() + timedelta(days=60)  # a full term, all the same
    world.live(first - timedelta(days=1))
    answer = world.update(server_id, end_date=first + timedelta(days=5))
    assert answer.status_code == 400
    assert "which is later than creation of the server + max_total_duration 70d" in message(answer)
    far = first + timedelta(days=90)
    assert world.update(server_id, world.as_admin, end_date=far).status_code == 200


@pytest.mark.options({"virtual:vm": {"max_total_duration": "70d"}})
def test_a_cap_that_the_end_is_at_already_is_named_as_it_is(world: World) -> None:
    server_id = world.adopt(created_at=world.clock.now() - timedelta(days=10))
    end = ends_at(world, server_id)
    world.live(end - timedelta(days=1))
    refused = message(world.update(server_id, end_date=end + timedelta(days=5)))
    assert "(creation of the server + max_total_duration 70d)" in refused


def test_after_an_extension_the_notices_start_again(world: World, server_id: str) -> None:
    world.live(ends_at(world, server_id) - timedelta(days=1))
    assert len(world.mails) == 2
    latest = world.clock.now().replace(second=0, microsecond=0) + timedelta(days=30)
    world.update(server_id, end_date=latest)
    world.settle()
    assert "has been extended" in world.mails[2]["Subject"]
    world.live(latest - timedelta(days=9))
    assert len(world.mails) == 4
    world.live(latest - timedelta(days=1))
    assert len(world.mails) == 5
    assert len({mail["Message-ID"] for mail in world.mails}) == 5
    assert world.state(server_id) == "noticed"


def test_an_unchanged_end_starts_nothing_again(world: World, server_id: str) -> None:
    end = ends_at(world, server_id)
    world.live(end - timedelta(days=9))
    assert len(world.mails) == 1
    for _ in range(3):
        assert world.update(server_id, end_date=end).status_code == 200
        world.settle()
    assert world.row(server_id).generation == 0
    assert world.state(server_id) == "noticed"
    assert len(world.mails) == 1


def test_a_loop_of_extensions_makes_no_storm_of_mails(world: World, server_id: str) -> None:
    """One notice a VM, kind and generation, whatever is done in a loop; and one of that, a day."""
    world.live(ends_at(world, server_id) - timedelta(days=1))
    mails = len(world.mails)
    day = world.clock.now().replace(second=0, microsecond=0)
    for minutes in range(10):
        world.update(server_id, end_date=day + timedelta(days=20, minutes=minutes))
        world.settle()
    (told,) = world.mails[mails:]
    assert "has been extended" in told["Subject"]


def test_strangers_change_nothing(world: World, server_id: str) -> None:
    end = ends_at(world, server_id)
    for values in ({"end_date": end - timedelta(days=5)}, {"name": "mine"}):
        assert world.update(server_id, world.as_bob, **values).status_code == 403
    lease_id = world.row(server_id).lease_id
    assert world.as_bob.delete(f"/v1/leases/{lease_id}").status_code == 403
    world.settle()
    assert ends_at(world, server_id) == end


@pytest.mark.sampled(3)
@pytest.mark.databases("sqlite")
@pytest.mark.parametrize(
    ("date", "code"),
    [
        ("2020-01-01 00:00", 400),
        ("tomorrow", 400),
        ("2026-04-01 10:00:30", 400),
        ("2026-04-01T10:00", 400),
        ("", 400),
        (None, 500),
        (17, 500),
    ],
)
def test_dates_that_are_none_are_refused_and_lose_nothing(
    world: World, server_id: str, date: Any, code: int
) -> None:
    before = ends_at(world, server_id)
    assert world.update(server_id, end_date=date).status_code == code
    world.watch(minutes=1)
    assert world.lease(server_id).status == "ACTIVE"
    assert ends_at(world, server_id) == before


FAR = "2099-01-01 00:00"


@pytest.mark.sampled(4)
@pytest.mark.databases("sqlite", "mariadb")
@pytest.mark.parametrize(
    "values",
    [
        {"project_id": "00000000000000000000000000000bad"},
        {"user_id": "00000000000000000000000000000bad"},
        {"trust_id": "00000000000000000000000000000bad"},
        {"start_date": "2026-04-01 10:00"},
        {"start_date": "2026-03-02 09:00"},
        {"degraded": True},
        {"status": "TERMINATED"},
        {"status": "ERROR"},
        {"created_at": "2030-01-01 00:00"},
        {"before_end_date": "2020-01-01 00:00"},
        {"before_end_date": FAR},
        {"events": []},
        {"end_date": FAR, "reservations": [{"id": "RESERVATION", "end_date": "2026-04-01 10:00"}]},
        {"reservations": [{"id": "RESERVATION", "resource_id": "mine"}]},
        {"reservations": [{"id": "RESERVATION", "resource_type": "physical:host"}]},
        {"reservations": [{"resource_type": "virtual:vm"}]},
        {"reservations": []},
    ],
    ids=str,
)
def test_whatever_else_the_api_lets_an_owner_write_changes_nothing_that_matters(
    world: World, server_id: str, values: dict[str, Any]
) -> None:
    row = world.row(server_id)
    sound = world.lease(server_id)
    for reservation in values.get("reservations", []):
        if "id" in reservation:
            reservation["id"] = sound.reservations[0].id
    world.update(server_id, **values)
    # A transition may have been left behind; it is mended when no manager can be at work on it.
    world.watch(minutes=4)
    world.settle()
    after = world.lease(server_id)
    assert (after.status, after.project_id, after.user_id) == ("ACTIVE", world.alpha, world.alice)
    assert (after.trust_id, after.degraded) == (None, False)
    assert (after.start_date, after.end_date) == (sound.start_date, sound.end_date)
    assert [r.status for r in after.reservations] == ["active"]
    assert sorted((e.event_type, e.status) for e in after.events) == [
        ("before_end_lease", "UNDONE"),
        ("end_lease", "UNDONE"),
        ("start_lease", "DONE"),
    ]
    assert world.row(server_id).ends_at == row.ends_at
    assert len(world.all_leases()) == 1
    assert row.ends_at is not None
    world.live(row.ends_at + timedelta(minutes=1))
    assert server_id not in world.cloud.compute.vms


@pytest.mark.databases("mariadb", "postgresql")  # SQLite has no foreign keys here
def test_another_id_for_a_lease_changes_nothing(world: World, server_id: str) -> None:
    before = ends_at(world, server_id)
    other = "11111111-1111-4111-8111-111111111111"
    world.update(server_id, id=other)
    world.watch(minutes=4)
    assert ends_at(world, server_id) == before
    assert world.lease(server_id).status == "ACTIVE"
    assert len(world.all_leases()) == 1


def test_another_before_end_date_moves_the_action_and_no_notice(world: World) -> None:
    world.harness.conf.set_override("before_end_action", "snapshot", group="virtual:vm")
    server_id = world.adopt()
    end = ends_at(world, server_id)
    at = end - timedelta(days=1)
    assert world.update(server_id, before_end_date=at.strftime(DATE)).status_code == 200
    world.live(end - timedelta(days=9))
    assert len(world.mails) == 1
    assert not world.cloud.image.images
    world.live(at + timedelta(minutes=1))
    assert len(world.cloud.image.images) == 1


def test_in_the_minute_of_its_end_an_extension_still_wins(world: World, server_id: str) -> None:
    """Blazar takes the date and leaves the lease TERMINATED; it is reopened under its id."""
    world.harness.conf.set_override("on_end_action", "snapshot", group="virtual:vm")
    world.cloud.image.reads = None
    end = ends_at(world, server_id)
    world.live(end)
    assert world.state(server_id) == "ending"
    assert world.lease(server_id).status == "TERMINATED"
    world.clock.set(end + timedelta(seconds=50))
    lease_id = world.row(server_id).lease_id
    new_end = end + timedelta(days=20)
    assert world.update(server_id, end_date=new_end).status_code == 200
    world.settle()
    row = world.row(server_id)
    assert (row.state, row.lease_id, row.ends_at) == ("active", lease_id, new_end)
    assert ends_at(world, server_id) == new_end
    assert world.lease(server_id).status == "ACTIVE"
    vm = world.cloud.compute.vms[server_id]
    assert (vm.vm_state, vm.locked) == ("active", False)
    assert not world.cloud.image.images


def test_too_late_is_said_with_409(world: World, server_id: str) -> None:
    """When Nova has been asked to delete the VM, the loser of the race is told so."""
    world.cloud.compute.reads = 1000  # the deletion takes its time
    end = ends_at(world, server_id)
    world.live(end)
    assert world.row(server_id).progress["irreversible"] is True
    world.clock.set(end + timedelta(seconds=50))
    answer = world.update(server_id, end_date=end + timedelta(days=20))
    assert answer.status_code == 409
    assert "too late" in message(answer)


def test_an_extension_between_intent_and_call_stops_the_call(world: World, server_id: str) -> None:
    """The fence: a worker that read the row before the extension can write nothing after it."""
    from blazar_vmexpire.exceptions import ClaimLost
    from blazar_vmexpire.worker import claims

    world.clock.advance(days=1)
    with world.harness.database.begin() as connection:
        db_api.poke(connection, [server_id], world.clock.now())
    (claimed,) = world.harness.plugin.service.worker._claims.claim(1)
    world.update(server_id, world.as_admin, end_date=world.clock.now() + timedelta(days=99))
    with world.harness.database.begin() as connection, pytest.raises(ClaimLost):
        claims.write(connection, claimed, progress={"irreversible": True})
