# SPDX-License-Identifier: Apache-2.0
"""Locking and stopping a VM for the last stretch of its lease."""

from __future__ import annotations

from blazar_vmexpire.actions.base import Action, Done, Job, Outcome
from blazar_vmexpire.actions.rest import bring_to_rest

#: The lock's reason, which the owner sees.
LOCK_REASON = "Its lease is about to end: extend the lease to have it back"


class Quarantine(Action):
    """Lock, then stop if it runs. What was done is undone by an extension."""

    def advance(self, job: Job) -> Outcome:
        """Do the one next step."""
        return bring_to_rest(job, LOCK_REASON) or Done()


ACTION = Quarantine()
