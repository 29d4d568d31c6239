# SPDX-License-Identifier: Apache-2.0
"""VMs that are kept at their end: they rest, and their owner has them back by one act."""

from __future__ import annotations

import datetime
from datetime import timedelta

import pytest

from blazar_vmexpire.intake.notifications import Endpoint
from blazar_vmexpire.lifecycle import floor_minute
from tests.functional.manage import Manage
from tests.functional.test_removal import withdraw
from tests.functional.world import World

pytestmark = [
    # That rows are written under their fence is tried on all databases elsewhere.
    pytest.mark.databases("sqlite"),
    pytest.mark.options({"vmexpire_worker": {"retry_max_interval": "20s"}}),
]

STOP = pytest.mark.options({"virtual:vm": {"on_end_action": "stop"}})
SHELVE = pytest.mark.options({"virtual:vm": {"on_end_action": "shelve"}})
QUARANTINE = pytest.mark.options({"virtual:vm": {"quarantine": "7d"}})
CAPPED = pytest.mark.options({"virtual:vm": {"max_total_duration": "61d"}})
LIMITED = pytest.mark.options({"virtual:vm": {"max_extensions": 1}})

SERVER = r"/compute/v2.1/servers/[^/]+$"


def end_of(world: World, server_id: str) -> datetime.datetime:
    """Say when a VM's lease ends."""
    ends_at = world.row(server_id).ends_at
    assert ends_at is not None
    return ends_at


def live_past_end(world: World, server_id: str, **more: float) -> None:
    """Let a VM's end come, and more time pass."""
    world.live(end_of(world, server_id) + timedelta(minutes=5) + timedelta(**more))


def kept(world: World, **attributes: object) -> str:
    """Take a VM in, and let its end come."""
    server_id = world.adopt(**attributes)
    live_past_end(world, server_id)
    assert world.state(server_id) == "ended"
    return server_id


def power(world: World, server_id: str) -> tuple[str, bool]:
    """Say in which state Nova has a VM, and whether it is locked."""
    vm = world.cloud.compute.vms[server_id]
    return vm.vm_state, vm.locked


def reconcile(world: World) -> None:
    """Let the next reconciliation come."""
    world.live(world.clock.now() + timedelta(minutes=20))


# It rests -----------------------------------------------------------------------------------------


@STOP
def test_a_stopped_vm_rests_and_is_not_ended_again(world: World) -> None:
    server_id = kept(world)
    ended_at = end_of(world, server_id)
    assert power(world, server_id) == ("stopped", True)
    assert "extend" in str(world.cloud.compute.vms[server_id].locked_reason)
    events = world.events(server_id)
    assert events[events.index("end_begun") :] == [
        "end_begun",
        "locked",
        "stop_asked",
        "kept",
        "notice_accepted",
    ]
    assert (world.lease(server_id).status, world.row(server_id).next_at) == ("TERMINATED", None)
    mails, asked = len(world.mails), len(world.cloud.requests("/action$", "POST"))
    world.live(ended_at + timedelta(days=200))
    assert world.state(server_id) == "ended"
    assert world.events(server_id) == events
    assert len(world.mails) == mails
    assert len(world.cloud.requests("/action$", "POST")) == asked
    assert server_id in world.cloud.compute.vms


@STOP
def test_the_mail_says_that_it_was_stopped_and_how_to_have_it_back(world: World) -> None:
    server_id = kept(world)
    last = world.mails[-1]
    assert "has been stopped" in last["Subject"]
    text = " ".join(last.get_content().split())
    assert f"openstack vm expiration extend {server_id}" in text
    latest = world.clock.now() + timedelta(days=30)
    assert f"the latest end that you can choose, which would be {latest:%Y-%m-%d}" in text


@STOP
@CAPPED
def test_the_mail_names_the_administrators_where_nothing_is_left_of_the_total(
    world: World,
) -> None:
    server_id = world.adopt()
    live_past_end(world, server_id)
    world.cloud.compute.settle(server_id)
    assert f"    openstack vm expiration extend {server_id}" in world.mails[-1].get_content()
    other = world.adopt("web2", created_at=world.clock.now() - timedelta(days=10))
    live_past_end(world, other)
    text = " ".join(world.mails[-1].get_content().split())
    assert "expiration extend" not in text
    assert "please ask the administrators" in text


@STOP
def test_a_mail_that_is_not_taken_is_tried_until_it_is(world: World) -> None:
    server_id = world.adopt()
    world.live(end_of(world, server_id) - timedelta(minutes=5))
    world.mail.answers["DATA"] = "451 later"
    live_past_end(world, server_id)
    assert (world.state(server_id), len(world.mails)) == ("ended", 2)
    world.mail.answers.clear()
    world.live(world.clock.now() + timedelta(hours=1))
    assert len(world.mails) == 3
    assert world.row(server_id).next_at is None


