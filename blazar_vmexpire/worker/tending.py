# SPDX-License-Identifier: Apache-2.0
"""Tending a VM whose lease is live: its lease, its notices, its quarantine, its end.

Each pass does the first thing that there is to do, in this order, and says when to look again.
"""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any

import sqlalchemy as sa
from oslo_log import log as logging

from blazar_vmexpire import adoption, leases, lifecycle
from blazar_vmexpire.actions.base import Wait
from blazar_vmexpire.cloud import errors
from blazar_vmexpire.cloud.nova import Server
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db.api import Expiration, NoticeRow
from blazar_vmexpire.exceptions import ActionFailed
from blazar_vmexpire.lifecycle import Event, State
from blazar_vmexpire.worker import claims, quarantine, transitions
from blazar_vmexpire.worker.jobs import Jobs
from blazar_vmexpire.worker.telling import Telling
from blazar_vmexpire.worker.tools import Tools

LOG = logging.getLogger(__name__)

_SOON = datetime.timedelta(seconds=2)


@dataclasses.dataclass(slots=True)
class _Case:
    """All there is to know about one VM at this moment."""

    row: Expiration
    facts: leases.Facts | None
    notices: list[NoticeRow]
    terms: lifecycle.Terms
    plan: lifecycle.Agenda
    now: datetime.datetime

    @property
    def accepted(self) -> list[NoticeRow]:
        """Notices of this very end that were accepted, in the order of their acceptance."""
        found = [
            n
            for n in self.notices
            if n.generation == self.row.generation
            and n.accepted_at is not None
            and n.kind.startswith(("reminder/", "shortened"))
        ]
        return sorted(found, key=lambda n: n.accepted_at or datetime.datetime.max)

    @property
    def accepted_at(self) -> datetime.datetime | None:
        """When the first notice of this very end was accepted."""
        return self.accepted[0].accepted_at if self.accepted else None

    @property
    def before_end_at(self) -> datetime.datetime | None:
        """The date of the before-end action that the lease itself has, if it makes sense."""
        if self.facts is None or self.facts.before_end_at is None:
            return None
        if self.facts.start_date <= self.facts.before_end_at <= self.facts.end_date:
            return self.facts.before_end_at
        return None


