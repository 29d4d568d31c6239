# SPDX-License-Identifier: Apache-2.0
"""Deleting the VM, its volumes kept."""

from __future__ import annotations

import contextlib
import datetime

from blazar_vmexpire.actions import volumes
from blazar_vmexpire.actions.base import Action, Job, Outcome
from blazar_vmexpire.cloud import errors

#: Nova may lose a request together with the host that it went to: then it is asked again. Each
#: time later: what one that it is at work on is asked for again, it ignores.
_ASK_AGAIN = datetime.timedelta(minutes=1)
_SELDOM = datetime.timedelta(hours=1)


class Delete(Action):
    """Keep its volumes, ask Nova to delete the VM, and wait until it is gone."""

    on_end = True

    def advance(self, job: Job) -> Outcome:
        """Do the one next step."""
        if job.notes.get("step") != "delete":
            waiting = volumes.keep(job)
            if waiting is not None:
                return waiting
        delete(job)
        return job.look_again()


def delete(job: Job) -> None:
    """Ask Nova to delete the VM, unless that was asked a moment ago. There is no undo of this."""
    asked = job.notes.get("asked", 0)
    if asked and job.stepping_for() < min(_ASK_AGAIN * 2 ** min(asked - 1, 10), _SELDOM):
        return
    job.intend("delete", irreversible=True, asked=asked + 1)
    # Whether it is gone is for the caller's next look to say.
    with contextlib.suppress(errors.NotFound):
        job.cloud.nova.delete(job.server.id)
    job.report("delete_asked")
