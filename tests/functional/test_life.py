# SPDX-License-Identifier: Apache-2.0
"""The life of a VM, from its first lease to its end, against a real Blazar."""

from __future__ import annotations

import datetime
from datetime import timedelta

import pytest

from tests.functional.world import World

SNAPSHOT = pytest.mark.options({"virtual:vm": {"on_end_action": "snapshot"}})


def test_a_vm_gets_a_lease_of_its_owner(world: World) -> None:
    server_id = world.adopt("web1")
    row = world.row(server_id)
    assert row.state == "active"
    assert row.ends_at == world.clock.now() + timedelta(days=60)
    found = world.as_alice.get("/v1/leases").json["leases"]
    assert [lease["name"] for lease in found] == [f"web1 {server_id}"]
    (lease,) = found
    assert lease["status"] == "ACTIVE"
    assert (lease["project_id"], lease["user_id"]) == (world.alpha, world.alice)
    assert lease["reservations"][0]["resource_id"] == server_id
    assert lease["start_date"] == world.clock.now().isoformat() + ".000000"
    assert world.as_bob.get("/v1/leases").json["leases"] == []
    assert world.as_bob.get(f"/v1/leases/{lease['id']}").status_code == 403


def test_a_vm_lives_sixty_days(world: World) -> None:
    """Notices ten and two days before the end, then deletion, then a last mail."""
    begun = world.clock.now()
    server_id = world.adopt("web1")
    ends_at = begun + timedelta(days=60)
    world.live(ends_at - timedelta(days=10, hours=1))
    assert world.mails == []
    world.live(ends_at - timedelta(days=9))
    assert world.state(server_id) == "noticed"
    assert len(world.mails) == 1
    world.live(ends_at - timedelta(hours=1))
    assert len(world.mails) == 2
    assert server_id in world.cloud.compute.vms
    world.live(ends_at + timedelta(minutes=1))
    assert server_id not in world.cloud.compute.vms
    assert world.state(server_id) == "deleted"
    first, second, last = world.mails
    for mail in (first, second, last):
        assert mail["X-OpenStack-Server"] == server_id
        assert "web1" in mail["Subject"]
        assert mail["To"] == "alice@example.org"
    assert f"{ends_at:%Y-%m-%d %H:%M} UTC" in first.get_content()
    assert "alpha" in first.get_content()
    assert "openstack reservation lease set" in first.get_content()
    assert first["Message-ID"] != second["Message-ID"]
    assert world.as_alice.get("/v1/leases").json["leases"][0]["status"] == "TERMINATED"
    assert world.events(server_id) == [
        "adopted",
        "notice_accepted",
        "before_end",
        "notice_accepted",
        "end_begun",
        "delete_asked",
        "deleted",
        "notice_accepted",
    ]


@SNAPSHOT
def test_at_its_end_an_image_is_made_verified_given_and_only_then_the_vm_deleted(
    world: World,
) -> None:
    server_id = world.adopt("web1")
    ends_at = world.row(server_id).ends_at
    assert ends_at is not None
    world.live(ends_at + timedelta(minutes=1))
    world.settle()
    assert server_id not in world.cloud.compute.vms
    (image,) = world.cloud.image.images.values()
    assert image["status"] == "active"
    assert image["owner"] == world.alpha
    assert image["vmexpire_server_id"] == server_id
    assert image["vmexpire_server_name"] == "web1"
    assert image["vmexpire_lease_id"] == world.row(server_id).lease_id
    order = world.events(server_id)
    assert order[order.index("end_begun") :] == [
        "end_begun",
        "locked",
        "stop_asked",
        "image_asked",
        "image_given",
        "delete_asked",
        "deleted",
        "notice_accepted",
    ]
    assert image["id"] in world.mails[-1].get_content()


@SNAPSHOT
def test_no_verified_image_no_deletion(world: World) -> None:
    """An image that stays queued, or is dropped by Nova, never counts; the VM stays, stopped."""
    world.cloud.image.reads = None
    server_id = world.adopt()
    ends_at = world.row(server_id).ends_at
    assert ends_at is not None
    world.live(ends_at + timedelta(minutes=10))
    assert world.state(server_id) == "ending"
    assert world.cloud.compute.vms[server_id].vm_state == "stopped"
    assert not world.cloud.requests(f"/servers/{server_id}$", "DELETE")


