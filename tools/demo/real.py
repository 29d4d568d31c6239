# SPDX-License-Identifier: Apache-2.0
"""The same life, of a VM that is a real guest: it writes to its disk, and its image boots."""

from __future__ import annotations

import re
from datetime import timedelta

from tools.demo import course
from tools.demo.checks import require
from tools.demo.scene import Scene
from tools.demo.story import NAME, Step, Story
from tools.demo.waiting import wait_for

AGAIN = f"{NAME}-again"

#: What the guest writes to its disk every second, and to its console at each boot.
RECORD = re.compile(r"SANDBOXGUEST boots=(\d+) .*")

_PATIENCE = timedelta(seconds=60)
_OF_A_COURSE = (course.begins, course.is_told)


class RealStory(Story):
    """Story, with what only a real hypervisor can show."""

    @classmethod
    def steps(cls) -> list[Step]:
        # No course: this processor is emulated, and one guest keeps it busy.
        steps = [(title, step) for title, step in super().steps() if step not in _OF_A_COURSE]
        titles = [title for title, _ in steps]
        steps.insert(titles.index("The last mail arrives"), ("The image boots", image_boots))
        steps.insert(1, ("It runs", guest_runs))
        return steps


def guest_runs(scene: Scene) -> None:
    """There is something in the VM."""
    scene.narrator.say(
        "This VM is a guest of a real QEMU. Its whole system is a boot sector, which writes a "
        "record to its disk every second, and to its console at each boot."
    )
    scene.require(_boots(scene, NAME) == 1, "the guest has booted for the first time", NAME)


def image_boots(scene: Scene) -> None:
    """The image has what was on the disk."""
    scene.narrator.say(
        "Is there anything in that image? Alice makes a new VM of it. The guest goes on counting "
        "its boots, in the record that it finds on its disk, where the first one left it."
    )
    said = scene.run(
        scene.alice,
        *("openstack", "server", "create", "--flavor", "m1.tiny", "--image", scene.image_id),
        *("--nic", "none", "--wait", "-c", "name", "-c", "status", AGAIN),
    )
    require(said.code == 0, "the command succeeds", said.text)
    scene.require(_boots(scene, AGAIN) == 2, "to the new guest it is the second boot", AGAIN)
    said = scene.run(scene.alice, "openstack", "server", "delete", "--wait", AGAIN)
    require(said.code == 0, "the command succeeds", said.text)


def _boots(scene: Scene, name: str) -> int:
    """What a guest says on its console of how often it has booted."""
    command = ("openstack", "console", "log", "show", name)
    wait_for(
        scene.narrator,
        "the guest's first words",
        lambda: RECORD.search(scene.alice.run(command).output),
        _PATIENCE,
    )
    found = RECORD.search(scene.run(scene.alice, *command).output)
    require(found, "the console log has the guest's record", found)
    assert found
    return int(found[1])
