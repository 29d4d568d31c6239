# SPDX-License-Identifier: Apache-2.0
"""Auditing Blazar's tables: what is not as it has to be is looked at, VM by VM, by the worker."""

from __future__ import annotations

import sqlalchemy as sa
from oslo_log import log as logging

from blazar_vmexpire import lease_audit, lifecycle
from blazar_vmexpire.db.engine import retried
from blazar_vmexpire.db.models import expirations
from blazar_vmexpire.worker.tools import Tools

LOG = logging.getLogger(__name__)


def audit(tools: Tools, *, thorough: bool = False) -> int:
    """Make every VM due whose lease is not what it has to be.

    :param thorough: look at reservations and events, too.
    :returns: how many.
    """
    states = sorted(lifecycle.LIVE)
    questions = [lease_audit.unsound(expirations, states)]
    if thorough:
        questions += lease_audit.unsound_parts(expirations, states)

    @retried
    def look() -> set[str]:
        with tools.database.begin() as connection:
            found = {i for question in questions for i in connection.scalars(question)}
            ordered = sorted(found)
            for begin in range(0, len(ordered), 1000):
                some = ordered[begin : begin + 1000]
                # Those that failed a moment ago keep their back-off.
                connection.execute(
                    sa.update(expirations)
                    .where(expirations.c.server_id.in_(some), expirations.c.attempts == 0)
                    .values(next_at=tools.clock())
                )
        return found

    found = look()
    if found:
        LOG.info("%d leases are not what they have to be: each is looked at", len(found))
    return len(found)
