# SPDX-License-Identifier: Apache-2.0
"""The end of a VM's lease in the VM's metadata, as its owner sees and edits it."""

from __future__ import annotations

import datetime
import json

import pytest

from blazar_vmexpire import labels
from tests.integration.cloudlib import Cloud, Vm, in_minutes
from tests.integration.waiting import utcnow, wait_for

#: Until make test has room for it: its scenarios are run by make test-full.
pytestmark = pytest.mark.long

SERVER = ("openstack", "server")


def told(vm: Vm) -> dict[str, str]:
    """What ``openstack server show`` tells its owner as properties."""
    shown = vm.owner.run(*SERVER, "show", vm.id, "-f", "json", "-c", "properties")
    assert shown.returncode == 0, shown.stderr
    properties: dict[str, str] = json.loads(shown.stdout)["properties"]
    return properties


def write(vm: Vm, *arguments: str) -> None:
    """Edit a VM's properties as its owner does."""
    done = vm.owner.run(*SERVER, *arguments, vm.id)
    assert done.returncode == 0, done.stderr


def wait_until_told(vm: Vm, end: datetime.datetime) -> None:
    """Wait until its metadata tell this end."""
    wait_for(
        f"{labels.text(end)} in the metadata of {vm}",
        lambda: told(vm).get("expire_at") == labels.text(end),
        20,
        every=2,
        shown=lambda: told(vm),
    )


def test_an_owner_sees_the_end_on_the_vm_and_moves_it_there(calm: Cloud) -> None:
    vm = calm.boot("labels")
    wait_until_told(vm, vm.ends_at)
    assert told(vm)["expire_state"] in ("active", "noticed")

    end = in_minutes(8)
    write(vm, "set", "--property", f"expire_at={labels.text(end)}")
    vm.wait_for_event("extended", 10)
    assert vm.ends_at == end
    assert vm.lease()["end_date"] == f"{end:%Y-%m-%dT%H:%M}:00.000000"

    # Nova notifies of an edit: a reconciliation would have come 20 seconds later.
    far = utcnow() + datetime.timedelta(days=300)
    write(vm, "set", "--property", f"expire_at={far:%Y-%m-%dT%H:%MZ}")
    put_back = vm.wait_for_event("metadata_put_back", 10)
    assert "is past the latest allowed" in put_back["reason"]
    assert vm.ends_at == end
    wait_until_told(vm, end)
    assert "is past the latest allowed" in vm.wait_for_mail("put_back", 20).text

    write(vm, "unset", "--property", "expire_at")
    wait_until_told(vm, end)
    assert vm.ends_at == end
    assert len(vm.mails("put_back")) == 1
    vm.delete()
