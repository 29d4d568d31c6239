# SPDX-License-Identifier: Apache-2.0
"""A VM that was kept at its end: nothing is done to it, until somebody has it in use again."""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any

from blazar_vmexpire import adoption, leases, lifecycle, subjects
from blazar_vmexpire.cloud import errors
from blazar_vmexpire.cloud.servers import GONE, Server
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db.api import Expiration
from blazar_vmexpire.lifecycle import Event
from blazar_vmexpire.notices import Kind
from blazar_vmexpire.worker import claims, judging, transitions
from blazar_vmexpire.worker.kept import as_left
from blazar_vmexpire.worker.last_words import LastWords
from blazar_vmexpire.worker.telling import Telling
from blazar_vmexpire.worker.tools import Tools

#: How often a VM is looked at to which Nova is doing something.
_BUSY = datetime.timedelta(seconds=10)
_LONGEST = datetime.timedelta(minutes=5)


class Resting:
    """The step of a VM in state ``ended``."""

    def __init__(self, tools: Tools, telling: Telling) -> None:
        self._tools = tools
        self._last_words = LastWords(tools, telling, Kind.ENDED)

    def __call__(self, row: Expiration) -> None:
        """Tell its owner what was done; then see whether it is as it was left.

        :raises errors.NotFound: it is gone.
        :raises errors.CloudError: Nova gave no answer, or did not unlock it.
        :raises blazar_vmexpire.exceptions.ClaimLost: somebody else changed the row meanwhile.
        :raises blazar_vmexpire.exceptions.LeaseBusy: Blazar has begun to change its old lease.
        """
        if self._last_words.say(row, "its lease is over"):
            return
        now = self._tools.clock()
        server = self._tools.cloud.nova.get(row.server_id)
        if server.status in GONE:
            raise errors.NotFound("nova", f"get server {server.id}", f"it is {server.status}")
        if server.task_state is not None:
            wait = lifecycle.backoff(row.attempts + 1, _BUSY, _LONGEST, 1.0)
            with self._tools.database.begin() as connection:
                claims.finish(connection, row, now + wait, attempts=row.attempts + 1)
            return
        judging.ensure_project(self._tools, server.project_id)
        if not adoption.settled(server) or as_left(self._tools.actions, row.progress, server):
            next_at = self._last_words.due_at(row)
            with self._tools.database.begin() as connection:
                claims.finish(
                    connection,
                    row,
                    next_at,
                    attempts=0,
                    last_error=None,
                    **claims.answered(row),
                    **self._as_seen(server),
                )
            return
        self._begin_anew(row, server)

    def _begin_anew(self, row: Expiration, server: Server) -> None:
        """Begin its next term, under the same lease; what its owner was told before is void."""
        tools = self._tools
        now = tools.clock()
        seen = self._as_seen(server)
        if row.progress.get("undo", {}).get("unlock") and server.locked:
            # An administrator started it: what is in use is its owner's.
            with tools.database.begin() as connection:
                claims.hold(connection, row)
            tools.cloud.nova.unlock(server.id)
            with tools.database.begin() as connection:
                db_api.record(connection, row, "unlocked", now)
        with tools.database.begin() as connection:
            facts = leases.read(connection, row.lease_id) if row.lease_id else None
            grace = tools.conf.vmexpire_worker.blazar_grace
            if transitions.wait_if_needed(connection, row, facts, now, grace):
                return
            facts_of_it = subjects.facts_of_server(server, tools.book.own_metadata)
            looked_at = dataclasses.replace(row, **{**seen, "facts": facts_of_it})
            verdict = tools.book.verdict(connection, looked_at, now)
            columns: dict[str, Any] = {
                **seen,
                **adoption.judged(verdict),
                "state": lifecycle.after(row.state, Event.ADOPT).value,
                "lease_id": leases.new_lease_id() if facts is None else facts.lease_id,
                "ends_at": lifecycle.next_end(
                    now, row.server_created_at, row.extensions, verdict.terms
                ),
                "term_seconds": None,
                "generation": row.generation + 1,
                "extensions": row.extensions + 1,
                "progress": {},
                "attempts": 0,
                "last_error": None,
            }
            begun = dataclasses.replace(looked_at, **{**columns, "facts": facts_of_it})
            wanted = adoption.wanted_lease(begun, verdict.terms)
            claims.finish(connection, row, now, **columns, **claims.answered(row))
            if facts is None:
                leases.create(connection, [wanted], now)
            else:
                leases.mend(connection, facts, wanted, now)
            db_api.record(
                connection,
                begun,
                "adopted",
                now,
                ends_at=begun.ends_at,
                lease_id=begun.lease_id,
                reason=f"it is in use again: Nova has it as {server.status}",
            )

    def _as_seen(self, server: Server) -> dict[str, Any]:
        return {
            "server_name": db_api.storable(server.name, 255),
            "project_id": server.project_id,
            "user_id": server.user_id,
            **adoption.seen(subjects.facts_of_server(server, self._tools.book.own_metadata)),
        }
