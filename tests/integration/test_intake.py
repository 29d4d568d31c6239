# SPDX-License-Identifier: Apache-2.0
"""Which VMs are taken in, under which names; and VMs that go before their time."""

from __future__ import annotations

from tests.integration.cloudlib import MINUTE, Account, Cloud
from tests.integration.waiting import wait_for

#: Names that Nova takes, and what else people try.
NAMES = [
    "Subject: you won\\r\\nBcc: everybody@example.org",
    "=?utf-8?q?=0d=0aBcc:_everybody=40example.org?= {{ 7*7 }} {% raw %} $(reboot) %s <b>",
    "山" * 255,
]
REFUSED_BY_NOVA = ["x\r\nBcc: everybody@example.org", "\0", "\U0001f525"]


def test_a_vm_deleted_by_its_owner_takes_its_lease_along(calm: Cloud) -> None:
    vm = calm.boot("deleted early")
    assert vm.lease_rows() == 5
    vm.delete()
    wait_for(f"the lease of {vm} gone", lambda: vm.lease_rows() == 0, 20)
    assert vm.lease_in_list() is None
    assert vm.row().state == "deleted"
    # On a slow machine it is told of its end before.
    told = ("notice_accepted", "before_end")
    assert [e for e in vm.events() if e not in told] == ["adopted", "vanished", "deleted"]
    assert vm.mails("ended") == []


def test_a_broken_vm_is_left_alone(calm: Cloud) -> None:
    flavor = {"name": "m1.enormous", "ram": 1 << 30, "vcpus": 1, "disk": 1}
    answer = calm.admin.request("compute", "POST", "/flavors", {"flavor": flavor})
    assert answer.status == 200, answer
    vm = calm.ask_for_vm("broken", calm.alice, flavorRef=answer.body["flavor"]["id"])
    vm.wait_for_status("ERROR")
    for _ in range(2):
        calm.wait_for_reconciliation(40)
    assert vm.lease_in_list() is None
    assert vm.events() == []
    vm.delete()


def test_a_vm_of_the_service_project_is_left_alone(calm: Cloud) -> None:
    service = Account(calm, "nova", "service")
    vm = calm.ask_for_vm("service", service)
    vm.wait_for_status("ACTIVE")
    for _ in range(2):
        calm.wait_for_reconciliation(40)
    assert vm.row_or_none() is None
    assert vm.lease_in_list(calm.admin) is None
    vm.delete()


def test_what_names_can_hold_harms_nothing(calm: Cloud) -> None:
    for name in REFUSED_BY_NOVA:
        answer = calm.alice.request("compute", "POST", "/servers", calm.server_body(name))
        assert answer.status == 400, f"Nova takes {name!r} now: add it to NAMES"
    vms = [calm.boot(name) for name in NAMES]
    for vm in vms:
        reminder = vm.wait_for_mail("reminder", 20, after=vm.ends_at - 2 * MINUTE)
        assert reminder.recipients == "alice@example.org"
        assert reminder.message["Bcc"] is None
        assert "\n" not in reminder.subject
        assert vm.name[:20] in reminder.subject
        assert vm.name in reminder.text.replace("\n", "") or vm.name[:40] in reminder.text
    for vm in vms:
        vm.wait_for_end()
        assert len(vm.mails()) == 2
