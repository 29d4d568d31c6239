# SPDX-License-Identifier: Apache-2.0
"""``blazar-vmexpire-manage withdraw``, and Blazar without the plug-in after it."""

from __future__ import annotations

import datetime
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from blazar_vmexpire import RESOURCE_TYPE, leases
from blazar_vmexpire.db.engine import Database
from blazar_vmexpire.db.models import expirations
from tests.blazar_harness import Options
from tests.functional.manage import Done, Manage
from tests.functional.world import World

NOW = datetime.datetime(2026, 3, 2, 10, 0)
HOST_LEASE = "22222222-2222-4222-8222-222222222222"

QUARANTINE = pytest.mark.options({RESOURCE_TYPE: {"quarantine": "3d"}})


def options_of(world: World, scope: str = "none") -> Options:
    """Return what blazar.conf says beside the database."""
    found: dict[str, dict[str, Any]] = {
        RESOURCE_TYPE: {"scope": scope},
        # Not the default: it may be somebody's, on this machine.
        "vmexpire_intake": {"transport_url": "fake://"},
    }
    for group, values in world.cloud.conf_overrides().items():
        found[group] = dict(values)
    return found


def withdraw(world: World, manage: Manage, url: str, *arguments: str) -> Done:
    """Run it as long after as it is really: its worker waits by the real time."""
    world.clock.release()
    return manage(url, "withdraw", *arguments, options=options_of(world))


def quarantined(world: World) -> str:
    """Have a VM locked and stopped."""
    server_id = world.adopt("locked")
    ends_at = world.row(server_id).ends_at
    assert ends_at is not None
    world.live(ends_at - timedelta(days=3) + timedelta(minutes=5))
    assert world.state(server_id) == "quarantined"
    vm = world.cloud.compute.vms[server_id]
    assert (vm.vm_state, vm.locked) == ("stopped", True)
    return server_id


def rows(world: World, table: sa.Table) -> int:
    """Count."""
    with world.harness.database.begin() as connection:
        return int(connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0)


@QUARANTINE
def test_afterwards_the_plugin_can_be_taken_out(
    world: World, manage: Manage, database_url: str
) -> None:
    locked = quarantined(world)
    ended = world.adopt("ended")
    untouched = world.adopt("untouched")
    world.wreck(expirations, expirations.c.server_id == ended, state="deleted", next_at=None)
    world.harness.stop()

    preview = withdraw(world, manage, database_url)
    assert preview.returncode == 0, preview.stderr
    assert "Leases of VMs to be removed: 3" in preview.stdout
    assert "only the lease is removed: 1" in preview.stdout
    assert f"VMs to be unlocked: 1\n  {locked}  locked" in preview.stdout
    assert f"VMs to be started: 1\n  {locked}  locked" in preview.stdout
    assert len(world.all_leases()) == 3

    done = withdraw(world, manage, database_url, "--yes")
    assert done.returncode == 0, done.stderr
    assert "Now take virtual.vm.plugin out of [manager] plugins" in done.stdout

    vm = world.cloud.compute.vms[locked]
    assert (vm.vm_state, vm.locked) == ("active", False)
    assert (world.state(locked), world.state(untouched)) == ("exempt", "exempt")
    assert world.events(untouched) == ["adopted", "exempt"]
    assert world.events(locked)[-4:] == ["unlocked", "start_asked", "revived", "exempt"]
    for table in (leases.LEASES, leases.RESERVATIONS, leases.EVENTS):
        assert rows(world, table) == 0

    world.harness.restart(["dummy.vm.plugin"])
    world.clock.advance(days=200)
    world.harness.tick()
    assert world.as_admin.get("/v1/leases").json["leases"] == []

    again = withdraw(world, manage, database_url, "--yes")
    assert again.returncode == 0, again.stderr


@pytest.mark.options({RESOURCE_TYPE: {"before_end_action": "snapshot"}})
def test_an_image_that_was_begun_is_removed(
    world: World, manage: Manage, database_url: str
) -> None:
    world.cloud.image.reads = None
    server_id = world.adopt()
    ends_at = world.row(server_id).ends_at
    assert ends_at is not None
    world.live(ends_at - timedelta(days=10) + timedelta(minutes=5))
    assert len(world.cloud.image.images) == 1
    world.harness.stop()

    done = withdraw(world, manage, database_url, "--yes")
    assert done.returncode == 0, done.stderr
    assert world.state(server_id) == "exempt"
    assert not world.cloud.image.images


def test_is_safe_beside_a_manager_that_has_let_go(
    world: World, manage: Manage, database_url: str
) -> None:
    server_id = world.adopt()
    world.harness.conf.set_override("scope", "none", group=RESOURCE_TYPE)

    done = withdraw(world, manage, database_url, "--yes")
    assert done.returncode == 0, done.stderr
    world.harness.work()

    assert world.state(server_id) == "exempt"
    assert world.all_leases() == []


@pytest.mark.databases("sqlite")
def test_is_refused_while_vms_would_be_taken_in_again(
    world: World, manage: Manage, database_url: str
) -> None:
    world.adopt()

    done = manage(database_url, "withdraw", "--yes", options=options_of(world, "all"))

    assert done.returncode == 1
    assert "scope is all: set it to none and restart blazar-manager first" in done.stderr
    assert len(world.all_leases()) == 1


@QUARANTINE
@pytest.mark.databases("sqlite")
def test_what_cannot_be_given_back_is_named_and_keeps_its_lease(
    world: World, manage: Manage, database_url: str
) -> None:
    server_id = quarantined(world)
    world.harness.stop()
    world.cloud.fault(f"/servers/{server_id}/action", status=503)

    done = withdraw(world, manage, database_url, "--yes", "--wait", "3s")

    assert done.returncode == 1
    assert "1 VMs could not be let go of yet" in done.stderr
    assert f"{server_id} (reviving: " in done.stderr
    assert len(world.all_leases()) == 1


@pytest.mark.databases("sqlite")
def test_leases_that_no_vm_has_any_more_go_and_no_others(
    world: World, manage: Manage, database_url: str
) -> None:
    database: Database = world.harness.database
    stray = leases.new_lease_id()
    with database.begin() as connection:
        for lease_id, resource_id in ((stray, "gone"), (HOST_LEASE, "1")):
            add_lease(connection, lease_id, resource_id)
        connection.execute(
            sa.update(leases.RESERVATIONS)
            .where(leases.RESERVATIONS.c.lease_id == HOST_LEASE)
            .values(resource_type="physical:host")
        )

    done = withdraw(world, manage, database_url, "--yes")

    assert done.returncode == 0, done.stderr
    assert world.all_leases() == [HOST_LEASE]
    assert rows(world, leases.RESERVATIONS) == 1
    assert rows(world, leases.EVENTS) == 3


def add_lease(connection: sa.Connection, lease_id: str, resource_id: str) -> None:
    """Write a lease of ours into Blazar's tables."""
    wanted = leases.Wanted(
        lease_id=lease_id,
        server_id=resource_id,
        server_name="web-1",
        project_id="project",
        user_id="user",
        start_date=NOW,
        end_date=NOW + timedelta(days=60),
        before_end_at=NOW + timedelta(days=50),
    )
    leases.create(connection, [wanted], NOW)
