# SPDX-License-Identifier: Apache-2.0
"""Keeping the VM at its end: shelved, and off its host.

Its owner unshelves it when they need it again. Nova saves the disk in an image of which its answer
does not tell the id, and which belongs to our own project; so it is looked for in Glance, by what
Nova writes into it. The VM counts as shelved when that image is complete, and is its project's:
then Nova removes it as soon as the owner unshelves. A volume-backed VM keeps its volume instead.
"""

from __future__ import annotations

import contextlib
import datetime

from blazar_vmexpire.actions.base import Action, Done, Job, Outcome, Wait
from blazar_vmexpire.actions.old_images import ATTEMPT
from blazar_vmexpire.actions.rest import OUT_OF, bring_out
from blazar_vmexpire.cloud import Cloud, errors
from blazar_vmexpire.cloud.glance import Image
from blazar_vmexpire.cloud.servers import SHELVED, Server
from blazar_vmexpire.exceptions import ActionFailed

#: The lock's reason, which the owner sees.
LOCK_REASON = "Its lease is over: it is being shelved"

#: Nova shelves VMs in these statuses only.
_CAN = frozenset({"ACTIVE", "PAUSED", "SHUTOFF", "SUSPENDED"})

#: The note of the image that it was shelved into. Not ``image_id``, by which images are found that
#: an extension removes: this one is all that there is of the VM.
_IMAGE = "shelved_into"

#: Why an end has failed.
NO_IMAGE = "it is shelved, and Glance has no complete image of it"

#: How often Nova may give up before that counts as final.
_MOST_TRIES = 3

#: How long an image may be missed in Glance before that counts as final.
_MISSED = datetime.timedelta(minutes=5)


def images_of(cloud: Cloud, server_id: str, owner: str | None = None) -> list[Image]:
    """Return the images that a VM was shelved into, whatever became of them, the newest first.

    :param owner: project; None means of any project.
    """
    found = [
        image
        for image in cloud.glance.find(owner=owner, instance_uuid=server_id)
        if image.name.endswith("-shelved") and ATTEMPT not in image.properties
    ]
    return sorted(found, key=lambda image: image.created_at, reverse=True)


def image_it_is(job: Job) -> Image | None:
    """Return the image that a VM is which somebody else has shelved, if Glance has all of it.

    Nova does not tell which it is, and what Nova writes into it anybody can write into an image of
    their own. So one of another project counts only if there is none in the VM's, nor in ours: it
    is where an administrator leaves it who shelves a VM.

    :raises ActionFailed: it may be any of several.
    """
    found = images_of(job.cloud, job.server.id)
    near = (job.project_id, job.cloud.keystone.service_project_id)
    found = [image for image in found if image.owner in near] or found
    complete = [image for image in found if _is_complete(image)]
    if len(complete) > 1:
        raise lost(
            "it is shelved, and which image it is cannot be told: "
            + ", ".join(sorted(image.id for image in complete))
        )
    return complete[0] if complete else None


def discard(cloud: Cloud, server_id: str) -> list[str]:
    """Remove what is left in our own project of shelving a VM. It must not be shelved.

    :returns: the ids of the images that were there.
    """
    removed = []
    for image in images_of(cloud, server_id, cloud.keystone.service_project_id):
        with contextlib.suppress(errors.NotFound):
            cloud.glance.delete(image.id)
            removed.append(image.id)
    return removed


