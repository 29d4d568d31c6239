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

from blazar_vmexpire import adoption, explicit, leases, lifecycle, subjects
from blazar_vmexpire.actions.base import Done, Outcome, Wait
from blazar_vmexpire.cloud import errors
from blazar_vmexpire.cloud.servers import GONE, Server
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db.api import Expiration
from blazar_vmexpire.db.holds import Hold
from blazar_vmexpire.exceptions import ActionFailed, ClaimLost
from blazar_vmexpire.explicit import Pending
from blazar_vmexpire.lifecycle import Event, State
from blazar_vmexpire.notices import Kind
from blazar_vmexpire.worker import claims, judging, quarantine
from blazar_vmexpire.worker.case import Case, overtaken, read
from blazar_vmexpire.worker.changed_terms import ChangedTerms
from blazar_vmexpire.worker.confirming import Confirming
from blazar_vmexpire.worker.edits import Edits
from blazar_vmexpire.worker.ending import begun
from blazar_vmexpire.worker.gathering import Gathering
from blazar_vmexpire.worker.holding import Holding
from blazar_vmexpire.worker.jobs import Jobs
from blazar_vmexpire.worker.keeping import Keeping
from blazar_vmexpire.worker.pretending import Pretending
from blazar_vmexpire.worker.replacing import RECHECK, Replacing
from blazar_vmexpire.worker.telling import Telling
from blazar_vmexpire.worker.tools import Tools

LOG = logging.getLogger(__name__)

_SOON = datetime.timedelta(seconds=2)
#: How often a VM whose quarantine the tripped brake holds back is looked at.
_WHILE_TRIPPED = datetime.timedelta(minutes=5)
#: How often a VM is looked at that is busy when its before-end action is due.
_WHILE_BUSY = datetime.timedelta(seconds=30)