@SNAPSHOT
@pytest.mark.options({"vmexpire_worker": {"retry_max_interval": "10m"}})
def test_after_a_failed_image_the_next_one_is_not_made_at_once(world: World) -> None:
    """A store that is unwritable for some minutes is no matter for an operator."""
    server_id = world.adopt()
    ends_at = world.row(server_id).ends_at
    assert ends_at is not None
    world.cloud.image.reads = None
    world.live(ends_at + timedelta(minutes=1))
    (image_id,) = world.cloud.image.images
    world.cloud.image.fail(image_id)
    failed_at = world.clock.now()
    world.live(failed_at + timedelta(minutes=5))
    assert world.events(server_id).count("image_asked") == 1
    world.cloud.image.reads = 2
    world.live(failed_at + timedelta(minutes=12))
    assert world.events(server_id).count("image_asked") == 2
    assert server_id not in world.cloud.compute.vms


@SNAPSHOT
def test_after_three_failed_images_an_operator_has_to_look(world: World) -> None:
    server_id = world.adopt()
    ends_at = world.row(server_id).ends_at
    assert ends_at is not None
    world.cloud.image.reads = None
    world.live(ends_at)
    for _ in range(3):
        world.live(world.clock.now() + timedelta(minutes=11))
        (image_id,) = world.cloud.image.images
        world.cloud.image.fail(image_id)
    world.live(world.clock.now() + timedelta(minutes=11))
    assert world.state(server_id) == "failed"
    assert server_id in world.cloud.compute.vms
    assert "3 images of it failed" in str(world.row(server_id).last_error)
    assert world.events(server_id).count("image_failed") == 3


@SNAPSHOT
def test_a_vm_that_boots_from_a_volume_and_has_none_is_left_alone(world: World) -> None:
    server_id = world.adopt(image_id=None)
    ends_at = world.row(server_id).ends_at
    assert ends_at is not None
    world.live(ends_at + timedelta(hours=1))
    assert world.state(server_id) == "failed"
    assert "and none is attached" in str(world.row(server_id).last_error)
    vm = world.cloud.compute.vms[server_id]
    assert (vm.vm_state, vm.locked) == ("active", False)


@pytest.mark.options({"virtual:vm": {"before_end_action": "snapshot"}})
def test_an_image_of_the_running_vm_before_its_end(world: World) -> None:
    server_id = world.adopt()
    ends_at = world.row(server_id).ends_at
    assert ends_at is not None
    world.live(ends_at - timedelta(days=9))
    world.settle()
    (image,) = world.cloud.image.images.values()
    assert (image["status"], image["owner"]) == ("active", world.alpha)
    vm = world.cloud.compute.vms[server_id]
    assert (vm.vm_state, vm.locked) == ("active", False)
    world.live(ends_at - timedelta(days=8))
    assert len(world.cloud.image.images) == 1
    assert ("before_end", image["id"]) in [
        (event, details.get("image_id")) for event, details in world.history(server_id)
    ]


@pytest.mark.options({"virtual:vm": {"quarantine": "7d"}})
def test_quarantine_locks_and_stops_and_an_extension_gives_the_vm_back(world: World) -> None:
    server_id = world.adopt()
    ends_at = world.row(server_id).ends_at
    assert ends_at is not None
    world.live(ends_at - timedelta(days=6))
    vm = world.cloud.compute.vms[server_id]
    assert world.state(server_id) == "quarantined"
    assert (vm.vm_state, vm.locked) == ("stopped", True)
    assert "extend" in str(vm.locked_reason)
    new_end = world.clock.now().replace(second=0, microsecond=0) + timedelta(days=20)
    assert world.update(server_id, end_date=new_end).status_code == 200
    world.settle()
    assert world.state(server_id) == "active"
    assert (vm.vm_state, vm.locked) == ("active", False)
    assert world.row(server_id).ends_at == new_end
    assert world.lease(server_id).status == "ACTIVE"


