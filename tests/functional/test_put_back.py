# SPDX-License-Identifier: Apache-2.0
"""A deleted or damaged lease is no way out: it is put back with the date it had."""

from __future__ import annotations

import datetime
from datetime import timedelta
from typing import Any

import pytest

from blazar_vmexpire import leases
from tests.functional.world import World


@pytest.fixture
def server_id(world: World) -> str:
    """A VM of Alice's in the middle of its first term."""
    server_id = world.adopt()
    world.live(world.clock.now() + timedelta(days=10))
    return server_id


def test_a_deleted_lease_is_put_back_and_its_owner_told_once(world: World, server_id: str) -> None:
    before = world.lease(server_id)
    begun = world.clock.now()
    for _ in range(3):
        lease_id = world.row(server_id).lease_id
        assert world.as_alice.delete(f"/v1/leases/{lease_id}").status_code == 204
        world.settle()
        after = world.lease(server_id)
        assert after.lease_id != lease_id
        assert (after.status, after.end_date) == ("ACTIVE", before.end_date)
        assert (after.project_id, after.user_id) == (world.alpha, world.alice)
        assert len(world.all_leases()) == 1
    assert world.clock.now() - begun < timedelta(minutes=1)
    assert [notice.kind for notice in world.notices(server_id)] == ["restored"]
    assert len(world.mails) == 1
    assert world.cloud.compute.vms[server_id].vm_state == "active"
    world.live(before.end_date + timedelta(minutes=1))
    assert server_id not in world.cloud.compute.vms


def test_a_lease_that_vanished_unseen_is_found_by_the_audit(world: World, server_id: str) -> None:
    """No hook speaks of what is deleted behind Blazar's back."""
    end = world.lease(server_id).end_date
    lease_id = str(world.row(server_id).lease_id)
    with world.harness.database.begin() as connection:
        leases.destroy(connection, [lease_id])
    world.watch(minutes=1)
    assert world.lease(server_id).end_date == end


TRANSITIONS = ["UPDATING", "DELETING", "TERMINATING", "STARTING", "CREATING"]


@pytest.mark.sampled(4)
@pytest.mark.parametrize("status", TRANSITIONS)
def test_what_a_dead_manager_left_behind_is_mended_after_a_while_and_nobody_told(
    world: World, server_id: str, status: str
) -> None:
    end = world.lease(server_id).end_date
    lease = leases.LEASES.c
    world.wreck(leases.LEASES, lease.id == world.row(server_id).lease_id, status=status)
    world.watch(minutes=1, seconds=30)
    assert world.lease(server_id).status == status  # a living manager may be at work on it
    world.watch(minutes=2)
    assert (world.lease(server_id).status, world.lease(server_id).end_date) == ("ACTIVE", end)
    assert world.mails == []


@pytest.mark.parametrize(
    "damage",
    [{"status": "error"}, {"status": "deleted"}, {"resource_id": "x"}, {"resource_type": "x"}],
    ids=str,
)
def test_a_damaged_reservation_is_mended_by_the_next_thorough_audit(
    world: World, server_id: str, damage: dict[str, Any]
) -> None:
    before = world.lease(server_id)
    reservation = leases.RESERVATIONS.c
    world.wreck(leases.RESERVATIONS, reservation.lease_id == before.lease_id, **damage)
    world.clock.advance(minutes=15)
    world.settle()
    assert world.lease(server_id).reservations == before.reservations


def test_an_owner_cannot_postpone_mending_by_writing_dates(world: World, server_id: str) -> None:
    """That a lease has been in transition for long is our own observation, not its column."""
    lease = leases.LEASES.c
    world.wreck(
        leases.LEASES,
        lease.id == world.row(server_id).lease_id,
        status="UPDATING",
        updated_at=datetime.datetime(2099, 1, 1),
    )
    world.watch(minutes=4)
    assert world.lease(server_id).status == "ACTIVE"


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    "damage",
    [
        {"status": "ERROR"},
        {"status": "TERMINATED"},
        {"status": None},
        {"user_id": None},
        {"project_id": "somebody-elses"},
        {"trust_id": "dead"},
        {"end_date": datetime.datetime(2099, 1, 1)},
        {"end_date": datetime.datetime(2026, 3, 20)},
        {"start_date": datetime.datetime(2099, 1, 1)},
        {"degraded": True},
    ],
    ids=str,
)
def test_a_damaged_lease_is_mended_within_a_minute(
    world: World, server_id: str, damage: dict[str, Any]
) -> None:
    before = world.lease(server_id)
    world.wreck(leases.LEASES, leases.LEASES.c.id == before.lease_id, **damage)
    world.watch(minutes=1)
    after = world.lease(server_id)
    assert (after.lease_id, after.status) == (before.lease_id, "ACTIVE")
    for name in ("user_id", "project_id", "trust_id", "start_date", "end_date", "degraded"):
        assert getattr(after, name) == getattr(before, name)
    assert len(world.mails) == 1


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    "damage",
    [
        {"lease_id": None},
        {"status": "IN_PROGRESS"},
        {"status": "ERROR"},
        {"status": "DONE"},
        {"time": datetime.datetime(2099, 1, 1)},
    ],
    ids=str,
)
@pytest.mark.databases("sqlite", "mariadb")
@pytest.mark.parametrize("event_type", ["start_lease", "end_lease", "before_end_lease"])
def test_damaged_events_are_mended_by_the_next_thorough_audit(
    world: World, server_id: str, event_type: str, damage: dict[str, Any]
) -> None:
    before = world.lease(server_id)
    event = leases.EVENTS.c
    world.wreck(
        leases.EVENTS,
        (event.lease_id == before.lease_id) & (event.event_type == event_type),
        **damage,
    )
    world.clock.advance(minutes=15)
    world.settle()
    end = {e.event_type: (e.time, e.status) for e in world.lease(server_id).events}
    assert end["end_lease"] == (before.end_date, "UNDONE")
    assert end["start_lease"][1] == "DONE"
    assert len(end) == 3
    world.live(before.end_date + timedelta(minutes=1))
    assert server_id not in world.cloud.compute.vms


def test_events_that_lost_their_lease_do_not_block_blazars_engine(
    world: World, server_id: str
) -> None:
    """Blazar's engine gives up a whole batch over an event without a lease."""
    lease_id = world.row(server_id).lease_id
    assert world.as_alice.put(f"/v1/leases/{lease_id}", json={"events": []}).status_code == 500
    world.watch(minutes=4)
    with world.harness.database.begin() as connection:
        orphans = connection.execute(
            leases.EVENTS.select().where(leases.EVENTS.c.lease_id.is_(None))
        ).all()
    assert orphans == []


def test_a_crash_between_our_date_and_blazars_gives_the_later_one(
    world: World, server_id: str
) -> None:
    """The manager died after it had asked us, before it wrote the lease."""
    before = world.lease(server_id)
    world.live(before.end_date - timedelta(days=5))
    new_end = world.clock.now() + timedelta(days=25)
    plugin = world.harness.plugin
    from blazar import context

    caller = context.BlazarContext(user_id=world.alice, project_id=world.alpha, roles=["member"])
    with caller:
        plugin.update_reservation(
            before.reservations[0].id, {"start_date": before.start_date, "end_date": new_end}
        )
    world.wreck(leases.LEASES, leases.LEASES.c.id == before.lease_id, status="UPDATING")
    world.watch(minutes=4)
    assert world.lease(server_id).end_date == world.row(server_id).ends_at == new_end
    assert world.lease(server_id).status == "ACTIVE"