@STOP
def test_of_one_that_was_extended_meanwhile_no_mail_says_that_it_was_stopped(world: World) -> None:
    server_id = world.adopt()
    world.live(end_of(world, server_id) - timedelta(minutes=5))
    world.mail.answers["DATA"] = "451 later"
    live_past_end(world, server_id)
    assert world.extend(server_id).status_code == 200
    world.settle()
    world.mail.answers.clear()
    world.live(world.clock.now() + timedelta(hours=1))
    assert world.state(server_id) == "active"
    assert not [mail for mail in world.mails if "has been stopped" in mail["Subject"]]


@STOP
@pytest.mark.parametrize("vm_state", ["paused", "suspended", "shelved_offloaded", "stopped"])
def test_what_does_not_run_is_only_locked(world: World, vm_state: str) -> None:
    server_id = world.adopt()
    world.live(end_of(world, server_id) - timedelta(minutes=5))
    world.cloud.compute.vms[server_id].vm_state = vm_state
    live_past_end(world, server_id)
    assert world.state(server_id) == "ended"
    assert power(world, server_id) == (vm_state, True)
    assert world.extend(server_id).status_code == 200
    world.settle()
    assert (world.state(server_id), *power(world, server_id)) == ("active", vm_state, False)


@pytest.mark.parametrize("action", ["stop", "shelve"])
@pytest.mark.parametrize("vm_state", ["rescued", "resized"])
def test_what_nova_neither_stops_nor_shelves_is_brought_out_of_that(
    world: World, action: str, vm_state: str
) -> None:
    """Its owner could leave it so for ever; an extension gives it back running."""
    world.harness.conf.set_override("on_end_action", action, group="virtual:vm")
    server_id = world.adopt()
    world.live(end_of(world, server_id) - timedelta(minutes=5))
    if vm_state == "resized":
        world.cloud.compute.resize(server_id, world.alpha)
    else:
        world.cloud.compute.vms[server_id].vm_state = vm_state
    live_past_end(world, server_id)
    assert world.state(server_id) == "ended"
    expected = {"stop": ("stopped", True), "shelve": ("shelved_offloaded", False)}[action]
    assert power(world, server_id) == expected
    assert world.extend(server_id).status_code == 200
    world.settle()
    assert (world.state(server_id), *power(world, server_id)) == ("active", "active", False)


@STOP
def test_one_that_breaks_while_it_is_stopped_is_not_called_stopped(world: World) -> None:
    world.cloud.compute.reads = 3
    server_id = world.adopt()
    world.clock.set(end_of(world, server_id) - timedelta(minutes=5))
    world.settle()
    world.clock.set(end_of(world, server_id))
    worker = world.harness.plugin.service.worker
    while "stop_asked" not in world.events(server_id):
        worker.work_off(1)
        world.clock.advance(seconds=3)
    vm = world.cloud.compute.vms[server_id]
    vm.then, vm.vm_state, vm.task_state = None, "error", None
    world.live(world.clock.now() + timedelta(hours=1))
    assert world.state(server_id) == "ending"
    assert "the server is ERROR" in str(world.row(server_id).last_error)
    vm.vm_state = "stopped"
    world.live(world.clock.now() + timedelta(hours=1))
    assert world.state(server_id) == "ended"


# Its owner extends it -----------------------------------------------------------------------------


@STOP
@pytest.mark.databases("sqlite", "mariadb", "postgresql")
def test_an_extension_gives_a_stopped_vm_back_running(world: World) -> None:
    server_id = kept(world)
    lease_id = world.row(server_id).lease_id
    world.live(world.clock.now() + timedelta(days=50))
    answer = world.extend(server_id)
    assert answer.status_code == 200, answer.json
    assert answer.json["vm_expiration"]["state"] == "reviving"
    world.settle()
    row, lease = world.row(server_id), world.lease(server_id)
    assert row.state == "active"
    assert power(world, server_id) == ("active", False)
    assert (row.lease_id, lease.status, lease.end_date) == (lease_id, "ACTIVE", row.ends_at)
    assert row.ends_at == floor_minute(world.clock.now()) + timedelta(days=30)
    # What was told of the end before counts for nothing.
    live_past_end(world, server_id)
    assert (world.state(server_id), *power(world, server_id)) == ("ended", "stopped", True)
    assert len([m for m in world.mails if "has been stopped" in m["Subject"]]) == 2
    assert len({m["Message-ID"] for m in world.mails}) == len(world.mails)


