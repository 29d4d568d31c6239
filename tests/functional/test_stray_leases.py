# SPDX-License-Identifier: Apache-2.0
"""A VM has one lease: what else there is of ours in Blazar's tables goes, and nothing else."""

from __future__ import annotations

import datetime
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from blazar_vmexpire import leases
from blazar_vmexpire.leases import EVENTS, LEASES, RESERVATIONS
from tests.functional.manage import Manage
from tests.functional.world import World

pytestmark = pytest.mark.one_server

#: Whatever its manager was doing, it is dead.
LONG_AGO = datetime.datetime(2026, 1, 1)


@pytest.fixture
def server_id(world: World) -> str:
    """A VM of Alice's in the middle of its first term."""
    server_id = world.adopt()
    world.live(world.clock.now() + timedelta(days=10))
    return server_id


def add_lease(world: World, server_id: str, **columns: Any) -> str:
    """Write another lease for a VM, as a copy would be, and return its id."""
    now = world.clock.now().replace(second=0, microsecond=0)
    lease_id = leases.new_lease_id()
    wanted = leases.Wanted(
        lease_id=lease_id,
        server_id=server_id,
        server_name="copy",
        project_id=world.alpha,
        user_id=world.alice,
        start_date=now,
        end_date=now + timedelta(days=20),
        before_end_at=now + timedelta(days=10),
    )
    with world.harness.database.begin() as connection:
        leases.create(connection, [wanted], world.clock.now())
    if columns:
        world.wreck(LEASES, LEASES.c.id == lease_id, **columns)
    return lease_id


def add_host(world: World, lease_id: str) -> None:
    """Let a lease reserve a host as well."""
    with world.harness.database.begin() as connection:
        connection.execute(
            RESERVATIONS.insert(),
            [
                {
                    "id": leases.new_lease_id(),
                    "lease_id": lease_id,
                    "resource_id": "1",
                    "resource_type": "physical:host",
                    "status": "active",
                }
            ],
        )


def audit(world: World) -> None:
    """Let the next thorough audit come."""
    world.clock.advance(minutes=15)
    world.settle()


def parts(world: World, lease_id: str) -> tuple[list[str], list[str]]:
    """Return the types of a lease's reservations, and of its events."""
    with world.harness.database.begin() as connection:
        return (
            sorted(
                connection.scalars(
                    sa.select(RESERVATIONS.c.resource_type).where(
                        RESERVATIONS.c.lease_id == lease_id
                    )
                )
            ),
            sorted(
                connection.scalars(
                    sa.select(EVENTS.c.event_type).where(EVENTS.c.lease_id == lease_id)
                )
            ),
        )


def rows(world: World, table: sa.Table) -> int:
    """Count a table's rows."""
    with world.harness.database.begin() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0


def removed(world: World, server_id: str) -> list[tuple[str, str]]:
    """Return what the history has of leases that were removed: their ids, and why."""
    return [
        (details["lease_id"], details["reason"])
        for event, details in world.history(server_id)
        if event == "lease_removed"
    ]


EVENT_TYPES = ["before_end_lease", "end_lease", "start_lease"]

STATUSES: list[dict[str, Any]] = [
    {},
    {"status": "PENDING"},
    {"status": "TERMINATED"},
    {"status": "ERROR"},
    {"status": None},
    {"status": "CREATING", "updated_at": None, "created_at": LONG_AGO},
    {"status": "UPDATING", "updated_at": LONG_AGO},
    {"status": "DELETING", "updated_at": datetime.datetime(2099, 1, 1)},
]


def test_of_two_leases_the_one_that_the_vm_has_stays(world: World) -> None:
    server_ids = [world.adopt(f"vm{n}") for n in range(len(STATUSES))]
    before = {server_id: world.lease(server_id) for server_id in server_ids}
    doubles = [
        add_lease(world, server_id, **columns)
        for server_id, columns in zip(server_ids, STATUSES, strict=True)
    ]
    audit(world)
    assert sorted(world.all_leases()) == sorted(lease.lease_id for lease in before.values())
    assert rows(world, RESERVATIONS) == len(server_ids)
    assert rows(world, EVENTS) == 3 * len(server_ids)
    for server_id, double in zip(server_ids, doubles, strict=True):
        own = before[server_id]
        assert world.lease(server_id) == own
        assert removed(world, server_id) == [(double, f"the server has lease {own.lease_id}")]
    assert world.mails == []


