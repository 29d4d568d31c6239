# SPDX-License-Identifier: Apache-2.0
"""Shelving a VM at its end: step by step, with what its owner, Nova and Glance may do meanwhile."""

from __future__ import annotations

import datetime
from datetime import timedelta
from typing import Any

import pytest

from tests.fakes.servers import Vm
from tests.functional.killed import die_at_request
from tests.functional.test_kept import end_of, live_past_end, power, reconcile
from tests.functional.world import World

pytestmark = [
    pytest.mark.options(
        {
            "virtual:vm": {"on_end_action": "shelve"},
            "vmexpire_worker": {"retry_max_interval": "20s"},
        }
    ),
    # What is tried here lies between us, Nova and Glance; restarts are tried on all databases.
    pytest.mark.databases("sqlite"),
]

QUARANTINE = pytest.mark.options({"virtual:vm": {"quarantine": "7d"}})
ALL_DATABASES = pytest.mark.databases("sqlite", "mariadb", "postgresql")

ACTION = r"/compute/v2.1/servers/[^/]+/action"


@pytest.fixture
def server_id(world: World) -> str:
    """A VM of Alice's, noticed, an hour before its end."""
    return noticed(world)


def noticed(world: World, **attributes: Any) -> str:
    """Take a VM in, and let time pass until an hour before its end."""
    server_id = world.adopt(**attributes)
    world.live(end_of(world, server_id) - timedelta(hours=1))
    assert world.state(server_id) == "noticed"
    return server_id


def vm_of(world: World, server_id: str) -> Vm:
    """Return a VM as Nova has it."""
    return world.cloud.compute.vms[server_id]


def work_off(world: World, server_id: str, event: str) -> None:
    """Let the end of a VM come, and go on, step by step, until its history has an event."""
    world.clock.set(max(world.clock.now(), end_of(world, server_id)))
    for _ in range(40):
        if event in world.events(server_id):
            return
        world.harness.plugin.service.worker.work_off(1)
        world.clock.advance(seconds=3)
    raise AssertionError(f"{event} did not come: {world.events(server_id)}")


def assert_shelved(world: World, server_id: str) -> None:
    """Check that a VM is off its host, its owner's, with its image, and that nothing is left."""
    assert world.state(server_id) == "ended", (world.row(server_id), world.events(server_id))
    vm = vm_of(world, server_id)
    assert (vm.vm_state, vm.locked, vm.host) == ("shelved_offloaded", False, None)
    images = list(world.cloud.image.images.values())
    assert [(i["id"], i["status"], i["owner"]) for i in images] == [
        (vm.shelved_image, "active", world.alpha)
    ]
    assert world.lease(server_id).status == "TERMINATED"
    assert [n.kind for n in world.notices(server_id)].count("ended") == 1
    assert sum("has been shelved" in mail["Subject"] for mail in world.mails) == 1
    assert world.row(server_id).next_at is None


def assert_given_back(world: World, server_id: str, vm_state: str = "active") -> None:
    """Check that a VM is as it was, with a live lease, and that no image is left."""
    row, lease = world.row(server_id), world.lease(server_id)
    assert (row.state, row.progress) == ("active", {}), (row, world.events(server_id))
    assert power(world, server_id) == (vm_state, False)
    assert (lease.status, lease.end_date) == ("ACTIVE", row.ends_at)
    assert not world.cloud.image.images


# As it should be ----------------------------------------------------------------------------------


