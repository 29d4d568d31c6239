# SPDX-License-Identifier: Apache-2.0
"""Keeping a live lease what it has to be: put back when it was deleted or damaged, and moved."""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any

import sqlalchemy as sa

from blazar_vmexpire import adoption, extension, leases, lifecycle
from blazar_vmexpire.cloud.servers import Server
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db.api import Expiration
from blazar_vmexpire.lifecycle import State
from blazar_vmexpire.notices import Saying
from blazar_vmexpire.worker import claims, transitions
from blazar_vmexpire.worker.case import Case
from blazar_vmexpire.worker.telling import Telling
from blazar_vmexpire.worker.tools import Tools

#: Why an end is moved that has to wait, as the history and the log have it.
PACED = "more servers end than may be deleted in an hour: it waits for its turn"


class Keeping:
    """Changes live leases, each together with the VM's row.

    Its methods raise :class:`blazar_vmexpire.exceptions.ClaimLost` when somebody else changed the
    row meanwhile, and :class:`blazar_vmexpire.exceptions.LeaseBusy` when Blazar has begun to change
    the lease; nothing is written then.
    """

    def __init__(self, tools: Tools, telling: Telling) -> None:
        self._tools = tools
        self._telling = telling

    def look_after(self, case: Case) -> bool:
        """See that the lease is what it has to be; True when that was all for this pass."""
        row, facts = case.row, case.facts
        wanted = self._wanted(case, row)
        grace = self._tools.conf.vmexpire_worker.blazar_grace
        with self._tools.database.begin() as connection:
            if transitions.wait_if_needed(connection, row, facts, case.now, grace):
                return True
        if facts is not None and not leases.faults(facts, wanted):
            return False
        self._put_back(case, wanted)
        return True

    def _put_back(self, case: Case, wanted: leases.Wanted) -> None:
        """Put a deleted or damaged lease back, with the date it had, and tell the owner once."""
        row, facts, now = case.row, case.facts, case.now
        progress = {key: value for key, value in row.progress.items() if key != "transition"}
        if facts is None:
            faults = ["it was deleted"]
            wanted = dataclasses.replace(wanted, lease_id=leases.new_lease_id())
        else:
            faults = leases.faults(facts, wanted)
        # What a manager left behind when it died is no business of the owner's.
        by_crash = facts is not None and (
            (facts.in_transition and len(facts.events) == 3) or not leases.row_faults(facts, wanted)
        )
        # Nor that Blazar was at work on it when they moved its end.
        follows = facts is not None and extension.lease_follows(row, now)
        row = dataclasses.replace(row, lease_id=wanted.lease_id)
        with self._tools.database.begin() as connection:
            claims.finish(connection, row, now, lease_id=wanted.lease_id, progress=progress)
            self._write_lease(connection, facts, wanted, now)
            db_api.record(
                connection,
                row,
                "lease_followed" if follows else "lease_put_back",
                now,
                lease_id=wanted.lease_id,
                faults=faults,
            )
            if not by_crash and not follows:
                db_api.add_notice(
                    connection,
                    row,
                    "restored",
                    now,
                    message_id=self._telling.message_id(row, "restored"),
                )

    def wait_for_turn(self, case: Case, turn: datetime.datetime) -> None:
        """Move the end because more VMs end than the brake's pace allows."""
        self.postpone(case, turn, PACED, waiting_since=case.row.waiting_since or case.row.ends_at)

    def observe_calendar(self, case: Case, **columns: Any) -> None:
        """Move the end because it, or its quarantine, would come on a closed day.

        It keeps its time of day, and its place among those that wait for their turn.

        :param columns: what else is written to the VM's row.
        """
        quarantined = columns.get("state", case.row.state) == State.QUARANTINED
        ahead = datetime.timedelta(0) if quarantined else case.terms.quarantine
        self.postpone(
            case,
            lifecycle.open_end(
                case.plan.ends_at,
                case.terms,
                quarantined=quarantined,
                earliest=case.now + ahead,
            ),
            f"nothing is done to servers on the closed days of {case.terms.calendar}",
            waiting_since=case.row.waiting_since,
            **columns,
        )

    def put_off_busy(self, case: Case, server: Server, **columns: Any) -> None:
        """Move the end of a VM that is busy or broken.

        :param columns: what else is written to the VM's row.
        """
        doing = f", {server.task_state}" if server.task_state else ""
        self.postpone(
            case,
            lifecycle.ceil_minute(
                max(case.now, case.plan.ends_at)
                + self._tools.conf.vmexpire_worker.busy_postponement
            ),
            f"the server is {server.status}{doing}: it is left alone until that is over",
            **columns,
        )

    def postpone(
        self,
        case: Case,
        new_end: datetime.datetime,
        reason: str | Saying,
        *,
        waiting_since: datetime.datetime | None = None,
        notice: str | None = None,
        **columns: Any,
    ) -> None:
        """Move the end, visibly; a lease that is over already is reopened under its id.

        It moves on to a day that the calendar leaves open; a turn does so when it has come.

        :param waiting_since: the end it had when it first had to wait for its turn; None where it
            does not.
        :param notice: the kind of the mail that tells the owner; None: they need not be told.
        :param columns: what else is written to the VM's row.
        """
        row, facts, now = case.row, case.facts, case.now
        if waiting_since is None:
            quarantined = columns.get("state", row.state) == State.QUARANTINED
            new_end = lifecycle.open_end(new_end, case.terms, quarantined=quarantined)
        lease_id = leases.new_lease_id() if facts is None else facts.lease_id
        moved = dataclasses.replace(
            row,
            ends_at=new_end,
            lease_id=lease_id,
            generation=columns.get("generation", row.generation),
        )
        with self._tools.database.begin() as connection:
            claims.finish(
                connection,
                row,
                now,
                ends_at=new_end,
                lease_id=lease_id,
                waiting_since=waiting_since,
                **columns,
            )
            self._write_lease(connection, facts, self._wanted(case, moved), now)
            db_api.record(
                connection,
                moved,
                "moved",
                now,
                old_end=row.ends_at,
                new_end=new_end,
                reason=str(reason),
            )
            if notice is not None:
                db_api.add_notice(
                    connection,
                    moved,
                    notice,
                    now,
                    message_id=self._telling.message_id(moved, notice),
                    details={**case.tells, **_kept(reason)},
                )

    def _wanted(self, case: Case, row: Expiration) -> leases.Wanted:
        """Say what the lease has to be; its before_end event keeps its distance to the end."""
        if case.facts is None:
            return adoption.wanted_lease(row, case.terms)
        return adoption.moved_lease(row, case.facts, case.terms)

    @staticmethod
    def _write_lease(
        connection: sa.Connection,
        facts: leases.Facts | None,
        wanted: leases.Wanted,
        now: datetime.datetime,
    ) -> None:
        if facts is None:
            leases.create(connection, [wanted], now)
        else:
            leases.mend(connection, facts, wanted, now)


def _kept(reason: str | Saying) -> dict[str, Any]:
    """Say what is kept of a reason with the notice that tells it."""
    return reason.as_details() if isinstance(reason, Saying) else {"reason": reason}