def test_a_double_that_a_manager_may_be_at_work_on_is_left_alone(
    world: World, server_id: str
) -> None:
    world.clock.advance(minutes=14, seconds=55)
    double = add_lease(world, server_id, status="UPDATING", updated_at=world.clock.now())
    world.clock.advance(seconds=30)
    world.settle()
    assert double in world.all_leases()
    audit(world)
    assert world.all_leases() == [world.row(server_id).lease_id]


def test_what_an_owner_does_with_a_double_counts_for_the_vm(world: World, server_id: str) -> None:
    """Blazar takes the update of any lease; the cap and our clock are the VM's."""
    own = world.lease(server_id)
    double = add_lease(world, server_id)
    new_end = world.clock.now().replace(second=0) + timedelta(days=29)
    too_far = new_end + timedelta(days=40)
    path = f"/v1/leases/{double}"
    assert world.as_alice.put(path, json={"end_date": f"{too_far:%Y-%m-%d %H:%M}"}).status_code == (
        400
    )
    world.wreck(LEASES, LEASES.c.id == double, start_date=own.start_date)
    answer = world.as_alice.put(path, json={"end_date": f"{new_end:%Y-%m-%d %H:%M}"})
    world.settle()
    audit(world)
    after = world.lease(server_id)
    assert (after.lease_id, world.all_leases()) == (own.lease_id, [own.lease_id])
    assert after.end_date == (new_end if answer.status_code == 200 else own.end_date)


@pytest.mark.parametrize("resource_id", ["ef21b2a7-33c4-4c0c-8f7e-1d8ad3d4c5b6", None])
def test_a_lease_of_a_vm_that_nobody_knows_goes(
    world: World, server_id: str, resource_id: str | None
) -> None:
    """A manager that died while it refused a lease leaves one without a VM."""
    orphan = add_lease(world, "unknown", status="CREATING", created_at=LONG_AGO, updated_at=None)
    world.wreck(RESERVATIONS, RESERVATIONS.c.lease_id == orphan, resource_id=resource_id)
    audit(world)
    assert world.all_leases() == [world.row(server_id).lease_id]
    if resource_id is not None:
        assert removed(world, resource_id) == [(orphan, "no such server is known")]


@pytest.mark.parametrize("whose", ["unknown", "known"])
def test_from_a_lease_of_another_type_only_our_reservation_goes(
    world: World, server_id: str, whose: str
) -> None:
    other = add_lease(world, server_id if whose == "known" else "unknown")
    add_host(world, other)
    before = world.lease(server_id)
    audit(world)
    assert world.lease(server_id) == before
    assert parts(world, other) == (["physical:host"], EVENT_TYPES)
    with world.harness.database.begin() as connection:
        status = connection.scalar(sa.select(LEASES.c.status).where(LEASES.c.id == other))
    assert status == "ACTIVE"


def test_a_lease_that_became_another_types_is_left_to_it(world: World, server_id: str) -> None:
    before = world.lease(server_id)
    add_host(world, before.lease_id)
    audit(world)
    audit(world)
    after = world.lease(server_id)
    assert after.lease_id != before.lease_id
    assert (after.status, after.end_date) == ("ACTIVE", before.end_date)
    assert parts(world, before.lease_id) == (["physical:host"], EVENT_TYPES)
    assert parts(world, after.lease_id) == (["virtual:vm"], EVENT_TYPES)