def test_a_deleted_vm_takes_its_lease_with_it_and_leaves_its_history(world: World) -> None:
    server_id = world.adopt()
    world.cloud.compute.vanish(server_id)
    world.see(server_id)
    assert world.state(server_id) == "vanished"
    world.clock.advance(seconds=6)
    world.harness.work()
    assert world.state(server_id) == "deleted"
    assert world.all_leases() == []
    assert world.events(server_id) == ["adopted", "vanished", "deleted"]
    assert world.mails == []


def test_a_vm_that_an_administrator_restores_is_taken_in_anew(world: World) -> None:
    server_id = world.adopt()
    vm = world.cloud.compute.vms[server_id]
    vm.vm_state = "soft-delete"
    world.clock.advance(days=30)
    world.see(server_id)
    world.live(world.clock.now() + timedelta(minutes=1))
    assert world.state(server_id) == "deleted"
    assert world.all_leases() == []
    vm.vm_state = "active"
    world.see(server_id)
    row = world.row(server_id)
    assert row.state == "active"
    assert row.ends_at is not None
    assert row.ends_at >= world.clock.now() + timedelta(days=60)
    assert len(world.all_leases()) == 1


@pytest.mark.parametrize("vm_state", ["building", "error"])
def test_building_and_broken_vms_are_left_alone(world: World, vm_state: str) -> None:
    server_id = world.boot(vm_state=vm_state)
    world.see(server_id)
    assert world.state(server_id) == "seen"
    world.cloud.compute.vms[server_id].vm_state = "active"
    world.live(world.clock.now() + timedelta(minutes=6))
    assert world.state(server_id) == "active"


def test_a_vm_in_the_middle_of_a_task_at_its_end_is_left_alone_until_that_is_over(
    world: World,
) -> None:
    server_id = world.adopt()
    ends_at = world.row(server_id).ends_at
    assert ends_at is not None
    world.live(ends_at - timedelta(hours=1))
    vm = world.cloud.compute.vms[server_id]
    vm.task_state = "resize_migrating"
    world.live(ends_at + timedelta(minutes=30))
    row = world.row(server_id)
    assert row.ends_at == ends_at + timedelta(hours=1)
    assert world.lease(server_id).status == "ACTIVE"
    assert world.lease(server_id).end_date == row.ends_at
    vm.task_state = None
    world.live(ends_at + timedelta(hours=2))
    assert server_id not in world.cloud.compute.vms
    assert "moved" in world.events(server_id)


def test_what_names_can_hold_harms_nothing(world: World) -> None:
    name = "x\r\nBcc: everybody@example.org\n\n<b>\U0001f525\0" + "y" * 200
    server_id = world.adopt(name)
    ends_at = world.row(server_id).ends_at
    assert ends_at is not None
    world.live(ends_at - timedelta(days=9))
    (mail,) = world.mails
    assert mail["Bcc"] is None
    assert "\n" not in mail["Subject"]
    assert world.recipients() == ["alice@example.org"]


@pytest.mark.options({"virtual:vm": {"scope": "none", "undeliverable_contact": None}})
def test_with_scope_none_nothing_happens(world: World) -> None:
    server_id = world.boot()
    world.see(server_id)
    world.harness.work()
    assert world.row_or_none(server_id) is None
    assert world.all_leases() == []


def test_the_service_project_is_left_out(world: World) -> None:
    server_id = world.boot(project_id=world.cloud.identity.service_project)
    world.see(server_id)
    assert world.row_or_none(server_id) is None


def test_dates_are_whole_minutes_and_a_term_is_never_short(world: World) -> None:
    world.clock.set(datetime.datetime(2026, 3, 2, 10, 0, 31, 250000))
    server_id = world.adopt()
    lease = world.lease(server_id)
    assert lease.start_date == datetime.datetime(2026, 3, 2, 10, 0)
    assert lease.end_date == datetime.datetime(2026, 5, 1, 10, 1)
    assert all(event.time is not None and event.time.second == 0 for event in lease.events)


