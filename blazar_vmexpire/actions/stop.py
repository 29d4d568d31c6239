# SPDX-License-Identifier: Apache-2.0
"""Keeping the VM at its end: locked against its owner, and stopped."""

from __future__ import annotations

from blazar_vmexpire.actions.base import Action, Done, Job, Outcome
from blazar_vmexpire.actions.rest import bring_to_rest
from blazar_vmexpire.cloud.servers import Server

#: The lock's reason, which the owner sees.
LOCK_REASON = "Its lease is over: extend it to have the server back"

#: It does not run in these. One that is paused, suspended or shelved is kept as it is.
_STANDS = frozenset({"PAUSED", "SHELVED", "SHELVED_OFFLOADED", "SHUTOFF", "SUSPENDED"})


class Stop(Action):
    """Lock, then stop if it runs. Nothing is lost, so the brake does not limit how many."""

    on_end = True
    paced = False
    keeps = True

    def advance(self, job: Job) -> Outcome:
        """Do the one next step."""
        waiting = bring_to_rest(job, LOCK_REASON)
        if waiting is not None:
            return waiting
        # It may have broken meanwhile.
        return Done() if job.server.status in _STANDS else job.look_again()

    def at_rest(self, server: Server) -> bool:
        """Say whether it is locked, and does not run."""
        return server.locked and server.status != "ACTIVE"
