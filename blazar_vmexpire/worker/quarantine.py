# SPDX-License-Identifier: Apache-2.0
"""Locking and stopping a VM for the last stretch of its lease."""

from __future__ import annotations

from blazar_vmexpire.actions.base import Action, Done, Job, Outcome

#: The lock's reason, which the owner sees.
LOCK_REASON = "Its lease is about to end: extend the lease to have it back"


class Quarantine(Action):
    """Lock, then stop if it runs. What was done is undone by an extension."""

    def advance(self, job: Job) -> Outcome:
        """Do the one next step."""
        server = job.server
        if not server.locked:
            job.intend("lock", undo={"unlock": True})
            job.cloud.nova.lock(server.id, LOCK_REASON)
            job.report("locked", reason=LOCK_REASON)
        if server.task_state is not None:
            return job.look_again()
        if server.status == "ACTIVE":
            job.intend("stop", undo={"start": True})
            job.cloud.nova.stop(server.id)
            job.report("stop_asked")
            return job.look_again()
        return Done()


ACTION = Quarantine()
