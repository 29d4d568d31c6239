# SPDX-License-Identifier: Apache-2.0
"""``before_end_action = migration`` on a cloud with two hosts: the VM is on the other one."""

from __future__ import annotations

import pytest

from tests.integration.cloudlib import MINUTE, Cloud

#: Until make test has room for it: its scenarios are run by make test-full.
pytestmark = pytest.mark.long


@pytest.mark.parametrize("runs", [True, False], ids=["live", "cold"])
def test_a_vm_moves_to_the_other_host_before_its_end(calm: Cloud, runs: bool) -> None:
    """As its terms say, by a rule; what it takes up is on the new host alone."""
    vm = calm.boot("moves live" if runs else "moves cold")
    status = "ACTIVE" if runs else "SHUTOFF"
    if not runs:
        vm.act("os-stop")
        vm.wait_for_status(status)
    before = host_of(vm.server())
    (held_before,) = vm.allocations()

    done = vm.wait_for_event("before_end", 60, after=vm.ends_at - 1.5 * MINUTE)
    assert done == {
        "action": "migration",
        "kind": "live-migration" if runs else "migration",
        "from_host": before,
        "to_host": host_of(vm.server()),
    }
    assert done["to_host"] != before
    vm.wait_for_status(status)
    (held_after,) = vm.allocations()
    assert held_after != held_before
    expected = ["live-migration"] if runs else ["stop", "migrate", "confirmResize"]
    assert vm.done_in_nova() == ["create", *expected]
    assert vm.row().state == "noticed"

    vm.wait_for_end()
    assert vm.allocations() == {}


def host_of(server: dict[str, object] | None) -> object:
    """Say which host a server is on."""
    assert server is not None
    return server["OS-EXT-SRV-ATTR:host"]
