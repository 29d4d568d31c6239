# SPDX-License-Identifier: Apache-2.0
"""An extension that meets a step already begun undoes what was begun, whenever it comes."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.functional.world import World

pytestmark = [
    pytest.mark.databases("sqlite"),
    pytest.mark.options({"virtual:vm": {"quarantine": "7d"}}),
]


def extend(world: World, server_id: str) -> None:
    """Have the owner move the end."""
    end = world.clock.now().replace(second=0, microsecond=0) + timedelta(days=20)
    assert world.update(server_id, end_date=end).status_code == 200


def assert_given_back(world: World, server_id: str) -> None:
    """Check that the VM is its owner's again, after Nova has done all that it was asked for."""
    world.live(world.clock.now() + timedelta(minutes=1))
    world.cloud.compute.settle(server_id)
    world.live(world.clock.now() + timedelta(minutes=10))
    vm = world.cloud.compute.vms[server_id]
    assert (world.state(server_id), vm.vm_state, vm.locked) == ("active", "active", False)
    assert world.lease(server_id).end_date == world.row(server_id).ends_at


@pytest.mark.sampled(2)
@pytest.mark.parametrize("steps", range(1, 7))
def test_after_any_step_of_a_quarantine(world: World, steps: int) -> None:
    """Also while Nova is still at work on what it was asked for."""
    world.cloud.compute.reads = 3
    server_id = world.adopt()
    ends_at = world.row(server_id).ends_at
    assert ends_at is not None
    world.live(ends_at - timedelta(days=7, minutes=1))
    world.clock.set(ends_at - timedelta(days=7))
    for _ in range(steps):
        world.harness.plugin.service.worker.work_off(1)
    extend(world, server_id)
    assert_given_back(world, server_id)


def test_of_a_vm_that_an_administrator_has_put_into_another_state(world: World) -> None:
    """Nova starts only what is stopped; a VM that is paused, say, is not ours to start any more."""
    server_id = world.adopt()
    ends_at = world.row(server_id).ends_at
    assert ends_at is not None
    world.live(ends_at - timedelta(days=6))
    world.cloud.compute.vms[server_id].vm_state = "paused"
    extend(world, server_id)
    world.live(world.clock.now() + timedelta(minutes=10))
    assert world.state(server_id) == "active"
    assert not world.cloud.compute.vms[server_id].locked


def test_a_vm_that_is_busy_for_long_is_looked_at_less_and_less(world: World) -> None:
    server_id = world.adopt()
    ends_at = world.row(server_id).ends_at
    assert ends_at is not None
    world.live(ends_at - timedelta(days=6))
    world.cloud.compute.vms[server_id].task_state = "migrating"
    extend(world, server_id)
    before = len(world.cloud.requests(f"/servers/{server_id}$", "GET"))
    world.live(world.clock.now() + timedelta(hours=1))
    assert world.state(server_id) == "reviving"
    assert 60 <= len(world.cloud.requests(f"/servers/{server_id}$", "GET")) - before <= 150
    world.cloud.compute.vms[server_id].task_state = None
    assert_given_back(world, server_id)
