# SPDX-License-Identifier: Apache-2.0
"""Keeping the volumes of a VM that is deleted at its end.

What becomes of a volume is Nova's to decide, by the mark *delete on termination* of its attachment.
That mark is taken off while the VM is at rest, and read back; the volume is given a name, if it has
none, and says whose it was; then the VM may be deleted. It stays in its project. A kept volume that
a VM boots from is worth more than an image of it: Nova's image of such a VM is empty, ``active``
before its snapshots are made, and its snapshots belong to us and not to the VM's project.

What is changed is noted in the row's ``undo``, and put back when the owner extends.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from blazar_vmexpire import RESOURCE_TYPE
from blazar_vmexpire.actions.base import Job, Wait
from blazar_vmexpire.actions.rest import bring_to_rest
from blazar_vmexpire.cloud import Cloud, errors
from blazar_vmexpire.cloud.cinder import Volume
from blazar_vmexpire.cloud.servers import Attachment
from blazar_vmexpire.exceptions import ActionFailed

#: The lock's reason, which the owner sees.
LOCK_REASON = "Its lease is over: its volumes are being kept before it is deleted"

#: Property by which the volumes of a VM are found again.
SERVER = "vmexpire_server_id"

#: In the notes of an action: the volumes that are kept, each with ``id``, ``name`` and ``boot``.
KEPT = "volumes"
#: In a row's ``undo``, by the ids of volumes: whose mark was taken off; and which texts (``name``,
#: ``description``) they were given, each with what was there before.
LOOSENED = "loosened"
DESCRIBED = "described"

#: Statuses of a volume whose attachment can come and go with its VM.
_SOUND = frozenset({"in-use", "reserved", "available"})
_OURS = frozenset({SERVER, "vmexpire_server_name", "vmexpire_lease_id", "vmexpire_device"})


def keep(job: Job, *, bootable: bool = False) -> Wait | None:
    """Do the next step of keeping the VM's volumes; None when nothing is left to do.

    To be called right before a deletion is asked for, each time: volumes come and go.

    :param bootable: the volume that the VM boots from is what remains of it, whatever
        ``keep_volumes`` says.
    :raises ActionFailed: a volume is broken, or is not the project's to boot from.
    """
    attachments = _to_keep(job, bootable)
    if not attachments:
        return None
    # Stopped, so that what its guest had in memory is in the volume; locked, so that none is added.
    waiting = bring_to_rest(job, LOCK_REASON)
    if waiting is not None:
        return waiting
    by_id = {a.volume_id: _look(job, a) for a in attachments}
    busy = [volume for volume in by_id.values() if volume.status not in _SOUND]
    if busy:
        return _wait_for(job, busy[0])
    boot = _boot(job, attachments)
    if bootable and boot is not None:
        _must_be_theirs(job, by_id[boot.volume_id])
    described = {
        attachment.volume_id: given
        for attachment in attachments
        if (given := _description(job, attachment, by_id[attachment.volume_id], attachment is boot))
    }
    loosened = [a.volume_id for a in attachments if a.delete_on_termination]
    if loosened or described:
        undo = {
            LOOSENED: dict.fromkeys(loosened, True),
            DESCRIBED: {key: _texts(by_id[key], given) for key, given in described.items()},
        }
        job.intend("volumes", undo={key: value for key, value in undo.items() if value})
    for volume_id in loosened:
        job.cloud.nova.set_delete_on_termination(job.server.id, volume_id, False)
    for volume_id, given in described.items():
        job.cloud.cinder.describe(volume_id, **given)
    kept = [
        {
            "id": attachment.volume_id,
            "name": described.get(attachment.volume_id, {}).get("name")
            or by_id[attachment.volume_id].name,
            "boot": attachment is boot,
        }
        for attachment in attachments
    ]
    if job.notes.get(KEPT) != kept:
        job.note(**{KEPT: kept})
        job.report("volumes_held", volumes=kept, loosened=loosened)
    return None


def put_back(
    cloud: Cloud, server_id: str, undo: Mapping[str, Any], fence: Callable[[], None]
) -> list[str]:
    """Let the volumes of a VM that is given back be what they were.

    :param undo: of the VM's row.
    :param fence: called before each change; raises when it must not be made.
    :returns: the ids of those that were changed and are still there.
    """
    changed = set()
    for volume_id in undo.get(LOOSENED, {}):
        fence()
        # Its owner may have detached it, and deleted it, as soon as the VM was unlocked.
        with contextlib.suppress(errors.NotFound):
            cloud.nova.set_delete_on_termination(server_id, volume_id, True)
            changed.add(volume_id)
    for volume_id, given in undo.get(DESCRIBED, {}).items():
        with contextlib.suppress(errors.NotFound):
            volume = cloud.cinder.get(volume_id)
            # What its owner has written since is theirs.
            texts = {
                key: before for key, (text, before) in given.items() if getattr(volume, key) == text
            }
            metadata = {k: v for k, v in volume.metadata.items() if k not in _OURS}
            fence()
            cloud.cinder.describe(volume_id, metadata=metadata, **texts)
            changed.add(volume_id)
    return sorted(changed)


def states(cloud: Cloud, kept: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Say of each kept volume, in ``status``, what Cinder says of it; ``deleted`` if it is gone."""
    found = []
    for volume in kept:
        try:
            status = cloud.cinder.get(volume["id"]).status
        except errors.NotFound:
            status = "deleted"
        found.append({**volume, "status": status})
    return found


