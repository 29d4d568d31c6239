# SPDX-License-Identifier: Apache-2.0
"""Expiration as CERN has it: a copy of ``etc/cern.yaml`` with minutes for days, on a real cloud."""

from __future__ import annotations

import datetime

import pytest

from tests.integration.cloudlib import MINUTE, Account, Cloud, Vm, in_minutes
from tests.integration.waiting import utcnow, wait_for, wait_until

#: Until make test has room for it: its scenarios are run by make test-full.
pytestmark = pytest.mark.long

TERM = 5 * MINUTE
QUARANTINE = datetime.timedelta(seconds=90)


def test_personal_projects_expire_as_at_cern(calm: Cloud) -> None:
    """Opt-in, three reminders, lock and stop, extension revives, grace, deletion, repair."""
    personal = calm.add_project("personal-carol", expire="on", type="personal")
    shared = calm.add_project("shared-physics", type="shared")
    carol = calm.add_member("carol", "carol@example.org", personal)
    physicist = calm.add_member("physicist", "physicist@example.org", shared)

    # Only who has opted in.
    not_mine = calm.ask_for_vm("analysis", physicist)
    forgotten, wanted = calm.boot("forgotten", carol), calm.boot("wanted", carol)
    for vm in (forgotten, wanted):
        row = vm.row()
        assert row.rule == "personal projects"
        assert row.adopted_at is not None
        assert TERM <= vm.ends_at - row.adopted_at <= TERM + MINUTE

    _deleting_the_lease_is_no_way_out(wanted, carol)

    # Three reminders, the last before the VM is stopped.
    ends_at = forgotten.ends_at
    quarantine_at = ends_at - QUARANTINE
    forgotten.wait_for_event("quarantined", 60, after=quarantine_at)
    for vm in (forgotten, wanted):
        vm.wait_for_event("quarantined", 60, after=vm.ends_at - QUARANTINE)
        reminders = [m for m in vm.mails("reminder/") if m.arrived_at < vm.when("quarantine_begun")]
        assert len(reminders) == 3, [m.subject for m in reminders]
        assert {m.recipients for m in reminders} == {"carol@example.org"}
        assert vm.when("quarantine_begun") >= vm.ends_at - QUARANTINE
        assert vm.when("quarantine_begun") - reminders[0].arrived_at >= MINUTE
        _locked_and_stopped(vm, carol)

    # Her extension gives it back, by Blazar's own update of the lease.
    later = in_minutes(4)
    answer = wanted.put_lease(end_date=later)
    assert answer.status == 200, answer
    wanted.wait_for_event("revived", 30)
    wanted.wait_for_status("ACTIVE")
    server = wanted.server()
    assert server is not None
    assert not server["locked"]
    assert wanted.ends_at == later
    assert wanted.row().state in ("active", "noticed")

    # The other one has its grace, and goes.
    wait_until(ends_at - datetime.timedelta(seconds=10))
    assert forgotten.status == "SHUTOFF"
    forgotten.wait_for_end()
    assert utcnow() >= ends_at
    assert forgotten.done_in_nova() == ["create", "lock", "stop", "delete"]
    assert forgotten.mails("ended")[0].recipients == "carol@example.org"

    assert not_mine.status == "ACTIVE"
    assert not_mine.row_or_none() is None
    assert not_mine.lease_in_list() is None
    for vm in (wanted, not_mine):
        vm.delete()


def _deleting_the_lease_is_no_way_out(vm: Vm, owner: Account) -> None:
    """Tampering is repaired: the lease comes back with the date it had."""
    before, ends_at = vm.row().lease_id, vm.ends_at
    answer = owner.request("reservation", "DELETE", f"/leases/{before}")
    assert answer.status in (200, 204), answer
    wait_for(
        f"another lease of {vm}",
        lambda: (found := vm.lease_in_list()) and found["id"] != before,
        20,
        shown=vm.events,
    )
    assert vm.ends_at == ends_at
    assert vm.status == "ACTIVE"


def _locked_and_stopped(vm: Vm, owner: Account) -> None:
    server = vm.server(owner)
    assert server is not None
    assert (server["status"], server["locked"]) == ("SHUTOFF", True)
    refused = owner.request("compute", "POST", f"/servers/{vm.id}/action", {"os-start": None})
    assert refused.status == 409
