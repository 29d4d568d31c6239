# SPDX-License-Identifier: Apache-2.0
"""``before_end_action = migration``: the VM moves to another host; its end comes as announced."""

from __future__ import annotations

import datetime
from datetime import timedelta
from typing import Any

import pytest

from blazar_vmexpire import RESOURCE_TYPE
from tests.functional.killed import die_at_request
from tests.functional.world import World

pytestmark = [
    # What is tried here lies between us and Nova; the rows are those of every other step.
    pytest.mark.databases("sqlite"),
    pytest.mark.options(
        {
            RESOURCE_TYPE: {"before_end_action": "migration"},
            "vmexpire_worker": {"migration_timeout": "3m", "retry_max_interval": "2m"},
        }
    ),
]

ACTION = r"/compute/v2.1/servers/[^/]+/action"


def at_ten_days_before(world: World, **attributes: Any) -> str:
    """Have a VM taken in, and the time come at which it is moved."""
    server_id = world.adopt(**attributes)
    # A second earlier, so that what is done at that time is done at that time.
    world.clock.set(ends_at(world, server_id) - timedelta(days=10, seconds=1))
    return server_id


def ends_at(world: World, server_id: str) -> datetime.datetime:
    """Say when a VM's lease ends."""
    end = world.row(server_id).ends_at
    assert end is not None
    return end


def asked(world: World, action: str) -> list[Any]:
    """Return the arguments with which Nova was asked for an action."""
    return [
        request.body[action]
        for request in world.cloud.requests(ACTION, "POST")
        if action in request.body
    ]


def outcome(world: World, server_id: str) -> dict[str, Any]:
    """Return what the history says of the action, which is there once."""
    (found,) = [details for event, details in world.history(server_id) if event == "before_end"]
    assert found["action"] == "migration"
    return found


def live_on(world: World) -> None:
    """Let it happen."""
    world.live(world.clock.now() + timedelta(seconds=1))
    world.live(world.clock.now() + timedelta(minutes=10))


def extend(world: World, server_id: str) -> None:
    """Have the owner move the end."""
    end = world.clock.now().replace(second=0, microsecond=0) + timedelta(days=20)
    assert world.update(server_id, end_date=end).status_code == 200


@pytest.mark.parametrize("vm_state", ["active", "paused"])
@pytest.mark.parametrize("locked", [False, True])
def test_a_vm_that_runs_is_moved_as_it_runs(world: World, vm_state: str, locked: bool) -> None:
    """Also one that is paused, or that somebody has locked: it does not notice."""
    server_id = at_ten_days_before(world, vm_state=vm_state, locked=locked)
    live_on(world)
    vm = world.cloud.compute.vms[server_id]
    assert (vm.host, vm.vm_state, vm.locked) == ("compute2", vm_state, locked)
    assert asked(world, "os-migrateLive") == [{"host": None, "block_migration": "auto"}]
    assert outcome(world, server_id) == {
        "action": "migration",
        "kind": "live-migration",
        "from_host": "compute1",
        "to_host": "compute2",
    }
    assert world.state(server_id) == "noticed"
    world.live(ends_at(world, server_id) + timedelta(minutes=1))
    assert world.state(server_id) == "deleted"
    assert len(asked(world, "os-migrateLive")) == 1


@pytest.mark.parametrize("reads", [0, 1, 4])
def test_a_vm_that_is_stopped_is_moved_cold_and_that_confirmed(world: World, reads: int) -> None:
    world.cloud.compute.reads = reads
    server_id = at_ten_days_before(world, vm_state="stopped")
    live_on(world)
    vm = world.cloud.compute.vms[server_id]
    assert (vm.host, vm.vm_state) == ("compute2", "stopped")
    assert asked(world, "migrate") == [{}]
    assert asked(world, "confirmResize") == [None]
    assert outcome(world, server_id) == {
        "action": "migration",
        "kind": "migration",
        "from_host": "compute1",
        "to_host": "compute2",
    }
    assert not world.row(server_id).progress.get("undo")


@pytest.mark.parametrize("vm_state", ["suspended", "rescued", "shelved", "shelved_offloaded"])
def test_a_vm_that_nova_moves_in_no_way_is_left_and_its_end_comes(
    world: World, vm_state: str
) -> None:
    server_id = at_ten_days_before(world, vm_state=vm_state)
    live_on(world)
    found = outcome(world, server_id)
    assert found["failed"].startswith("Nova migrates no server in status ")
    assert "the end comes as announced" in found["remedy"]
    assert world.cloud.requests(ACTION, "POST") == []
    world.live(ends_at(world, server_id) + timedelta(minutes=1))
    assert world.state(server_id) == "deleted"