def _to_keep(job: Job, bootable: bool) -> list[Attachment]:
    """Say which of the VM's volumes are kept, whatever their marks are."""
    server, which = job.server, job.conf[RESOURCE_TYPE].keep_volumes
    bootable = server.volume_backed and (bootable or which == "boot")
    if not server.volumes or (which != "all" and not bootable):
        return []
    attachments = job.cloud.nova.attachments(server.id)
    if which == "all":
        return attachments
    boot = _boot(job, attachments)
    # Where it cannot be told, none of them is lost.
    return attachments if boot is None else [boot]


def _boot(job: Job, attachments: Sequence[Attachment]) -> Attachment | None:
    """Say which one the VM boots from; None if it boots from none, or that cannot be told."""
    if not job.server.volume_backed:
        return None
    if len(attachments) == 1:
        return attachments[0]
    root = job.server.root_device
    found = [a for a in attachments if a.device is not None and a.device == root]
    return found[0] if len(found) == 1 else None


def _look(job: Job, attachment: Attachment) -> Volume:
    try:
        volume = job.cloud.cinder.get(attachment.volume_id)
    except errors.NotFound as error:
        raise ActionFailed(
            f"volume {attachment.volume_id} is attached to it, and Cinder does not know it",
            "detach it, then retry",
        ) from error
    if volume.status.startswith("error"):
        raise ActionFailed(
            f"its volume {volume.id} is in status {volume.status}",
            "mend the volume, or detach it, then retry",
        )
    return volume


def _wait_for(job: Job, volume: Volume) -> Wait:
    """Wait for what Cinder is doing to a volume."""
    if job.notes.get("step") != "volumes":
        job.intend("volumes")
    waiting = job.look_again()
    if waiting.problem is None:
        return waiting
    return Wait(
        waiting.delay,
        f"its volume {volume.id} is {volume.status}, and is waited for: if nothing moves, look at"
        " the log of cinder-volume",
    )


def _must_be_theirs(job: Job, volume: Volume) -> None:
    if volume.project_id != job.project_id:
        raise ActionFailed(
            f"volume {volume.id}, which it boots from, belongs to project {volume.project_id}",
            "transfer it to the project of the VM, then retry",
        )


def _description(job: Job, attachment: Attachment, volume: Volume, is_boot: bool) -> dict[str, Any]:
    """Say what a volume lacks that tells whose it was. What its owner wrote stays."""
    if volume.metadata.get(SERVER) == job.server.id:
        return {}
    server = job.server
    device = (attachment.device or "volume").removeprefix("/dev/")
    given: dict[str, Any] = {
        "metadata": volume.metadata
        | {
            SERVER: server.id,
            "vmexpire_server_name": server.name,
            "vmexpire_lease_id": job.lease_id or "",
            "vmexpire_device": device,
        }
    }
    # Nova gives no name to a volume that it fills, and this to an empty one.
    if volume.name in ("", f"{server.id}-blank-vol"):
        place = "boot" if is_boot else device
        given["name"] = f"{server.name[:200]}-{place}-{job.now:%Y-%m-%d}"
    if not volume.description:
        given["description"] = (
            f"Volume {device} of server {server.name[:100]} ({server.id}), whose lease ended"
            f" {job.now:%Y-%m-%d} UTC"
        )
    return given


def _texts(volume: Volume, given: Mapping[str, Any]) -> dict[str, list[str]]:
    return {key: [text, getattr(volume, key)] for key, text in given.items() if key != "metadata"}
