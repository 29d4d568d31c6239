# SPDX-License-Identifier: Apache-2.0
"""Taking an image of the VM that its project can keep.

At the end of a lease: lock, stop, image, verify, give it to the project, keep the volumes, delete.
Of a VM that boots from a volume no image is made: that volume, kept, is what remains.
Before the end: image of the running VM, verify, give. Nothing is believed but what Glance says of
the very image whose id Nova returned: neither Nova's answer nor its events prove that an image
exists, and deleting a VM while its image is still queued loses the image.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Mapping
from typing import Any

from blazar_vmexpire import RESOURCE_TYPE
from blazar_vmexpire.actions import delete, old_images, shelve, volumes
from blazar_vmexpire.actions.base import Action, Done, Job, Outcome, Wait
from blazar_vmexpire.actions.old_images import ATTEMPT
from blazar_vmexpire.actions.rest import OUT_OF, bring_to_rest
from blazar_vmexpire.cloud import Cloud, errors
from blazar_vmexpire.cloud.glance import Image
from blazar_vmexpire.cloud.servers import SHELVED, Server
from blazar_vmexpire.exceptions import ActionFailed

#: The lock's reason, which the owner sees.
LOCK_REASON = "Its lease is over: an image is being made of it before it is deleted"

#: Nova makes images of VMs in these statuses only.
_CAN = frozenset({"ACTIVE", "PAUSED", "SHUTOFF", "SUSPENDED"})

_NO_VOLUME = "it boots from a volume, and none is attached to it"
_FIND_IT = "find out where its volume is, then delete the VM by hand"

#: The note of the image that a shelved VM was. Not ``image_id``, by which images are found that an
#: extension removes: this one is all that there is of the VM.
KEPT_IMAGE = "kept_image_id"

#: In a row's ``undo``: the image that we have protected.
UNPROTECT = "unprotect"

#: How many images may fail before that counts as final.
_MOST_IMAGES = 3


def discard(cloud: Cloud, notes: Mapping[str, Any]) -> list[str]:
    """Remove the images that a snapshot has begun: also one whose id never reached us.

    :param notes: the action's.
    :returns: the ids of those that were there.
    """
    ids = [notes["image_id"]] if notes.get("image_id") else []
    if notes.get("attempt"):
        owner = cloud.keystone.service_project_id
        ids += [image.id for image in cloud.glance.find(owner=owner, **{ATTEMPT: notes["attempt"]})]
    removed = []
    for image_id in dict.fromkeys(ids):
        with contextlib.suppress(errors.NotFound):
            cloud.glance.delete(image_id)
            removed.append(image_id)
    return removed


def unprotect(cloud: Cloud, undo: Mapping[str, Any]) -> None:
    """Let the image be removed again that we have protected, if it is there.

    :param undo: as in a row's ``progress``.
    """
    if UNPROTECT in undo:
        with contextlib.suppress(errors.NotFound):
            cloud.glance.protect(undo[UNPROTECT], False)


class Snapshot(Action):
    """An image, verified and owned by the VM's project; at the end the VM is deleted then.

    In place of an image, at the end, the volume that a VM boots from.
    """

    before_end = True
    on_end = True

    def check(self, server: Server) -> None:
        """Refuse VMs that no such image can be made of."""
        if server.volume_backed:
            if not server.volumes:
                raise ActionFailed(_NO_VOLUME, _FIND_IT)
            return
        if server.status not in _CAN | OUT_OF | SHELVED:
            raise _no_image(server)

    def advance(self, job: Job) -> Outcome:
        """Do the one next step."""
        if job.notes.get("step") == "delete":
            delete.delete(job)
            return job.look_again()
        if job.server.volume_backed:
            return self._keep_boot_volume(job)
        if job.at_end and job.server.status in SHELVED:
            return self._keep_shelved_image(job)
        image_id = job.notes.get("image_id")
        if image_id is None:
            return self._bring_to_rest(job) or self._begin_image(job)
        return self._finish_image(job, image_id)

    def _keep_boot_volume(self, job: Job) -> Outcome:
        if not job.at_end:
            raise ActionFailed(
                "its disk is a volume: an image of it would be empty, and its owner could use no"
                " snapshot that we make",
                "its volume is kept at its end; its owner can make snapshots of it at any time",
            )
        waiting = volumes.keep(job, bootable=True)
        if waiting is not None:
            return waiting
        if not job.notes.get(volumes.KEPT):
            raise ActionFailed(_NO_VOLUME, _FIND_IT)
        delete.delete(job)
        return job.look_again()

    @staticmethod
    def _keep_shelved_image(job: Job) -> Outcome:
        """Keep the image that the VM is, and which Nova would remove together with it."""
        # Locked, because its owner could unshelve it.
        waiting = bring_to_rest(job, LOCK_REASON)
        if waiting is not None:
            return waiting
        image = shelve.image_it_is(job)
        if image is None:
            raise shelve.lost(shelve.NO_IMAGE)
        if image.owner != job.project_id:
            job.intend("give")
            image = job.cloud.glance.give(image.id, job.project_id)
            job.report("image_given", image_id=image.id, size=image.size)
        waiting = volumes.keep(job)
        if waiting is not None:
            return waiting
        # Right before the deletion: whatever comes between finds it as its owner has left it.
        if not image.protected:
            job.intend("protect", undo={UNPROTECT: image.id})
            job.cloud.glance.protect(image.id, True)
            job.report("image_protected", image_id=image.id)
        job.note(**{KEPT_IMAGE: image.id}, image_name=image.name)
        delete.delete(job)
        return job.look_again()

    def _bring_to_rest(self, job: Job) -> Outcome | None:
        """At the end, bring the VM to rest; None when it is."""
        if not job.at_end:
            if job.server.task_state is not None:
                return job.look_again()
            if job.server.status not in _CAN:
                raise _no_image(job.server)
            return None
        # Locked, because its owner could start it, and what they then write would be lost.
        waiting = bring_to_rest(job, LOCK_REASON)
        if waiting is None and job.server.status not in _CAN:
            raise _no_image(job.server)
        return waiting

    def _begin_image(self, job: Job) -> Outcome:
        self._remove_stray(job)
        images = job.notes.get("images", 0)
        if images >= _MOST_IMAGES:
            raise ActionFailed(
                f"{_MOST_IMAGES} images of it failed in Glance",
                "find out why in the logs of nova-compute and glance-api, then retry",
            )
        attempt = str(uuid.uuid4())
        job.intend("image", attempt=attempt)
        server = job.server
        stage = old_images.END if job.at_end else old_images.BEFORE_END
        image_id = job.cloud.nova.create_image(
            server.id,
            f"{server.name[:200]}-{stage}-{job.now:%Y-%m-%d}",
            {
                ATTEMPT: attempt,
                old_images.STAGE: stage,
                old_images.SERVER: server.id,
                "vmexpire_server_name": server.name,
                "vmexpire_lease_id": job.lease_id or "",
                "vmexpire_date": f"{job.now:%Y-%m-%d %H:%M} UTC",
            },
        )
        # First of all, its id: from here on this is the image, and no other. It counts from here,
        # too: that Nova is out of order, for however long, is no image that failed.
        job.note(image_id=image_id, images=images + 1)
        job.report("image_asked", image_id=image_id)
        return job.look_again()

    def _remove_stray(self, job: Job) -> None:
        """Remove the image of an attempt whose id was lost in a crash."""
        attempt = job.notes.get("attempt")
        if attempt is None:
            return
        for image_id in discard(job.cloud, {"attempt": attempt}):
            job.report("stray_image_removed", image_id=image_id)
        job.note(attempt=None)

    def _finish_image(self, job: Job, image_id: str) -> Outcome:
        image = self._verified(job, image_id)
        if image is None:
            # A store that is full, or unwritable, is not mended within seconds.
            return job.look_again() if job.notes.get("image_id") else job.wait_long()
        if image.owner != job.project_id:
            job.intend("give")
            image = job.cloud.glance.give(image_id, job.project_id)
            job.report("image_given", image_id=image_id, size=image.size)
        result = {"image_id": image_id, "image_name": image.name}
        if not job.at_end:
            self._remove_older(job, image_id)
            return Done(result)
        if job.server.status == "ACTIVE":
            # An administrator started it again: what it has written since is not in the image.
            with contextlib.suppress(errors.NotFound):
                job.cloud.glance.delete(image_id)
            job.report("image_outdated", image_id=image_id)
            job.note(image_id=None, attempt=None)
            return Wait()
        job.note(**result, **{KEPT_IMAGE: None})
        waiting = volumes.keep(job)
        if waiting is not None:
            return waiting
        delete.delete(job)
        return job.look_again()

    @staticmethod
    def _remove_older(job: Job, newest: str) -> None:
        """Remove the images made before earlier ends, but for as many as are to be kept."""
        found = old_images.of_server(job.cloud, job.server.id, job.project_id)
        if newest not in [image.id for image in found]:
            return  # what does not show the newest may not show it all
        for image in found[job.conf[RESOURCE_TYPE].snapshot_keep :]:
            why_not = old_images.remove(job.cloud, image)
            if why_not is None:
                job.report("old_image_removed", image_id=image.id, created_at=image.created_at)
            else:
                job.report("old_image_kept", image_id=image.id, reason=why_not)

    def _verified(self, job: Job, image_id: str) -> Image | None:
        """Return the image once it is complete; None while it is being made.

        One that has failed is forgotten, so that the next step makes another.
        """
        timeout = job.conf.vmexpire_worker.snapshot_timeout
        problem = None
        try:
            image = job.cloud.glance.get(image_id)
        except errors.NotFound:
            problem = "Glance has it no more: Nova drops an image that it could not fill"
        else:
            if image.status == "active":
                if image.size:
                    return image
                problem = "it is active, but empty"
            elif image.status not in ("queued", "saving", "importing", "uploading"):
                problem = f"its status is {image.status}"
            elif job.stepping_for() > timeout:
                problem = f"it is still {image.status} after {timeout}"
        if problem is not None:
            job.report("image_failed", image_id=image_id, reason=problem)
            job.note(image_id=None)
        return None


def _no_image(server: Server) -> ActionFailed:
    return ActionFailed(
        f"Nova makes no image of a server in status {server.status}",
        "bring it to ACTIVE or SHUTOFF, then retry",
    )