class Shelve(Action):
    """Lock, shelve, take off the host, give the image to the project, unlock."""

    on_end = True
    keeps = True

    def check(self, server: Server) -> None:
        """Refuse VMs that Nova does not shelve."""
        if server.status not in _CAN | OUT_OF | SHELVED:
            raise ActionFailed(
                f"Nova shelves no server in status {server.status}",
                "bring it to ACTIVE or SHUTOFF, then retry",
            )

    def at_rest(self, server: Server) -> bool:
        """Say whether it is still shelved."""
        return server.status in SHELVED

    def advance(self, job: Job) -> Outcome:
        """Do the one next step."""
        server = job.server
        if server.task_state is not None:
            return job.look_again()
        if server.status not in SHELVED:
            return self._shelve(job)
        # Its owner may have shelved it: once it is off its host, there is nothing to see to.
        ours = job.notes.get("ours", False)
        image = None
        if not server.volume_backed and (ours or server.status == "SHELVED"):
            image = self._verified(job, ours=ours)
            if image is None:
                return job.look_again()
        if server.status == "SHELVED":
            job.intend("offload")
            job.cloud.nova.shelve_offload(server.id)
            job.report("offload_asked")
            return job.look_again()
        if image is not None and image.owner != job.project_id:
            job.intend("give")
            job.cloud.glance.give(image.id, job.project_id)
            job.report("image_given", image_id=image.id, size=image.size)
        return self._unlock(job) or Done({"image_id": image.id} if image else {})

    def _shelve(self, job: Job) -> Outcome:
        """Ask for it; or, when Nova gave up, ask again after a while."""
        server, asked = job.server, job.notes.get("asked", 0)
        if asked > job.notes.get("given_up", 0):
            for image_id in discard(job.cloud, server.id):
                job.report("image_removed", image_id=image_id)
            job.report("shelve_failed", status=server.status, reason="Nova gave up")
            job.note(given_up=asked)
            return job.wait_long()
        if asked >= _MOST_TRIES:
            raise ActionFailed(
                f"Nova gave up shelving it {_MOST_TRIES} times",
                "find out why in the logs of nova-compute and glance-api, then retry",
            )
        waiting = bring_out(job)
        if waiting is not None:
            return waiting
        self.check(server)
        # Paced before it is locked: a VM that the brake holds back stays its owner's meanwhile.
        job.intend("shelve", paced=True, ours=True, undo=None if asked else _undo(job))
        if not server.locked:
            # Its owner could unshelve it while it is being shelved.
            job.cloud.nova.lock(server.id, LOCK_REASON)
            job.report("locked", reason=LOCK_REASON)
        job.cloud.nova.shelve(server.id)
        # It counts from here: that Nova is out of order, for however long, is no giving up.
        job.note(asked=asked + 1)
        job.report("shelve_asked")
        return job.look_again()

    @staticmethod
    def _verified(job: Job, *, ours: bool) -> Image | None:
        """Return the image that the VM was shelved into; None while Glance does not show it.

        :raises ActionFailed: it is not there, or not complete.
        """
        image_id = job.notes.get(_IMAGE)
        if image_id is not None:
            with contextlib.suppress(errors.NotFound):
                image = job.cloud.glance.get(image_id)
                if _is_complete(image):
                    return image
            raise lost(f"image {image_id}, which it was shelved into, is gone or not complete")
        if ours:
            owner = job.cloud.keystone.service_project_id
            made = images_of(job.cloud, job.server.id, owner)
            found = next((image for image in made if _is_complete(image)), None)
        else:
            found = image_it_is(job)
        if found is not None:
            job.note(**{_IMAGE: found.id})
            return found
        if job.notes.get("step") != "verify":
            job.intend("verify")
        elif job.stepping_for() > _MISSED:
            raise lost(NO_IMAGE)
        return None

    @staticmethod
    def _unlock(job: Job) -> Wait | None:
        """Unlock it if we locked it, and see that it is; None when nothing is left to do.

        Its owner cannot unshelve it while it is locked by an administrator.
        """
        if not job.undo.get("unlock"):
            return None
        if job.server.locked:
            job.intend("unlock")
            job.cloud.nova.unlock(job.server.id)
            job.report("unlocked")
            return Wait()
        # From here on a lock is somebody else's.
        job.ledger(job.notes, undo={"unlock": False})
        return None


def _is_complete(image: Image) -> bool:
    return image.status == "active" and bool(image.size)


def _undo(job: Job) -> dict[str, bool]:
    """Say what an extension has to do so that the VM is as it was: Nova unshelves it running."""
    undo = {"unshelve": True}
    if not job.server.locked:
        undo["unlock"] = True
    if job.server.status == "ACTIVE":
        # Nova shuts it down first, and may give up after that.
        undo["start"] = True
    if job.server.status == "SHUTOFF" and not job.undo.get("start"):
        undo["stop"] = True
    return undo


def lost(reason: str) -> ActionFailed:
    """Make (not raise) the failure of a VM that is shelved, and of whose image that is said."""
    return ActionFailed(
        reason,
        "look for its image NAME-shelved in Glance, and at the logs of nova-compute; if its image"
        " is lost, unshelving it would not bring it back",
    )
