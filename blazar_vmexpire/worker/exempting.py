# SPDX-License-Identifier: Apache-2.0
"""Letting go of VMs that are no longer in scope: what was begun is undone, the lease is removed."""

from __future__ import annotations

from blazar_vmexpire import adoption, extension, leases, lifecycle
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db.api import Expiration
from blazar_vmexpire.lifecycle import Event, State
from blazar_vmexpire.notices import Kind
from blazar_vmexpire.terms import Verdict
from blazar_vmexpire.worker import claims, confirming, transitions
from blazar_vmexpire.worker.telling import Telling
from blazar_vmexpire.worker.tools import Tools

#: States of a VM that has a lease, and can be let go at once if nothing has to be undone.
CAN_BE_LET_GO = lifecycle.LEASED | {State.ENDING, State.ENDED, State.FAILED}


class Exempting:
    """The step of a VM that has a lease, and should have none.

    It comes before every other step, so that ``scope = none`` stops at once whatever can still be
    stopped.
    """

    def __init__(self, tools: Tools, telling: Telling) -> None:
        self._tools = tools
        self._telling = telling

    def verdict(self, row: Expiration) -> Verdict | None:
        """Say why a VM is to be let go; None: it is not."""
        if row.state not in CAN_BE_LET_GO or row.progress.get("irreversible"):
            return None
        with self._tools.database.begin() as connection:
            found = self._tools.book.verdict(connection, row, self._tools.clock())
        if found.expires or (found.rule is not None and not row.facts):
            # Rules are asked only when it is known what they are asked about.
            return None
        return found

    def __call__(self, row: Expiration, verdict: Verdict) -> None:
        """Give the VM back first, if something was done to it; then remove its lease.

        An owner who was told of an end is told that it is off.

        One that was kept at its end is unlocked, no more: whether it is to run is its owner's to
        say.

        :param verdict: as :meth:`verdict` gave it.
        :raises blazar_vmexpire.cloud.errors.CloudError: Nova did not unlock it.
        :raises blazar_vmexpire.exceptions.ClaimLost: somebody else changed it meanwhile.
        """
        now = self._tools.clock()
        grace = self._tools.conf.vmexpire_worker.blazar_grace
        if row.state == State.ENDED:
            self._unlock(row)
        elif extension.begun(row):
            ends_at = lifecycle.first_end(now, verdict.terms)
            with self._tools.database.begin() as connection:
                db_api.record(connection, row, "out_of_scope", now, reason=verdict.why)
                claims.finish(
                    connection,
                    row,
                    now,
                    state=lifecycle.after(row.state, Event.UNDO).value,
                    generation=row.generation + 1,
                    ends_at=max(ends_at, row.ends_at or ends_at),
                )
            return
        with self._tools.database.begin() as connection:
            facts = leases.read(connection, row.lease_id) if row.lease_id else None
            if transitions.wait_if_needed(connection, row, facts, now, grace):
                return
            if facts is not None:
                leases.destroy(connection, [facts.lease_id])
            told_end = confirming.end_told(db_api.notices_of(connection, row.server_id))
            if told_end is not None:
                db_api.add_notice(
                    connection,
                    row,
                    Kind.EXEMPTED,
                    now,
                    message_id=self._telling.message_id(row, Kind.EXEMPTED),
                    details=confirming.off(told_end),
                )
            claims.finish(
                connection,
                row,
                verdict.until if told_end is None else now,
                state=lifecycle.after(row.state, Event.EXEMPT).value,
                progress={},
                attempts=0,
                last_error=None,
                **adoption.judged(verdict),
            )
            db_api.record(connection, row, "exempt", now, reason=verdict.why)

    def _unlock(self, row: Expiration) -> None:
        server = self._tools.cloud.nova.get(row.server_id)
        if not (row.progress.get("undo", {}).get("unlock") and server.locked):
            return
        with self._tools.database.begin() as connection:
            claims.hold(connection, row)
        self._tools.cloud.nova.unlock(row.server_id)
        with self._tools.database.begin() as connection:
            db_api.record(connection, row, "unlocked", self._tools.clock())
