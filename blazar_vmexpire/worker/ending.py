# SPDX-License-Identifier: Apache-2.0
"""A VM whose lease is over: its action at the end, and that the VM is gone."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from oslo_log import log as logging

from blazar_vmexpire import adoption, lifecycle
from blazar_vmexpire.actions import snapshot, volumes
from blazar_vmexpire.actions.base import Done, Wait
from blazar_vmexpire.cloud import errors
from blazar_vmexpire.cloud.servers import SOFT_DELETED, Server
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db.api import Expiration
from blazar_vmexpire.exceptions import ActionFailed
from blazar_vmexpire.lifecycle import Event
from blazar_vmexpire.worker import claims, transitions
from blazar_vmexpire.worker.case import read
from blazar_vmexpire.worker.jobs import Jobs
from blazar_vmexpire.worker.keeping import Keeping
from blazar_vmexpire.worker.kept import remembered
from blazar_vmexpire.worker.telling import Telling
from blazar_vmexpire.worker.tools import Tools
from blazar_vmexpire.worker.vanishing import MAKE_SURE

LOG = logging.getLogger(__name__)

#: When Nova first said that it does not know the VM, in a row's ``progress``.
_NOT_FOUND = "not_found"
#: How long the volumes of a VM that is gone may take to be free. Nova lets go of them before it
#: says 404; of one that it keeps for a while (its reclaim_instance_interval) it does not.
_FREE_WITHIN = datetime.timedelta(minutes=5)
#: Between two looks for a VM whose action says that it is done.
_AGAIN = datetime.timedelta(seconds=5)


def begun(row: Expiration, action: str) -> dict[str, Any]:
    """Say what the row holds from the moment its end begins.

    :param action: the name of the action at the end.
    """
    progress = {key: value for key, value in row.progress.items() if key != "transition"}
    return {
        "state": lifecycle.after(row.state, Event.END).value,
        "progress": {**progress, "end": {"action": action}},
        "waiting_since": None,
    }


class Ending:
    """The step of a VM in state ``ending``."""

    def __init__(self, tools: Tools, telling: Telling, jobs: Jobs, keeping: Keeping) -> None:
        self._tools = tools
        self._telling = telling
        self._jobs = jobs
        self._keeping = keeping

    def __call__(self, row: Expiration) -> None:
        """Do the next step of the action; when that is complete, or the VM is gone, say so.

        :raises: what the action raises; see :meth:`blazar_vmexpire.actions.base.Action.advance`.
        """
        server = self._look(row)
        if server is None:
            self._make_sure(row)
            return
        if _NOT_FOUND in row.progress:
            self._forget_not_found(row)
            return
        notes = row.progress["end"]
        if notes["action"] not in self._tools.actions:
            raise ActionFailed(
                f"its on_end_action {notes['action']!r} is no longer installed",
                "install it again, or delete the VM by hand",
            )
        action = self._tools.actions[notes["action"]]
        if "step" not in notes:
            busy = None if adoption.settled(server) else server
            if busy is not None or self._is_closed(row):
                self._give_back(row, busy)
                return
            action.check(server)
        outcome, progress = self._jobs.advance(row, server, action, "end", notes)
        if isinstance(outcome, Done) and action.keeps:
            self._kept(row, progress, outcome)
            return
        # Any other that is Done without the VM being gone is looked at again until it is.
        wait = outcome if isinstance(outcome, Wait) else Wait(_AGAIN)
        if wait.problem is not None and row.last_error is None:
            LOG.warning("Server %s: %s", row.server_id, wait.problem)
        with self._tools.database.begin() as connection:
            claims.finish(
                connection,
                row,
                self._tools.clock() + wait.delay,
                progress=progress,
                attempts=0,
                last_error=wait.problem,
            )

    def _kept(self, row: Expiration, progress: Mapping[str, Any], outcome: Done) -> None:
        """Let a VM rest whose end is complete: it is not ended again."""
        now, action = self._tools.clock(), row.progress["end"]["action"]
        # One that was begun before the end, and is of no use to anybody who comes back.
        snapshot.discard(self._tools.cloud, progress.get("before_end", {}))
        with self._tools.database.begin() as connection:
            db_api.add_notice(
                connection,
                row,
                "ended",
                now,
                message_id=self._telling.message_id(row, "ended"),
                details={"on_end_action": action},
            )
            db_api.record(connection, row, "kept", now, action=action, **outcome.result)
            claims.finish(
                connection,
                row,
                now,
                state=lifecycle.after(row.state, Event.KEPT).value,
                progress=remembered(progress, action),
                attempts=0,
                last_error=None,
            )

    def _is_closed(self, row: Expiration) -> bool:
        now = self._tools.clock()
        with self._tools.database.begin() as connection:
            return lifecycle.closed(now, self._tools.book.verdict(connection, row, now).terms)

    def _give_back(self, row: Expiration, busy: Server | None) -> None:
        """Put the end off, of which nothing was done yet.

        :param busy: the VM, if it is busy or broken; None if the day is closed.
        """
        case = read(self._tools, row)
        grace = self._tools.conf.vmexpire_worker.blazar_grace
        with self._tools.database.begin() as connection:
            if transitions.wait_if_needed(connection, row, case.facts, case.now, grace):
                return
        state = lifecycle.after(row.state, Event.POSTPONE)
        if row.progress.get("quarantine"):
            state = lifecycle.after(state, Event.QUARANTINE)
        progress = {key: value for key, value in row.progress.items() if key != "end"}
        if busy is None:
            self._keeping.observe_calendar(case, state=state.value, progress=progress)
        else:
            self._keeping.put_off_busy(case, busy, state=state.value, progress=progress)

    def _look(self, row: Expiration) -> Server | None:
        try:
            server = self._tools.cloud.nova.get(row.server_id)
        except errors.NotFound:
            return None
        # One that could be restored never becomes a 404 in time; any other is gone when it is one.
        return None if server.status == SOFT_DELETED else server

    def _make_sure(self, row: Expiration) -> None:
        """Believe that a VM is gone when Nova says so twice, some seconds apart."""
        now = self._tools.clock()
        seen = row.progress.get(_NOT_FOUND)
        since = now if seen is None else datetime.datetime.fromisoformat(seen)
        if now >= since + MAKE_SURE:
            self._look_at_volumes(row, since, now)
            return
        progress = {**row.progress, _NOT_FOUND: since.isoformat()}
        with self._tools.database.begin() as connection:
            claims.finish(connection, row, since + MAKE_SURE, progress=progress)

    def _forget_not_found(self, row: Expiration) -> None:
        progress = {key: value for key, value in row.progress.items() if key != _NOT_FOUND}
        with self._tools.database.begin() as connection:
            claims.finish(connection, row, self._tools.clock(), progress=progress)

    def _look_at_volumes(
        self, row: Expiration, since: datetime.datetime, now: datetime.datetime
    ) -> None:
        """See that the volumes that were to be kept are there and free, then close the row.

        :raises blazar_vmexpire.cloud.errors.CloudError: Cinder does not say.
        """
        held = row.progress["end"].get(volumes.KEPT, [])
        kept = volumes.states(self._tools.cloud, held)
        busy = [volume for volume in kept if volume["status"] != "available"]
        if busy and now < since + _FREE_WITHIN:
            with self._tools.database.begin() as connection:
                claims.finish(connection, row, now + max((now - since) / 4, _AGAIN))
            return
        for volume in busy:
            LOG.error(
                "Volume %s, kept when server %s was deleted, is %s and not available: if nothing"
                " else has it attached, reset its state",
                volume["id"],
                row.server_id,
                volume["status"],
            )
        self._gone(row, now, kept)

    def _gone(
        self, row: Expiration, now: datetime.datetime, volumes_kept: list[dict[str, Any]]
    ) -> None:
        notes: dict[str, Any] = dict(row.progress["end"])
        ours = bool(row.progress.get("irreversible"))
        kept: dict[str, Any] = {
            key: notes[key] for key in ("image_id", "image_name") if key in notes
        }
        if snapshot.KEPT_IMAGE in notes:
            kept["image_id"] = notes[snapshot.KEPT_IMAGE]
        snapshot.unprotect(self._tools.cloud, row.progress.get("undo", {}))
        state = lifecycle.after(row.state, Event.GONE)
        with self._tools.database.begin() as connection:
            if ours:
                db_api.add_notice(
                    connection,
                    row,
                    "ended",
                    now,
                    message_id=self._telling.message_id(row, "ended"),
                    details={
                        "on_end_action": notes["action"],
                        **kept,
                        volumes.KEPT: [v for v in volumes_kept if v["status"] != "deleted"],
                    },
                )
            if volumes_kept:
                db_api.record(connection, row, "volumes_kept", now, volumes=volumes_kept)
            db_api.record(
                connection,
                row,
                "deleted",
                now,
                by="the end of its lease" if ours else "somebody else",
                **kept,
            )
            claims.finish(
                connection, row, now, state=state.value, progress={}, attempts=0, last_error=None
            )
