# SPDX-License-Identifier: Apache-2.0
"""The action that is none: the notices say all there is to say."""

from __future__ import annotations

from blazar_vmexpire.actions.base import Action, Done, Job, Outcome


class Notification(Action):
    """Nothing but the notices, which are sent on a clock of their own."""

    before_end = True

    def advance(self, job: Job) -> Outcome:
        """Be done."""
        return Done()
