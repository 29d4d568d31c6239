# SPDX-License-Identifier: Apache-2.0
"""What becomes of the volumes of a VM at its end, and that nothing of them is lost."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from tests.fakes.volume import Disk
from tests.functional.killed import die_at_request
from tests.functional.world import World

pytestmark = [
    pytest.mark.databases("sqlite"),
    # Every step of every action, broken and killed: more than make test has room for.
    pytest.mark.long,
]

SNAPSHOT = pytest.mark.options({"virtual:vm": {"on_end_action": "snapshot"}})
KEEP = {
    which: pytest.mark.options({"virtual:vm": {"keep_volumes": which}})
    for which in ("boot", "none")
}
ACTIONS = pytest.mark.parametrize("action", ["delete", "snapshot"])

ATTACHMENT = r"/compute/v2.1/servers/[^/]+/os-volume_attachments"
SERVER = r"/compute/v2.1/servers/[^/]+$"
VOLUME = r"/volume/v3/volumes/"


class Stage:
    """A VM of Alice's that boots from a volume and has another one, an hour before its end."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.id = world.adopt(image_id=None)
        #: What it boots from; as Nova made it, without a name.
        self.boot = world.cloud.attach(self.id, content="system")
        #: Alice's own, with a name, and marked as well.
        self.data = world.cloud.attach(self.id, name="data", content="results")
        #: One that Nova made, empty, and named.
        self.scratch = world.cloud.attach(self.id, name=f"{self.id}-blank-vol")
        end = world.row(self.id).ends_at
        assert end is not None
        self.end = end
        world.live(end - timedelta(hours=1))

    def live_on(self, **duration: float) -> None:
        """Let the end come, and more."""
        self.world.live(self.end + timedelta(**(duration or {"minutes": 10})))

    @property
    def vm(self) -> Any:
        return self.world.cloud.compute.vms.get(self.id)

    def disk(self, volume_id: str) -> Disk | None:
        return self.world.cloud.volume.disks.get(volume_id)

    @property
    def deletions(self) -> int:
        return len(self.world.cloud.requests(SERVER, "DELETE"))

    def assert_ended(self, *kept: str) -> None:
        """Check that the VM is gone, and that these volumes are there, free, and Alice's."""
        assert self.world.state(self.id) == "deleted"
        assert self.vm is None
        assert sorted(self.world.cloud.volume.disks) == sorted(kept)
        for volume_id in kept:
            disk = self.disk(volume_id)
            assert disk is not None
            assert (disk.status, disk.project_id) == ("available", self.world.alpha)
            assert disk.snapshots == []
        assert self.world.events(self.id).count("deleted") == 1
        assert [n.kind for n in self.world.notices(self.id)].count("ended") == 1

    def assert_all_kept(self) -> None:
        """Check that the VM is gone, and that all its volumes are there."""
        self.assert_ended(self.boot, self.data, self.scratch)

    def assert_given_back(self) -> None:
        """Check that the VM runs, and that its volumes are as they were."""
        vm = self.vm
        assert (self.world.state(self.id), vm.vm_state, vm.locked) == ("active", "active", False)
        assert {a.delete_on_termination for a in vm.volumes.values()} == {True}
        boot, data = self.disk(self.boot), self.disk(self.data)
        assert boot is not None
        assert data is not None
        assert (boot.name, boot.description, boot.metadata) == ("", "", {})
        assert (data.name, data.description, data.metadata) == ("data", "", {})
        assert self.world.cloud.volume.disks[self.scratch].name == f"{self.id}-blank-vol"


@pytest.fixture
def action() -> str | None:
    """What happens at the end; None for what the test's options say."""
    return None


@pytest.fixture
def stage(world: World, action: str | None) -> Stage:
    if action is not None:
        world.harness.conf.set_override("on_end_action", action, group="virtual:vm")
    return Stage(world)


# What stays -----------------------------------------------------------------------------------


