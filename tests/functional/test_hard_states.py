# SPDX-License-Identifier: Apache-2.0
"""The quarantine of VMs that others have locked."""

from __future__ import annotations

import datetime
from datetime import timedelta

import pytest

from blazar_vmexpire import RESOURCE_TYPE
from tests.functional.world import World

pytestmark = pytest.mark.databases("sqlite")


def ends_at(world: World, server_id: str) -> datetime.datetime:
    """Say when a VM's lease ends."""
    end = world.row(server_id).ends_at
    assert end is not None
    return end


def extend(world: World, server_id: str) -> None:
    """Have the owner extend, as can be done past the end."""
    assert world.extend(server_id).status_code == 200
    world.live(world.clock.now() + timedelta(minutes=5))


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
