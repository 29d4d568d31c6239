# SPDX-License-Identifier: Apache-2.0
"""What Nova says of its VMs, on its bus and in its list, and what is seen of that here."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from blazar_vmexpire import lifecycle, service
from blazar_vmexpire.db.models import chores
from tests.functional.world import World

TERM = timedelta(days=60)
SPREAD = timedelta(days=14)
#: Between two reconciliations.
INTERVAL = timedelta(minutes=15)
#: Until a VM that Nova did not find is looked for once more.
MAKE_SURE = timedelta(seconds=6)

#: For what has nothing to do with the database.
ANY_DATABASE = pytest.mark.databases("sqlite")

SMALL_PAGES = pytest.mark.options({"vmexpire_intake": {"page_size": 3}})


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Wait for what other threads are about to do."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.005)


# Notifications


def unversioned(server_id: Any, **more: Any) -> dict[str, Any]:
    """Make a payload as Nova's unversioned notifications have it."""
    return {"instance_id": server_id, "state": "active", "display_name": "web1", **more}


def versioned(server_id: Any, **more: Any) -> dict[str, Any]:
    """Make a payload as Nova's versioned notifications have it."""
    return {
        "nova_object.name": "InstanceActionPayload",
        "nova_object.namespace": "nova",
        "nova_object.version": "1.8",
        "nova_object.data": {"uuid": server_id, "state": "active", **more},
    }


class Bus:
    """Nova's side of the bus, in either format."""

    def __init__(self, world: World, format_: str) -> None:
        self.world = world
        self.format = format_

    def say(self, event: str, server_id: Any, **more: Any) -> None:
        """Say what happened to a server, such as ``create.end``."""
        if self.format == "versioned":
            payload = versioned(server_id, **more)
            self.world.harness.notify(f"instance.{event}", payload, "versioned_notifications")
        else:
            payload = unversioned(server_id, **more)
            self.world.harness.notify(f"compute.instance.{event}", payload)


@pytest.fixture
def at_work(world: World) -> World:
    """A world whose Blazar listens and works, in threads of its own; nobody asks for the list."""
    world.harness.conf.set_override("reconciliation", False, group="vmexpire_intake")
    world.harness.restart()
    world.harness.poll()
    return world


@pytest.fixture(params=["unversioned", "versioned"])
def bus(request: pytest.FixtureRequest, at_work: World) -> Bus:
    """Nova's side of the bus, once in each format."""
    return Bus(at_work, request.param)


@pytest.fixture
def one_bus(at_work: World) -> Bus:
    """Nova's side of the bus, in one format."""
    return Bus(at_work, "unversioned")


def wait_for_state(world: World, server_id: str, state: str | None) -> None:
    """Wait until a VM's expiration is in this state, and nobody has it in hand."""

    def there() -> bool:
        row = world.row_or_none(server_id)
        if row is None or state is None:
            return row is None and state is None
        return row.state == state and row.claimed_by is None

    wait_until(there, f"server {server_id} becomes {state}")


def move_on(world: World, duration: timedelta) -> None:
    """Let time pass for the threads at work."""
    world.clock.set(world.clock.now() + duration)
    world.harness.plugin.service.worker.wake()


def asked(world: World, server_id: str) -> int:
    """Say how often Nova was asked for this very server."""
    return len(world.cloud.requests(f"/servers/{server_id}$", "GET"))


def questions(world: World, server_id: str) -> int:
    """Say how often it was asked what has become of a VM; -1 where it has no row."""
    row = world.row_or_none(server_id)
    return -1 if row is None else row.questions


# Reconciliation


@pytest.fixture
def reconcile(world: World) -> Callable[[], None]:
    """Return a function that lets the time of the next reconciliation come, and all it leads to."""

    def run() -> None:
        world.clock.set(world.clock.now() + INTERVAL)
        world.harness.work()
        # VMs that Nova did not find are looked for once more.
        world.clock.set(world.clock.now() + MAKE_SURE)
        world.harness.work()

    return run


Reconcile = Callable[[], None]


def chore(world: World) -> Any:
    """Return the row of the chore of reconciling; None before it was ever begun."""
    with world.harness.database.begin() as connection:
        return connection.execute(
            sa.select(chores).where(chores.c.name == service.RECONCILIATION)
        ).one_or_none()


def pages(world: World) -> int:
    """Say how many pages were asked of Nova so far."""
    return len(world.cloud.requests("/servers/detail"))


def end_of(
    server_id: str, begun: datetime.datetime, spread: timedelta = timedelta(0)
) -> datetime.datetime:
    """Say when the first lease of a VM that was taken in then has to end."""
    return lifecycle.ceil_minute(begun + TERM + spread * lifecycle.share(server_id))


def check_lease(world: World, server_id: str, end: datetime.datetime) -> None:
    """Check that a VM has its row, its lease and its history, all of one end."""
    row, lease = world.row(server_id), world.lease(server_id)
    assert (row.state, row.ends_at) == ("active", end)
    assert (lease.status, lease.end_date) == ("ACTIVE", end)
    assert row.adopted_at is not None
    assert lease.start_date == lifecycle.floor_minute(row.adopted_at)
    assert [r.resource_id for r in lease.reservations] == [server_id]
    vm = world.cloud.compute.vms[server_id]
    assert (lease.project_id, lease.user_id) == (vm.project_id, vm.user_id)
    ((event, details),) = world.history(server_id)
    assert event == "adopted"
    assert details == {"ends_at": end.isoformat(), "lease_id": row.lease_id}