@STOP
def test_an_administrator_may_choose_any_date_for_it(world: World) -> None:
    server_id = kept(world)
    far = floor_minute(world.clock.now()) + timedelta(days=300)
    answer = world.extend(server_id, world.as_admin, end_date=f"{far:%Y-%m-%d %H:%M}")
    assert answer.status_code == 200
    world.settle()
    assert (world.state(server_id), end_of(world, server_id)) == ("active", far)
    assert power(world, server_id) == ("active", False)


@STOP
def test_a_stranger_is_told_nothing_of_it(world: World) -> None:
    server_id = kept(world)
    assert world.extend(server_id, world.as_bob).status_code == 404
    world.settle()
    assert world.state(server_id) == "ended"


@STOP
@QUARANTINE
@pytest.mark.parametrize("ran", [True, False])
def test_after_a_quarantine_it_is_remembered_whether_it_ran(world: World, ran: bool) -> None:
    server_id = world.adopt()
    if not ran:
        world.cloud.compute.vms[server_id].vm_state = "stopped"
    live_past_end(world, server_id)
    assert (world.state(server_id), *power(world, server_id)) == ("ended", "stopped", True)
    assert world.extend(server_id).status_code == 200
    world.settle()
    assert world.state(server_id) == "active"
    assert power(world, server_id) == ("active" if ran else "stopped", False)


@STOP
@CAPPED
def test_an_extension_keeps_to_the_cap(world: World) -> None:
    server_id = world.adopt(created_at=world.clock.now() - timedelta(days=10))
    live_past_end(world, server_id)
    answer = world.extend(server_id)
    assert answer.status_code == 409
    assert "max_total_duration 61d" in answer.json["error_message"]
    world.settle()
    assert world.state(server_id) == "ended"


@pytest.mark.sampled(3)
@STOP
@pytest.mark.parametrize("steps", range(1, 7))
def test_an_extension_after_any_step_of_being_stopped(world: World, steps: int) -> None:
    """Also while Nova is still at work on what it was asked for."""
    world.cloud.compute.reads = 3
    server_id = world.adopt()
    world.live(end_of(world, server_id) - timedelta(minutes=5))
    world.clock.set(end_of(world, server_id))
    for _ in range(steps):
        world.harness.plugin.service.worker.work_off(1)
    assert world.extend(server_id).status_code == 200
    world.live(world.clock.now() + timedelta(minutes=1))
    world.cloud.compute.settle(server_id)
    world.live(world.clock.now() + timedelta(minutes=10))
    assert (world.state(server_id), *power(world, server_id)) == ("active", "active", False)
    assert world.lease(server_id).status == "ACTIVE"
    assert world.lease(server_id).end_date == end_of(world, server_id)


@STOP
def test_a_put_that_renames_the_lease_of_one_that_was_stopped_changes_nothing(
    world: World,
) -> None:
    server_id = kept(world)
    world.update(server_id, name="still mine")
    world.settle()
    assert (world.state(server_id), *power(world, server_id)) == ("ended", "stopped", True)
    assert world.row(server_id).next_at is None


@STOP
def test_a_deleted_lease_of_one_that_was_stopped_is_no_way_out(world: World) -> None:
    server_id = kept(world)
    lease_id = world.row(server_id).lease_id
    world.as_alice.delete(f"/v1/leases/{lease_id}")
    world.watch(minutes=2)
    assert (world.state(server_id), *power(world, server_id)) == ("ended", "stopped", True)
    assert world.extend(server_id).status_code == 200
    world.settle()
    assert (world.state(server_id), world.lease(server_id).status) == ("active", "ACTIVE")


# Somebody has it in use again ---------------------------------------------------------------------


