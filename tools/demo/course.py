# SPDX-License-Identifier: Apache-2.0
"""Several VMs of one owner: they make one mail, whose command extends all of them."""

from __future__ import annotations

import shlex
from datetime import timedelta
from typing import Any

from tools.demo import terms
from tools.demo.checks import require
from tools.demo.mailbox import Mail, mails_to
from tools.demo.scene import Scene
from tools.demo.waiting import wait_for

NAME = "course"
NUMBER = 3
ADDRESS = "bob@example.org"

#: VMs that are taken in from this second of a minute on might not all end in the same one.
_LATE = 35
_PATIENCE = timedelta(seconds=60)


def begins(scene: Scene) -> None:
    """Several VMs at once, booted in the ordinary way."""
    scene.narrator.say(
        f"Meanwhile Bob, who teaches a course in another project, boots {NUMBER} VMs. Of VMs by "
        "the dozen nobody wants to be told one by one. Here one mail a day tells of all that an "
        f"owner has, and comes earlier if it must (digest = {terms.DIGEST})."
    )
    wait_for(
        scene.narrator,
        "the next minute, in which all of them will end",
        lambda: terms.now().second < _LATE or None,
        timedelta(minutes=1),
    )
    said = scene.run(
        scene.bob,
        *("openstack", "server", "create", "--flavor", "m1.tiny", "--image", "cirros"),
        *("--nic", "none", "--min", str(NUMBER), "--max", str(NUMBER), "-c", "status", NAME),
    )
    require(said.code == 0, "the command succeeds", said.text)


def is_told(scene: Scene) -> None:
    """One mail, and its command."""
    scene.narrator.say(
        f"Bob has {NUMBER} VMs whose ends come together. He gets one mail about them, with one "
        "command that extends them all. Each of them counts as told of."
    )
    mail = wait_for(
        scene.narrator, "the mail about all of them", lambda: _digest(scene), 3 * _PATIENCE
    )
    scene.narrator.mail(mail)
    before = _ends(scene)
    require(len(before) == NUMBER, f"bob sees {NUMBER} VMs", before)
    scene.require(
        all(name in mail.text for name in before) and len(mails_to(scene.cloud.mail, ADDRESS)) == 1,
        f"it names all {NUMBER}, and is the only mail that Bob has got",
        mails_to(scene.cloud.mail, ADDRESS),
    )
    said = scene.run(scene.bob, *_command(mail))
    require(said.code == 0, "the command succeeds", said.text)
    after = _ends(scene)
    scene.require(
        all(after[name] > end for name, end in before.items()),
        f"all {NUMBER} end later now",
        after,
    )


def _digest(scene: Scene) -> Mail | None:
    return next(iter(mails_to(scene.cloud.mail, ADDRESS)), None)


def _command(mail: Mail) -> list[str]:
    """Take the command out of the mail, as somebody would with a mouse."""
    begin = mail.text.index("    openstack vm expiration extend")
    text = mail.text[begin:].partition("\n\n")[0]
    return shlex.split(text.replace("\\\n", ""))


def _ends(scene: Scene) -> dict[str, Any]:
    """When Bob's VMs end, by their names."""
    answer = scene.bob.get("reservation", "/vm-expirations")
    require(answer.status == 200, "our API lists bob's VMs", answer)
    return {vm["server_name"]: vm["ends_at"] for vm in answer.body["vm_expirations"]}
