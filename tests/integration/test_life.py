# SPDX-License-Identifier: Apache-2.0
"""The life of a VM on a real cloud, from its lease to its image; in several conditions."""

from __future__ import annotations

import datetime
import re
import statistics

import pytest

from tests.integration.cloudlib import MINUTE, Cloud, images_of
from tests.integration.waiting import utcnow

LEASE = 3 * MINUTE


def test_a_vm_lives_its_life(calm: Cloud) -> None:
    """Lease, reminder, stop, image, deletion, last mail: as its owner, and a stranger, see it."""
    booted_at = utcnow()
    vm = calm.boot("life")
    lease = vm.lease_in_list()
    assert lease is not None
    assert lease["status"] == "ACTIVE"
    assert lease["name"] == f"life {vm.id}"
    assert (lease["project_id"], lease["user_id"]) == (calm.alice.project_id, calm.alice.user_id)
    ends_at = datetime.datetime.fromisoformat(lease["end_date"])
    assert booted_at + LEASE <= ends_at <= utcnow() + LEASE + MINUTE

    # It is nobody else's business.
    path = f"/leases/{lease['id']}"
    assert vm.lease_in_list(calm.bob) is None
    assert calm.bob.request("reservation", "GET", path).status == 403
    assert calm.bob.request("reservation", "DELETE", path).status == 403

    reminder = vm.wait_for_mail("reminder", 20, after=ends_at - 2 * MINUTE)
    assert reminder.recipients == "alice@example.org"
    assert reminder.arrived_at >= ends_at - 2 * MINUTE
    assert "life" in reminder.subject
    text = " ".join(reminder.text.split())
    for words in ("life", vm.id, "alpha", f"{ends_at:%Y-%m-%d %H:%M} UTC", "in 1 minute"):
        assert words in text
    assert re.search(rf'openstack reservation lease set --end-date "[^"]+" {lease["id"]}', text)
    assert vm.status == "ACTIVE"
    assert vm.allocations()

    vm.wait_for_end()
    assert utcnow() >= ends_at
    assert vm.server(calm.alice) is None
    assert vm.allocations() == {}
    assert vm.lease()["status"] == "TERMINATED"
    order = vm.done_in_nova()
    assert order == ["create", "lock", "stop", "createImage", "delete"]
    assert vm.events() == [
        "adopted",
        "notice_accepted",
        "before_end",
        "end_begun",
        "locked",
        "stop_asked",
        "image_asked",
        "image_given",
        "delete_asked",
        "deleted",
        "notice_accepted",
    ]

    # The image is theirs, complete, and another VM can be made of it.
    (image,) = images_of(calm, vm)
    assert calm.alice.get("image", f"/v2/images/{image['id']}")["status"] == "active"
    assert image["size"] > 0
    assert image["owner"] == calm.alice.project_id
    assert image["vmexpire_lease_id"] == lease["id"]
    assert image["vmexpire_server_name"] == "life"
    assert calm.bob.request("image", "GET", f"/v2/images/{image['id']}").status == 404
    again = calm.ask_for_vm("life again", calm.alice, imageRef=image["id"])
    again.wait_for_status("ACTIVE")
    again.delete()

    last = vm.wait_for_mail("ended", 1)
    assert last.recipients == "alice@example.org"
    assert image["id"] in last.text
    assert len(vm.mails()) == 2

    # What an operator sees of it all, long after.
    shown = calm.admin.run("blazar-vmexpire-manage", "history", vm.id)
    assert shown.returncode == 0, shown.stderr
    for event in ("adopted", "image_given", "deleted"):
        assert event in shown.stdout


def test_leases_appear_within_seconds(calm: Cloud) -> None:
    """By notification, on a cloud that is anything but idle: of the first VMs of these tests."""
    while len(calm.latencies) < 8:
        calm.boot("latency").delete()
    latencies = list(calm.latencies.values())
    assert statistics.median(latencies) <= 5, latencies
    assert max(latencies) <= 15, latencies


@pytest.mark.parametrize("condition", ["lock", "os-stop", "pause", "suspend", "rescue", "migrate"])
def test_a_vm_that_does_not_run_ends_all_the_same(calm: Cloud, condition: str) -> None:
    """Stopped, paused, suspended, locked by its owner, in rescue, or in VERIFY_RESIZE."""
    status = {
        "lock": "ACTIVE",
        "os-stop": "SHUTOFF",
        "pause": "PAUSED",
        "suspend": "SUSPENDED",
        "rescue": "RESCUE",
        "migrate": "VERIFY_RESIZE",
    }[condition]
    vm = calm.boot(f"condition {condition}")
    vm.act(condition, calm.admin if condition == "migrate" else None)
    vm.wait_for_status(status, 60)
    vm.wait_for_end()
    (image,) = images_of(calm, vm)
    assert (image["status"], image["owner"]) == ("active", calm.alice.project_id)
    assert vm.mails("ended")


def test_the_image_that_a_shelved_vm_is_outlives_it(calm: Cloud) -> None:
    """Nova would remove it together with the VM."""
    vm = calm.boot("condition shelve")
    vm.act("shelve")
    vm.wait_for_status("SHELVED_OFFLOADED", 60)
    vm.wait_for_end()
    (event,) = [details for name, details in vm.history() if name == "deleted"]
    image = calm.alice.get("image", f"/v2/images/{event['image_id']}")
    assert image["name"] == "condition shelve-shelved"
    assert (image["status"], image["protected"]) == ("active", False)
    assert image["size"] > 0
    assert event["image_id"] in vm.mails("ended")[0].text
