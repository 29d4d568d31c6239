# SPDX-License-Identifier: Apache-2.0
"""Volumes of VMs on a real Nova and a real Cinder: what stays, whose it is, and that it boots."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.integration.cloudlib import Account, Cloud, Vm, images_of
from tests.integration.waiting import wait_for

#: Until make test has room for it: its scenarios are run by make test-full.
pytestmark = pytest.mark.long

VOLUMES = "block-storage"


def boot_from_volume(cloud: Cloud, name: str, owner: Account, *, data: int = 0) -> Vm:
    """Boot a VM from a new volume, with empty ones beside; all are marked to go with it."""
    image = cloud.server_body(name)["server"]["imageRef"]
    root = {
        "boot_index": 0,
        "uuid": image,
        "source_type": "image",
        "destination_type": "volume",
        "volume_size": 1,
        "delete_on_termination": True,
    }
    return boot(cloud, name, owner, imageRef="", block_device_mapping_v2=[root, *empty(data)])


def empty(count: int) -> list[dict[str, Any]]:
    """Ask for empty volumes that go with their VM."""
    return [
        {
            "boot_index": -1,
            "source_type": "blank",
            "destination_type": "volume",
            "volume_size": 1,
            "delete_on_termination": True,
        }
    ] * count


def boot(cloud: Cloud, name: str, owner: Account, **values: Any) -> Vm:
    vm = cloud.ask_for_vm(name, owner, **values)
    vm.wait_for_status("ACTIVE", 90)
    wait_for(f"the lease of {vm}", vm.lease_in_list, 20)
    return vm


def attached(vm: Vm) -> dict[str, bool]:
    """The volumes of a VM, by their devices' order, and whether they are to go with it."""
    path = f"/servers/{vm.id}/os-volume_attachments"
    found = vm.cloud.admin.get("compute", path)["volumeAttachments"]
    found.sort(key=lambda attachment: attachment["device"])
    return {a["volumeId"]: a["delete_on_termination"] for a in found}


def volume(account: Account, volume_id: str) -> dict[str, Any]:
    found: dict[str, Any] = account.get(VOLUMES, f"/volumes/{volume_id}")["volume"]
    return found


def content(cloud: Cloud, volume_id: str) -> bytes:
    return (cloud.sandbox.volumes / f"volume-{volume_id}").read_bytes()


def test_a_vm_that_boots_from_a_volume_leaves_it_to_its_owner(calm: Cloud) -> None:
    """No image, but what it booted from, and its data; and Alice boots from that again."""
    vm = boot_from_volume(calm, "rooted", calm.alice, data=1)
    before = attached(vm)
    assert list(before.values()) == [True, True]
    root, data = before
    written = {volume_id: content(calm, volume_id) for volume_id in before}
    assert written[root]
    ends_at = vm.ends_at

    vm.wait_for_end()
    assert vm.done_in_nova() == ["create", "lock", "stop", "delete"]
    assert vm.allocations() == {}
    assert images_of(calm, vm) == []
    for volume_id in before:
        kept = volume(calm.alice, volume_id)
        assert kept["status"] == "available"
        assert kept["metadata"]["vmexpire_server_id"] == vm.id
        assert content(calm, volume_id) == written[volume_id]
    assert volume(calm.alice, root)["name"] == f"rooted-boot-{ends_at:%Y-%m-%d}"
    assert volume(calm.alice, data)["name"] == f"rooted-sdb-{ends_at:%Y-%m-%d}"
    owner = volume(calm.admin, root)["os-vol-tenant-attr:tenant_id"]
    assert owner == calm.alice.project_id
    assert calm.bob.request(VOLUMES, "GET", f"/volumes/{root}").status == 404

    (kept,) = [details for event, details in vm.history() if event == "volumes_kept"]
    assert {(v["id"], v["boot"], v["status"]) for v in kept["volumes"]} == {
        (root, True, "available"),
        (data, False, "available"),
    }
    (mail,) = vm.mails("ended")
    assert f"openstack server create --volume {root}" in mail.text
    assert data in mail.text

    mapping = {
        "boot_index": 0,
        "uuid": root,
        "source_type": "volume",
        "destination_type": "volume",
    }
    again = calm.ask_for_vm(
        "rooted again", calm.alice, imageRef="", block_device_mapping_v2=[mapping]
    )
    again.wait_for_status("ACTIVE", 60)
    assert list(attached(again)) == [root]
    again.delete()


def test_a_data_volume_stays_beside_the_image(calm: Cloud) -> None:
    image = calm.server_body("x")["server"]["imageRef"]
    local = {
        "boot_index": 0,
        "uuid": image,
        "source_type": "image",
        "destination_type": "local",
        "delete_on_termination": True,
    }
    vm = boot(calm, "with data", calm.alice, block_device_mapping_v2=[local, *empty(1)])
    (data,) = attached(vm)
    vm.wait_for_end()
    (saved,) = images_of(calm, vm)
    assert (saved["status"], saved["owner"]) == ("active", calm.alice.project_id)
    assert volume(calm.alice, data)["status"] == "available"
    (mail,) = vm.mails("ended")
    assert saved["id"] in mail.text
    assert data in mail.text


def test_neither_a_quota_nor_snapshots_that_hang_or_fail_stand_in_the_way(calm: Cloud) -> None:
    """Bob may make nothing more, and a snapshot that he has begun fails while the VM ends."""
    vm = boot_from_volume(calm, "crowded", calm.bob)
    (root,) = attached(vm)
    written = content(calm, root)
    misbehave(calm, snapshot_seconds=240, snapshots_fail=True)
    wanted = {"snapshot": {"volume_id": root, "force": True, "name": "too late"}}
    asked = calm.bob.request(VOLUMES, "POST", "/snapshots", wanted)
    assert asked.status == 202, asked
    snapshot = f"/snapshots/{asked.body['snapshot']['id']}"
    quota = {"quota_set": {"volumes": 1, "snapshots": 1, "gigabytes": 2}}
    path = f"/os-quota-sets/{calm.bob.project_id}"
    assert calm.admin.request(VOLUMES, "PUT", path, quota).status == 200
    over = calm.bob.request(VOLUMES, "POST", "/snapshots", wanted)
    assert over.status == 413, over

    vm.wait_for_end()
    kept = volume(calm.bob, root)
    assert kept["status"] == "available"
    assert content(calm, root) == written

    def is_broken() -> bool:
        status: str = calm.bob.get(VOLUMES, snapshot)["snapshot"]["status"]
        return status == "error"

    wait_for("the snapshot's failure", is_broken, 150)
    misbehave(calm)
    # Nothing of it is ours: Bob clears it away himself.
    assert calm.bob.request(VOLUMES, "DELETE", snapshot).status == 202
    wait_for(
        "the snapshot to be gone",
        lambda: calm.bob.request(VOLUMES, "GET", snapshot).status == 404,
        60,
    )
    assert calm.bob.request(VOLUMES, "DELETE", f"/volumes/{root}").status == 202


def misbehave(cloud: Cloud, **orders: Any) -> None:
    """Have Cinder's driver misbehave; without orders: behave."""
    new = cloud.sandbox.volumes / ".control.json.new"
    new.write_text(json.dumps(orders))
    new.rename(cloud.sandbox.volumes / ".control.json")