@ACTIONS
def test_volumes_stay_named_after_their_vm_and_only_then_it_is_deleted(stage: Stage) -> None:
    stage.live_on()
    stage.assert_all_kept()
    world, boot, data = stage.world, stage.disk(stage.boot), stage.disk(stage.data)
    assert boot is not None
    assert data is not None
    assert boot.name == f"web1-boot-{stage.end:%Y-%m-%d}"
    assert data.name == "data"
    scratch = world.cloud.volume.disks[stage.scratch].name
    assert scratch == f"web1-vdc-{stage.end:%Y-%m-%d}"
    for disk in (boot, data):
        assert disk.metadata["vmexpire_server_id"] == stage.id
        assert disk.metadata["vmexpire_server_name"] == "web1"
        assert disk.metadata["vmexpire_lease_id"] == world.row(stage.id).lease_id
        assert stage.id in disk.description
    assert (boot.content, data.content) == ("system", "results")

    order = world.events(stage.id)
    assert order[order.index("end_begun") :] == [
        "end_begun",
        "locked",
        "stop_asked",
        "volumes_held",
        "delete_asked",
        "volumes_kept",
        "deleted",
        "notice_accepted",
    ]
    (kept,) = [details for event, details in world.history(stage.id) if event == "volumes_kept"]
    assert kept["volumes"] == [
        {"id": stage.boot, "name": boot.name, "boot": True, "status": "available"},
        {"id": stage.data, "name": "data", "boot": False, "status": "available"},
        {"id": stage.scratch, "name": scratch, "boot": False, "status": "available"},
    ]
    # Off, and read back, before the deletion; and no image was asked for, which proves nothing.
    asked = world.cloud.requests(rf"/servers/{stage.id}(/os-volume_attachments/.*)?$")
    changes = [(r.method, r.path.rpartition("/")[2]) for r in asked]
    assert changes.index(("PUT", stage.data)) < changes.index(("GET", stage.data))
    assert changes.index(("GET", stage.data)) < changes.index(("DELETE", stage.id))
    assert world.cloud.image.images == {}


def test_the_last_mail_names_what_stayed_and_how_to_boot_from_it(stage: Stage) -> None:
    stage.live_on()
    text = stage.world.mails[-1].get_content()
    assert f"openstack server create --volume {stage.boot}" in text
    assert f"{stage.data}  data" in text
    assert f"web1-boot-{stage.end:%Y-%m-%d}, which it booted from" in text
    assert "openstack volume delete" in text


def test_a_volume_that_has_its_owners_own_words_keeps_them(stage: Stage) -> None:
    data = stage.disk(stage.data)
    assert data is not None
    data.description, data.metadata = "of run 7", {"run": "7"}
    stage.live_on()
    assert (data.name, data.description, data.metadata["run"]) == ("data", "of run 7", "7")


@SNAPSHOT
def test_of_a_vm_with_an_image_both_its_image_and_its_data_volume_stay(world: World) -> None:
    server_id = world.adopt()
    data = world.cloud.attach(server_id)
    end = world.row(server_id).ends_at
    assert end is not None
    world.live(end + timedelta(minutes=10))
    assert world.state(server_id) == "deleted"
    (image,) = world.cloud.image.images.values()
    assert (image["status"], image["owner"]) == ("active", world.alpha)
    disk = world.cloud.volume.disks[data]
    assert (disk.status, disk.name) == ("available", f"web1-vdb-{end:%Y-%m-%d}")
    text = world.mails[-1].get_content()
    assert image["id"] in text
    assert data in text


@KEEP["boot"]
@ACTIONS
def test_only_the_volume_that_it_boots_from(stage: Stage) -> None:
    """The others go by their marks: this one goes with the VM, that one stays."""
    own = stage.world.cloud.attach(stage.id, name="own", delete_on_termination=False)
    stage.live_on()
    stage.assert_ended(stage.boot, own)


@KEEP["none"]
def test_none_but_what_is_not_marked(stage: Stage) -> None:
    """Nova's own deletion: the VM is not even stopped for it, and Cinder is not asked."""
    own = stage.world.cloud.attach(stage.id, name="own", delete_on_termination=False)
    stage.live_on()
    stage.assert_ended(own)
    assert "stop_asked" not in stage.world.events(stage.id)
    assert not stage.world.cloud.requests(VOLUME)