@pytest.mark.sampled(2)
@ALL_DATABASES
@pytest.mark.parametrize("offload_time", [0, -1])
def test_it_is_shelved_off_its_host_and_its_owners_to_unshelve(
    world: World, server_id: str, offload_time: int
) -> None:
    world.cloud.compute.shelved_offload_time = offload_time
    live_past_end(world, server_id)
    assert_shelved(world, server_id)
    events = world.events(server_id)
    assert events[events.index("end_begun") :] == [
        "end_begun",
        "locked",
        "shelve_asked",
        *(["offload_asked"] if offload_time else []),
        "image_given",
        "unlocked",
        "kept",
        "notice_accepted",
    ]
    text = world.mails[-1].get_content()
    assert f"openstack server unshelve {server_id}" in text
    assert "server create --image" not in text
    world.live(world.clock.now() + timedelta(days=100))
    assert_shelved(world, server_id)
    # By themselves: no image is left behind.
    assert world.act(server_id, "unshelve") == 202
    world.cloud.compute.settle(server_id)
    reconcile(world)
    assert_given_back(world, server_id)


def test_meanwhile_its_owner_cannot_unshelve_it(world: World, server_id: str) -> None:
    world.cloud.image.reads = None
    live_past_end(world, server_id)
    assert world.state(server_id) == "ending"
    assert world.act(server_id, "unshelve") == 409
    assert "being shelved" in str(vm_of(world, server_id).locked_reason)


def test_a_volume_backed_vm_keeps_its_volume_and_has_no_image(world: World) -> None:
    server_id = noticed(world, image_id=None)
    world.cloud.compute.shelved_offload_time = -1
    live_past_end(world, server_id)
    assert world.state(server_id) == "ended"
    assert power(world, server_id) == ("shelved_offloaded", False)
    assert not world.cloud.image.images
    assert not world.cloud.requests("/image/")
    assert world.extend(server_id).status_code == 200
    world.settle()
    assert_given_back(world, server_id)


@pytest.mark.parametrize("vm_state", ["active", "stopped", "paused", "suspended"])
def test_an_extension_gives_it_back_as_it_was(world: World, server_id: str, vm_state: str) -> None:
    """What was only in its memory is gone: Nova shuts it down before it saves its disk."""
    vm_of(world, server_id).vm_state = vm_state
    live_past_end(world, server_id)
    assert_shelved(world, server_id)
    world.live(world.clock.now() + timedelta(days=10))
    assert world.extend(server_id).status_code == 200
    world.live(world.clock.now() + timedelta(minutes=1))
    assert_given_back(world, server_id, "stopped" if vm_state == "stopped" else "active")


@QUARANTINE
@pytest.mark.parametrize("ran", [True, False])
def test_after_a_quarantine_too(world: World, ran: bool) -> None:
    server_id = world.adopt()
    if not ran:
        vm_of(world, server_id).vm_state = "stopped"
    live_past_end(world, server_id)
    assert_shelved(world, server_id)
    assert world.extend(server_id).status_code == 200
    world.live(world.clock.now() + timedelta(minutes=1))
    assert_given_back(world, server_id, "active" if ran else "stopped")


def test_a_lock_that_is_not_ours_stays(world: World, server_id: str) -> None:
    vm = vm_of(world, server_id)
    vm.locked, vm.locked_reason = True, "mine"
    live_past_end(world, server_id)
    assert world.state(server_id) == "ended"
    assert power(world, server_id) == ("shelved_offloaded", True)
    assert vm.locked_reason == "mine"


# Its owner had shelved it -------------------------------------------------------------------------


def test_what_its_owner_has_shelved_is_only_kept_and_not_unshelved(
    world: World, server_id: str
) -> None:
    vm_of(world, server_id).vm_state = "shelved_offloaded"
    live_past_end(world, server_id)
    assert world.state(server_id) == "ended"
    assert not world.cloud.requests(ACTION)
    assert world.extend(server_id).status_code == 200
    world.settle()
    assert (world.state(server_id), *power(world, server_id)) == (
        "active",
        "shelved_offloaded",
        False,
    )


