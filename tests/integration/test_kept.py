# SPDX-License-Identifier: Apache-2.0
"""VMs that are kept at their end: shelved, for owners to unshelve; or stopped, until extended."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.cloudlib import Cloud, Vm
from tests.integration.waiting import wait_for

#: Until make test has room for it: its scenarios are run by make test-full.
pytestmark = pytest.mark.long


def shelved_images(cloud: Cloud, vm: Vm) -> list[dict[str, Any]]:
    """List every image in the cloud that Nova made of a VM, whoever it belongs to."""
    path = f"/v2/images?instance_uuid={vm.id}&visibility=all"
    found: list[dict[str, Any]] = cloud.admin.get("image", path)["images"]
    return found


def wait_until_ended(vm: Vm) -> None:
    """Wait until a VM was kept at its end, and its owner was told."""
    vm.wait_for_event("kept", 60, after=vm.ends_at)
    vm.wait_for_mail("ended", 15)
    assert vm.row().state == "ended"
    assert vm.lease()["status"] == "TERMINATED"


def wait_until_active(vm: Vm) -> None:
    """Wait until a VM has a live lease again, under the id that it had."""
    lease_id = vm.row().lease_id
    wait_for(f"a lease of {vm}", lambda: vm.row().state == "active", 60, shown=vm.facts)
    assert vm.row().lease_id == lease_id
    assert vm.lease()["status"] == "ACTIVE"


def test_a_shelved_vm_is_its_owners_to_unshelve_and_leaves_no_image(calm: Cloud) -> None:
    vm = calm.boot("kept shelved")
    assert vm.allocations()
    wait_until_ended(vm)
    assert vm.done_in_nova() == ["create", "lock", "shelve", "unlock"]
    assert vm.status == "SHELVED_OFFLOADED"
    assert vm.allocations() == {}
    (image,) = shelved_images(calm, vm)
    assert (image["status"], image["owner"]) == ("active", calm.alice.project_id)
    assert image["size"] > 0
    assert f"openstack server unshelve {vm.id}" in vm.wait_for_mail("ended", 1).text

    generation = vm.row().generation
    vm.act("unshelve")
    vm.wait_for_status("ACTIVE", 60)
    wait_until_active(vm)
    assert vm.row().generation == generation + 1
    assert shelved_images(calm, vm) == []
    assert vm.allocations()
    vm.delete()


def test_an_extension_unshelves_a_vm_too(calm: Cloud) -> None:
    vm = calm.boot("kept shelved extended")
    wait_until_ended(vm)
    answer = vm.owner.request("reservation", "POST", f"/vm-expirations/{vm.id}/extend")
    assert answer.status == 200, answer
    wait_until_active(vm)
    assert vm.status == "ACTIVE"
    assert shelved_images(calm, vm) == []
    vm.delete()


def test_a_stopped_vm_is_locked_until_its_owner_extends(calm: Cloud) -> None:
    vm = calm.boot("kept stopped")
    wait_until_ended(vm)
    server = vm.server()
    assert server is not None
    assert (server["status"], server["locked"]) == ("SHUTOFF", True)
    start = vm.owner.request("compute", "POST", f"/servers/{vm.id}/action", {"os-start": None})
    assert start.status == 409, start
    assert f"openstack vm expiration extend {vm.id}" in vm.wait_for_mail("ended", 1).text

    # It rests: neither the audits nor a reconciliation find anything to do.
    before = vm.events()
    calm.wait_for_reconciliation(60)
    assert vm.events() == before

    answer = vm.owner.request("reservation", "POST", f"/vm-expirations/{vm.id}/extend")
    assert answer.status == 200, answer
    wait_until_active(vm)
    server = vm.server()
    assert server is not None
    assert (server["status"], server["locked"]) == ("ACTIVE", False)
    vm.delete()