def test_somebody_elses_verify_resize_is_left_to_them(world: World) -> None:
    server_id = at_ten_days_before(world)
    world.cloud.compute.resize(server_id, world.alpha)
    live_on(world)
    assert "VERIFY_RESIZE" in outcome(world, server_id)["failed"]
    assert world.cloud.compute.vms[server_id].vm_state == "resized"
    assert asked(world, "confirmResize") == []


def test_a_broken_vm_is_left(world: World) -> None:
    server_id = at_ten_days_before(world)
    world.cloud.compute.vms[server_id].vm_state = "error"
    live_on(world)
    assert "ERROR" in outcome(world, server_id)["failed"]


def test_a_busy_vm_is_waited_for(world: World) -> None:
    """A migration that somebody else has begun, say: no second one is begun meanwhile."""
    server_id = at_ten_days_before(world)
    vm = world.cloud.compute.vms[server_id]
    vm.task_state = "migrating"
    world.live(world.clock.now() + timedelta(seconds=1))
    world.live(world.clock.now() + timedelta(minutes=5))
    assert world.cloud.requests(ACTION, "POST") == []
    assert "before_end" not in world.events(server_id)
    vm.task_state = None
    live_on(world)
    assert outcome(world, server_id)["to_host"] == "compute2"


# Where to ------------------------------------------------------------------------------------


def choose(world: World, **options: str) -> None:
    """Set where VMs are moved to."""
    for name, value in options.items():
        world.harness.conf.set_override(name, value, group=RESOURCE_TYPE)


@pytest.mark.parametrize("vm_state", ["active", "stopped"])
def test_a_host_is_given_to_the_scheduler_and_not_forced(world: World, vm_state: str) -> None:
    choose(world, migration_host="compute3")
    world.cloud.compute.hosts.add("compute3")
    server_id = at_ten_days_before(world, vm_state=vm_state)
    live_on(world)
    assert world.cloud.compute.vms[server_id].host == "compute3"
    assert asked(world, "os-migrateLive") + asked(world, "migrate") == [
        {"host": "compute3", "block_migration": "auto"}
        if vm_state == "active"
        else {"host": "compute3"}
    ]
    assert outcome(world, server_id)["to_host"] == "compute3"


@pytest.mark.parametrize("vm_state", ["active", "stopped"])
def test_a_host_that_the_scheduler_turns_down(world: World, vm_state: str) -> None:
    choose(world, migration_host="compute2")
    world.cloud.compute.full_hosts.add("compute2")
    server_id = at_ten_days_before(world, vm_state=vm_state)
    live_on(world)
    found = outcome(world, server_id)
    assert found["failed"] == "it could not be moved to compute2: Nova has it as error"
    assert f"openstack server event list {server_id}" in found["remedy"]
    assert world.cloud.compute.vms[server_id].host == "compute1"
    assert not world.row(server_id).progress.get("undo")
    assert world.state(server_id) == "noticed"


@pytest.mark.parametrize("how", ["down", "disabled", "unknown"])
def test_a_host_that_is_not_there_to_take_it(world: World, how: str) -> None:
    choose(world, migration_host="compute9" if how == "unknown" else "compute2")
    if how != "unknown":
        getattr(world.cloud.compute, f"{how}_hosts").add("compute2")
    server_id = at_ten_days_before(world)
    live_on(world)
    assert "is up and enabled" in outcome(world, server_id)["failed"]
    assert world.cloud.requests(ACTION, "POST") == []


def test_a_vm_that_is_where_it_should_be_stays(world: World) -> None:
    choose(world, migration_aggregate="old")
    world.cloud.compute.aggregates = {"new": ["compute2"], "old": ["compute1", "compute2"]}
    server_id = at_ten_days_before(world)
    live_on(world)
    assert outcome(world, server_id) == {
        "action": "migration",
        "on_host": "compute1",
        "reason": "it is where it should be",
    }
    assert world.cloud.requests(ACTION, "POST") == []