def test_at_its_end_a_vm_takes_no_lease_of_another_type_with_it(
    world: World, server_id: str
) -> None:
    """Nothing has audited since."""
    before = world.lease(server_id)
    world.live(before.end_date - timedelta(seconds=20))
    add_host(world, before.lease_id)
    world.wreck(EVENTS, EVENTS.c.lease_id == before.lease_id, status="DONE")
    world.live(before.end_date + timedelta(minutes=1))
    assert server_id not in world.cloud.compute.vms
    audit(world)
    assert parts(world, before.lease_id) == (["physical:host"], EVENT_TYPES)
    with world.harness.database.begin() as connection:
        status = connection.scalar(sa.select(LEASES.c.status).where(LEASES.c.id == before.lease_id))
    assert status == "ACTIVE"


@pytest.mark.options({"virtual:vm": {"excluded_projects": ""}})
def test_an_exempt_vm_has_no_lease(world: World, server_id: str) -> None:
    world.harness.conf.set_override("excluded_projects", [world.alpha], group="virtual:vm")
    world.see(server_id)
    assert world.state(server_id) == "exempt"
    assert world.all_leases() == []
    lease_id = add_lease(world, server_id)
    audit(world)
    assert world.all_leases() == []
    assert removed(world, server_id) == [(lease_id, "the server is to have no lease")]


#: What a manager may write to a lease that was closed while it held its end event.
AFTERWARDS: list[tuple[str | None, str | None, str]] = [
    ("TERMINATING", "IN_PROGRESS", "deleted"),
    ("ERROR", "ERROR", "error"),
    ("TERMINATED", "UNDONE", "deleted"),
    ("TERMINATED", "IN_PROGRESS", "deleted"),
    ("TERMINATED", "ERROR", "deleted"),
    ("TERMINATED", None, "deleted"),
    ("ACTIVE", "UNDONE", "active"),
    (None, "DONE", "active"),
]


def wreck_over(
    world: World, lease_id: str, status: str | None, event: str | None, reservation: str
) -> None:
    """Write to a lease that is over what a manager might."""
    world.wreck(LEASES, LEASES.c.id == lease_id, status=status, updated_at=LONG_AGO)
    world.wreck(
        EVENTS, (EVENTS.c.lease_id == lease_id) & (EVENTS.c.event_type == "end_lease"), status=event
    )
    world.wreck(RESERVATIONS, RESERVATIONS.c.lease_id == lease_id, status=reservation)


def assert_closed(world: World, server_id: str) -> None:
    """The lease of a VM is over, with all its parts."""
    lease = world.lease(server_id)
    assert lease.status == "TERMINATED"
    assert [r.status for r in lease.reservations] == ["deleted"]
    assert [e.status for e in lease.events] == ["DONE"] * 3


def test_leases_of_vms_that_are_gone_come_to_rest_and_are_kept_until_the_purge(
    world: World, manage: Manage, database_url: str
) -> None:
    server_ids = [world.adopt(f"vm{n}") for n in range(len(AFTERWARDS))]
    world.live(world.lease(server_ids[0]).end_date + timedelta(minutes=5))
    assert {row.state for row in world.rows()} == {"deleted"}
    for server_id, written in zip(server_ids, AFTERWARDS, strict=True):
        wreck_over(world, world.lease(server_id).lease_id, *written)
    audit(world)
    for server_id in server_ids:
        assert_closed(world, server_id)
    world.clock.advance(days=100)
    assert manage(database_url, "purge").returncode == 0
    assert world.all_leases() == []


def test_leases_of_vms_whose_end_is_under_way_come_to_rest(world: World) -> None:
    server_ids = [world.adopt(f"vm{n}") for n in range(len(AFTERWARDS))]
    ends_at = world.lease(server_ids[0]).end_date
    world.live(ends_at - timedelta(minutes=1))
    world.cloud.fault("/servers/", method="DELETE", status=409)
    world.clock.set(ends_at)
    world.harness.work()
    for server_id, written in zip(server_ids, AFTERWARDS, strict=True):
        wreck_over(world, world.lease(server_id).lease_id, *written)
    world.clock.advance(minutes=15)
    world.harness.work()
    assert {row.state for row in world.rows()} == {"ending"}
    for server_id in server_ids:
        assert_closed(world, server_id)


