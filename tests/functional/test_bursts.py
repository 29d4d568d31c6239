# SPDX-License-Identifier: Apache-2.0
"""Many VMs whose lease ends at once: taken, or moved, a page at a time."""

from __future__ import annotations

import collections
import datetime
from datetime import timedelta

import pytest
import sqlalchemy as sa

from blazar_vmexpire import leases
from blazar_vmexpire.db.models import expirations, notices
from blazar_vmexpire.lifecycle import State
from blazar_vmexpire.worker.bursts import Bursts, Result
from tests.crowds import end_together
from tests.functional.world import World

pytestmark = pytest.mark.every_database

MANY = 210

LIFTED = pytest.mark.options({"vmexpire_brake": {"enabled": False}})
PACED = pytest.mark.options(
    {"vmexpire_brake": {"deletions_per_hour": 100, "deletions_share": 0.0, "trip_hours": 1000.0}}
)


def crowd(world: World, *, ends_in: timedelta, number: int = MANY) -> list[str]:
    """Take many VMs in that end together, their owner having been told five days ago."""
    server_ids = sorted(world.boot(f"vm{n}") for n in range(number))
    world.harness.work()
    now = world.clock.now()
    assert end_together(world.harness.database, now + ends_in, now - timedelta(days=5)) == number
    return server_ids


def only(world: World, server_ids: list[str]) -> None:
    """Let the others rest, of which there is nothing new to be seen."""
    world.wreck(expirations, expirations.c.server_id.not_in(server_ids), next_at=None)


def run(world: World) -> Result:
    return Bursts(world.harness.plugin.tools).run()


def states(world: World) -> dict[str, int]:
    return dict(collections.Counter(row.state for row in world.rows()))


def blazar_says(world: World) -> list[tuple[str, datetime.datetime, str, str]]:
    """Return status and end of all leases, with status of their reservation and end event."""
    lease, reservation, event = leases.LEASES.c, leases.RESERVATIONS.c, leases.EVENTS.c
    with world.harness.database.begin() as connection:
        found = connection.execute(
            sa.select(lease.status, event.time, reservation.status, event.status, lease.end_date)
            .join(leases.RESERVATIONS, reservation.lease_id == lease.id)
            .join(leases.EVENTS, (event.lease_id == lease.id) & (event.event_type == "end_lease"))
        ).all()
    assert all(row[1] == row[4] for row in found)
    return [(row[0], row[1], row[2], row[3]) for row in found]


@LIFTED
def test_all_that_is_due_is_taken(world: World) -> None:
    crowd(world, ends_in=timedelta(0))
    ended = world.clock.now()
    assert run(world) == Result(taken=MANY)
    assert states(world) == {"ending": MANY}
    assert set(blazar_says(world)) == {("TERMINATED", ended, "deleted", "DONE")}
    assert len(world.cloud.compute.vms) == MANY
    for row in world.rows():
        assert row.progress["end"] == {"action": "delete"}
        assert row.next_at == ended
        assert world.history(row.server_id)[-1] == ("end_begun", {"action": "delete"})
    world.harness.tick()
    assert set(blazar_says(world)) == {("TERMINATED", ended, "deleted", "DONE")}


@LIFTED
@pytest.mark.databases("sqlite")
def test_each_vm_is_then_ended_by_a_step_of_its_own(world: World) -> None:
    server_ids = crowd(world, ends_in=timedelta(0))
    run(world)
    only(world, server_ids[:5])
    world.settle()
    assert set(world.cloud.compute.vms) == set(server_ids[5:])
    assert states(world) == {"deleted": 5, "ending": MANY - 5}
    told = [mail["X-OpenStack-Server"] for mail in world.mails if "deleted" in mail["Subject"]]
    assert sorted(told) == server_ids[:5]


@LIFTED
def test_a_few_are_left_to_steps_of_their_own(world: World) -> None:
    crowd(world, ends_in=timedelta(0), number=10)
    assert run(world) == Result()
    assert states(world) == {"noticed": 10}


@PACED
def test_what_is_beyond_the_pace_is_moved_before_it_is_due(world: World) -> None:
    crowd(world, ends_in=timedelta(minutes=4))
    now = world.clock.now()
    assert run(world) == Result(moved=110)
    assert states(world) == {"noticed": MANY}
    ends = collections.Counter(blazar_says(world))
    due, first, second = (now + timedelta(minutes=m) for m in (4, 60, 120))
    assert ends == {
        ("ACTIVE", due, "active", "UNDONE"): 100,
        ("ACTIVE", first, "active", "UNDONE"): 100,
        ("ACTIVE", second, "active", "UNDONE"): 10,
    }
    for row in world.rows():
        moved = row.ends_at != due
        assert row.waiting_since == (due if moved else None)
        assert row.next_at == row.ends_at
        if moved:
            name, details = world.history(row.server_id)[-1]
            assert name == "moved"
            assert details["reason"].startswith("more servers end than may be deleted in an hour")
            assert details["new_end"] == row.ends_at.isoformat() if row.ends_at else None
    # Once more: nothing is left to move.
    assert run(world) == Result()


@pytest.mark.long
@PACED
@pytest.mark.databases("sqlite")
def test_all_of_them_end_an_hours_worth_at_a_time(world: World) -> None:
    crowd(world, ends_in=timedelta(minutes=4))
    begun = world.clock.now()
    left = []
    for hours in (0, 1, 2):
        world.live(begun + timedelta(hours=hours, minutes=8))
        left.append(len(world.cloud.compute.vms))
    assert left == [110, 10, 0]
    assert states(world) == {"deleted": MANY}
    # Who waited was told no second time of the same.
    assert sum("will be deleted" in mail["Subject"] for mail in world.mails) == 0