def test_a_vm_whose_project_is_excluded_later_is_let_go_and_taken_in_again(world: World) -> None:
    server_id = world.adopt()
    ends_at = world.row(server_id).ends_at
    assert ends_at is not None
    world.live(ends_at - timedelta(days=5))
    assert len(world.mails) == 1
    world.harness.conf.set_override("excluded_projects", [world.alpha], group="virtual:vm")
    world.live(world.clock.now() + timedelta(hours=1))  # the next reconciliation
    assert world.state(server_id) == "exempt"
    assert world.all_leases() == []
    world.live(ends_at + timedelta(days=30))
    assert server_id in world.cloud.compute.vms
    world.harness.conf.set_override("excluded_projects", [], group="virtual:vm")
    world.live(world.clock.now() + timedelta(hours=1))
    row = world.row(server_id)
    assert row.state == "active"
    assert row.ends_at is not None
    assert row.ends_at >= world.clock.now() + timedelta(days=59)
    world.live(row.ends_at - timedelta(days=9))
    # One of each end, and one that the first of them was off.
    assert len(world.mails) == 3
    assert len({mail["Message-ID"] for mail in world.mails}) == 3


def test_a_vm_that_went_while_it_was_excluded_is_over(world: World) -> None:
    server_id = world.adopt()
    world.harness.conf.set_override("excluded_projects", [world.alpha], group="virtual:vm")
    world.live(world.clock.now() + timedelta(hours=2))
    assert world.state(server_id) == "exempt"
    world.cloud.compute.vanish(server_id)
    world.harness.conf.set_override("excluded_projects", [], group="virtual:vm")
    world.live(world.clock.now() + timedelta(hours=2))
    world.settle()
    assert world.state(server_id) == "deleted"
    assert world.row(server_id).next_at is None


@SNAPSHOT
def test_a_failed_vm_whose_project_is_excluded_later_is_let_go(world: World) -> None:
    server_id = world.adopt(image_id=None)  # its disk is a volume, which it has not
    ends_at = world.row(server_id).ends_at
    assert ends_at is not None
    world.live(ends_at + timedelta(minutes=1))
    assert world.state(server_id) == "failed"
    world.harness.conf.set_override("excluded_projects", [world.alpha], group="virtual:vm")
    world.live(world.clock.now() + timedelta(hours=2))
    world.harness.work()
    assert world.state(server_id) == "exempt"
    assert world.all_leases() == []


@SNAPSHOT
def test_switching_the_scope_off_stops_an_end_that_has_begun(world: World) -> None:
    world.cloud.image.reads = None
    server_id = world.adopt()
    ends_at = world.row(server_id).ends_at
    assert ends_at is not None
    world.live(ends_at + timedelta(minutes=5))
    vm = world.cloud.compute.vms[server_id]
    assert (world.state(server_id), vm.vm_state, vm.locked) == ("ending", "stopped", True)
    (image_id,) = world.cloud.image.images
    world.harness.conf.set_override("scope", "none", group="virtual:vm")
    world.live(ends_at + timedelta(hours=1))
    assert (world.state(server_id), vm.vm_state, vm.locked) == ("exempt", "active", False)
    assert image_id not in world.cloud.image.images
    assert world.all_leases() == []


@pytest.mark.options({"virtual:vm": {"before_end_action": "snapshot"}})
def test_switching_the_scope_off_removes_an_image_that_has_begun(world: World) -> None:
    """Of a VM that runs, so that nothing else has to be undone."""
    world.cloud.image.reads = None
    server_id = world.adopt()
    ends_at = world.row(server_id).ends_at
    assert ends_at is not None
    world.live(ends_at - timedelta(days=10) + timedelta(minutes=5))
    (image_id,) = world.cloud.image.images
    world.harness.conf.set_override("scope", "none", group="virtual:vm")
    world.live(world.clock.now() + timedelta(hours=1))
    assert world.state(server_id) == "exempt"
    assert image_id not in world.cloud.image.images
    assert "image_removed" in world.events(server_id)
    assert world.all_leases() == []


def test_two_answers_that_a_vm_is_gone_have_to_lie_apart(world: World) -> None:
    """Both formats of one notification come within a moment; a replica may lag for longer."""
    server_id = world.adopt()
    world.cloud.compute.vanish(server_id)
    for _ in range(3):
        world.see(server_id)
        assert world.state(server_id) == "vanished"
    world.clock.advance(seconds=6)
    world.harness.work()
    assert world.state(server_id) == "deleted"