@pytest.mark.parametrize("image", ["active", "lost"])
def test_what_its_owner_has_shelved_is_taken_off_its_host_if_its_image_is_there(
    world: World, server_id: str, image: str
) -> None:
    world.cloud.compute.shelved_offload_time = -1
    assert world.act(server_id, "shelve") == 202
    vm = vm_of(world, server_id)
    world.cloud.image.finish(str(vm.shelved_image))
    assert vm.vm_state == "shelved"
    if image == "lost":
        world.cloud.image.images.clear()
    live_past_end(world, server_id, hours=1)
    if image == "active":
        assert (world.state(server_id), vm.vm_state) == ("ended", "shelved_offloaded")
    else:
        assert (world.state(server_id), vm.vm_state) == ("failed", "shelved")
        assert "no complete image" in str(world.row(server_id).last_error)


def test_an_extension_that_comes_between_leaves_the_owners_own_image_alone(
    world: World, server_id: str
) -> None:
    world.cloud.compute.shelved_offload_time = -1
    assert world.act(server_id, "shelve") == 202
    vm = vm_of(world, server_id)
    world.cloud.image.finish(str(vm.shelved_image))
    work_off(world, server_id, "offload_asked")
    assert world.extend(server_id).status_code == 200
    world.settle()
    world.live(world.clock.now() + timedelta(minutes=1))
    assert (world.state(server_id), vm.vm_state) == ("active", "shelved_offloaded")
    assert list(world.cloud.image.images) == [vm.shelved_image]


# Something goes wrong -----------------------------------------------------------------------------


def test_when_nova_gives_up_what_it_left_is_removed_and_it_is_asked_again(
    world: World, server_id: str
) -> None:
    world.cloud.image.reads = None
    live_past_end(world, server_id)
    world.cloud.compute.give_up_shelving(server_id)
    (left,) = world.cloud.image.images
    world.cloud.image.reads = 1
    world.live(world.clock.now() + timedelta(minutes=10))
    assert_shelved(world, server_id)
    assert left not in world.cloud.image.images
    assert ("image_removed", {"image_id": left}) in world.history(server_id)
    # It ran before all this.
    assert world.extend(server_id).status_code == 200
    world.live(world.clock.now() + timedelta(minutes=1))
    assert_given_back(world, server_id)


def test_when_nova_has_given_up_three_times_an_operator_has_to_look(
    world: World, server_id: str
) -> None:
    world.cloud.image.reads = None
    for _ in range(3):
        live_past_end(world, server_id)
        world.cloud.compute.give_up_shelving(server_id)
        world.live(world.clock.now() + timedelta(minutes=2))
    assert world.state(server_id) == "failed"
    assert "gave up shelving it 3 times" in str(world.row(server_id).last_error)
    assert world.events(server_id).count("shelve_asked") == 3
    assert not world.cloud.image.images
    assert world.extend(server_id).status_code == 200
    world.live(world.clock.now() + timedelta(minutes=1))
    assert_given_back(world, server_id)


def test_an_extension_removes_what_nova_left_when_it_gave_up(world: World, server_id: str) -> None:
    world.cloud.image.reads = None
    live_past_end(world, server_id)
    assert world.extend(server_id).status_code == 200
    world.cloud.compute.give_up_shelving(server_id)
    assert len(world.cloud.image.images) == 1
    world.live(world.clock.now() + timedelta(minutes=2))
    assert_given_back(world, server_id)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("damage", [{"status": "queued"}, {"size": 0}, {"size": None}, None])
@pytest.mark.parametrize("offload_time", [0, -1])
def test_a_shelved_vm_without_a_complete_image_is_an_operators(
    world: World, server_id: str, damage: dict[str, Any] | None, offload_time: int
) -> None:
    world.cloud.compute.shelved_offload_time = offload_time
    work_off(world, server_id, "shelve_asked")
    (image,) = world.cloud.image.images.values()
    world.cloud.image.finish(image["id"])
    if damage is None:
        world.cloud.image.images.clear()
    else:
        image.update(damage)
    world.live(world.clock.now() + timedelta(minutes=4))
    assert world.state(server_id) == "ending"
    world.live(world.clock.now() + timedelta(minutes=10))
    assert world.state(server_id) == "failed"
    assert "no complete image" in str(world.row(server_id).last_error)
    # As long as it is on its host its disk is there.
    expected = "shelved" if offload_time else "shelved_offloaded"
    assert power(world, server_id) == (expected, True)


