# SPDX-License-Identifier: Apache-2.0
"""The story: the steps of one VM's life, each checked by what the real services say."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from tools.demo import course, terms
from tools.demo.checks import in_order, require
from tools.demo.narrator import Narrator, columns
from tools.demo.scene import ADDRESS, Scene
from tools.demo.timing import Timings
from tools.demo.waiting import wait_for
from tools.sandbox import Sandbox

NAME = "web1"

#: What Nova has to have done to the VM, and what the history has to tell, in this order.
DEEDS = ["create", "stop", "createImage", "delete"]
CHAPTERS = ["adopted", "notice_accepted", "extended", "notice_accepted", "end_begun"]
CHAPTERS += ["image_given", "deleted", "notice_accepted"]

_SECOND = timedelta(seconds=1)

#: A title, and what is done.
Step = tuple[str, Callable[[Scene], None]]


class Story:
    """One VM's life."""

    def __init__(self, cloud: Sandbox, narrator: Narrator, timings: Timings) -> None:
        self.scene = Scene(cloud, narrator)
        self._narrator = narrator
        self._timings = timings

    @classmethod
    def steps(cls) -> list[Step]:
        """What happens, in its order."""
        return [
            ("Alice boots a VM", boot),
            ("Its lease appears", lease_appears),
            ("Bob boots a course", course.begins),
            ("The reminder arrives", reminder),
            ("Alice extends the lease", extend),
            ("A date too far is refused", too_far),
            ("Bob may not touch it", stranger),
            ("The new end is announced too", reminder_again),
            ("A course makes one mail", course.is_told),
            ("The end comes", end_comes),
            ("Stopped, imaged, gone", aftermath),
            ("The last mail arrives", last_mail),
            ("The history of it all", history),
        ]

    def tell(self) -> None:
        """Live it, step by step.

        :raises NotSo: something was not as it has to be.
        """
        for number, (title, step) in enumerate(self.steps(), 2):
            with self._timings.step(f"{number:>2}  {title}"):
                self._narrator.heading(f"{number}  {title}")
                step(self.scene)


def boot(scene: Scene) -> None:
    """An ordinary VM, booted in the ordinary way."""
    scene.narrator.say(
        "Alice is a member of project alpha. She boots a VM as always; nothing about the "
        "command has to do with expiration."
    )
    said = scene.run(
        scene.alice,
        *("openstack", "server", "create", "--flavor", "m1.tiny", "--image", "cirros"),
        *("--nic", "none", "--wait", "-c", "id", "-c", "name", "-c", "status", NAME),
    )
    require(said.code == 0, "the command succeeds", said.text)
    listed = scene.alice.get("compute", f"/servers?name={NAME}")
    servers = listed.body.get("servers", []) if listed.status == 200 else []
    require(len(servers) == 1, f"Nova lists one server {NAME} for alice", listed)
    scene.server_id = servers[0]["id"]
    server = scene.server()
    status = server.body.get("server", {}).get("status")
    scene.require(status == "ACTIVE", f"Nova: server {scene.server_id} is ACTIVE", server)


def lease_appears(scene: Scene) -> None:
    """The plug-in makes the lease by itself."""
    scene.narrator.say(
        "The plug-in hears of the new VM from Nova and gives it a lease: a real Blazar lease, "
        "owned by Alice's project, with one reservation whose resource is the VM."
    )
    lease = wait_for(
        scene.narrator,
        "the lease",
        lambda: next(iter(scene.leases(scene.alice)), None),
        30 * _SECOND,
    )
    scene.lease_id, scene.end = lease["id"], terms.from_blazar(lease["end_date"])
    scene.run(scene.alice, *("openstack", "reservation", "lease", "list", "-c", "id", "-c", "name"))
    scene.show_lease(scene.alice)
    reserved = [(one["resource_type"], one["resource_id"]) for one in lease["reservations"]]
    scene.require(
        reserved == [("virtual:vm", scene.server_id)],
        "Blazar: the lease has one reservation, of type virtual:vm, for this VM",
        lease,
    )
    scene.require(
        lease["status"] == "ACTIVE" and lease["project_id"] == scene.alice.project_id,
        "Blazar: the lease is ACTIVE and belongs to project alpha",
        lease,
    )
    said = scene.run(scene.alice, *scene.EXPIRATION, "list")
    scene.require(
        said.code == 0 and NAME in said.text and f"{scene.end:%Y-%m-%dT%H:%M}" in said.text,
        "and `openstack vm expiration list` tells when the VM ends, in words as well",
        said.text,
    )
    term = scene.end - terms.from_blazar(lease["start_date"])
    scene.require(
        terms.LEASE <= term <= terms.LEASE + 2 * terms.MINUTE,
        f"Blazar: it ends at {scene.end:%H:%M} UTC, the first whole minute after lease_duration,"
        f" {terms.minutes(terms.LEASE)}",
        lease,
    )