@pytest.mark.sampled(4)
@pytest.mark.parametrize("told", [True, False], ids=["by notification", "by reconciliation"])
@pytest.mark.parametrize(
    ("action", "acts", "notification"),
    [
        ("stop", ["unlock"], "instance.unlock"),
        ("stop", ["os-start"], "instance.power_on.end"),
        ("stop", ["unlock", "os-start"], "compute.instance.power_on.end"),
        ("shelve", ["unshelve"], "compute.instance.unshelve.end"),
    ],
)
def test_taking_it_in_use_begins_a_full_term_under_the_same_lease(
    world: World, action: str, acts: list[str], notification: str, told: bool
) -> None:
    world.harness.conf.set_override("on_end_action", action, group="virtual:vm")
    server_id = kept(world)
    before = world.row(server_id)
    world.live(world.clock.now() + timedelta(days=3))
    for act in acts:
        assert world.act(server_id, act, admin=action == "stop") == 202
        world.cloud.compute.settle(server_id)
    vm_state, _ = power(world, server_id)
    if told:
        payload = {"instance_id": server_id, "nova_object.data": {"uuid": server_id}}
        Endpoint(world.harness.database, world.clock.now, lambda: None).info(
            {}, "nova", notification, payload, {}
        )
    begun = world.clock.now()
    if told:
        world.settle()
    else:
        reconcile(world)
    row, lease = world.row(server_id), world.lease(server_id)
    assert (row.state, row.lease_id) == ("active", before.lease_id)
    assert row.generation == before.generation + 1
    assert row.ends_at is not None
    assert begun + timedelta(days=60) <= row.ends_at <= world.clock.now() + timedelta(days=61)
    assert (lease.status, lease.end_date) == ("ACTIVE", row.ends_at)
    # Nothing but what was done by whoever has it in use, and that it is its owner's.
    assert power(world, server_id) == (vm_state, False)
    assert "start_asked" not in world.events(server_id)
    live_past_end(world, server_id)
    assert world.state(server_id) == "ended"
    assert world.events(server_id).count("kept") == 2


@SHELVE
@CAPPED
def test_unshelving_is_no_way_round_the_cap(world: World) -> None:
    server_id = world.adopt(created_at=world.clock.now() - timedelta(days=10))
    live_past_end(world, server_id)
    for times in range(1, 4):
        assert world.act(server_id, "unshelve") == 202
        world.cloud.compute.settle(server_id)
        begun = world.clock.now()
        reconcile(world)
        assert end_of(world, server_id) < begun + timedelta(days=3)
        live_past_end(world, server_id)
        assert world.state(server_id) == "ended"
        assert world.events(server_id).count("kept") == times + 1


@SHELVE
@LIMITED
def test_unshelving_counts_as_an_extension(world: World) -> None:
    server_id = kept(world)
    for days in (60, 2):
        assert world.act(server_id, "unshelve") == 202
        world.cloud.compute.settle(server_id)
        reconcile(world)
        left = end_of(world, server_id) - world.clock.now()
        assert timedelta(days=days - 1) < left < timedelta(days=days + 1)
        live_past_end(world, server_id)
        assert world.state(server_id) == "ended"


@STOP
def test_a_lock_that_is_not_ours_stays_and_its_owner_can_have_the_vm_back(world: World) -> None:
    """Nova does not say whose a lock is, so that no other is taken away or replaced."""
    server_id = world.adopt()
    vm = world.cloud.compute.vms[server_id]
    vm.locked, vm.locked_reason = True, "mine"
    live_past_end(world, server_id)
    assert (world.state(server_id), *power(world, server_id)) == ("ended", "stopped", True)
    assert vm.locked_reason == "mine"
    assert world.extend(server_id).status_code == 200
    world.settle()
    assert (world.state(server_id), *power(world, server_id)) == ("active", "active", True)


@STOP
def test_while_nova_is_at_work_on_it_nothing_is_concluded(world: World) -> None:
    world.cloud.compute.reads = 10**6
    server_id = world.adopt()
    world.live(end_of(world, server_id) + timedelta(minutes=1))
    world.cloud.compute.settle(server_id)
    live_past_end(world, server_id)
    assert world.state(server_id) == "ended"
    assert world.act(server_id, "os-start", admin=True) == 202
    world.see(server_id)
    world.live(world.clock.now() + timedelta(hours=1))
    assert world.state(server_id) == "ended"
    world.cloud.compute.settle(server_id)
    world.live(world.clock.now() + timedelta(minutes=10))
    assert (world.state(server_id), *power(world, server_id)) == ("active", "active", False)


# It goes, or is let go of -------------------------------------------------------------------------


@STOP
def test_one_that_its_owner_deletes_is_over(world: World) -> None:
    server_id = kept(world)
    world.cloud.compute.vanish(server_id)
    world.see(server_id)
    world.live(world.clock.now() + timedelta(minutes=1))
    assert world.state(server_id) == "deleted"
    assert world.row(server_id).next_at is None
    assert world.all_leases() == []


@STOP
@pytest.mark.parametrize("later", ["nothing", "an extension"])
def test_one_that_nova_did_not_find_for_a_moment_rests_on(world: World, later: str) -> None:
    server_id = kept(world)
    text = f"Instance {server_id} could not be found."
    world.cloud.fault(SERVER, method="GET", times=1, status=404, message=text)
    world.see(server_id)
    assert world.state(server_id) == "vanished"
    if later == "an extension":
        assert world.extend(server_id).status_code == 200
    world.live(world.clock.now() + timedelta(minutes=1))
    if later == "nothing":
        assert (world.state(server_id), *power(world, server_id)) == ("ended", "stopped", True)
        assert world.extend(server_id).status_code == 200
        world.settle()
    assert (world.state(server_id), *power(world, server_id)) == ("active", "active", False)