def test_the_hosts_of_an_aggregate_are_tried_one_after_the_other(world: World) -> None:
    choose(world, migration_aggregate="old")
    hosts = [f"old{n}" for n in range(6)]
    compute = world.cloud.compute
    compute.hosts |= set(hosts)
    compute.aggregates = {"old": hosts}
    compute.down_hosts = {"old0"}
    compute.disabled_hosts = {"old1"}
    compute.full_hosts = {"old2", "old3", "old4"}
    server_id = at_ten_days_before(world)
    live_on(world)
    assert compute.vms[server_id].host == "old5"
    tried = [request["host"] for request in asked(world, "os-migrateLive")]
    assert len(tried) == len(set(tried)) == world.events(server_id).count("migration_failed") + 1
    assert set(tried) <= set(hosts) - {"old0", "old1"}
    assert outcome(world, server_id)["to_host"] == "old5"


def test_vms_spread_over_the_hosts_of_an_aggregate(world: World) -> None:
    choose(world, migration_aggregate="old")
    hosts = [f"old{n}" for n in range(4)]
    world.cloud.compute.hosts |= set(hosts)
    world.cloud.compute.aggregates = {"old": hosts}
    servers = [world.adopt(f"vm{n}") for n in range(16)]
    world.clock.set(ends_at(world, servers[0]) - timedelta(days=10))
    live_on(world)
    assert {world.cloud.compute.vms[server_id].host for server_id in servers} == set(hosts)


def test_an_aggregate_that_is_not_there(world: World) -> None:
    choose(world, migration_aggregate="old")
    server_id = at_ten_days_before(world)
    live_on(world)
    assert outcome(world, server_id)["failed"] == "Nova has no host aggregate 'old'"


# What goes wrong -----------------------------------------------------------------------------


def test_a_host_that_nova_refuses_is_no_reason_to_fail(world: World) -> None:
    server_id = at_ten_days_before(world)
    world.cloud.fault(ACTION, status=400, message="Compute host is of another kind.")
    live_on(world)
    assert "Compute host is of another kind" in outcome(world, server_id)["failed"]
    assert world.state(server_id) == "noticed"


@pytest.mark.parametrize("fault", [{"status": 409, "message": "busy"}, {"status": 503}])
def test_what_nova_cannot_do_now_is_tried_again_and_the_end_comes(
    world: World, fault: dict[str, Any]
) -> None:
    server_id = at_ten_days_before(world)
    broken = world.cloud.fault(ACTION, **fault)
    world.live(world.clock.now() + timedelta(seconds=1))
    world.live(world.clock.now() + timedelta(minutes=10))
    assert "before_end" not in world.events(server_id)
    broken.remove()
    live_on(world)
    assert outcome(world, server_id)["to_host"] == "compute2"


def test_a_migration_that_never_ends_is_given_up_and_waited_for_at_the_end(world: World) -> None:
    world.cloud.compute.reads = 10**6
    server_id = at_ten_days_before(world)
    live_on(world)
    assert "has been under way for 0:03:00" in outcome(world, server_id)["failed"]
    end = ends_at(world, server_id)
    world.live(end + timedelta(minutes=1))
    assert world.state(server_id) == "noticed"
    assert "the server is MIGRATING, migrating" in world.history(server_id)[-1][1]["reason"]
    world.cloud.compute.reads = 1
    world.cloud.compute.settle(server_id)
    world.live(world.clock.now() + timedelta(hours=2))
    assert world.state(server_id) == "deleted"


def test_nova_forgets_what_it_was_asked_for(world: World) -> None:
    """It said 202, and its message bus lost the rest."""
    server_id = at_ten_days_before(world)
    world.cloud.fault(ACTION, status=202, empty=True)
    live_on(world)
    assert outcome(world, server_id)["failed"].startswith("Nova was asked 3 times")
    assert len(world.cloud.requests(ACTION, "POST")) == 3


@pytest.mark.sampled(4)
@pytest.mark.parametrize("vm_state", ["active", "stopped"])
@pytest.mark.parametrize("calls", [1, 2, 3, 4, 5, 6, 8, 10])
def test_a_process_killed_in_the_middle(world: World, vm_state: str, calls: int) -> None:
    """After its Nth request nothing reaches it any more, nor does it write anything."""

    server_id = at_ten_days_before(world, vm_state=vm_state)
    world.clock.advance(seconds=1)
    die_at_request(world, calls)
    world.harness.restart()
    live_on(world)
    vm = world.cloud.compute.vms[server_id]
    assert (vm.host, vm.vm_state) == ("compute2", vm_state)
    assert outcome(world, server_id)["to_host"] == "compute2"
    assert len(world.cloud.compute.migrations) == 1


