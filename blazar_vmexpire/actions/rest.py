# SPDX-License-Identifier: Apache-2.0
"""Bringing a VM to rest: locked against its owner, and stopped."""

from __future__ import annotations

from blazar_vmexpire.actions.base import Job, Wait


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
    return None