@pytest.mark.options({"vmexpire_brake": {"deletions_per_hour": 10, "deletions_share": 0.0}})
def test_a_tripped_brake_lets_none_go(world: World) -> None:
    crowd(world, ends_in=timedelta(0))
    now = world.clock.now()
    tools = world.harness.plugin.tools
    with tools.database.begin() as connection:
        assert tools.brake.watch(connection, now) is not None
    assert run(world) == Result(moved=MANY)
    assert states(world) == {"noticed": MANY}
    assert {status for status, *_ in blazar_says(world)} == {"ACTIVE"}
    assert min(end for _, end, *_ in blazar_says(world)) > now


@LIFTED
def test_what_is_out_of_the_ordinary_is_left_to_a_step_of_its_own(world: World) -> None:
    server_ids = crowd(world, ends_in=timedelta(0))
    now = world.clock.now()
    x, lease = expirations.c, leases.LEASES.c
    asked, claimed, damaged, busy, told_late, untold, failing, moved = server_ids[:8]
    ids = {server_id: world.row(server_id).lease_id for server_id in server_ids[:8]}
    world.wreck(expirations, x.server_id == asked, questions=5)
    world.wreck(
        expirations,
        x.server_id == claimed,
        claimed_by="another",
        claimed_until=now + timedelta(minutes=1),
    )
    world.wreck(leases.LEASES, lease.id == ids[damaged], status="ERROR")
    world.wreck(leases.LEASES, lease.id == ids[busy], status="UPDATING")
    world.wreck(notices, notices.c.server_id == told_late, accepted_at=now - timedelta(hours=47))
    world.wreck(notices, notices.c.server_id == untold, generation=7)
    world.wreck(expirations, x.server_id == failing, attempts=1)
    world.wreck(leases.LEASES, lease.id == ids[moved], end_date=now + timedelta(days=9))
    before = {server_id: world.row(server_id) for server_id in server_ids[:8]}
    assert run(world) == Result(taken=MANY - 8)
    assert {server_id: world.row(server_id) for server_id in server_ids[:8]} == before
    assert world.lease(busy).status == "UPDATING"


@LIFTED
@pytest.mark.options({"virtual:vm": {"quarantine": "1d"}})
def test_no_quarantine_is_passed_over_and_what_it_did_can_be_undone(world: World) -> None:
    server_ids = crowd(world, ends_in=timedelta(0))
    quarantined = server_ids[30:]
    world.wreck(
        expirations,
        expirations.c.server_id.in_(quarantined),
        state=State.QUARANTINED,
        progress='{"quarantine": {"done": true}, "undo": {"start": true, "unlock": true}}',
    )
    assert run(world) == Result(taken=len(quarantined))
    assert states(world) == {"ending": len(quarantined), "noticed": 30}
    row = world.row(quarantined[0])
    assert row.progress["undo"] == {"start": True, "unlock": True}


@LIFTED
@pytest.mark.databases("sqlite")
def test_a_vm_that_is_busy_is_put_off_with_its_lease_open_again(world: World) -> None:
    server_ids = crowd(world, ends_in=timedelta(0))
    ended = world.clock.now()
    busy = server_ids[0]
    world.cloud.compute.vms[busy].task_state = "migrating"
    lease_id = world.row(busy).lease_id
    assert run(world).taken == MANY
    assert world.lease(busy).status == "TERMINATED"
    only(world, [busy])
    world.settle()
    assert len(world.cloud.compute.vms) == MANY
    row = world.row(busy)
    assert (row.state, row.lease_id) == ("noticed", lease_id)
    assert row.ends_at == ended + timedelta(hours=1)
    lease = world.lease(busy)
    assert (lease.status, lease.end_date) == ("ACTIVE", row.ends_at)
    (moved,) = (details for event, details in world.history(busy) if event == "moved")
    assert "migrating" in moved["reason"]
    world.cloud.compute.vms[busy].task_state = None
    world.live(ended + timedelta(hours=1, minutes=2))
    assert world.state(busy) == "deleted"


@LIFTED
def test_an_extension_that_comes_between_gives_the_vm_back(world: World) -> None:
    server_ids = crowd(world, ends_in=timedelta(0))
    lease_id = world.row(server_ids[0]).lease_id
    assert run(world).taken == MANY
    new_end = world.clock.now() + timedelta(days=20)
    # Blazar takes it in the minute of the end.
    assert world.update(server_ids[0], end_date=new_end).status_code == 200
    only(world, server_ids[:1])
    world.clock.advance(seconds=5)
    world.harness.work()
    row = world.row(server_ids[0])
    assert (row.state, row.ends_at, row.lease_id) == ("active", new_end, lease_id)
    assert world.lease(server_ids[0]).status == "ACTIVE"
    assert server_ids[0] in world.cloud.compute.vms


@PACED
def test_a_mail_that_is_tried_again_stays_due(world: World) -> None:
    server_ids = crowd(world, ends_in=timedelta(minutes=4))
    soon = world.clock.now() + timedelta(minutes=1)
    waits = server_ids[-1]
    world.wreck(expirations, expirations.c.server_id == waits, next_at=soon)
    assert run(world).moved == 110
    row = world.row(waits)
    assert row.waiting_since is not None
    assert row.next_at == soon