@KEEP["none"]
@SNAPSHOT
def test_what_a_snapshot_is_stays_whatever_is_said_of_volumes(stage: Stage) -> None:
    stage.live_on()
    stage.assert_ended(stage.boot)


@KEEP["boot"]
def test_where_it_cannot_be_told_what_it_boots_from_nothing_is_lost(stage: Stage) -> None:
    for attached in stage.vm.volumes.values():
        attached.device = None
    stage.live_on()
    stage.assert_all_kept()


@pytest.mark.parametrize(
    "state", ["stopped", "paused", "suspended", "shelved_offloaded", "rescued"]
)
@SNAPSHOT
def test_in_whatever_state_the_vm_is(stage: Stage, state: str) -> None:
    """Of many of these Nova makes no image; the volumes are there all the same."""
    stage.vm.vm_state = state
    if state == "shelved_offloaded":
        for disk in stage.world.cloud.volume.disks.values():
            disk.status = "reserved"
    stage.live_on()
    stage.assert_all_kept()


def test_a_cloud_without_cinder_ends_its_vms(world: World) -> None:
    world.cloud.identity.volume_url = None
    server_id = world.adopt()
    end = world.row(server_id).ends_at
    assert end is not None
    world.live(end + timedelta(minutes=10))
    assert world.state(server_id) == "deleted"
    assert not world.cloud.requests(ATTACHMENT)


@pytest.mark.options({"virtual:vm": {"before_end_action": "snapshot"}})
def test_before_the_end_nothing_is_made_of_a_vm_that_boots_from_a_volume(stage: Stage) -> None:
    (details,) = [d for event, d in stage.world.history(stage.id) if event == "before_end"]
    assert "its disk is a volume" in details["failed"]
    assert stage.world.cloud.image.images == {}
    assert stage.world.state(stage.id) == "noticed"
    stage.live_on()
    stage.assert_all_kept()


# What goes wrong ------------------------------------------------------------------------------


FAULTS: list[dict[str, Any]] = [
    {"status": 503},
    {"html": True, "status": 404},
    {"close": True, "after": True},
]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
@pytest.mark.parametrize(
    ("path", "method"),
    [(ATTACHMENT, "GET"), (ATTACHMENT, "PUT"), (VOLUME, "GET"), (VOLUME, "PUT")],
    ids=["attachments", "mark", "volume", "describe"],
)
@SNAPSHOT
def test_every_call_that_fails_twice_is_made_good(
    stage: Stage, path: str, method: str, fault: dict[str, Any]
) -> None:
    stage.world.cloud.fault(path, method=method, times=2, **fault)
    stage.live_on()
    stage.assert_all_kept()


@ACTIONS
def test_while_cinder_is_away_the_vm_stays(stage: Stage) -> None:
    broken = stage.world.cloud.fault("/volume/", status=503)
    stage.live_on(hours=12)
    assert stage.world.state(stage.id) == "ending"
    assert stage.deletions == 0
    assert "cinder" in str(stage.world.row(stage.id).last_error)
    broken.remove()
    stage.live_on(hours=16)
    stage.assert_all_kept()


def test_a_catalogue_that_has_lost_cinder_ends_no_vm_with_volumes(stage: Stage) -> None:
    stage.world.cloud.identity.volume_url = None
    stage.world.cloud.identity.revoke_tokens()
    stage.live_on(hours=1)
    assert stage.world.state(stage.id) == "ending"
    assert stage.deletions == 0


def test_a_mark_that_nova_does_not_take_off_ends_nothing(stage: Stage) -> None:
    """It says 202 all the same."""
    lie = stage.world.cloud.fault(ATTACHMENT, method="PUT", status=202, empty=True)
    stage.live_on(hours=1)
    assert stage.world.state(stage.id) == "ending"
    assert stage.deletions == 0
    assert "delete_on_termination" in str(stage.world.row(stage.id).last_error)
    lie.remove()
    stage.live_on(hours=6)
    stage.assert_all_kept()


