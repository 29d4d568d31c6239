# SPDX-License-Identifier: Apache-2.0
"""VMs are noticed by Nova's notifications, of which nothing is believed but whom they are about."""

from __future__ import annotations

import threading
import uuid
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from tests.functional.intake import (
    ANY_DATABASE,
    MAKE_SURE,
    TERM,
    Bus,
    asked,
    at_work,
    bus,
    move_on,
    one_bus,
    questions,
    unversioned,
    wait_for_state,
    wait_until,
)
from tests.functional.world import World

__all__ = ["at_work", "bus", "one_bus"]


def test_a_vm_that_was_created_gets_its_lease(bus: Bus) -> None:
    world = bus.world
    server_id = world.boot("web1")
    bus.say("create.end", server_id)
    wait_for_state(world, server_id, "active")
    (lease,) = world.as_alice.get("/v1/leases").json["leases"]
    assert lease["reservations"][0]["resource_id"] == server_id
    assert world.row(server_id).ends_at == world.clock.now() + TERM
    assert world.lease(server_id).end_date == world.clock.now() + TERM
    assert world.events(server_id) == ["adopted"]


def test_a_vm_that_was_deleted_takes_its_lease_with_it(bus: Bus) -> None:
    world = bus.world
    server_id, other = world.boot(), world.boot()
    for each in (server_id, other):
        bus.say("create.end", each)
        wait_for_state(world, each, "active")
    world.cloud.compute.vanish(server_id)
    bus.say("delete.end", server_id)
    wait_for_state(world, server_id, "vanished")
    assert len(world.all_leases()) == 2
    move_on(world, MAKE_SURE)
    wait_for_state(world, server_id, "deleted")
    assert world.all_leases() == [world.row(other).lease_id]
    assert world.events(server_id) == ["adopted", "vanished", "deleted"]
    assert world.mails == []


@ANY_DATABASE
@pytest.mark.parametrize("event", ["delete.end", "soft_delete.end"])
def test_a_deletion_that_nova_told_of_is_explained_by_that(bus: Bus, event: str) -> None:
    """Nova remembers nothing of the VM: its list of deleted servers has been archived."""
    world = bus.world
    server_id, other = world.boot(), world.boot()
    for each in (server_id, other):
        bus.say("create.end", each)
        wait_for_state(world, each, "active")
    world.cloud.compute.lose(server_id)
    world.cloud.compute.lose(other)
    bus.say(event, server_id)
    bus.say("unshelve.end", other)
    wait_for_state(world, server_id, "vanished")
    wait_for_state(world, other, "vanished")
    move_on(world, MAKE_SURE)
    wait_for_state(world, server_id, "deleted")
    wait_until(lambda: world.row(other).unexplained_at, "the other one is found unexplained")
    assert world.state(other) == "vanished"
    assert world.all_leases() == [world.row(other).lease_id]


@ANY_DATABASE
def test_a_deletion_that_was_told_and_did_not_happen_explains_nothing_later(one_bus: Bus) -> None:
    world = one_bus.world
    server_id = world.boot()
    one_bus.say("create.end", server_id)
    wait_for_state(world, server_id, "active")
    one_bus.say("delete.end", server_id)
    wait_until(lambda: asked(world, server_id) >= 2, "Nova is asked about it")
    wait_until(lambda: _answered(world, server_id), "the question is answered")
    assert world.row(server_id).deletion_told_at is None
    world.cloud.compute.lose(server_id)
    one_bus.say("unshelve.end", server_id)
    wait_for_state(world, server_id, "vanished")
    move_on(world, MAKE_SURE)
    wait_until(lambda: world.row(server_id).unexplained_at, "it is found unexplained")
    assert world.state(server_id) == "vanished"


def test_both_formats_and_each_of_them_ten_times(at_work: World) -> None:
    server_id = at_work.boot()
    for _ in range(10):
        for format_ in ("unversioned", "versioned"):
            Bus(at_work, format_).say("create.end", server_id)
    wait_for_state(at_work, server_id, "active")
    wait_until(lambda: _answered(at_work, server_id), "every question is answered")
    assert len(at_work.all_leases()) == 1
    assert at_work.events(server_id) == ["adopted"]
    at_work.cloud.compute.vanish(server_id)
    for _ in range(10):
        Bus(at_work, "versioned").say("delete.end", server_id)
    wait_until(lambda: at_work.state(server_id) != "active", "the VM is missed")
    move_on(at_work, MAKE_SURE)
    wait_for_state(at_work, server_id, "deleted")
    assert at_work.all_leases() == []
    assert at_work.events(server_id) == ["adopted", "vanished", "deleted"]


def _answered(world: World, server_id: str) -> bool:
    row = world.row(server_id)
    return row.questions == row.answered and row.claimed_by is None


def test_a_delete_that_overtakes_the_create(one_bus: Bus) -> None:
    """What Nova has counts, in whatever order it is told."""
    world = one_bus.world
    gone, there = str(uuid.uuid4()), world.boot()
    for server_id in (gone, there):
        one_bus.say("delete.end", server_id)
        one_bus.say("create.end", server_id)
    wait_for_state(world, there, "active")
    wait_until(lambda: asked(world, gone), "Nova is asked")
    wait_for_state(world, gone, None)
    assert world.all_leases() == [world.row(there).lease_id]
    assert world.events(gone) == []