def test_images_of_other_kinds_are_left_alone(world: World, server_id: str) -> None:
    """An owner's own, an administrator's backup, and one of another VM."""
    service = world.cloud.identity.service_project
    others = [
        world.cloud.add_image(name="web1-shelved", owner=world.alpha, instance_uuid=server_id),
        world.cloud.add_image(name="web1-backup", owner=service, instance_uuid=server_id),
        world.cloud.add_image(name="web1-shelved", owner=service, instance_uuid="another"),
    ]
    live_past_end(world, server_id)
    assert world.state(server_id) == "ended"
    vm = vm_of(world, server_id)
    assert world.cloud.image.images[str(vm.shelved_image)]["owner"] == world.alpha
    assert world.extend(server_id).status_code == 200
    world.live(world.clock.now() + timedelta(minutes=1))
    assert (world.state(server_id), vm.vm_state) == ("active", "active")
    assert sorted(world.cloud.image.images) == sorted(others)


def test_where_no_host_has_room_nova_is_asked_again_and_again_to_unshelve_it(
    world: World, server_id: str
) -> None:
    live_past_end(world, server_id)
    world.cloud.compute.full = True
    assert world.extend(server_id).status_code == 200
    world.live(world.clock.now() + timedelta(minutes=5))
    row = world.row(server_id)
    assert row.state == "reviving"
    assert "is there room for it?" in str(row.last_error)
    assert world.events(server_id).count("unshelve_asked") == 1
    asked = [r for r in world.cloud.requests(ACTION) if r.body and "unshelve" in r.body]
    assert 3 <= len(asked) <= 20
    world.cloud.compute.full = False
    world.live(world.clock.now() + timedelta(minutes=1))
    assert_given_back(world, server_id)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "fault",
    [{"status": 503}, {"close": True, "after": True}, {"html": True, "status": 404}],
    ids=str,
)
@pytest.mark.parametrize("border", [ACTION, r"/compute/v2.1/servers/[^/]+$", "/image/"])
def test_a_border_that_is_broken_for_a_while(
    world: World, server_id: str, border: str, fault: dict[str, Any]
) -> None:
    world.cloud.compute.shelved_offload_time = -1
    world.live(end_of(world, server_id) - timedelta(minutes=1))
    world.cloud.fault(border, times=8, **fault)
    live_past_end(world, server_id, minutes=10)
    assert_shelved(world, server_id)


# A step is interrupted ----------------------------------------------------------------------------


@pytest.mark.sampled(4)
@pytest.mark.parametrize(("vm_state", "offload_time"), [("active", -1), ("stopped", 0)])
@pytest.mark.parametrize("steps", range(1, 12))
def test_an_extension_after_any_step_undoes_what_was_begun(
    world: World, server_id: str, steps: int, vm_state: str, offload_time: int
) -> None:
    """Also while Nova is still at work on what it was asked for."""
    world.cloud.compute.reads = world.cloud.image.reads = 2
    world.cloud.compute.shelved_offload_time = offload_time
    vm_of(world, server_id).vm_state = vm_state
    world.clock.set(end_of(world, server_id))
    for _ in range(steps):
        world.harness.plugin.service.worker.work_off(1)
        world.clock.advance(seconds=3)
    assert world.extend(server_id).status_code == 200
    world.settle()
    world.live(world.clock.now() + timedelta(minutes=10))
    assert_given_back(world, server_id, vm_state)


