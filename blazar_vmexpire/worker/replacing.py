# SPDX-License-Identifier: Apache-2.0
"""A lease that an owner made for a VM takes the place of the implicit one, and leaves it again."""

from __future__ import annotations

import dataclasses
import datetime

from blazar import status as blazar_status

from blazar_vmexpire import choice, explicit, leases
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db.api import Expiration
from blazar_vmexpire.explicit import Pending
from blazar_vmexpire.notices import Saying
from blazar_vmexpire.worker import claims, transitions
from blazar_vmexpire.worker.telling import Telling
from blazar_vmexpire.worker.tools import Tools

_SOON = datetime.timedelta(seconds=2)
#: How often a lease that Blazar has not started is looked at; its hook comes earlier.
RECHECK = datetime.timedelta(seconds=15)

#: A lease has started, and may even be over again already.
_STARTED = (blazar_status.lease.ACTIVE, blazar_status.lease.TERMINATED)

#: What the owner is told, as the notice has it.
_DELETED = Saying(
    "The lease that was made for it by hand was deleted. This is the usual one in its place."
)


class Replacing:
    """What is done about explicit leases for a VM whose lease is live.

    Its methods raise :class:`blazar_vmexpire.exceptions.ClaimLost` when somebody else changed the
    row meanwhile, and :class:`blazar_vmexpire.exceptions.LeaseBusy` when Blazar has begun to change
    one of the leases; nothing is written then.
    """

    def __init__(self, tools: Tools, telling: Telling) -> None:
        self._tools = tools
        self._telling = telling

    def await_lease(self, row: Expiration) -> bool:
        """See to a lease that was asked for; True when that was all for this pass.

        While Blazar makes and starts it nothing else is done to the VM, for as long as a living
        manager may take. If that is dead, the VM does not end before it has come back.
        """
        pending = Pending.of(row)
        if pending is None:
            return False
        now = self._tools.clock()
        with self._tools.database.begin() as connection:
            facts = leases.read(connection, pending.lease_id)
        if facts is None:
            self._drop(row, pending, "it is not there, or holds something else as well", now)
            return True
        if facts.status in _STARTED:
            self._take_over(row, pending, facts, now)
            return True
        since = pending.seen[1] if pending.seen and pending.seen[0] == facts.mark else now
        over = since + self._tools.conf.vmexpire_worker.blazar_grace
        if facts.status == blazar_status.lease.ERROR:
            self._drop(row, pending, "Blazar could not start it", now)
        elif now < over:
            seen = dataclasses.replace(pending, seen=(facts.mark, since))
            with self._tools.database.begin() as connection:
                claims.finish(
                    connection,
                    row,
                    min(now + RECHECK, max(over, now + _SOON)),
                    chosen=seen.noted(row),
                )
        elif not facts.waits_for_its_start:
            self._drop(row, pending, "the manager that was making it has died", now)
        elif row.ends_at is not None and row.ends_at <= now:
            with self._tools.database.begin() as connection:
                claims.finish(connection, row, now + RECHECK)
        else:
            return False
        return True

    def _take_over(
        self, row: Expiration, pending: Pending, facts: leases.Facts, now: datetime.datetime
    ) -> None:
        tools = self._tools
        with tools.database.begin() as connection:
            claims.hold(connection, row)
            implicit = leases.read(connection, row.lease_id) if row.lease_id else None
            grace = tools.conf.vmexpire_worker.blazar_grace
            if transitions.wait_if_needed(connection, row, implicit, now, grace):
                return
            taken, columns = explicit.take_over(
                connection,
                row,
                pending,
                facts,
                implicit,
                verdict=choice.own_verdict(tools.book, connection, row, now),
                now=now,
            )
            claims.finish(connection, taken, now, **columns)

    def _drop(self, row: Expiration, pending: Pending, reason: str, now: datetime.datetime) -> None:
        """Let the lease that the VM has stay; if the other one is there, it is a stray."""
        with self._tools.database.begin() as connection:
            claims.finish(connection, row, now, chosen=explicit.without_pending(row))
            db_api.record(
                connection,
                row,
                "explicit_lease_dropped",
                now,
                actor=pending.caller.user_id,
                request_id=pending.caller.request_id,
                lease_id=pending.lease_id,
                reason=reason,
            )

    def put_back(self, row: Expiration, facts: leases.Facts | None) -> bool:
        """Give a VM its implicit lease back, if the explicit one is gone; True when it was."""
        if facts is not None or not explicit.is_explicit(row):
            return False
        tools, now = self._tools, self._tools.clock()
        with tools.database.begin() as connection:
            claims.hold(connection, row)
            left, columns = explicit.let_go(
                connection,
                row,
                verdict=choice.own_verdict(tools.book, connection, row, now),
                now=now,
            )
            claims.finish(connection, left, now, **columns)
            db_api.add_notice(
                connection,
                left,
                "restored",
                now,
                message_id=self._telling.message_id(left, "restored"),
                details=_DELETED.as_details(),
            )
        return True