def reminder(scene: Scene) -> None:
    """The first notice, shown as it arrived."""
    scene.narrator.say(
        "Well before the end its owner is told. Here that is two minutes, on a real cloud ten "
        "days. The mail says what will happen, when, and how to prevent it."
    )
    mail = scene.await_mail("the reminder", 1, scene.end - terms.FIRST_NOTICE)
    scene.narrator.mail(mail)
    scene.require_reminder(mail)
    scene.require(
        any(
            line.strip().startswith("openstack reservation lease set --end-date ")
            and line.endswith(scene.lease_id)
            for line in mail.text.splitlines()
        ),
        "the command that extends the lease is in it",
        mail.text,
    )


def extend(scene: Scene) -> None:
    """The owner moves the end, with Blazar's own command."""
    new_end = scene.end + terms.MORE
    scene.narrator.say(
        "Alice still needs the VM. She takes the command from the mail, with a date of her "
        f"own: {scene.end:%H:%M} becomes {new_end:%H:%M}, one minute more, so that we need "
        "not wait for long."
    )
    said = scene.set_end(scene.alice, new_end)
    require(said.code == 0, "the command succeeds", said.text)
    scene.require_lease(new_end, "the lease is ACTIVE and ends at")
    scene.end = new_end
    mail = scene.await_mail("the mail that confirms it", 2)
    scene.narrator.output(f"Subject: {mail.subject}")
    scene.require(
        mail.recipients == ADDRESS
        and f"has been extended until {new_end:%Y-%m-%d %H:%M} UTC" in mail.subject,
        "she has been told of an end, so she is told that it was moved",
        mail,
    )


def too_far(scene: Scene) -> None:
    """The cap."""
    reach = terms.minutes(terms.EXTENSION)
    scene.narrator.say(
        f"Extending is unlimited in number, not in reach: here extension_duration is {reach}, so "
        f"an owner can have at most {reach} from now. Alice tries a whole year."
    )
    said = scene.set_end(scene.alice, scene.end + terms.TOO_FAR)
    scene.require(
        said.code != 0 and "past the latest allowed" in said.text,
        "it is refused, and the message names the latest allowed date",
        said.text,
    )
    scene.require_lease(scene.end, "the lease is ACTIVE still, and ends as before, at")


def stranger(scene: Scene) -> None:
    """Nobody reads or changes what is not theirs."""
    scene.narrator.say(
        "Bob works in another project. He has got hold of the lease's id and tries to see it, "
        "and to move its end."
    )
    said = scene.show_lease(scene.bob)
    require(said.code != 0, "bob's command fails", said.text)
    said = scene.set_end(scene.bob, scene.end + terms.MINUTE)
    require(said.code != 0, "bob's command fails", said.text)
    seen = scene.leases(scene.bob)
    scene.require(not seen, "Blazar: no list of bob's leases has it", seen)
    scene.require_forbidden(scene.bob, "GET")
    said = scene.run(scene.bob, *scene.EXPIRATION, "extend", scene.server_id)
    scene.require(
        said.code != 0 and "found" in said.text,
        "our own API tells bob of this VM what it tells of one that there is not",
        said.text,
    )
    end = terms.to_blazar(scene.end + terms.MINUTE)
    scene.require_forbidden(scene.bob, "PUT", {"end_date": end})
    scene.require_forbidden(scene.bob, "DELETE")
    scene.require_lease(scene.end, "the lease is untouched, and ends at")


def reminder_again(scene: Scene) -> None:
    """After an extension the notices start again."""
    scene.narrator.say(
        "A new end is a new promise: nothing disruptive happens to a VM whose owner has not "
        f"been told of this very end, at least {terms.minutes(terms.MINIMUM_NOTICE)} before "
        "(minimum_notice). So a second reminder goes out."
    )
    mail = scene.await_mail("the second reminder", 3, scene.end - terms.FIRST_NOTICE)
    scene.narrator.output(f"Subject: {mail.subject}")
    scene.require_reminder(mail)