@pytest.mark.parametrize(
    ("path", "method"), [(ATTACHMENT, "PUT"), (VOLUME, "PUT")], ids=["mark", "describe"]
)
def test_a_refusal_for_good_is_left_to_an_operator(stage: Stage, path: str, method: str) -> None:
    refusal = stage.world.cloud.fault(path, method=method, status=403, message="Policy says no")
    stage.live_on(hours=6)
    assert stage.world.state(stage.id) == "failed"
    assert "Policy says no" in str(stage.world.row(stage.id).last_error)
    assert stage.deletions == 0
    assert stage.vm is not None
    refusal.remove()
    extend(stage)
    stage.assert_given_back()


@ACTIONS
@pytest.mark.parametrize("status", ["error", "error_extending"])
def test_a_broken_volume_is_left_to_an_operator(stage: Stage, status: str) -> None:
    data = stage.disk(stage.data)
    assert data is not None
    data.status = status
    stage.live_on()
    assert stage.world.state(stage.id) == "failed"
    assert f"volume {stage.data} is in status {status}" in str(stage.world.row(stage.id).last_error)
    assert stage.deletions == 0
    assert len(stage.world.cloud.volume.disks) == 3


@SNAPSHOT
def test_a_boot_volume_that_is_not_the_projects_is_left_to_an_operator(stage: Stage) -> None:
    boot = stage.disk(stage.boot)
    assert boot is not None
    boot.project_id = stage.world.beta
    stage.live_on()
    assert stage.world.state(stage.id) == "failed"
    assert f"belongs to project {stage.world.beta}" in str(stage.world.row(stage.id).last_error)
    assert stage.deletions == 0


def test_a_volume_that_cinder_does_not_know_is_left_to_an_operator(stage: Stage) -> None:
    del stage.world.cloud.volume.disks[stage.data]
    stage.live_on()
    assert stage.world.state(stage.id) == "failed"
    assert stage.data in str(stage.world.row(stage.id).last_error)
    assert stage.deletions == 0


def test_a_volume_that_cinder_is_at_work_on_is_waited_for(stage: Stage) -> None:
    data = stage.disk(stage.data)
    assert data is not None
    data.status = "extending"
    stage.live_on(hours=1)
    row = stage.world.row(stage.id)
    assert (row.state, row.attempts, stage.deletions) == ("ending", 0, 0)
    assert f"volume {stage.data} is extending" in str(row.last_error)
    assert len(stage.world.cloud.requests(VOLUME + stage.data, "GET")) < 150
    data.status = "in-use"
    stage.live_on(hours=2)
    stage.assert_all_kept()