class Tending:
    """The step of a VM in state ``active``, ``noticed`` or ``quarantined``."""

    def __init__(self, tools: Tools, telling: Telling, jobs: Jobs) -> None:
        self._tools = tools
        self._telling = telling
        self._jobs = jobs

    def __call__(self, row: Expiration) -> None:
        """Do what there is to do, and give the row back.

        :raises blazar_vmexpire.exceptions.ClaimLost: somebody else changed it meanwhile.
        :raises blazar_vmexpire.exceptions.LeaseBusy: Blazar has begun to change the lease.
        :raises errors.CloudError: Nova or Glance did not do what they were asked.
        :raises ActionFailed: the action cannot be done.
        """
        if row.questions > row.answered:
            self._look(row)
            return
        case = self._read(row)
        due = case.now >= case.plan.ends_at
        # Once its end is due a lease may be over; only what Blazar is changing is waited for.
        in_transition = case.facts is not None and case.facts.in_transition
        if (not due or in_transition) and self._look_after_lease(case):
            return
        new_end = lifecycle.needed_end(case.plan, case.now, case.accepted_at, case.terms)
        if new_end is not None:
            self._postpone(
                case, new_end, "no notice of its end was accepted by the mail server in time"
            )
            return
        if self._tell(case):
            return
        if row.state == State.ACTIVE and case.accepted:
            with self._tools.database.begin() as connection:
                claims.finish(
                    connection,
                    row,
                    case.now,
                    state=lifecycle.after(row.state, Event.NOTICE).value,
                )
            return
        if row.state == State.QUARANTINED and self._quarantine(case):
            return
        if due:
            self._end(case)
            return
        quarantine_at = case.plan.quarantine_at
        if quarantine_at is not None and case.now >= quarantine_at and row.state == State.NOTICED:
            self._begin_quarantine(case)
            return
        if self._act_before_end(case):
            return
        with self._tools.database.begin() as connection:
            claims.finish(connection, row, self._next_at(case), attempts=0, last_error=None)

    def _look(self, row: Expiration) -> None:
        """Look at the VM in Nova because something said so: a notification, or a listing.

        :raises errors.NotFound: it is gone.
        """
        server = self._get(row)
        with self._tools.database.begin() as connection:
            claims.finish(
                connection,
                row,
                self._tools.clock(),
                answered=row.questions,
                server_name=db_api.storable(server.name, 255),
                project_id=server.project_id,
                user_id=server.user_id,
            )

    def _get(self, row: Expiration) -> Server:
        """Get the VM from Nova; one that is deleted and could be restored counts as gone.

        :raises errors.NotFound: it is gone.
        """
        server = self._tools.cloud.nova.get(row.server_id)
        if server.status in adoption.GONE:
            raise errors.NotFound("nova", f"get server {server.id}", f"it is {server.status}")
        return server

    def _read(self, row: Expiration) -> _Case:
        terms = self._tools.book.terms()
        with self._tools.database.begin() as connection:
            facts = leases.read(connection, row.lease_id) if row.lease_id else None
            notices = db_api.notices_of(connection, row.server_id)
        assert row.ends_at is not None  # noqa: S101 - every live row has it
        case = _Case(
            row=row,
            facts=facts,
            notices=notices,
            terms=terms,
            plan=lifecycle.agenda(row.ends_at, terms),
            now=self._tools.clock(),
        )
        case.plan = lifecycle.agenda(row.ends_at, terms, case.before_end_at)
        return case

    # The lease ---------------------------------------------------------------------------------

    def _look_after_lease(self, case: _Case) -> bool:
        """See that the lease is what it has to be; True when that was all for this pass."""
        row, facts = case.row, case.facts
        wanted = self._wanted(case, row)
        grace = self._tools.conf.vmexpire_worker.blazar_grace
        if facts is not None and facts.in_transition:
            if not transitions.left_behind(row, facts, case.now, grace):
                with self._tools.database.begin() as connection:
                    transitions.wait(connection, row, facts, case.now, grace)
                return True
        elif facts is not None and not leases.faults(facts, wanted):
            return False
        self._put_back(case, wanted)
        return True

    def _put_back(self, case: _Case, wanted: leases.Wanted) -> None:
        """Put a deleted or damaged lease back, with the date it had, and tell the owner once."""
        row, facts, now = case.row, case.facts, case.now
        progress = {key: value for key, value in row.progress.items() if key != "transition"}
        if facts is None:
            faults = ["it was deleted"]
            wanted = dataclasses.replace(wanted, lease_id=leases.new_lease_id())
        else:
            faults = leases.faults(facts, wanted)
        # What a manager left behind when it died is no business of the owner's.
        by_crash = facts is not None and facts.in_transition and len(facts.events) == 3
        row = dataclasses.replace(row, lease_id=wanted.lease_id)
        with self._tools.database.begin() as connection:
            claims.finish(connection, row, now, lease_id=wanted.lease_id, progress=progress)
            self._write_lease(connection, facts, wanted, now)
            db_api.record(
                connection, row, "lease_put_back", now, lease_id=wanted.lease_id, faults=faults
            )
            if not by_crash:
                db_api.add_notice(
                    connection,
                    row,
                    "restored",
                    now,
                    message_id=self._telling.message_id(row, "restored"),
                )
        LOG.warning(
            "Lease %s of server %s was put back, ending %s UTC: %s",
            wanted.lease_id,
            row.server_id,
            wanted.end_date,
            "; ".join(faults),
        )

    def _postpone(self, case: _Case, new_end: datetime.datetime, reason: str) -> None:
        """Move the end, visibly; a lease that is over already is reopened under its id."""
        row, facts, now = case.row, case.facts, case.now
        moved = dataclasses.replace(
            row,
            ends_at=new_end,
            lease_id=row.lease_id if facts is not None else leases.new_lease_id(),
        )
        with self._tools.database.begin() as connection:
            claims.finish(
                connection,
                row,
                now,
                ends_at=new_end,
                lease_id=moved.lease_id,
            )
            self._write_lease(connection, facts, self._wanted(case, moved), now)
            db_api.record(
                connection, row, "moved", now, old_end=row.ends_at, new_end=new_end, reason=reason
            )
        LOG.warning(
            "End of server %s moved from %s to %s UTC: %s",
            row.server_id,
            row.ends_at,
            new_end,
            reason,
        )

    def _wanted(self, case: _Case, row: Expiration) -> leases.Wanted:
        """Say what the lease has to be; its before_end event keeps its distance to the end."""
        before_end_at = case.before_end_at
        if before_end_at is not None and case.facts is not None and row.ends_at is not None:
            before_end_at += row.ends_at - case.facts.end_date
        return adoption.wanted_lease(row, case.terms, before_end_at)

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

    # The notices -------------------------------------------------------------------------------

    def _tell(self, case: _Case) -> bool:
        """Send the notice that is due, if any; True when the pass is over with that."""
        row, now = case.row, case.now
        resolved = {n.kind for n in case.notices if n.generation == row.generation}
        due = case.plan.due_reminder(now, resolved)
        if due is not None:
            with self._tools.database.begin() as connection:
                # Fenced, so that nobody is told of an end that was moved a moment ago.
                claims.hold(connection, row)
                db_api.add_notice(
                    connection,
                    row,
                    due.kind,
                    now,
                    message_id=self._telling.message_id(row, due.kind),
                )
                case.notices = db_api.notices_of(connection, row.server_id)
        self._supersede(case)
        for notice in case.notices:
            if notice.due_at is None or notice.due_at > now:
                continue
            row = self._with_current_name(row)
            self._telling.deliver(row, notice)
            with self._tools.database.begin() as connection:
                claims.finish(connection, row, self._tools.clock(), server_name=row.server_name)
            return True
        return False

    def _supersede(self, case: _Case) -> None:
        """Let reminders rest that a later one, or a new end, has overtaken."""
        waiting = [
            n for n in case.notices if n.due_at is not None and n.kind.startswith("reminder/")
        ]
        current = [n for n in waiting if n.generation == case.row.generation][-1:]
        overtaken = [n for n in waiting if n not in current]
        if overtaken:
            self._telling.give_up(overtaken, "a later notice took its place")
            case.notices = [n for n in case.notices if n not in overtaken]

    def _with_current_name(self, row: Expiration) -> Expiration:
        """Look at the VM before writing about it: people rename VMs, and delete them.

        When Nova does not answer, what we know is good enough for a mail.

        :raises errors.NotFound: it is gone: nobody wants that mail.
        """
        try:
            server = self._get(row)
        except errors.NotFound:
            raise
        except errors.CloudError as error:
            LOG.warning("Writing about server %s as last seen: %s", row.server_id, error)
            return row
        return dataclasses.replace(row, server_name=db_api.storable(server.name, 255))

    # What is done to the VM --------------------------------------------------------------------

    def _act_before_end(self, case: _Case) -> bool:
        """Run the before-end action when its time has come; True when the pass is over then."""
        row = case.row
        notes = dict(row.progress.get("before_end", {}))
        if case.now < case.plan.before_end_at or notes.get("done") == row.generation:
            return False
        action = self._tools.actions[case.terms.before_end_action]
        outcome: dict[str, Any]
        progress = dict(row.progress)
        if notes.get("generation") != row.generation:
            notes = {"generation": row.generation}
        try:
            server = self._tools.cloud.nova.get(row.server_id)
            action.check(server)
            result, progress = self._jobs.advance(row, server, action, "before_end", notes)
            if isinstance(result, Wait):
                with self._tools.database.begin() as connection:
                    claims.finish(connection, row, case.now + result.delay)
                return True
            outcome = dict(result.result)
        except ActionFailed as error:
            # The end still comes; what it must not lack is its own business.
            LOG.error(
                "%s of server %s before its end cannot be done: %s",
                case.terms.before_end_action,
                row.server_id,
                error,
            )
            outcome = {"failed": error.reason, "remedy": error.remedy}
        progress["before_end"] = {"generation": row.generation, "done": row.generation}
        with self._tools.database.begin() as connection:
            claims.finish(connection, row, case.now, progress=progress)
            db_api.record(
                connection,
                row,
                "before_end",
                case.now,
                action=case.terms.before_end_action,
                **outcome,
            )
        return True

    def _begin_quarantine(self, case: _Case) -> None:
        server = self._settled(case)
        if server is None:
            return
        row = case.row
        state = lifecycle.after(row.state, Event.QUARANTINE)
        with self._tools.database.begin() as connection:
            claims.finish(connection, row, case.now, state=state.value)
            db_api.record(connection, row, "quarantine_begun", case.now)

    def _quarantine(self, case: _Case) -> bool:
        """Lock and stop the VM, step by step; True while that is under way."""
        row = case.row
        notes = dict(row.progress.get("quarantine", {}))
        if notes.get("done"):
            return False
        server = self._tools.cloud.nova.get(row.server_id)
        outcome, progress = self._jobs.advance(row, server, quarantine.ACTION, "quarantine", notes)
        if isinstance(outcome, Wait):
            with self._tools.database.begin() as connection:
                claims.finish(connection, row, case.now + outcome.delay)
            return True
        progress["quarantine"] = {"done": True}
        with self._tools.database.begin() as connection:
            claims.finish(connection, row, case.now, progress=progress)
            db_api.record(connection, row, "quarantined", case.now)
            db_api.add_notice(
                connection,
                row,
                "quarantined",
                case.now,
                message_id=self._telling.message_id(row, "quarantined"),
            )
        return True

    def _end(self, case: _Case) -> None:
        """Close the lease and begin the action at the end, in one transaction."""
        row, facts, now = case.row, case.facts, case.now
        server = self._settled(case)
        if server is None:
            return
        self._tools.actions[case.terms.on_end_action].check(server)
        state = lifecycle.after(row.state, Event.END)
        progress = {
            **{key: value for key, value in row.progress.items() if key != "transition"},
            "end": {"action": case.terms.on_end_action},
        }
        with self._tools.database.begin() as connection:
            claims.finish(connection, row, now, state=state.value, progress=progress, attempts=0)
            if facts is not None and facts.status == "ACTIVE":
                leases.close(connection, facts, now)
            db_api.record(connection, row, "end_begun", now, action=case.terms.on_end_action)
        LOG.info(
            "Lease of server %s is over: %s begins",
            row.server_id,
            case.terms.on_end_action,
        )

    def _settled(self, case: _Case) -> Server | None:
        """Look at the VM; when it is busy or broken, move its end and return None."""
        server = self._get(case.row)
        if adoption.settled(server):
            return server
        doing = f", {server.task_state}" if server.task_state else ""
        self._postpone(
            case,
            lifecycle.ceil_minute(
                max(case.now, case.plan.ends_at)
                + self._tools.conf.vmexpire_worker.busy_postponement
            ),
            f"the server is {server.status}{doing}: it is left alone until that is over",
        )
        return None

    def _next_at(self, case: _Case) -> datetime.datetime:
        """Say when there is something to do again."""
        plan, now = case.plan, case.now
        dates = [plan.ends_at, *(r.at for r in plan.reminders)]
        if case.accepted_at is None:
            dates.append(lifecycle.undeliverable_deadline(plan, case.terms) + _SOON)
        if plan.quarantine_at is not None:
            dates.append(plan.quarantine_at)
        dates.append(plan.before_end_at)
        dates.extend(n.due_at for n in case.notices if n.due_at is not None)
        return min((date for date in dates if date > now), default=now + _SOON)