def end_comes(scene: Scene) -> None:
    """The owner does nothing."""
    scene.narrator.say(
        "This time Alice does nothing. At the end the VM is locked and stopped, an image is "
        "made of it and verified, the image is given to project alpha, and only then is the "
        "VM deleted (on_end_action = snapshot)."
    )
    last = ""

    def look() -> bool | None:
        nonlocal last
        now = terms.now()
        answer = scene.server()
        seen = _in_words(answer.status, answer.body)
        if seen != last:
            scene.narrator.detail(f"{now:%H:%M:%S}  Nova: {seen}")
            last = seen
        require(answer.status != 404 or now >= scene.end, "the VM lives until its end", seen)
        return True if answer.status == 404 else None

    wait_for(scene.narrator, "the VM's end", look, 120 * _SECOND, due=scene.end)


def _in_words(status: int, body: Any) -> str:
    """What Nova's answer about a server says."""
    if status != 200:
        return "no such server (404)" if status == 404 else f"HTTP {status}"
    server = body["server"]
    task = server["OS-EXT-STS:task_state"]
    words = [server["status"], "locked" if server["locked"] else "", task or ""]
    return ", ".join(word for word in words if word)


def aftermath(scene: Scene) -> None:
    """What is left, and that it was done in the right order."""
    scene.narrator.say("What Alice finds: no VM, but its image.")
    scene.run(scene.alice, "openstack", "server", "list", "-c", "ID", "-c", "Name")
    images = scene.images()
    require(len(images) == 1, "Glance shows alice one image of this VM", images)
    image = images[0]
    scene.image_id = image["id"]
    scene.run(
        scene.alice,
        *("openstack", "image", "show", "-c", "name", "-c", "status", "-c", "size"),
        *("-c", "owner", scene.image_id),
    )
    record = scene.admin.get("compute", f"/servers/{scene.server_id}/os-instance-actions")
    # The newest comes first.
    actions = record.body["instanceActions"][::-1] if record.status == 200 else []
    names = [action["action"] for action in actions]
    scene.require(in_order(DEEDS, names), f"Nova's record of the VM: {', '.join(names)}", record)
    deleted = terms.from_blazar(actions[names.index("delete")]["start_time"])
    scene.require(
        deleted >= scene.end,
        f"Nova: deletion began at {deleted:%H:%M:%S} UTC, the lease ended at {scene.end:%H:%M:%S}",
        record,
    )
    scene.require(
        image["status"] == "active" and image["size"],
        f"Glance: image {image['name']} is active, {image['size']} bytes",
        image,
    )
    scene.require(
        image["owner"] == scene.alice.project_id, "Glance: it is owned by project alpha", image
    )
    ready = terms.from_glance(image["updated_at"])
    scene.require(
        ready <= deleted, f"Glance: so it was at {ready:%H:%M:%S} UTC, before the deletion", image
    )
    lease = scene.lease()
    scene.require(lease["status"] == "TERMINATED", "Blazar: the lease is TERMINATED", lease)


def last_mail(scene: Scene) -> None:
    """The owner is told what became of it."""
    scene.narrator.say("The owner is told what became of the VM, and where its image is.")
    mail = scene.await_mail("the last mail", 4)
    scene.narrator.mail(mail)
    scene.require(
        mail.recipients == ADDRESS and scene.image_id in mail.text,
        "it went to alice, and names the image",
        mail,
    )
    count = len(scene.mails())
    scene.require(count == 4, "there were four mails in all, none twice", count)


def history(scene: Scene) -> None:
    """What outlives the VM."""
    scene.narrator.say(
        "The VM is gone; what happened to it, when, and on whose word, is not. Alice may ask, and "
        "so may the cloud's operator:"
    )
    said = scene.run(scene.alice, *scene.EXPIRATION, "history", scene.server_id)
    scene.require(
        said.code == 0 and "deleted" in said.text, "alice sees what became of her VM", said.text
    )
    command = ("blazar-vmexpire-manage", "history", scene.server_id)
    wanted = ("at", "event", "actor", "details")
    said = scene.run(scene.admin, *command, show=lambda text: columns(text, wanted))
    require(said.code == 0, "the command succeeds", said.text)
    exact = scene.admin.run([*command, "--format", "json"])
    require(exact.code == 0, "the command succeeds with --format json", exact.text)
    entries = json.loads(exact.output)
    events = [entry["event"] for entry in entries]
    scene.require(in_order(CHAPTERS, events), f"it tells of: {', '.join(CHAPTERS)}", events)
    actors = {entry["actor"] for entry in entries if entry["event"] == "extended"}
    scene.require(actors == {scene.alice.user_id}, "and that it was alice who extended", actors)
