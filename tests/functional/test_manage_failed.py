# SPDX-License-Identifier: Apache-2.0
"""``blazar-vmexpire-manage failed``: what an operator sees of a failed expiration, and a retry."""

from __future__ import annotations

import getpass
import json
from datetime import timedelta

import pytest

from tests.functional.manage import Manage
from tests.functional.world import World

pytestmark = [
    pytest.mark.databases("sqlite"),
    pytest.mark.options({"virtual:vm": {"on_end_action": "snapshot"}}),
]


@pytest.fixture(autouse=True)
def _real_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUDO_USER", raising=False)


def fail_at_its_image(world: World) -> str:
    """Let a VM's end fail after it was locked and stopped: Glance loses its images."""
    server_id = world.adopt()
    ends_at = world.row(server_id).ends_at
    assert ends_at is not None
    world.cloud.image.reads = None
    world.live(ends_at)
    for _ in range(3):
        world.live(world.clock.now() + timedelta(minutes=11))
        for image_id in list(world.cloud.image.images):
            world.cloud.image.fail(image_id)
    world.live(world.clock.now() + timedelta(minutes=11))
    assert world.state(server_id) == "failed"
    return server_id


def test_lists_where_why_and_since_when(world: World, manage: Manage, database_url: str) -> None:
    server_id = fail_at_its_image(world)
    world.adopt("not-failed")

    (found,) = json.loads(manage(database_url, "failed", "--format", "json").stdout)
    table = manage(database_url, "failed").stdout.splitlines()

    assert found["server_id"] == server_id
    assert (found["server_name"], found["project_id"]) == ("web1", world.alpha)
    assert found["failed_in"] == "ending/image"
    assert found["since"].endswith("Z")
    assert found["reason"] == "3 images of it failed in Glance"
    assert "then retry" in found["remedy"]
    assert len(table) == 2
    assert f"{found['reason']}; {found['remedy']}" in table[1]


def test_a_retry_gives_the_vm_back_and_tells_its_owner_anew(
    world: World, manage: Manage, database_url: str
) -> None:
    server_id = fail_at_its_image(world)
    before = world.row(server_id)
    # Long ago, so that its notice says nothing any more.
    world.live(world.clock.now() + timedelta(days=100))
    mails = len(world.mails)

    done = manage(database_url, "failed", "retry", server_id, "--reason", "glance repaired")
    assert done.returncode == 0, done.stderr
    assert f"server {server_id} is tried again" in done.stdout
    world.cloud.image.reads = 2
    asked = world.clock.now()
    world.settle()

    vm = world.cloud.compute.vms[server_id]
    assert (vm.vm_state, vm.locked) == ("active", False)
    row = world.row(server_id)
    assert row.lease_id == before.lease_id
    assert world.lease(server_id).status == "ACTIVE"
    assert row.ends_at is not None
    assert row.ends_at >= asked + timedelta(days=2)
    assert len(world.mails) == mails + 1
    (retried,) = [details for event, details in world.history(server_id) if event == "retried"]
    assert retried["reason"] == "glance repaired"
    assert "3 images of it failed" in retried["error"]
    entries = json.loads(manage(database_url, "history", server_id, "--format", "json").stdout)
    (entry,) = [entry for entry in entries if entry["event"] == "retried"]
    assert entry["actor"] == getpass.getuser()

    world.live(row.ends_at - timedelta(minutes=2))
    assert server_id in world.cloud.compute.vms
    world.live(row.ends_at + timedelta(minutes=10))
    assert server_id not in world.cloud.compute.vms


def test_a_retry_where_nothing_was_begun_makes_the_lease_live(
    world: World, manage: Manage, database_url: str
) -> None:
    server_id = world.adopt(image_id=None)
    ends_at = world.row(server_id).ends_at
    assert ends_at is not None
    world.live(ends_at + timedelta(hours=1))
    assert world.state(server_id) == "failed"

    manage(database_url, "failed", "retry", "--all")
    world.settle()

    assert world.state(server_id) == "noticed"
    assert world.lease(server_id).status == "ACTIVE"
    assert world.lease(server_id).end_date > world.clock.now() + timedelta(days=2)
    assert json.loads(manage(database_url, "failed", "--format", "json").stdout) == []


def test_a_vm_that_went_meanwhile_is_let_go(
    world: World, manage: Manage, database_url: str
) -> None:
    server_id = fail_at_its_image(world)
    world.cloud.compute.vanish(server_id)

    manage(database_url, "failed", "retry", server_id)
    world.settle()

    assert world.state(server_id) == "deleted"
    assert world.all_leases() == []


def test_what_did_not_fail_is_left_alone(world: World, manage: Manage, database_url: str) -> None:
    server_id = world.adopt()
    before = world.row(server_id)

    wrong = manage(database_url, "failed", "retry", server_id)
    nothing = manage(database_url, "failed", "retry")
    both = manage(database_url, "failed", "retry", server_id, "--all")

    assert (wrong.returncode, nothing.returncode, both.returncode) == (1, 1, 1)
    assert f"not failed, and therefore left as they are: {server_id}" in wrong.stderr
    assert "their UUIDs, or --all" in nothing.stderr
    assert world.row(server_id) == before
