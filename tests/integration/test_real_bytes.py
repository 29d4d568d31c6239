# SPDX-License-Identifier: Apache-2.0
"""The end of VMs that have a disk, on a real hypervisor: what becomes of the bytes.

The guest writes a record to its disk every second and says in it whether it was shut down
(``tools/sandbox/guest.S``). Nova removes a disk with its server, so each test gives the disk of its
VM a second name beforehand, under which it stays as it was at last.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.cloudlib import Cloud, Vm, images_of, in_minutes
from tests.integration.ends import choose_end, ended_once, turn_at_the_end
from tests.integration.waiting import wait_for

pytestmark = pytest.mark.long

#: Where the guest keeps its record, and how much of it there is.
_RECORD = slice(512, 1024)

#: So much that copying it takes time: an image that is not complete can be looked at.
_MUCH = "256M"


class Disk:
    """The disk of a VM, by a name of the test's own."""

    def __init__(self, vm: Vm) -> None:
        files = vm.cloud.sandbox.files
        self.path = files.state / "compute1" / "instances" / vm.id / "disk"
        self._console = self.path.with_name("console.log")
        self.kept = files.directory / "kept" / vm.id
        self.kept.parent.mkdir(exist_ok=True)
        os.link(self.path, self.kept)

    def wait_for_boot(self, boots: int) -> None:
        """Wait until the guest says that it has booted so often."""
        words = f"SANDBOXGUEST boots={boots:04}"
        wait_for(words, lambda: words in self._console.read_text(errors="replace"), 30)

    def fill(self) -> None:
        """Write a lot to it, while its guest does not run."""
        write = f"write -P 0x5a 512M {_MUCH}"
        subprocess.run(["qemu-io", "-f", "qcow2", "-c", write, self.kept], check=True)

    def is_equal(self, image: Path) -> None:
        """See that an image holds all that is on it, and nothing else."""
        formats = ("-f", "qcow2", "-F", "qcow2")
        done = subprocess.run(
            ["qemu-img", "compare", *formats, self.kept, image],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def record_of(image: Path) -> dict[str, str]:
    """Read the guest's record in an image."""
    raw = image.with_suffix(".raw")
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, raw], check=True)
    with raw.open("rb") as file:
        text = file.read(_RECORD.stop)[_RECORD].rstrip(b"\0").decode()
    raw.unlink()
    assert text.startswith("SANDBOXGUEST "), text
    return dict(re.findall(r"(\w+)=(\w+)", text))


def downloaded(vm: Vm, image: dict[str, Any]) -> Path:
    """Download an image, as the owner of its VM does."""
    assert image["disk_format"] == "qcow2"
    path = vm.cloud.sandbox.files.directory / "kept" / f"{vm.id}.image"
    saved = vm.owner.run("openstack", "image", "save", "--file", str(path), image["id"])
    assert saved.returncode == 0, saved.stderr
    assert path.stat().st_size == image["size"]
    return path


def holds_its_disk(vm: Vm, disk: Disk, image: dict[str, Any], boots: int) -> None:
    """See that an image has the very bytes of a disk whose guest was shut down, and later ones."""
    path = downloaded(vm, image)
    disk.is_equal(path)
    record = record_of(path)
    assert (record["boots"], record["state"]) == (f"{boots:04}", "off")
    # The guest's clock is the machine's, in UTC, but its seconds may begin a little later.
    last_written = datetime.datetime.strptime(record["rtc"], "%Y%m%d%H%M%S")
    stop_asked = vm.when("stop_asked") - datetime.timedelta(seconds=2)
    assert stop_asked <= last_written <= vm.when("image_asked")


def looked_at_until_gone(vm: Vm, image_id: str) -> set[str]:
    """Look at a VM and its image until the VM goes; returns what the image was meanwhile.

    At no look may the VM be on its way out while the image is not complete.
    """
    seen: set[str] = set()

    def gone() -> bool:
        server = vm.server()
        # Afterwards: an image that becomes active between the two looks is no fault.
        answer = vm.cloud.admin.request("image", "GET", f"/v2/images/{image_id}")
        status = answer.body["status"] if answer.status == 200 else str(answer)
        if server and server["OS-EXT-STS:task_state"] != "deleting":
            seen.add(status)
            return False
        assert status == "active"
        return True

    wait_for(f"the deletion of {vm}", gone, 120, every=0.1)
    return seen


