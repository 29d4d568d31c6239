# SPDX-License-Identifier: Apache-2.0
"""VMs with a GPU live on terms of their own: a copy of ``etc/gpu.yaml``, with minutes for days."""

from __future__ import annotations

from tests.integration.cloudlib import MINUTE, Cloud, in_minutes
from tests.integration.waiting import wait_for


def test_a_vm_with_a_gpu_lives_shorter_than_others(calm: Cloud) -> None:
    """Three mails, a cap of its own, and the end that the options give all VMs."""
    flavor = {"id": "gpu-tiny", "name": "gpu.tiny", "ram": 64, "vcpus": 1, "disk": 1}
    made = calm.admin.request("compute", "POST", "/flavors", {"flavor": flavor})
    assert made.status == 200, made
    forgotten, wanted = (
        calm.ask_for_vm(name, calm.alice, flavorRef=flavor["id"])
        for name in ("trained once", "trains still")
    )
    for vm in (forgotten, wanted):
        vm.wait_for_status("ACTIVE", 60)
        wait_for(f"the lease of {vm}", vm.lease_in_list, 15)
        row = vm.row()
        assert row.rule == "GPU by the flavor's name"
        assert row.adopted_at is not None
        assert 4 * MINUTE <= vm.ends_at - row.adopted_at <= 5 * MINUTE

    wanted.wait_for_mail("reminder/2m", 20, after=wanted.ends_at - 2 * MINUTE)
    refused = wanted.put_lease(end_date=in_minutes(5))
    assert refused.status == 400, refused
    assert "is past the latest allowed" in refused.message
    wanted.delete()

    forgotten.wait_for_end()
    assert len(forgotten.mails("reminder/")) == 3
    assert forgotten.done_in_nova()[-2:] == ["createImage", "delete"]
