# SPDX-License-Identifier: Apache-2.0
"""Whether Nova's notifications come: when one last did, and what should have come since.

That they do not come is seen nowhere else: reconciliation finds every VM, only later.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable

import sqlalchemy as sa
from oslo_db import exception as oslo_db_exception

from blazar_vmexpire.db.engine import Database, retried
from blazar_vmexpire.db.models import chores, expirations

#: The row of :data:`~blazar_vmexpire.db.models.chores` in which it is noted: nobody's chore.
NAME = "notifications"

#: It is noted this often at most: thousands of notifications cost one write.
_EVERY = datetime.timedelta(minutes=1)
#: How much later than a VM's creation its notification may come, and clocks may differ.
_LATE = datetime.timedelta(minutes=10)


class Arrivals:
    """Notes that notifications come."""

    def __init__(self, database: Database, clock: Callable[[], datetime.datetime]) -> None:
        self._database = database
        self._clock = clock
        self._noted_at: datetime.datetime | None = None

    def note(self) -> None:
        """Note that one has come, unless that was noted within the last minute."""
        now = self._clock()
        if self._noted_at is None or now - self._noted_at >= _EVERY:
            self._write(now)
            self._noted_at = now

    @retried
    def _write(self, now: datetime.datetime) -> None:
        c = chores.c
        with self._database.begin() as connection:
            written = connection.execute(
                sa.update(chores).where(c.name == NAME).values(next_at=now, last_finished_at=now)
            ).rowcount
            if written:
                return
            try:
                with connection.begin_nested():
                    connection.execute(
                        chores.insert(), [{"name": NAME, "next_at": now, "last_finished_at": now}]
                    )
            except oslo_db_exception.DBDuplicateEntry:
                # Another listener noted its first one at the same moment.
                pass


def last(connection: sa.Connection) -> datetime.datetime | None:
    """Say when a notification last came, to the minute; None: no listener has noted any."""
    found: datetime.datetime | None = connection.scalar(
        sa.select(chores.c.last_finished_at).where(chores.c.name == NAME)
    )
    return found


def untold(connection: sa.Connection, since: datetime.datetime, now: datetime.datetime) -> int:
    """Count the VMs that Nova has made since, and that had to be found without a notification.

    :param since: when a notification last came.
    """
    created_at = expirations.c.server_created_at
    return (
        connection.scalar(
            sa.select(sa.func.count())
            .select_from(expirations)
            .where(created_at > since + _LATE, created_at < now - _LATE)
        )
        or 0
    )
