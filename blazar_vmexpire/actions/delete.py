# SPDX-License-Identifier: Apache-2.0
"""Deleting the VM."""

from __future__ import annotations

import contextlib
import datetime

from blazar_vmexpire.actions.base import Action, Job, Outcome
from blazar_vmexpire.cloud import errors

#: Nova may lose a request together with the host that it went to: then it is asked again.
_ASK_AGAIN = datetime.timedelta(minutes=1)


class Delete(Action):
    """Ask Nova to delete the VM, and wait until it is gone."""

    on_end = True

    def advance(self, job: Job) -> Outcome:
        """Ask, and look again until the VM is gone."""
        delete(job)
        return job.look_again()


def delete(job: Job) -> None:
    """Ask Nova to delete the VM, unless that was asked a moment ago. There is no undo of this."""
    if job.notes.get("step") == "delete" and job.stepping_for() < _ASK_AGAIN:
        return
    job.intend("delete", irreversible=True)
    # Whether it is gone is for the caller's next look to say.
    with contextlib.suppress(errors.NotFound):
        job.cloud.nova.delete(job.server.id)
    job.report("delete_asked")
