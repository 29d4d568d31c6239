# SPDX-License-Identifier: Apache-2.0
"""Telling the operators of VMs of which a step has failed for good: a list, and not too often.

How far they have been told is a place in the stream that all histories are, as for a notifier. So
nothing is told twice, and nothing is left out that happened while the mail server was away.
"""

from __future__ import annotations

import json

import sqlalchemy as sa

from blazar_vmexpire.db import outbox
from blazar_vmexpire.db.models import expirations, history
from blazar_vmexpire.lifecycle import State
from blazar_vmexpire.notices import Failure, Failures, Named, message_id_for
from blazar_vmexpire.worker import alarming
from blazar_vmexpire.worker.tools import Tools

#: Name of the cursor's row.
_CURSOR = "mail of failures"
#: How many VMs a mail lists.
_MOST_LISTED = 200


def tell(tools: Tools) -> None:
    """Send the mail about what has failed since the last one, if anything has.

    A VM that was tried again meanwhile, and has not failed again, is left out. What the mail server
    does not accept is tried again at the next run.
    """
    contact = tools.operators
    with tools.database.begin() as connection:
        after = outbox.cursor(connection, _CURSOR).position
        # What is younger may be committed out of order.
        before = tools.clock() - outbox.SETTLED
        last = connection.scalar(
            sa.select(sa.func.max(history.c.id)).where(history.c.id > after, history.c.at < before)
        )
        if last is None:
            return
        failures = _between(connection, after, last)
        if not failures.count or contact is None:
            outbox.write(connection, _CURSOR, last)
            return
    told = alarming.tell(
        tools,
        contact,
        failures,
        what=f"That {failures.count} servers have failed",
        message_id=message_id_for(f"{after}-{last}", "failed", 0, tools.mailer.domain),
    )
    if told:
        with tools.database.begin() as connection:
            outbox.write(connection, _CURSOR, last)


def _between(connection: sa.Connection, after: int, last: int) -> Failures:
    """Read which VMs have failed in a part of the stream, and have stayed so."""
    h, x = history.c, expirations.c
    latest = (
        sa.select(sa.func.max(h.id).label("id"))
        .join(expirations, x.server_id == h.server_id)
        .where(h.id > after, h.id <= last, h.event == "failed", x.state == State.FAILED)
        .group_by(h.server_id)
        .subquery()
    )
    count = connection.scalar(sa.select(sa.func.count()).select_from(latest)) or 0
    rows = connection.execute(
        sa.select(h.server_id, h.at, h.details, h.project_id, x.server_name)
        .join(latest, latest.c.id == h.id)
        .join(expirations, x.server_id == h.server_id)
        .order_by(h.id)
        .limit(_MOST_LISTED)
    )
    listed = []
    for row in rows:
        details = json.loads(row.details)
        named = Named(id=row.server_id, name=row.server_name, project_id=row.project_id or "")
        listed.append(
            Failure(server=named, at=row.at, reason=details["reason"], remedy=details["remedy"])
        )
    return Failures(count=count, listed=listed)
