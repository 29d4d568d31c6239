# SPDX-License-Identifier: Apache-2.0
"""The end of VMs that Nova does little with, and the quarantine of those that others have locked.

What comes of each status is in ``test_states.py``; here is what goes wrong, and who comes between.
"""

from __future__ import annotations

import datetime
from datetime import timedelta

import pytest

from blazar_vmexpire import RESOURCE_TYPE
from tests.functional.world import World

pytestmark = [
    pytest.mark.databases("sqlite"),
    pytest.mark.options({RESOURCE_TYPE: {"on_end_action": "snapshot"}}),
]


def ends_at(world: World, server_id: str) -> datetime.datetime:
    """Say when a VM's lease ends."""
    end = world.row(server_id).ends_at
    assert end is not None
    return end


def until(world: World, server_id: str, event: str) -> None:
    """Work step by step until something stands in a VM's history."""
    world.clock.set(max(world.clock.now(), ends_at(world, server_id)))
    for _ in range(60):
        if event in world.events(server_id):
            return
        world.harness.plugin.service.worker.work_off(1)
        world.clock.advance(seconds=3)
    raise AssertionError(f"no {event} in {world.events(server_id)}")


def extend(world: World, server_id: str) -> None:
    """Have the owner extend, as can be done past the end."""
    assert world.extend(server_id).status_code == 200
    world.live(world.clock.now() + timedelta(minutes=5))


@pytest.mark.parametrize("vm_state", ["rescued", "resized"])
def test_an_extension_meanwhile_gives_a_vm_back_running(world: World, vm_state: str) -> None:
    server_id = world.adopt()
    world.live(ends_at(world, server_id) - timedelta(minutes=5))
    if vm_state == "resized":
        world.cloud.compute.resize(server_id, world.alpha)
    else:
        world.cloud.compute.vms[server_id].vm_state = vm_state
    until(world, server_id, "unrescue_asked" if vm_state == "rescued" else "resize_confirmed")
    extend(world, server_id)
    vm = world.cloud.compute.vms[server_id]
    assert (world.state(server_id), vm.vm_state, vm.locked) == ("active", "active", False)


def test_a_resize_whose_old_host_is_down_is_waited_for(world: World) -> None:
    server_id = world.adopt()
    world.live(ends_at(world, server_id) - timedelta(minutes=5))
    world.cloud.compute.resize(server_id, world.alpha)
    world.cloud.compute.down_hosts = {"compute1"}
    world.live(ends_at(world, server_id) + timedelta(minutes=5))
    assert world.state(server_id) == "ending"
    assert "Service is unavailable" in str(world.row(server_id).last_error)
    world.cloud.compute.down_hosts = set()
    world.live(world.clock.now() + timedelta(minutes=10))
    assert world.state(server_id) == "deleted"
    (image,) = world.cloud.image.images.values()
    assert image["status"] == "active"


def test_a_resize_that_somebody_confirms_and_that_takes_long_is_shown(world: World) -> None:
    server_id = world.adopt()
    world.live(ends_at(world, server_id) - timedelta(minutes=5))
    world.cloud.compute.resize(server_id, world.alpha)["status"] = "confirming"
    world.live(ends_at(world, server_id) + timedelta(minutes=20))
    assert world.state(server_id) == "ending"
    assert "step confirm has been under way" in str(world.row(server_id).last_error)
    assert "resize_confirmed" not in world.events(server_id)


@pytest.mark.options({RESOURCE_TYPE: {"quarantine": "3d"}})
def test_a_vm_that_somebody_has_locked_is_left_out_of_quarantine_and_stays_locked(
    world: World,
) -> None:
    server_id = world.adopt(locked=True, locked_reason="my experiment")
    world.live(ends_at(world, server_id) - timedelta(days=2))
    vm = world.cloud.compute.vms[server_id]
    assert (world.state(server_id), vm.vm_state) == ("quarantined", "active")
    (left,) = [d for event, d in world.history(server_id) if event == "quarantine_left"]
    assert left["locked_reason"] == "my experiment"
    assert "quarantined" not in [notice.kind for notice in world.notices(server_id)]
    extend(world, server_id)
    assert (world.state(server_id), vm.vm_state, vm.locked) == ("active", "active", True)
