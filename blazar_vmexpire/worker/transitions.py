# SPDX-License-Identifier: Apache-2.0
"""Waiting for Blazar to finish with a lease, and knowing when it never will."""

from __future__ import annotations

import datetime

import sqlalchemy as sa

from blazar_vmexpire import leases
from blazar_vmexpire.db.api import Expiration
from blazar_vmexpire.worker import claims

_SOON = datetime.timedelta(seconds=2)
_RECHECK = datetime.timedelta(seconds=15)
_KEY = "transition"


def _left_behind(
    row: Expiration, facts: leases.Facts, now: datetime.datetime, grace: datetime.timedelta
) -> bool:
    """Say whether the manager that a lease's transition belongs to must have died over it.

    It is our own observation that counts, kept in the row: an owner can write any column of a
    lease, ``updated_at`` too.

    :param grace: how long a living manager may take.
    """
    seen = row.progress.get(_KEY)
    return (
        seen is not None
        and seen[0] == facts.mark
        and now >= datetime.datetime.fromisoformat(seen[1]) + grace
    )


def wait_if_needed(
    connection: sa.Connection,
    row: Expiration,
    facts: leases.Facts | None,
    now: datetime.datetime,
    grace: datetime.timedelta,
) -> bool:
    """Give a row back, if a living manager may be at work on its lease.

    It is due again when that transition is over, or is known to be left behind.

    :returns: whether it was given back.
    :raises blazar_vmexpire.exceptions.ClaimLost: somebody else changed it meanwhile.
    """
    if facts is None or not facts.in_transition or _left_behind(row, facts, now, grace):
        return False
    _wait(connection, row, facts, now, grace)
    return True


def _wait(
    connection: sa.Connection,
    row: Expiration,
    facts: leases.Facts,
    now: datetime.datetime,
    grace: datetime.timedelta,
) -> None:
    seen = row.progress.get(_KEY)
    since = now
    if seen is not None and seen[0] == facts.mark:
        since = datetime.datetime.fromisoformat(seen[1])
    claims.finish(
        connection,
        row,
        min(now + _RECHECK, max(since + grace, now + _SOON)),
        progress={**row.progress, _KEY: [facts.mark, since.isoformat()]},
    )
