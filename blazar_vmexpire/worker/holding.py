# SPDX-License-Identifier: Apache-2.0
"""VMs whose clock an administrator has stopped: how that begins, and how it is over.

Mostly it begins in the transaction in which the administrator asks for it. It begins here when the
VM had to be given back first, or was let go of meanwhile and taken in again.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from blazar_vmexpire import extension, lifecycle
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db import holds
from blazar_vmexpire.db.holds import Hold
from blazar_vmexpire.lifecycle import Event, State
from blazar_vmexpire.worker import claims
from blazar_vmexpire.worker.case import Case
from blazar_vmexpire.worker.keeping import Keeping
from blazar_vmexpire.worker.tools import Tools


class Holding:
    """Stops a VM's clock, and lets it go on."""

    def __init__(self, tools: Tools, keeping: Keeping) -> None:
        self._tools = tools
        self._keeping = keeping

    def settle(self, case: Case) -> bool:
        """See that a VM is in state ``held`` when it is held; True when that took this pass.

        :raises blazar_vmexpire.exceptions.ClaimLost: somebody else changed it meanwhile.
        :raises blazar_vmexpire.exceptions.LeaseBusy: Blazar has begun to change the lease.
        """
        held = case.row.state == State.HELD
        if case.hold is None and held:
            self._let_go_on(case)
        elif case.hold is not None and not held:
            self._stop(case, case.hold)
        else:
            return False
        return True

    def _let_go_on(self, case: Case) -> None:
        """Let its clock go on: with another generation, so that its owner is told anew."""
        row, now = case.row, case.now
        with self._tools.database.begin() as connection:
            claims.finish(
                connection,
                row,
                now,
                state=lifecycle.after(row.state, Event.RELEASE).value,
                generation=row.generation + 1,
            )
            holds.drop(connection, [row.server_id])
            db_api.record(
                connection, row, "released", now, reason="the hold is over", new_end=row.ends_at
            )

    def _stop(self, case: Case, hold: Hold) -> None:
        row, now, old_end = case.row, case.now, case.plan.ends_at
        new_end = max(old_end, lifecycle.told_in_time(hold.until, case.terms))
        event = Event.UNDO if extension.begun(row) else Event.HOLD
        columns: dict[str, Any] = {
            "state": lifecycle.after(row.state, event).value,
            "generation": row.generation + 1,
        }
        if row.adopted_at is not None and row.adopted_at > hold.created_at:
            # It has begun a term of its own since then.
            with self._tools.database.begin() as connection:
                claims.hold(connection, row)
                holds.put(connection, dataclasses.replace(hold, ends_at=old_end))
        if new_end != old_end:
            columns["term_seconds"] = None
            reason = f"it is held until {hold.until:%Y-%m-%d %H:%M} UTC by an administrator"
            self._keeping.postpone(case, new_end, reason, **columns)
            return
        with self._tools.database.begin() as connection:
            claims.finish(connection, row, now, **columns)
            db_api.record(connection, row, "clock_stopped", now, until=hold.until)