def test_a_delete_of_a_vm_that_lives_on_is_only_a_reason_to_look(one_bus: Bus) -> None:
    world = one_bus.world
    server_id = world.boot()
    one_bus.say("create.end", server_id)
    wait_for_state(world, server_id, "active")
    before = world.row(server_id)
    one_bus.say("delete.end", server_id, state="deleted", deleted_at="2026-03-02T10:00:00")
    wait_until(lambda: questions(world, server_id) == 1, "it is taken")
    wait_until(lambda: _answered(world, server_id), "it is looked at")
    after = world.row(server_id)
    assert (after.state, after.ends_at, after.lease_id, after.generation) == (
        "active",
        before.ends_at,
        before.lease_id,
        before.generation,
    )
    assert world.events(server_id) == ["adopted"]


def test_a_vm_that_nova_does_not_know_leaves_nothing_behind(one_bus: Bus) -> None:
    world = one_bus.world
    server_id = str(uuid.uuid4())
    one_bus.say("create.end", server_id)
    wait_until(lambda: asked(world, server_id), "Nova is asked")
    wait_for_state(world, server_id, None)
    assert world.rows() == []
    assert world.all_leases() == []
    assert world.events(server_id) == []


def test_a_vm_of_somebody_else_is_somebody_elses(one_bus: Bus) -> None:
    """What a notification says of project, user, name or dates is not believed."""
    world = one_bus.world
    server_id = world.boot("hers", project_id=world.beta, user_id=world.bob)
    lies = {"tenant_id": world.alpha, "project_id": world.alpha, "user_id": world.alice}
    one_bus.say(
        "create.end", server_id, **lies, display_name="mine", created_at="1999-01-01T00:00:00Z"
    )
    wait_for_state(world, server_id, "active")
    row, lease = world.row(server_id), world.lease(server_id)
    assert (row.project_id, row.user_id, row.server_name) == (world.beta, world.bob, "hers")
    assert (lease.project_id, lease.user_id) == (world.beta, world.bob)
    assert row.server_created_at == world.clock.now()
    assert world.as_alice.get("/v1/leases").json["leases"] == []


@ANY_DATABASE
def test_the_priority_does_not_matter(at_work: World) -> None:
    for priority in ("warn", "error"):
        server_id = at_work.boot()
        payload = unversioned(server_id)
        at_work.harness.notify("compute.instance.create.end", payload, priority=priority)
        wait_for_state(at_work, server_id, "active")


@ANY_DATABASE
def test_what_does_not_concern_us_costs_nothing(one_bus: Bus) -> None:
    world = one_bus.world
    silent, server_id = world.boot(), world.boot()
    for event in ("create.start", "update", "exists", "power_off.end", "create.end.x"):
        one_bus.say(event, silent)
    world.harness.notify("compute.libvirt.error", {"reason": "no UUID here"}, priority="error")
    world.harness.notify("image.create", unversioned(silent))
    one_bus.say("create.end", server_id)
    wait_for_state(world, server_id, "active")
    assert asked(world, silent) == 0
    assert world.row_or_none(silent) is None


def test_a_vm_that_is_still_being_built_waits(one_bus: Bus) -> None:
    world = one_bus.world
    server_id = world.boot(vm_state="building", task_state="spawning")
    one_bus.say("create.end", server_id)
    wait_until(lambda: asked(world, server_id), "Nova is asked")
    wait_for_state(world, server_id, "seen")
    assert world.all_leases() == []
    vm = world.cloud.compute.vms[server_id]
    vm.vm_state, vm.task_state = "active", None
    move_on(world, timedelta(seconds=10))
    wait_for_state(world, server_id, "active")


@pytest.mark.parametrize(
    "fault",
    [{"status": 404, "html": True}, {"truncate": True}],
    ids=["404 of a proxy", "truncated"],
)
@ANY_DATABASE
def test_while_nova_makes_no_sense_a_vm_is_remembered(one_bus: Bus, fault: dict[str, Any]) -> None:
    world = one_bus.world
    server_id = world.boot()
    broken = world.cloud.fault(f"/servers/{server_id}", **fault)
    one_bus.say("create.end", server_id)
    wait_until(lambda: _attempts(world, server_id) == 1, "it fails")
    broken.remove()
    move_on(world, timedelta(minutes=1))
    wait_for_state(world, server_id, "active")
    assert world.events(server_id) == ["adopted"]


def _attempts(world: World, server_id: str) -> int:
    row = world.row_or_none(server_id)
    return 0 if row is None or row.claimed_by else row.attempts


def test_a_message_that_could_not_be_noted_comes_again(
    one_bus: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    world = one_bus.world
    server_id = world.boot()
    engine = world.harness.plugin.tools.database.engine
    broken = threading.Event()

    def refuse(_: Any, __: Any, statement: str, *___: Any) -> None:
        if statement.startswith("INSERT INTO vm_expirations") and not broken.is_set():
            broken.set()
            raise RuntimeError("the database is on fire")

    sa.event.listen(engine, "before_cursor_execute", refuse)
    one_bus.say("create.end", server_id)
    wait_for_state(world, server_id, "active")
    assert broken.is_set()
    assert f"Server {server_id} could not be noted; the notification is kept" in caplog.messages


def test_what_is_said_while_the_manager_is_down_is_heard(one_bus: Bus) -> None:
    world = one_bus.world
    kept, gone, new = world.boot(), world.boot(), world.boot()
    for server_id in (kept, gone):
        one_bus.say("create.end", server_id)
        wait_for_state(world, server_id, "active")
    world.harness.stop()
    world.cloud.compute.vanish(gone)
    one_bus.say("delete.end", gone)
    one_bus.say("create.end", new)
    world.harness.start()
    world.harness.poll()
    wait_for_state(world, new, "active")
    wait_for_state(world, gone, "vanished")
    move_on(world, MAKE_SURE)
    wait_for_state(world, gone, "deleted")
    assert len(world.all_leases()) == 2