@STOP
def test_one_that_nova_does_not_find_while_it_is_given_back_is_given_back_all_the_same(
    world: World,
) -> None:
    server_id = kept(world)
    assert world.extend(server_id).status_code == 200
    text = f"Instance {server_id} could not be found."
    world.cloud.fault(SERVER, method="GET", times=1, status=404, message=text)
    world.harness.work()
    assert world.state(server_id) == "vanished"
    world.live(world.clock.now() + timedelta(minutes=1))
    assert (world.state(server_id), *power(world, server_id)) == ("active", "active", False)


@STOP
@pytest.mark.options(
    {
        "virtual:vm": {
            "before_end_action": "snapshot",
            # It is looked at again and again until its end.
            "hours_before_end_lease": "3",
            "minimum_notice": "1h",
            "reminders": "",
        }
    }
)
def test_an_image_that_was_begun_before_the_end_is_not_left_behind(world: World) -> None:
    """Nova is done with it, and Glance is not."""
    world.cloud.image.reads = None
    server_id = world.adopt()
    world.live(end_of(world, server_id) - timedelta(hours=1))
    assert len(world.cloud.image.images) == 1
    world.cloud.compute.vms[server_id].task_state = None
    live_past_end(world, server_id)
    assert world.state(server_id) == "ended"
    assert not world.cloud.image.images


@STOP
def test_one_whose_project_is_excluded_is_unlocked_and_left_as_it_is(world: World) -> None:
    server_id = kept(world)
    world.harness.conf.set_override("excluded_projects", [world.alpha], group="virtual:vm")
    reconcile(world)
    assert (world.state(server_id), *power(world, server_id)) == ("exempt", "stopped", False)
    assert world.all_leases() == []
    world.harness.conf.set_override("excluded_projects", [], group="virtual:vm")
    reconcile(world)
    assert (world.state(server_id), *power(world, server_id)) == ("active", "stopped", False)


@STOP
def test_one_whose_unlocking_nova_refuses_is_not_let_go_of_before_it_is_unlocked(
    world: World,
) -> None:
    server_id = kept(world)
    fault = world.cloud.fault("/action$", status=403, message="Policy doesn't allow it")
    world.harness.conf.set_override("excluded_projects", [world.alpha], group="virtual:vm")
    reconcile(world)
    assert (world.state(server_id), *power(world, server_id)) == ("ended", "stopped", True)
    fault.remove()
    reconcile(world)
    assert (world.state(server_id), *power(world, server_id)) == ("exempt", "stopped", False)


def test_a_withdrawal_unlocks_what_was_stopped_and_leaves_it_so(
    world: World, manage: Manage, database_url: str
) -> None:
    world.harness.conf.set_override("on_end_action", "shelve", group="virtual:vm")
    shelved = kept(world, name="shelved")
    world.harness.conf.set_override("on_end_action", "stop", group="virtual:vm")
    stopped = kept(world, name="stopped")
    world.harness.stop()
    preview = withdraw(world, manage, database_url)
    assert preview.returncode == 0, preview.stderr
    assert f"VMs to be unlocked: 1\n  {stopped}  stopped" in preview.stdout
    assert "VMs to be started: 0" in preview.stdout
    assert "shelved or stopped at their end, and stay so: 2" in preview.stdout
    done = withdraw(world, manage, database_url, "--yes")
    assert done.returncode == 0, done.stderr
    assert power(world, stopped) == ("stopped", False)
    assert power(world, shelved) == ("shelved_offloaded", False)
    assert {world.state(shelved), world.state(stopped)} == {"exempt"}
    assert world.all_leases() == []


@STOP
def test_the_brake_neither_limits_how_many_are_stopped_nor_counts_them(world: World) -> None:
    world.harness.conf.set_override("deletions_per_hour", 1, group="vmexpire_brake")
    world.harness.conf.set_override("deletions_share", 0.0, group="vmexpire_brake")
    servers = [world.adopt(f"vm{number}") for number in range(5)]
    live_past_end(world, servers[0])
    assert {world.state(server_id) for server_id in servers} == {"ended"}
    with world.harness.database.begin() as connection:
        status = world.harness.plugin.tools.brake.status(connection, world.clock.now())
    assert (status.known, status.ended, status.deleted, status.waiting) == (0, 0, 0, 0)
