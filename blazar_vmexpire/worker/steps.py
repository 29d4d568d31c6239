# SPDX-License-Identifier: Apache-2.0
"""From a claimed row to its one next step, and what follows when the step does not succeed."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import time
from collections.abc import Callable
from typing import Any

from oslo_db import exception as oslo_db_exception
from oslo_log import log as logging

from blazar_vmexpire import adoption, leases, lifecycle, tracing, words
from blazar_vmexpire.cloud import errors
from blazar_vmexpire.cloud.servers import GONE
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db import holds
from blazar_vmexpire.db.api import Expiration
from blazar_vmexpire.db.engine import retried
from blazar_vmexpire.exceptions import ActionFailed, Braked, ClaimLost, LeaseBusy
from blazar_vmexpire.lifecycle import Event, State
from blazar_vmexpire.notices import Kind
from blazar_vmexpire.worker import claims, judging
from blazar_vmexpire.worker.claims import Claims
from blazar_vmexpire.worker.ending import Ending
from blazar_vmexpire.worker.exempting import Exempting
from blazar_vmexpire.worker.jobs import Jobs
from blazar_vmexpire.worker.keeping import Keeping
from blazar_vmexpire.worker.last_words import LastWords
from blazar_vmexpire.worker.resting import Resting
from blazar_vmexpire.worker.reviving import Reviving
from blazar_vmexpire.worker.telling import Telling
from blazar_vmexpire.worker.tending import Tending
from blazar_vmexpire.worker.tools import Tools
from blazar_vmexpire.worker.vanishing import MAKE_SURE, Vanishing

LOG = logging.getLogger(__name__)

_SOON = datetime.timedelta(seconds=2)


class Outcome(enum.StrEnum):
    """How a step went, as it is counted."""

    DONE = "done"
    WAITS = "waits"
    RETRIED = "retried"
    FAILED = "failed"
    BROKEN = "broken"


class Steps:
    """Runs the step of a claimed VM that its state asks for.

    :param release: how rows are given back that no step could finish.
    """

    def __init__(self, tools: Tools, release: Claims) -> None:
        self._tools = tools
        self._claims = release
        telling = Telling(tools)
        jobs = Jobs(tools)
        self._last_words = LastWords(tools, telling, Kind.ENDED, Kind.GONE)
        self._farewell = LastWords(tools, telling, Kind.EXEMPTED)
        keeping = Keeping(tools, telling)
        tending = Tending(tools, telling, jobs, keeping)
        self._steps: dict[State, Callable[[Expiration], None]] = {
            State.SEEN: self._look,
            State.ACTIVE: tending,
            State.NOTICED: tending,
            State.QUARANTINED: tending,
            State.HELD: tending,
            State.ENDING: Ending(tools, telling, jobs, keeping),
            State.ENDED: Resting(tools, telling),
            State.REVIVING: Reviving(tools, telling),
            State.VANISHED: Vanishing(tools, telling),
            State.FAILED: self._rest,
            State.EXEMPT: self._look_at_exempt,
            State.DELETED: self._look_at_deleted,
        }
        self._exempting = Exempting(tools, telling)

    def run(self, row: Expiration) -> None:
        """Do the one next step for a claimed row. The row says how it went.

        :raises: what the database does when not even that could be written; then the row is due
            again when its claim runs out.
        """
        tracing.begin()
        begun, result = time.perf_counter(), Outcome.BROKEN
        try:
            result = self._try(row)
        finally:
            self._claims.forget(row)
            self._tools.metrics.step(
                row.state,
                result,
                seconds=time.perf_counter() - begun,
                lateness=self._lateness(row) if result == Outcome.DONE else None,
            )

    def _lateness(self, row: Expiration) -> float | None:
        """Say how many seconds ago it was due, whose step is done now."""
        if row.next_at is None:
            return None
        return (self._tools.clock() - row.next_at).total_seconds()

    def _try(self, row: Expiration) -> Outcome:
        try:
            if (verdict := self._exempting.verdict(row)) is not None:
                self._exempting(row, verdict)
            else:
                self._steps[State(row.state)](row)
        except ClaimLost as lost:
            LOG.debug("%s", lost)
            self._claims.release(row)
            return Outcome.WAITS
        except oslo_db_exception.DBDeadlock as deadlock:
            # Who claims touches the same indexes as who finishes, and a database settles that by
            # refusing one of them. What was not committed is done again, which each step stands.
            LOG.debug("Server %s: its step is done again: %s", row.server_id, deadlock)
            self._claims.release(row)
            return Outcome.WAITS
        except LeaseBusy as busy:
            LOG.debug("Server %s waits: %s", row.server_id, busy)
            self._claims.release(row, self._tools.clock() + _SOON)
            return Outcome.WAITS
        except Braked as braked:
            LOG.info("Server %s waits: %s", row.server_id, braked)
            self._claims.release(row, braked.until)
            return Outcome.WAITS
        except ActionFailed as error:
            return self._fail(row, error.reason, error.remedy)
        except errors.CloudError as error:
            self._tools.metrics.error(error.service, type(error).__name__.lower())
            return self._not_done(row, error)
        except Exception as error:
            # Whatever it is, it must take neither this worker's other VMs nor this one's clock.
            LOG.exception("Server %s: step in state %s broke", row.server_id, row.state)
            self._try_again(row, error)
            return Outcome.BROKEN
        return Outcome.DONE

    def _not_done(self, row: Expiration, error: errors.CloudError) -> Outcome:
        """Decide what follows where a service did not do what a step asked it for."""
        if isinstance(error, errors.NotFound):
            return self._not_found(row, error)
        if isinstance(error, errors.Refused):
            often = row.attempts + 1 >= self._tools.conf.vmexpire_worker.max_attempts
            # Where nothing has been begun, nothing can fail: it is only tried again.
            if often and lifecycle.possible(row.state, Event.FAIL):
                return self._fail(row, str(error), "remove what it was refused for, then retry")
        return self._try_again(row, error)

    # States with a short step ------------------------------------------------------------------

    def _look(self, row: Expiration) -> None:
        """Take a VM in that somebody spoke of, wait for it, or forget it."""
        tools = self._tools
        now = tools.clock()
        try:
            server = tools.cloud.nova.get(row.server_id)
        except errors.NotFound:
            server = None
        if (
            server is None
            or server.status in GONE
            or server.project_id == tools.cloud.keystone.service_project_id
        ):
            self._let_be(row, None)
            return
        newcomer = judging.newcomer(self._tools, row, server)
        if not newcomer.verdict.expires:
            self._let_be(row, newcomer.verdict.until)
            return
        if not adoption.settled(server):
            # Its next notification, or the next reconciliation, comes earlier than a long wait.
            with tools.database.begin() as connection:
                claims.finish(
                    connection,
                    row,
                    now
                    + lifecycle.backoff(
                        row.attempts + 1, _SOON / 2, datetime.timedelta(minutes=5), 1.0
                    ),
                    attempts=row.attempts + 1,
                )
            return
        terms = newcomer.verdict.terms
        columns = adoption.columns(
            newcomer, now, datetime.timedelta(0), tell=tools.conf.vmexpire_mail.tell_adoptions
        )
        columns["state"] = lifecycle.after(row.state, Event.ADOPT).value
        adopted = dataclasses.replace(row, **{**columns, "facts": newcomer.facts})
        lease_id, ends_at = columns["lease_id"], columns["ends_at"]
        # Whatever was true of it before.
        columns |= {
            "waiting_since": None,
            "unexplained_at": None,
            "chosen": None,
            **claims.answered(row),
        }
        next_at = columns.pop("next_at")
        with tools.database.begin() as connection:
            claims.finish(connection, row, next_at, attempts=0, last_error=None, **columns)
            leases.create(connection, [adoption.wanted_lease(adopted, terms)], now)
            db_api.record(
                connection,
                adopted,
                "adopted",
                now,
                **adoption.adopted(ends_at, lease_id, newcomer.verdict),
            )

    def _let_be(self, row: Expiration, until: datetime.datetime | None) -> None:
        """Forget a VM that does not expire, or let the row rest that it has.

        :param until: when that may be over.
        """
        with self._tools.database.begin() as connection:
            if row.state == State.SEEN:
                # What ends then is found by the next reconciliation.
                claims.drop(connection, row)
            else:
                claims.finish(connection, row, until, answered=row.questions)

    def _look_at_deleted(self, row: Expiration) -> None:
        """Send what is still to be said of a VM that is gone; or take in one that was restored."""
        if self._last_words.say(row, "the server is gone"):
            return
        next_at = self._last_words.due_at(row)
        if next_at is not None:
            with self._tools.database.begin() as connection:
                claims.finish(connection, row, next_at)
            return
        self._restored_or_rest(row)

    def _restored_or_rest(self, row: Expiration) -> None:
        tools = self._tools
        try:
            server = tools.cloud.nova.get(row.server_id)
        except errors.NotFound:
            server = None
        restored = (
            server is not None and server.status not in GONE and server.task_state != "deleting"
        )
        if restored:
            self._take_in_again(row)
            return
        with tools.database.begin() as connection:
            claims.finish(connection, row, None)

    def _look_at_exempt(self, row: Expiration) -> None:
        """Take a VM in that came back into scope; else see only whether it is still there.

        First its owner learns that it is out of scope, if they are to know.
        """
        if self._farewell.say(row, "the server does not expire"):
            return
        # One that Nova does not find has vanished, in scope or not.
        server = self._tools.cloud.nova.get(row.server_id)
        newcomer = judging.newcomer(self._tools, row, server)
        if newcomer.verdict.expires:
            # Whatever was extended before counts no more; not so for one that was restored.
            self._take_in_again(row, extensions=0)
            return
        dates = [newcomer.verdict.until, self._farewell.due_at(row)]
        with self._tools.database.begin() as connection:
            claims.finish(
                connection,
                row,
                min((date for date in dates if date is not None), default=None),
                **claims.answered(row),
                **adoption.seen(newcomer.facts),
                **adoption.judged(newcomer.verdict),
            )

    def _take_in_again(self, row: Expiration, **columns: Any) -> None:
        """Begin anew: with another generation, so that old notices count for nothing.

        :param columns: what else is written to the VM's row.
        """
        with self._tools.database.begin() as connection:
            if row.lease_id is not None:
                leases.destroy(connection, [row.lease_id])
            claims.write(connection, row, generation=row.generation + 1, **columns)
        self._look(dataclasses.replace(row, generation=row.generation + 1))
        now = self._tools.clock()
        with self._tools.database.begin() as connection:
            if holds.current(connection, row.server_id, now) is not None:
                # Its clock is to be stopped now, not when it would be looked at next.
                db_api.poke(connection, [row.server_id], now)

    def _rest(self, row: Expiration) -> None:
        """Leave a failed one to the operator; but see whether it is still there."""
        self._tools.cloud.nova.get(row.server_id)
        with self._tools.database.begin() as connection:
            claims.finish(connection, row, None)

    # What did not succeed ----------------------------------------------------------------------

    def _not_found(self, row: Expiration, error: errors.NotFound) -> Outcome:
        """Nova, or somebody else, does not know what a step needs: is it the VM that is gone?"""
        if error.service != "nova" or row.state not in lifecycle.LEASED | {
            State.ENDED,
            State.REVIVING,
            State.FAILED,
            State.EXEMPT,
        }:
            return self._try_again(row, error)
        now = self._tools.clock()

        @retried
        def vanish() -> None:
            with self._tools.database.begin() as connection:
                claims.finish(
                    connection,
                    row,
                    now + MAKE_SURE,
                    state=lifecycle.after(row.state, Event.VANISH).value,
                    # The lease is held from the moment that this disappearance is unexplained.
                    unexplained_at=None,
                    progress={
                        **row.progress,
                        "vanished": now.isoformat(),
                        "vanished_from": row.state,
                    },
                )
                db_api.record(connection, row, "vanished", now)

        self._unless_lost(row, vanish)
        return Outcome.DONE

    def _try_again(self, row: Expiration, error: Exception) -> Outcome:
        attempts = row.attempts + 1
        next_at = self._tools.retry_at(attempts)
        LOG.warning(
            "Server %s: step in state %s failed, try %d, next try at %s UTC: %s",
            row.server_id,
            row.state,
            attempts,
            next_at.isoformat(" ", "seconds"),
            words.without_addresses(str(error)),
        )

        @retried
        def put_off() -> None:
            with self._tools.database.begin() as connection:
                claims.finish(
                    connection, row, next_at, attempts=attempts, last_error=str(error)[:2000]
                )

        self._unless_lost(row, put_off)
        return Outcome.RETRIED

    def _fail(self, row: Expiration, reason: str, remedy: str) -> Outcome:
        now = self._tools.clock()
        state = lifecycle.after(row.state, Event.FAIL)

        @retried
        def fail() -> None:
            with self._tools.database.begin() as connection:
                claims.finish(
                    connection,
                    row,
                    None,
                    state=state.value,
                    last_error=f"{reason}; {remedy}"[:2000],
                    attempts=0,
                )
                db_api.record(
                    connection,
                    row,
                    "failed",
                    now,
                    in_state=row.state,
                    reason=reason,
                    remedy=remedy,
                )

        self._unless_lost(row, fail)
        return Outcome.FAILED

    def _unless_lost(self, row: Expiration, write: Callable[[], None]) -> None:
        """Write how a step went, unless somebody else has changed the row meanwhile."""
        try:
            write()
        except ClaimLost:
            self._claims.release(row)
