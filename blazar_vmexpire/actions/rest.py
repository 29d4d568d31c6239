# SPDX-License-Identifier: Apache-2.0
"""Bringing a VM to rest: locked against its owner, and stopped."""

from __future__ import annotations

from blazar_vmexpire.actions.base import Job, Wait

#: What a VM is brought out of at its end.
OUT_OF = frozenset({"RESCUE", "VERIFY_RESIZE"})


def bring_to_rest(job: Job, reason: str) -> Wait | None:
    """Do the next step of locking and stopping; None when nothing is left to do.

    A VM that is locked already stays locked by whoever did it. What is done here is noted so that
    an extension can undo it. A VM that neither runs nor is stopped (paused, for example) stays so.

    :param reason: the lock's, which the owner sees.
    """
    server = job.server
    if not server.locked:
        job.intend("lock", undo={"unlock": True})
        job.cloud.nova.lock(server.id, reason)
        job.report("locked", reason=reason)
    if server.task_state is not None:
        return job.look_again()
    if server.status == "ACTIVE":
        job.intend("stop", undo={"start": True})
        job.cloud.nova.stop(server.id)
        job.report("stop_asked")
        return job.look_again()
    return bring_out(job) if job.at_end else None


def bring_out(job: Job) -> Wait | None:
    """Bring a VM out of a status in which Nova does little else; None when it is in none.

    Nova neither stops a VM in rescue, nor one whose resize waits to be confirmed, nor makes an
    image of it, nor shelves it. That is for its end only: its owner has been told of it, and could
    leave it so for ever. An extension does not bring it back in.
    """
    server = job.server
    if server.status not in OUT_OF:
        return None
    if server.task_state is not None:
        return job.look_again()
    if server.status == "RESCUE":
        job.intend("unrescue")
        job.cloud.nova.unrescue(server.id)
        job.report("unrescue_asked")
        return job.look_again()
    # Nothing but the migration tells whether that is under way already.
    migrations = job.cloud.nova.migrations(server.id)
    if any(migration.status == "finished" for migration in migrations):
        job.intend("confirm")
        job.cloud.nova.confirm_resize(server.id)
        job.report("resize_confirmed", to_host=server.host)
    elif job.notes.get("step") != "confirm":
        # Somebody else has: what is noted is since when that is waited for.
        job.intend("confirm")
    return job.look_again()
