# SPDX-License-Identifier: Apache-2.0
"""Servers that Nova moves to another host, and what it says of its hosts."""

from __future__ import annotations

import pytest

from blazar_vmexpire import cloud
from blazar_vmexpire.cloud import errors
from tests.fakes.cloud import FakeCloud
from tests.functional.adapters import adapters, conf, configure, fake, resized

__all__ = ["adapters", "conf", "configure", "fake"]


def test_live_migration(fake: FakeCloud, adapters: cloud.Cloud) -> None:
    server_id = fake.add_server(locked=True)
    assert adapters.nova.migrations(server_id) == []
    adapters.nova.live_migrate(server_id, None)
    with pytest.raises(errors.Conflict):
        adapters.nova.live_migrate(server_id, None)
    assert adapters.nova.get(server_id).status == "MIGRATING"
    server = adapters.nova.get(server_id)
    assert (server.host, server.status, server.task_state) == ("compute2", "ACTIVE", None)
    adapters.nova.live_migrate(server_id, "compute1")
    fake.compute.settle(server_id)
    back, there = adapters.nova.migrations(server_id)
    assert (back.source, back.target) == ("compute2", "compute1")
    assert (there.source, there.target) == ("compute1", "compute2")
    assert (there.kind, there.status) == ("live-migration", "completed")
    assert there.project_id == adapters.keystone.service_project_id
    for vm_state in ("stopped", "suspended"):
        with pytest.raises(errors.Conflict):
            adapters.nova.live_migrate(fake.add_server(vm_state=vm_state), None)


def test_cold_migration(fake: FakeCloud, adapters: cloud.Cloud) -> None:
    server_id = fake.add_server(vm_state="stopped")
    adapters.nova.migrate(server_id, None)
    assert adapters.nova.get(server_id).status == "RESIZE"
    server = adapters.nova.get(server_id)
    assert (server.host, server.status, server.power_state) == ("compute2", "VERIFY_RESIZE", 4)
    (migration,) = adapters.nova.migrations(server_id)
    assert (migration.kind, migration.status) == ("migration", "finished")
    adapters.nova.confirm_resize(server_id)
    assert adapters.nova.migrations(server_id)[0].status == "confirming"
    with pytest.raises(errors.Refused):
        adapters.nova.confirm_resize(server_id)
    adapters.nova.get(server_id)
    assert adapters.nova.get(server_id).status == "SHUTOFF"
    assert adapters.nova.migrations(server_id)[0].status == "confirmed"


@pytest.mark.parametrize("host", ["compute1", "compute9"])
def test_a_host_that_a_server_cannot_be_moved_to(
    fake: FakeCloud, adapters: cloud.Cloud, host: str
) -> None:
    """Nova refuses it; a live migration to its own host comes to nothing only later."""
    server_id = fake.add_server(vm_state="stopped")
    with pytest.raises(errors.Refused):
        adapters.nova.migrate(server_id, host)
    fake.compute.vms[server_id].vm_state = "active"
    if host == "compute9":
        with pytest.raises(errors.Refused):
            adapters.nova.live_migrate(server_id, host)
        return
    adapters.nova.live_migrate(server_id, host)
    fake.compute.settle(server_id)
    assert [m.status for m in adapters.nova.migrations(server_id)] == ["error"]


def test_migrations_of_other_servers_are_no_answer(fake: FakeCloud, adapters: cloud.Cloud) -> None:
    """A Nova that drops the filter without a word."""
    resized(fake)
    server_id = fake.add_server()
    assert adapters.nova.migrations(server_id) == []
    fake.fault("/os-migrations", rewrite=lambda body: {"migrations": fake.compute.migrations})
    with pytest.raises(errors.Unavailable, match="other servers"):
        adapters.nova.migrations(server_id)


def test_hosts(fake: FakeCloud, adapters: cloud.Cloud) -> None:
    fake.compute.hosts = {"a", "b", "c", "d"}
    fake.compute.down_hosts, fake.compute.disabled_hosts = {"b"}, {"c"}
    fake.add_server(host="e", cell="cell2")
    fake.compute.down_cells = {"cell2"}
    assert adapters.nova.hosts_up() == {"a", "d"}
    fake.compute.aggregates = {"old": ["a", "b"], "new": []}
    assert adapters.nova.aggregate_hosts("old") == ["a", "b"]
    assert adapters.nova.aggregate_hosts("new") == []
    assert adapters.nova.aggregate_hosts("none") is None