def test_a_closed_lease_that_a_manager_may_be_at_work_on_is_left_alone(
    world: World, server_id: str
) -> None:
    lease_id = world.lease(server_id).lease_id
    world.live(world.lease(server_id).end_date + timedelta(minutes=5))
    world.settle()
    audit(world)
    world.clock.advance(minutes=14, seconds=55)
    world.wreck(LEASES, LEASES.c.id == lease_id, status="TERMINATING", updated_at=world.clock.now())
    world.clock.advance(seconds=10)
    world.settle()
    assert world.lease(server_id).status == "TERMINATING"
    audit(world)
    assert world.lease(server_id).status == "TERMINATED"


def test_before_end_events_that_a_manager_left_behind_come_to_rest(
    world: World, server_id: str
) -> None:
    before = world.lease(server_id)
    event = (EVENTS.c.lease_id == before.lease_id) & (EVENTS.c.event_type == "before_end_lease")
    for status in ("IN_PROGRESS", "ERROR", None):
        for offset, expected in ((timedelta(days=2), "UNDONE"), (-timedelta(minutes=3), "DONE")):
            world.wreck(EVENTS, event, status=status, time=world.clock.now() + offset)
            audit(world)
            found = {e.event_type: e.status for e in world.lease(server_id).events}
            assert found["before_end_lease"] == expected
    assert world.all_leases() == [before.lease_id]


def test_events_that_a_dead_manager_left_behind_are_mended_within_a_minute(
    world: World, server_id: str
) -> None:
    """With them a lease can be neither extended nor deleted."""
    before = world.lease(server_id)
    for event_type in ("start_lease", "end_lease"):
        event = (EVENTS.c.lease_id == before.lease_id) & (EVENTS.c.event_type == event_type)
        for status in ("IN_PROGRESS", "ERROR"):
            world.wreck(EVENTS, event, status=status)
            world.watch(minutes=1)
            after = world.lease(server_id)
            assert sorted(map(str, after.events)) == sorted(map(str, before.events))
    assert world.mails == []  # it was not the owner who did that


def test_columns_that_became_null_are_written_again(world: World, server_id: str) -> None:
    before = world.lease(server_id)
    for table, names in (
        (LEASES, ("status", "project_id", "user_id")),
        (RESERVATIONS, ("resource_type", "resource_id", "status")),
        (EVENTS, ("event_type", "time", "status")),
    ):
        whose = LEASES.c.id if table is LEASES else table.c.lease_id
        for name in names:
            assert world.wreck(table, whose == before.lease_id, **{name: None})
            audit(world)
            after = world.lease(server_id)
            assert (after.lease_id, after.status) == (before.lease_id, "ACTIVE"), name
            assert (after.project_id, after.user_id) == (before.project_id, before.user_id)
            assert after.reservations == before.reservations, name
            assert sorted(map(str, after.events)) == sorted(map(str, before.events)), name


def test_a_start_date_that_would_forbid_every_extension_is_mended(
    world: World, server_id: str
) -> None:
    before = world.lease(server_id)
    earlier = before.start_date - timedelta(days=1)
    world.wreck(LEASES, LEASES.c.id == before.lease_id, start_date=earlier)
    audit(world)
    assert world.lease(server_id).start_date == before.start_date
    new_end = world.clock.now() + timedelta(days=29)
    assert world.update(server_id, end_date=new_end).status_code == 200


def test_events_of_ours_that_have_no_lease_any_more_go_and_no_others(
    world: World, server_id: str
) -> None:
    """The engine stops at the first of them that comes due, whosever events come after it."""
    gone = leases.new_lease_id()
    with world.harness.database.begin() as connection:
        connection.execute(
            EVENTS.insert(),
            [
                {
                    "id": event_id,
                    "event_type": "end_lease",
                    "time": world.clock.now() + timedelta(days=3),
                    "status": "UNDONE",
                }
                for event_id in (leases.event_id(gone, "end_lease"), gone)
            ],
        )
    audit(world)
    with world.harness.database.begin() as connection:
        left = connection.scalars(sa.select(EVENTS.c.id).where(EVENTS.c.lease_id.is_(None))).all()
    assert left == [gone]
