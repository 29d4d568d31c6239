# SPDX-License-Identifier: Apache-2.0
"""Locking and stopping a VM for the last stretch of its lease."""

from __future__ import annotations

from blazar_vmexpire.actions.base import Action, Done, Job, Outcome
from blazar_vmexpire.actions.rest import bring_to_rest

#: The lock's reason, which the owner sees.
LOCK_REASON = "Its lease is about to end: extend the lease to have it back"

#: What it says in its result of a VM that it does not touch.
LEFT = "left"


class Quarantine(Action):
    """Lock, then stop if it runs. What was done is undone by an extension.

    A VM that somebody has locked is not to be touched, and runs until its end: that has been
    announced, and comes, so that a lock is no way out.
    """

    def advance(self, job: Job) -> Outcome:
        """Do the one next step."""
        # A step of ours stands in the notes before we lock it.
        if job.server.locked and "step" not in job.notes:
            return Done({LEFT: "it is locked", "locked_reason": job.server.locked_reason})
        return bring_to_rest(job, LOCK_REASON) or Done()


ACTION = Quarantine()