def test_the_last_word_waits_until_the_volumes_are_free(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """Of one that stays attached to nothing, an operator is told."""
    stuck = stage.world.cloud.fault(
        VOLUME + stage.data,
        method="GET",
        rewrite=lambda body: {"volume": {**body["volume"], "status": "in-use"}},
    )
    stage.live_on(minutes=2)
    assert stage.vm is None
    assert stage.world.state(stage.id) == "ending"
    stage.live_on(minutes=20)
    stuck.remove()
    stage.assert_all_kept()
    assert f"Volume {stage.data}, kept when server {stage.id} was deleted, is in-use" in caplog.text


def test_a_volume_that_its_owner_deletes_at_once_is_not_named_to_them(stage: Stage) -> None:
    stage.vm.vm_state = "stopped"
    stage.world.cloud.compute.reads = 10**6  # the deletion takes its time
    stage.live_on(minutes=2)
    assert stage.world.row(stage.id).progress["irreversible"] is True
    stage.world.cloud.compute.settle(stage.id)
    del stage.world.cloud.volume.disks[stage.data]
    stage.live_on(minutes=20)
    stage.assert_ended(stage.boot, stage.scratch)
    assert stage.data not in stage.world.mails[-1].get_content()


# Interrupted, and undone ----------------------------------------------------------------------


def extend(stage: Stage) -> None:
    """Have the owner extend, whatever has been begun, and let it be undone."""
    world = stage.world
    answer = world.as_alice.post(f"/v1/vm-expirations/{stage.id}/extend")
    assert answer.status_code == 200, answer.json
    world.live(world.clock.now() + timedelta(minutes=1))
    world.cloud.compute.settle(stage.id)
    world.live(world.clock.now() + timedelta(minutes=10))


@SNAPSHOT
@pytest.mark.parametrize("calls", range(1, 24))
def test_a_process_killed_in_the_middle_of_a_step(stage: Stage, calls: int) -> None:
    """The answer to its Nth request never reaches it; another worker takes over."""
    run_until_killed(stage, calls)
    stage.world.harness.restart()
    stage.live_on(hours=1)
    stage.assert_all_kept()
    boot = stage.disk(stage.boot)
    assert boot is not None
    assert boot.name.startswith("web1-boot-")


@SNAPSHOT
@pytest.mark.parametrize("calls", range(1, 22))
def test_an_extension_after_any_request_of_the_end_undoes_it(stage: Stage, calls: int) -> None:
    """When the worker died right there. It comes too late only when Nova was asked to delete."""
    run_until_killed(stage, calls)
    stage.world.harness.restart()
    stage.world.clock.advance(minutes=10)  # the dead one's claim runs out
    if stage.deletions:
        refused = stage.world.as_alice.post(f"/v1/vm-expirations/{stage.id}/extend")
        assert refused.status_code == 409
        return
    extend(stage)
    stage.assert_given_back()
    assert stage.world.lease(stage.id).status == "ACTIVE"
    # And the next end is as any.
    end = stage.world.row(stage.id).ends_at
    assert end is not None
    stage.world.live(end + timedelta(minutes=10))
    stage.assert_all_kept()


def test_what_its_owner_wrote_meanwhile_stays_when_it_is_undone(stage: Stage) -> None:
    hold_at_deletion(stage)
    boot = stage.disk(stage.boot)
    assert boot is not None
    boot.name, boot.metadata = "mine", {**boot.metadata, "run": "7"}
    extend(stage)
    assert (boot.name, boot.description, boot.metadata) == ("mine", "", {"run": "7"})


def test_a_volume_that_was_detached_meanwhile_holds_up_no_undoing(stage: Stage) -> None:
    hold_at_deletion(stage)
    del stage.vm.volumes[stage.data]
    del stage.world.cloud.volume.disks[stage.data]
    extend(stage)
    assert stage.world.state(stage.id) == "active"
    assert stage.vm.volumes[stage.boot].delete_on_termination is True


def test_with_cinder_away_the_owner_has_the_vm_all_the_same(stage: Stage) -> None:
    hold_at_deletion(stage)
    broken = stage.world.cloud.fault("/volume/", status=503)
    extend(stage)
    assert stage.world.state(stage.id) == "reviving"
    assert (stage.vm.vm_state, stage.vm.locked) == ("active", False)
    broken.remove()
    stage.world.live(stage.world.clock.now() + timedelta(hours=4))
    stage.assert_given_back()


def hold_at_deletion(stage: Stage) -> None:
    """Let all be done but the deletion, which the brake holds back."""
    world = stage.world
    world.clock.set(stage.end)
    worker, brake = world.harness.plugin.service.worker, world.harness.plugin.tools.brake
    while world.state(stage.id) != "ending":
        worker.work_off(1)
    with world.harness.database.begin() as connection:
        assert brake.trip(connection, reason="a test", by="me", now=world.clock.now())
    world.live(stage.end + timedelta(minutes=2))
    assert world.row(stage.id).progress["end"]["volumes"]
    assert stage.deletions == 0


def run_until_killed(stage: Stage, calls: int) -> None:
    """Let the end come, and the worker die at its Nth request, after that was done."""
    stage.world.clock.set(stage.end)
    die_at_request(stage.world, calls)
