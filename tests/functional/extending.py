# SPDX-License-Identifier: Apache-2.0
"""VMs in every state, extended by our own API; and how it is seen that one is its owner's again."""

from __future__ import annotations

import datetime
from datetime import timedelta
from typing import Any

from tests.blazar_harness import Api
from tests.functional.world import DATE, World


def path(server_id: str) -> str:
    """Say where a VM is extended."""
    return f"/v1/vm-expirations/{server_id}/extend"


def extend(world: World, server_id: str, api: Api | None = None, **more: Any) -> Any:
    """POST, as Alice unless said otherwise."""
    return (api or world.as_alice).post(path(server_id), **more)


def latest(world: World, days: float = 30) -> datetime.datetime:
    """Say how far an owner can extend at this moment."""
    return world.clock.now().replace(second=0, microsecond=0) + timedelta(days=days)


def end_of(world: World, server_id: str) -> datetime.datetime:
    """Return the end that our row has."""
    found = world.row(server_id).ends_at
    assert found is not None
    return found


def shown(moment: datetime.datetime) -> str:
    """Write a date as the API shows it."""
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def assert_given_back(world: World, server_id: str, new_end: datetime.datetime) -> None:
    """See that all is as if nothing had ever begun, up to the new end."""
    row, lease = world.row(server_id), world.lease(server_id)
    assert (row.state, row.ends_at, row.progress.get("undo")) == ("active", new_end, None)
    assert (lease.status, lease.end_date, lease.project_id) == ("ACTIVE", new_end, world.alpha)
    assert [r.status for r in lease.reservations] == ["active"]
    assert ("end_lease", new_end, "UNDONE") in [
        (e.event_type, e.time, e.status) for e in lease.events
    ]
    vm = world.cloud.compute.vms[server_id]
    assert (vm.vm_state, vm.locked) == ("active", False)
    assert not world.cloud.image.images
    assert len(world.all_leases()) == 1
    assert "lease_put_back" not in world.events(server_id)
    assert not [n for n in world.notices(server_id) if n.kind == "restored"]


def active(world: World) -> str:
    """A VM in the middle of its first term."""
    server_id = world.adopt()
    world.live(end_of(world, server_id) - timedelta(days=20))
    return server_id


def noticed(world: World) -> str:
    """A VM whose owner has been told."""
    server_id = world.adopt()
    world.live(end_of(world, server_id) - timedelta(days=9))
    return server_id


def quarantined(world: World) -> str:
    """A VM that is locked and stopped, before its end."""
    world.harness.conf.set_override("quarantine", timedelta(days=7), group="virtual:vm")
    server_id = world.adopt()
    world.live(end_of(world, server_id) - timedelta(days=6))
    return server_id


def ending(world: World) -> str:
    """A VM that is locked and stopped, its lease over, its image being made."""
    world.cloud.image.reads = None
    server_id = world.adopt()
    world.live(end_of(world, server_id) + timedelta(minutes=5))
    assert world.lease(server_id).status == "TERMINATED"
    assert len(world.cloud.image.images) == 1
    return server_id


def failed(world: World) -> str:
    """A VM whose end failed for good after it was locked and stopped."""
    server_id = ending(world)
    for _ in range(3):
        for image_id in list(world.cloud.image.images):
            world.cloud.image.fail(image_id)
        # The next image is made when what is wrong may be over.
        world.live(world.clock.now() + timedelta(minutes=20))
    return server_id


def vanished(world: World) -> str:
    """A VM that Nova says 404 about, this once."""
    server_id = noticed(world)
    message = f"Instance {server_id} could not be found."
    world.cloud.fault(f"/servers/{server_id}$", method="GET", times=1, status=404, message=message)
    world.see(server_id)
    return server_id


def reviving(world: World) -> str:
    """A VM that has been given a new end, and is not given back yet."""
    server_id = ending(world)
    assert extend(world, server_id, json={"end_date": latest(world, 9).strftime(DATE)})
    return server_id