def test_one_that_its_owner_deletes_meanwhile_is_over(world: World, server_id: str) -> None:
    work_off(world, server_id, "shelve_asked")
    world.cloud.compute.vanish(server_id)
    world.live(world.clock.now() + timedelta(minutes=10))
    assert (world.state(server_id), world.row(server_id).next_at) == ("deleted", None)


def test_switching_the_scope_off_gives_it_back(world: World, server_id: str) -> None:
    world.cloud.image.reads = None
    live_past_end(world, server_id)
    world.harness.conf.set_override("scope", "none", group="virtual:vm")
    (image_id,) = world.cloud.image.images
    world.cloud.image.finish(image_id)
    world.live(world.clock.now() + timedelta(hours=1))
    assert (world.state(server_id), *power(world, server_id)) == ("exempt", "active", False)
    assert not world.cloud.image.images


@ALL_DATABASES
def test_a_restart_of_the_manager_between_any_two_steps(world: World, server_id: str) -> None:
    world.cloud.compute.shelved_offload_time = -1
    world.clock.set(end_of(world, server_id))
    for _ in range(40):
        world.harness.plugin.service.worker.work_off(1)
        world.harness.restart()
        world.clock.advance(seconds=3)
        if world.state(server_id) == "ended" and world.row(server_id).next_at is None:
            break
    assert_shelved(world, server_id)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("calls", range(1, 16))
def test_a_process_killed_in_the_middle_of_a_step(world: World, server_id: str, calls: int) -> None:
    """The answer to its Nth request never reaches it, nor does it write anything after that."""

    world.cloud.compute.shelved_offload_time = -1
    world.clock.set(end_of(world, server_id))
    die_at_request(world, calls)
    world.harness.restart()
    world.live(world.clock.now() + timedelta(hours=1))
    assert_shelved(world, server_id)
    assert world.extend(server_id).status_code == 200
    world.live(world.clock.now() + timedelta(minutes=1))
    assert_given_back(world, server_id)


# The brake ----------------------------------------------------------------------------------------


@pytest.mark.options({"vmexpire_brake": {"deletions_per_hour": 2, "deletions_share": 0.0}})
def test_shelvings_keep_the_brakes_pace(world: World) -> None:
    servers = [world.adopt(f"vm{number}") for number in range(5)]
    ends_at = end_of(world, servers[0])
    for hours, shelved in ((0, 2), (1, 4), (2, 5)):
        world.live(ends_at + timedelta(hours=hours, minutes=10))
        states = [world.state(server_id) for server_id in servers]
        assert states.count("ended") == shelved, states
        for server_id in servers:
            if world.state(server_id) != "ended":
                assert world.lease(server_id).status == "ACTIVE"
                assert power(world, server_id) == ("active", False)


def test_tripped_nothing_is_shelved_and_nothing_locked(world: World, server_id: str) -> None:
    """Its end had begun a moment before."""
    work_off(world, server_id, "end_begun")
    trip(world, world.clock.now())
    world.live(world.clock.now() + timedelta(hours=1))
    assert world.state(server_id) == "ending"
    assert power(world, server_id) == ("active", False)
    assert not world.cloud.requests(ACTION)
    with world.harness.database.begin() as connection:
        world.harness.plugin.tools.brake.release(
            connection, reason=None, by="root", now=world.clock.now()
        )
    world.live(world.clock.now() + timedelta(minutes=10))
    assert_shelved(world, server_id)


def test_tripped_what_was_being_shelved_is_brought_to_its_end(world: World, server_id: str) -> None:
    """Nova is at work on it already; what is left to do takes nothing away."""
    work_off(world, server_id, "shelve_asked")
    trip(world, world.clock.now())
    world.settle()
    assert_shelved(world, server_id)


def trip(world: World, now: datetime.datetime) -> None:
    """Trip the brake as an administrator does."""
    with world.harness.database.begin() as connection:
        world.harness.plugin.tools.brake.trip(connection, reason="wait", by="root", now=now)