class Tending:
    """The step of a VM in state ``active``, ``noticed``, ``quarantined`` or ``held``."""

    def __init__(self, tools: Tools, telling: Telling, jobs: Jobs, keeping: Keeping) -> None:
        self._tools = tools
        self._telling = telling
        self._jobs = jobs
        self._keeping = keeping
        self._terms = ChangedTerms(tools, keeping)
        self._pretending = Pretending(tools, keeping)
        self._holding = Holding(tools, keeping)
        self._confirming = Confirming(tools, telling)
        self._edits = Edits(tools, telling)
        self._gathering = Gathering(tools)
        self._replacing = Replacing(tools, telling)

    def __call__(self, row: Expiration) -> None:
        """Do what there is to do, and give the row back.

        :raises blazar_vmexpire.exceptions.ClaimLost: somebody else changed it meanwhile.
        :raises blazar_vmexpire.exceptions.LeaseBusy: Blazar has begun to change the lease.
        :raises errors.CloudError: Nova or Glance did not do what they were asked.
        :raises ActionFailed: the action cannot be done.
        """
        if row.questions > row.answered or not row.facts:
            self._look(row)
            return
        if self._replacing.await_lease(row):
            return
        case = read(self._tools, row)
        if self._replacing.put_back(row, case.facts):
            return
        due = case.now >= case.plan.ends_at
        # Once its end is due a lease may be over; only what Blazar is changing is waited for.
        in_transition = case.facts is not None and case.facts.in_transition
        if (not due or in_transition) and self._keeping.look_after(case):
            return
        if self._holding.settle(case):
            return
        if case.hold is not None:
            self._wait(case, case.hold)
            return
        if self._terms.follow(case):
            return
        new_end = lifecycle.needed_end(case.plan, case.now, case.accepted_at, case.terms)
        if new_end is not None and not case.forced:
            self._keeping.postpone(
                case, new_end, "no notice of its end was accepted by the mail server in time"
            )
            return
        if _on_closed_day(case):
            # Before its notices, so that they name the right date.
            self._keeping.observe_calendar(case)
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
        quarantine_at = case.plan.quarantine_at
        if quarantine_at is not None and case.now >= quarantine_at and row.state == State.NOTICED:
            if not case.verdict.dry_run:
                self._begin_quarantine(case)
                return
            self._pretending.quarantine(case)
        if due:
            if case.verdict.dry_run:
                self._pretending.end(case)
            else:
                self._end(case)
            return
        if self._act_before_end(case):
            return
        with self._tools.database.begin() as connection:
            claims.finish(connection, row, self._next_at(case), attempts=0, last_error=None)

    def _wait(self, case: Case, hold: Hold) -> None:
        """Leave a VM alone that is held; but tell its owner what has nothing to do with its end."""
        self._confirming.resolve_held(case, hold.until)
        if self._deliver(case):
            return
        dates = [hold.until, *case.mails_due]
        with self._tools.database.begin() as connection:
            claims.finish(connection, case.row, min(dates), attempts=0, last_error=None)

    def _look(self, row: Expiration) -> None:
        """Look at the VM in Nova because something said so: a notification, or a listing.

        :raises errors.NotFound: it is gone.
        """
        server = self._get(row)
        judging.ensure_project(self._tools, server.project_id)
        facts = subjects.facts_of_server(server, self._tools.book.own_metadata)
        with self._tools.database.begin() as connection:
            claims.finish(
                connection,
                row,
                self._tools.clock(),
                **claims.answered(row),
                **adoption.seen(facts),
                server_name=db_api.storable(server.name, 255),
                project_id=server.project_id,
                user_id=server.user_id,
            )
            self._edits.take(connection, row, server.metadata)

    def _get(self, row: Expiration) -> Server:
        """Get the VM from Nova; one that is deleted and could be restored counts as gone.

        :raises errors.NotFound: it is gone.
        """
        server = self._tools.cloud.nova.get(row.server_id)
        if server.status in GONE:
            raise errors.NotFound("nova", f"get server {server.id}", f"it is {server.status}")
        return server

    # The notices -------------------------------------------------------------------------------

    def _tell(self, case: Case) -> bool:
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
                    details=case.tells,
                )
                case.notices = db_api.notices_of(connection, row.server_id)
        else:
            self._confirming.resolve(case)
        return self._deliver(case)

    def _deliver(self, case: Case) -> bool:
        """Send what is to be said and has not been accepted yet; True when something was sent."""
        row, now = case.row, case.now
        self._supersede(case)
        self._gathering.gather(case)
        for notice in case.notices:
            if notice.due_at is None or notice.due_at > now or notice.digest is not None:
                continue
            row = self._with_current_name(row)
            self._telling.deliver(row, notice)
            with self._tools.database.begin() as connection:
                claims.finish(connection, row, self._tools.clock(), server_name=row.server_name)
            return True
        return False

    def _supersede(self, case: Case) -> None:
        """Let notices rest that a later one, or a new end, has overtaken."""
        past = overtaken(case.notices, case.row.generation)
        # Of the end of a VM that was kept, and that its owner has back.
        past += [n for n in case.notices if n.due_at is not None and n.kind == Kind.ENDED]
        if past:
            self._telling.give_up(past, "a later notice took its place")
            case.notices = [n for n in case.notices if n not in past]

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
            LOG.warning("Server %s: it is written about as last seen: %s", row.server_id, error)
            return row
        return dataclasses.replace(row, server_name=db_api.storable(server.name, 255))

    # What is done to the VM --------------------------------------------------------------------

    def _act_before_end(self, case: Case) -> bool:
        """Run the before-end action when its time has come; True when the pass is over then."""
        row = case.row
        notes = dict(row.progress.get("before_end", {}))
        if case.now < case.plan.before_end_at or notes.get("done") == row.generation:
            return False
        if case.verdict.dry_run:
            self._pretending.before_end(case)
            return False
        if notes.get("generation") != row.generation:
            notes = {"generation": row.generation}
        # One that was begun is gone on with, even if the terms have changed.
        notes.setdefault("action", case.terms.before_end_action)
        try:
            result = self._advance_before_end(row, notes)
        except ActionFailed as error:
            result = Done({"failed": error.reason, "remedy": error.remedy})
        except errors.Refused as error:
            if row.attempts + 1 < self._tools.conf.vmexpire_worker.max_attempts:
                raise
            result = Done({"failed": str(error), "remedy": "remove what it was refused for"})
        if isinstance(result, Wait):
            with self._tools.database.begin() as connection:
                claims.finish(connection, row, case.now + result.delay, attempts=0)
            return True
        # If it failed, the end still comes; what it must not lack is its own business.
        done = {"generation": row.generation, "done": row.generation}
        with self._tools.database.begin() as connection:
            # As the action has left it, whether it has failed or not.
            current = db_api.get(connection, row.server_id)
            progress = {} if current is None else current.progress
            claims.finish(
                connection, row, case.now, progress={**progress, "before_end": done}, attempts=0
            )
            db_api.record(
                connection, row, "before_end", case.now, action=notes["action"], **result.result
            )
        return True

    def _advance_before_end(self, row: Expiration, notes: dict[str, Any]) -> Outcome:
        """Do the next step of the before-end action, which begins only while the VM is at rest."""
        if notes["action"] not in self._tools.actions:
            raise ActionFailed(
                f"the before_end_action {notes['action']!r} is no longer installed",
                "install it again, or choose another",
            )
        action = self._tools.actions[notes["action"]]
        server = self._tools.cloud.nova.get(row.server_id)
        if "step" not in notes:
            if server.task_state is not None:
                return Wait(_WHILE_BUSY)
            action.check(server)
        return self._jobs.advance(row, server, action, "before_end", notes)[0]

    def _begin_quarantine(self, case: Case) -> None:
        row, terms = case.row, case.terms
        if lifecycle.closed(case.now, terms):
            self._keeping.observe_calendar(case)
            return
        whole = lifecycle.ceil_minute(case.now + terms.quarantine)
        late = whole > case.plan.ends_at + lifecycle.notice_margin(terms)
        with self._tools.database.begin() as connection:
            tripped = self._tools.brake.tripped(connection)
        if tripped and case.now < case.plan.ends_at:
            with self._tools.database.begin() as connection:
                claims.finish(connection, row, min(case.now + _WHILE_TRIPPED, case.plan.ends_at))
            return
        if late or tripped:
            # Whoever comes back to a stopped VM has its whole quarantine to do so.
            self._keeping.postpone(case, whole, "its quarantine begins late, and is not shortened")
            return
        server = self._settled(case)
        if server is None:
            return
        state = lifecycle.after(row.state, Event.QUARANTINE)
        with self._tools.database.begin() as connection:
            claims.finish(connection, row, case.now, state=state.value)
            db_api.record(connection, row, "quarantine_begun", case.now)

    def _quarantine(self, case: Case) -> bool:
        """Lock and stop the VM, step by step; True while that is under way."""
        row = case.row
        notes = dict(row.progress.get("quarantine", {}))
        if notes.get("done"):
            return False
        if not notes and lifecycle.closed(case.now, case.terms):
            # Nothing was done to it while the day was open.
            state = lifecycle.after(row.state, Event.POSTPONE)
            self._keeping.observe_calendar(case, state=state.value)
            return True
        server = self._tools.cloud.nova.get(row.server_id)
        outcome, progress = self._jobs.advance(row, server, quarantine.ACTION, "quarantine", notes)
        if isinstance(outcome, Wait):
            with self._tools.database.begin() as connection:
                claims.finish(connection, row, case.now + outcome.delay, last_error=outcome.problem)
            return True
        progress["quarantine"] = {"done": True}
        with self._tools.database.begin() as connection:
            claims.finish(connection, row, case.now, progress=progress)
            if quarantine.LEFT in outcome.result:
                db_api.record(connection, row, "quarantine_left", case.now, **outcome.result)
                return True
            db_api.record(connection, row, "quarantined", case.now)
            db_api.add_notice(
                connection,
                row,
                "quarantined",
                case.now,
                message_id=self._telling.message_id(row, "quarantined"),
            )
        return True

    def _end(self, case: Case) -> None:
        """Close the lease and begin the action at the end, in one transaction."""
        row, now = case.row, case.now
        if lifecycle.closed(now, case.terms):
            self._keeping.observe_calendar(case)
            return
        server = self._settled(case)
        if server is None:
            return
        self._tools.actions[case.terms.on_end_action].check(server)
        paced = self._tools.actions[case.terms.on_end_action].paced
        with self._tools.database.begin() as connection:
            # The brake's row before the VM's, here as everywhere.
            slots = self._tools.brake.slots(connection, now) if paced else None
            if slots is not None and slots.free == 0:
                turn = slots.turn(0, had_one=row.waiting_since is not None)
            else:
                turn = None
                self._close(connection, case)
                if paced:
                    self._tools.brake.begin_ends(connection, [row.server_id], now)
        if turn is not None:
            self._keeping.wait_for_turn(case, turn)
            return

    @staticmethod
    def _close(connection: sa.Connection, case: Case) -> None:
        row, facts, now = case.row, case.facts, case.now
        claims.finish(connection, row, now, attempts=0, **begun(row, case.terms.on_end_action))
        if explicit.asked_for_meanwhile(connection, row):
            raise ClaimLost(f"a lease was made for server {row.server_id} at this moment")
        if facts is not None and facts.status == "ACTIVE":
            leases.close(connection, facts, now)
        db_api.record(connection, row, "end_begun", now, action=case.terms.on_end_action)

    def _settled(self, case: Case) -> Server | None:
        """Look at the VM; when it is busy or broken, move its end and return None."""
        server = self._get(case.row)
        if adoption.settled(server):
            return server
        self._keeping.put_off_busy(case, server)
        return None

    def _next_at(self, case: Case) -> datetime.datetime:
        """Say when there is something to do again."""
        plan, now = case.plan, case.now
        dates = [plan.ends_at, *(r.at for r in plan.reminders)]
        if case.accepted_at is None:
            dates.append(lifecycle.undeliverable_deadline(plan, case.terms) + _SOON)
        if plan.quarantine_at is not None:
            dates.append(plan.quarantine_at)
        dates.append(plan.before_end_at)
        if Pending.of(case.row) is not None:
            dates.append(now + RECHECK)
        dates.extend(case.mails_due)
        return min((date for date in dates if date > now), default=now + _SOON)


def _on_closed_day(case: Case) -> bool:
    """Say whether the end, or the quarantine that is still to come, is due on a closed day.

    Turns among many that wait may be given out for closed days: they move when they have come.
    """
    ends_at = case.plan.ends_at
    if case.row.waiting_since is not None and case.now < ends_at:
        return False
    quarantined = case.row.state == State.QUARANTINED
    return lifecycle.open_end(ends_at, case.terms, quarantined=quarantined) != ends_at
