# SPDX-License-Identifier: Apache-2.0
"""Two blazar-managers on one database: their engines run the same events at the same moment.

Blazar guards nothing against this: events run twice, and a part of its leases ends in ERROR.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest
import sqlalchemy as sa
from blazar.manager.service import ManagerService

from blazar_vmexpire.leases import EVENTS
from tests.crowds import end_together
from tests.functional.world import World

pytestmark = [
    # SQLite lets one write at a time, and Blazar's engine does not wait for that.
    pytest.mark.databases("mariadb", "postgresql"),
    pytest.mark.one_server,
    pytest.mark.options({"vmexpire_brake": {"enabled": False}}),
]

MANY = 24
ROUNDS = 3


@pytest.fixture
def managers(world: World) -> Iterator[list[ManagerService]]:
    """Two of them, each with our plug-in."""
    second = ManagerService()
    assert len(second.plugins) == 1
    yield [world.harness.manager, second]
    for plugin in second.plugins.values():
        plugin.service.tools.database.engine.dispose()


def tick(managers: list[ManagerService]) -> None:
    """Let all engines run what is due, at once, as their timers do."""
    together = threading.Barrier(len(managers))

    def run(manager: ManagerService) -> None:
        together.wait(30)
        manager._process_events()

    threads = [threading.Thread(target=run, args=(manager,)) for manager in managers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def crowd(world: World) -> list[str]:
    """Take VMs in that end together in five minutes, their owner having been told in time."""
    server_ids = sorted(world.boot(f"vm{n}") for n in range(MANY))
    world.harness.work()
    now = world.clock.now()
    end_together(world.harness.database, now + timedelta(minutes=5), now - timedelta(days=5))
    return server_ids


def deletions(world: World) -> list[str]:
    """Return of which VMs Nova was asked to delete them, and did."""
    return sorted(
        request.path.rsplit("/", 1)[1]
        for request in world.cloud.requests(r"/servers/[^/]+$", "DELETE")
        if request.status == 204
    )


def test_every_vm_ends_once_and_none_early(world: World, managers: list[ManagerService]) -> None:
    server_ids = crowd(world)
    for _ in range(ROUNDS):
        tick(managers)
        world.harness.work()
    assert deletions(world) == []

    world.clock.advance(minutes=5)
    working = threading.Thread(target=world.harness.work)
    working.start()
    tick(managers)
    working.join()
    for _ in range(ROUNDS):
        world.clock.advance(seconds=10)
        tick(managers)
        world.settle()
    assert deletions(world) == server_ids
    # What the managers wrote afterwards comes to rest.
    world.clock.advance(minutes=15)
    tick(managers)
    world.settle()
    world.clock.advance(minutes=15)
    world.settle()
    assert {row.state for row in world.rows()} == {"deleted"}
    for server_id in server_ids:
        lease = world.lease(server_id)
        assert (lease.status, [r.status for r in lease.reservations]) == ("TERMINATED", ["deleted"])
        assert [e.status for e in lease.events] == ["DONE"] * 3


def test_where_the_managers_are_first_every_vm_ends_all_the_same(
    world: World, managers: list[ManagerService]
) -> None:
    """Our worker comes when they have had their turns, and left what they leave behind."""
    server_ids = crowd(world)
    world.clock.advance(minutes=5)
    for _ in range(ROUNDS):
        tick(managers)
        world.clock.advance(seconds=10)
    assert deletions(world) == []
    world.watch(minutes=4)
    assert deletions(world) == server_ids
    world.clock.advance(minutes=15)
    world.settle()
    for server_id in server_ids:
        lease = world.lease(server_id)
        assert (lease.status, [e.status for e in lease.events]) == ("TERMINATED", ["DONE"] * 3)


def test_live_leases_are_sound_again(world: World, managers: list[ManagerService]) -> None:
    """Ends that were put off while both engines held the old ones, and before-end events."""
    server_ids = crowd(world)
    new_end = world.clock.now() + timedelta(days=29)
    for server_id in server_ids:
        assert world.update(server_id, end_date=new_end).status_code == 200
    database = world.harness.database
    with database.begin() as connection:
        connection.execute(
            sa.update(EVENTS)
            .where(EVENTS.c.event_type != "start_lease")
            .values(time=world.clock.now(), status="UNDONE")
        )
    tick(managers)
    tick(managers)
    world.clock.advance(minutes=15)
    world.settle()
    world.clock.advance(minutes=15)
    world.settle()
    assert deletions(world) == []
    for server_id in server_ids:
        lease = world.lease(server_id)
        assert (lease.status, lease.end_date) == ("ACTIVE", new_end)
        events = {e.event_type: (e.time, e.status) for e in lease.events}
        assert events["end_lease"] == (new_end, "UNDONE")
        assert events["start_lease"][1] == "DONE"
        assert events["before_end_lease"][1] in ("UNDONE", "DONE")