# The owner extends, or everything ends, meanwhile ------------------------------------------------


@pytest.mark.sampled(3)
@pytest.mark.parametrize("steps", range(1, 8))
def test_an_extension_meanwhile_leaves_nothing_unconfirmed(world: World, steps: int) -> None:
    """After any step; and the next end begins with another migration."""
    world.cloud.compute.reads = 3
    server_id = at_ten_days_before(world, vm_state="stopped")
    world.clock.advance(seconds=1)
    for _ in range(steps + 2):
        world.harness.plugin.service.worker.work_off(1)
        world.clock.advance(seconds=3)
    extend(world, server_id)
    world.live(world.clock.now() + timedelta(minutes=1))
    world.cloud.compute.settle(server_id)
    world.live(world.clock.now() + timedelta(minutes=5))
    vm = world.cloud.compute.vms[server_id]
    assert vm.vm_state == "stopped"
    assert world.state(server_id) == "active"
    assert not world.row(server_id).progress.get("undo")
    assert world.lease(server_id).status == "ACTIVE"
    assert {m["status"] for m in world.cloud.compute.migrations} <= {"confirmed"}
    before = len(world.cloud.compute.migrations)
    assert before <= 1
    world.clock.set(ends_at(world, server_id) - timedelta(days=10))
    live_on(world)
    assert len(world.cloud.compute.migrations) == before + 1


def test_an_extension_does_not_wait_for_ever(world: World) -> None:
    server_id = at_ten_days_before(world, vm_state="stopped")
    world.cloud.compute.reads = 10**6
    world.live(world.clock.now() + timedelta(seconds=1))
    world.live(world.clock.now() + timedelta(minutes=1))
    assert asked(world, "migrate") == [{}]
    extend(world, server_id)
    world.live(world.clock.now() + timedelta(minutes=2))
    assert world.state(server_id) == "reviving"
    world.live(world.clock.now() + timedelta(minutes=3))
    assert world.state(server_id) == "active"
    assert "migration_left" in world.events(server_id)


def test_an_extension_leaves_somebody_elses_resize_alone(world: World) -> None:
    """They began it where our own request had come to nothing."""
    server_id = at_ten_days_before(world, vm_state="stopped")
    world.clock.advance(seconds=1)
    world.cloud.fault(ACTION, status=202, empty=True)
    while not asked(world, "migrate"):
        world.harness.plugin.service.worker.work_off(1)
        world.clock.advance(seconds=1)
    world.cloud.compute.resize(server_id, world.alpha)
    extend(world, server_id)
    world.live(world.clock.now() + timedelta(minutes=30))
    assert world.state(server_id) == "active"
    assert world.cloud.compute.vms[server_id].vm_state == "resized"
    assert asked(world, "confirmResize") == []


def test_a_vm_that_goes_out_of_scope_meanwhile_is_confirmed_first(world: World) -> None:
    world.cloud.compute.reads = 50
    server_id = at_ten_days_before(world, vm_state="stopped")
    world.live(world.clock.now() + timedelta(minutes=1))
    assert asked(world, "migrate") == [{}]
    world.harness.conf.set_override("excluded_projects", [world.alpha], group=RESOURCE_TYPE)
    world.cloud.compute.settle(server_id)
    world.live(world.clock.now() + timedelta(minutes=10))
    world.cloud.compute.settle(server_id)
    world.live(world.clock.now() + timedelta(minutes=10))
    assert world.state(server_id) == "exempt"
    assert world.cloud.compute.vms[server_id].vm_state == "stopped"
    assert world.cloud.compute.migrations[0]["status"] == "confirmed"


@pytest.mark.options({RESOURCE_TYPE: {"quarantine": "5d"}})
def test_a_quarantine_meanwhile(world: World) -> None:
    """It waits until the VM has moved; then it is locked and stopped as announced."""
    world.cloud.compute.reads = 10**6
    server_id = world.adopt()
    world.live(ends_at(world, server_id) - timedelta(days=5) + timedelta(minutes=2))
    assert world.state(server_id) == "noticed"
    world.cloud.compute.reads = 1
    world.cloud.compute.settle(server_id)
    world.live(world.clock.now() + timedelta(hours=2))
    vm = world.cloud.compute.vms[server_id]
    assert world.state(server_id) == "quarantined"
    assert (vm.host, vm.vm_state, vm.locked) == ("compute2", "stopped", True)