@contextlib.contextmanager
def unwritable_store(cloud: Cloud) -> Iterator[None]:
    """Have Glance's store refuse all writes, also root's: a file is where its directory was."""
    store = cloud.sandbox.files.state / "images"
    away = store.with_name("images-away")
    store.rename(away)
    store.touch()
    try:
        yield
    finally:
        store.unlink()
        away.rename(store)


def is_in_place_and_stopped(vm: Vm, disk: Disk) -> None:
    """See that a VM whose end has begun is there still, with its disk, and does not run."""
    vm.wait_for_status("SHUTOFF")
    assert disk.path.samefile(disk.kept)
    assert "delete_asked" not in vm.events()
    assert "delete" not in vm.done_in_nova()


def test_an_image_is_the_disk_of_the_vm_that_is_then_deleted(real: Cloud) -> None:
    """Of a guest that ran until its end, on a disk that takes its time to be copied."""
    vm = real.boot("bytes", patience=30)
    disk = Disk(vm)
    disk.wait_for_boot(1)
    vm.act("os-stop")
    vm.wait_for_status("SHUTOFF")
    disk.fill()
    vm.act("os-start")
    disk.wait_for_boot(2)
    choose_end([vm], in_minutes(1.5))
    with turn_at_the_end(real, [vm]):
        asked = vm.wait_for_event("image_asked", 60, after=vm.ends_at, every=0.1)
        seen = looked_at_until_gone(vm, asked["image_id"])
        image = ended_once(real, vm)
    # Had the image been ready at the first look, its deletion could not have come too early.
    assert seen - {"active"}, seen
    assert image["id"] == asked["image_id"]
    assert image["size"] > 256 << 20
    assert vm.when("image_given") <= vm.when("delete_asked")
    path = f"/servers/{vm.id}/os-instance-actions"
    actions = real.admin.get("compute", path)["instanceActions"]
    (deleted,) = [a["start_time"] for a in actions if a["action"] == "delete"]
    active_since = datetime.datetime.fromisoformat(image["updated_at"]).replace(tzinfo=None)
    assert active_since <= datetime.datetime.fromisoformat(deleted)
    holds_its_disk(vm, disk, image, boots=2)


def test_a_store_that_is_unwritable_for_a_moment_at_the_end(real: Cloud) -> None:
    """The VM stays, stopped; and ends with its image as soon as one can be written."""
    vm = real.boot("store away", patience=30)
    disk = Disk(vm)
    choose_end([vm], in_minutes(1.5))
    with turn_at_the_end(real, [vm]):
        with unwritable_store(real):
            vm.wait_for_event("image_failed", 60, after=vm.ends_at)
            is_in_place_and_stopped(vm, disk)
        image = ended_once(real, vm)
    holds_its_disk(vm, disk, image, boots=1)


def test_a_store_that_stays_unwritable_is_an_operators_matter(real: Cloud) -> None:
    """The VM stays, stopped, as long as nobody does anything about it. Then it ends anew."""
    vm = real.boot("store full", patience=30)
    disk = Disk(vm)
    choose_end([vm], in_minutes(1.5))
    with turn_at_the_end(real, [vm]):
        with unwritable_store(real):
            vm.wait_for_event("failed", 120, after=vm.ends_at)
            is_in_place_and_stopped(vm, disk)
            shown = real.admin.run("blazar-vmexpire-manage", "failed", "--format", "json")
            (failure,) = [f for f in json.loads(shown.stdout) if f["server_id"] == vm.id]
            assert "failed in Glance" in failure["reason"]
        assert images_of(real, vm) == []

        retried = real.admin.run("blazar-vmexpire-manage", "failed", "retry", vm.id)
        assert retried.returncode == 0, retried.stderr
        disk.wait_for_boot(2)
        wait_for("its lease to live again", lambda: vm.row().state in ("active", "noticed"), 30)
    image = ended_once(real, vm)
    path = downloaded(vm, image)
    disk.is_equal(path)
    assert record_of(path)["boots"] == "0002"
