# SPDX-License-Identifier: Apache-2.0
"""A VM that Nova does not find any more: whether it is gone, and whether that can be explained.

Two answers that lie apart prove that it is not there. Why it is not there makes the difference: a
VM that somebody deleted takes its lease with it. Many that are gone with nobody having deleted them
are a broken Nova, or one whose database was restored from a backup: their leases are kept for a
while, and the brake counts them.
"""

from __future__ import annotations

import datetime

import sqlalchemy as sa
from oslo_log import log as logging

from blazar_vmexpire import leases, lifecycle
from blazar_vmexpire.actions import snapshot
from blazar_vmexpire.cloud import errors
from blazar_vmexpire.cloud.servers import GONE, Server
from blazar_vmexpire.conf.types import format_duration
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db.api import Expiration
from blazar_vmexpire.lifecycle import Event, State
from blazar_vmexpire.notices import Kind, Saying
from blazar_vmexpire.worker import claims, confirming
from blazar_vmexpire.worker.telling import Telling
from blazar_vmexpire.worker.tools import Tools

LOG = logging.getLogger(__name__)

#: A VM that Nova does not find is looked for once more after this long: one answer out of several
#: API servers may come from a replica that lags behind.
MAKE_SURE = datetime.timedelta(seconds=5)

#: Said of one that nobody is known to have deleted.
_UNEXPLAINED = Saying("the cloud does not know it any more, and nothing tells who deleted it")

#: What its coming back means for one that was in another state than a live one.
_BACK = {
    State.ENDED.value: Event.RETURN,
    # What was being undone is not undone yet.
    State.REVIVING.value: Event.UNDO,
}


class Vanishing:
    """The step of a VM in state ``vanished``."""

    def __init__(self, tools: Tools, telling: Telling) -> None:
        self._tools = tools
        self._telling = telling

    def __call__(self, row: Expiration) -> None:
        """Look for it once more, and let it go, keep it for now, or welcome it back.

        :raises errors.CloudError: Nova gave no answer that would be one.
        """
        now = self._tools.clock()
        # Whatever woke it meanwhile: the two answers have to lie apart.
        not_before = datetime.datetime.fromisoformat(row.progress["vanished"]) + MAKE_SURE
        if now < not_before:
            with self._tools.database.begin() as connection:
                claims.finish(connection, row, not_before)
            return
        try:
            server = self._tools.cloud.nova.get(row.server_id)
        except errors.NotFound:
            server = None
        if server is not None and server.status not in GONE:
            self._welcome_back(row, now)
            return
        why = self._explanation(row, server)
        if why is not None:
            self._let_go(row, now, why, explained=True)
            return
        with self._tools.database.begin() as connection:
            verdict = self._tools.book.verdict(connection, row, now)
        if not verdict.expires:
            # Whoever withdraws need not wait for it.
            self._let_go(row, now, "it is not in scope any more")
            return
        self._keep(row, now)

    def _explanation(self, row: Expiration, server: Server | None) -> str | None:
        """Say what shows that somebody deleted it; None: nothing does.

        :raises errors.Unavailable: Nova cannot say at the moment.
        """
        if server is not None:
            return f"Nova has it as {server.status}"
        if row.deletion_told_at is not None:
            return "Nova notified its deletion"
        try:
            deleted = self._tools.cloud.nova.was_deleted(row.server_id)
        except errors.Refused as error:
            # That we may not look is no explanation, and will not change by asking again.
            LOG.warning("Server %s is gone: %s", row.server_id, error)
            return None
        return "it is in Nova's list of deleted servers" if deleted else None

    def _keep(self, row: Expiration, now: datetime.datetime) -> None:
        """Keep the lease of one that is gone unexplained, until the hold is over.

        After that, too, for as long as the brake has tripped, or has reason to.
        """
        tools = self._tools
        hold: datetime.timedelta = tools.conf.vmexpire_brake.vanish_hold
        since = row.unexplained_at or now
        with tools.database.begin() as connection:
            over = now >= since + hold and not tools.brake.holds_vanished(connection, now)
            if not over:
                next_at = since + hold if now < since + hold else now + hold
                claims.finish(
                    connection, row, next_at, unexplained_at=since, attempts=0, last_error=None
                )
                if row.unexplained_at is None:
                    db_api.record(connection, row, "vanished_unexplained", now, until=next_at)
        if over:
            reason = (
                "Nova does not know it any more, and nothing tells who deleted it; its lease was"
                f" kept for {format_duration(hold)}"
            )
            self._let_go(row, now, reason)

    def _welcome_back(self, row: Expiration, now: datetime.datetime) -> None:
        event = _BACK.get(row.progress.get("vanished_from", ""), Event.REAPPEAR)
        with self._tools.database.begin() as connection:
            claims.finish(
                connection,
                row,
                now,
                state=lifecycle.after(row.state, event).value,
                attempts=0,
                unexplained_at=None,
                **claims.answered(row),
            )
            db_api.record(connection, row, "reappeared", now)

    def _let_go(
        self, row: Expiration, now: datetime.datetime, evidence: str, *, explained: bool = False
    ) -> None:
        # Nova was not to remove it together with the VM.
        snapshot.unprotect(self._tools.cloud, row.progress.get("undo", {}))
        with self._tools.database.begin() as connection:
            tells = self._tell(connection, row, now, None if explained else _UNEXPLAINED)
            claims.finish(
                connection,
                row,
                now if tells else None,
                state=lifecycle.after(row.state, Event.GONE).value,
                progress={},
                attempts=0,
                last_error=None,
                unexplained_at=None,
            )
            if row.lease_id is not None:
                leases.destroy(connection, [row.lease_id])
            by = "its owner, or an administrator" if explained else "somebody unknown"
            db_api.record(connection, row, "deleted", now, by=by, evidence=evidence)

    def _tell(
        self,
        connection: sa.Connection,
        row: Expiration,
        now: datetime.datetime,
        reason: Saying | None,
    ) -> bool:
        """Have its owner told, if they are to know, and were told of an end to come."""
        told_end = confirming.end_told(db_api.notices_of(connection, row.server_id))
        tells: bool = self._tools.conf.vmexpire_mail.tell_deletions
        if not tells or told_end is None or told_end <= now:
            return False
        db_api.add_notice(
            connection,
            row,
            Kind.GONE,
            now,
            message_id=self._telling.message_id(row, Kind.GONE),
            details=confirming.off(told_end) | (reason.as_details() if reason else {}),
        )
        return True
