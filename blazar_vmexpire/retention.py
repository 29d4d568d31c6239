# SPDX-License-Identifier: Apache-2.0
"""Removing what is kept of VMs that have been gone for long."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence

import sqlalchemy as sa

from blazar_vmexpire import leases
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db import holds
from blazar_vmexpire.db.engine import Database, retried
from blazar_vmexpire.db.models import expirations, history, notices
from blazar_vmexpire.lifecycle import State

_PAGE = 500
_HISTORY_PAGE = 5000

#: VMs that are gone, and of which nothing is to be said any more.
_AT_REST = sa.and_(expirations.c.state == State.DELETED, expirations.c.next_at.is_(None))


class Retention:
    """Removes a page at a time, each in a transaction of its own; may be interrupted.

    Its methods call ``report`` after each page with the number removed so far.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def purge_vms(self, before: datetime.datetime, report: Callable[[int], None]) -> int:
        """Remove VMs to which nothing has happened since a moment: row, notices and lease.

        The lease is the one that is over, and that Blazar has kept as TERMINATED.

        :param before: naive UTC.
        :returns: how many VMs.
        """
        done = 0
        for page in db_api.pages(self._database, _AT_REST, _PAGE):
            done += self._purge_vms([row.server_id for row in page], before)
            report(done)
        return done

    @retried
    def _purge_vms(self, server_ids: Sequence[str], before: datetime.datetime) -> int:
        x = expirations.c
        with self._database.begin() as connection:
            # Held, so that nobody takes a VM in again that an administrator has just restored.
            found = connection.execute(
                sa.select(x.server_id, x.lease_id)
                .where(x.server_id.in_(server_ids), _AT_REST)
                .with_for_update()
            ).all()
            recent = set(
                connection.scalars(
                    sa.select(history.c.server_id)
                    .distinct()
                    .where(
                        history.c.server_id.in_([row.server_id for row in found]),
                        history.c.at >= before,
                    )
                )
            )
            lease_of = {row.server_id: row.lease_id for row in found if row.server_id not in recent}
            busy = leases.in_transition(connection, filter(None, lease_of.values()))
            gone = [server_id for server_id, lease in lease_of.items() if lease not in busy]
            leases.destroy(connection, filter(None, (lease_of[i] for i in gone)))
            connection.execute(sa.delete(notices).where(notices.c.server_id.in_(gone)))
            holds.drop(connection, gone)
            connection.execute(sa.delete(expirations).where(x.server_id.in_(gone)))
        return len(gone)

    def purge_history(self, before: datetime.datetime, report: Callable[[int], None]) -> int:
        """Remove what happened before a moment to VMs that have no row any more.

        :param before: naive UTC.
        :returns: how many entries.
        """
        done = 0
        last: int | None = 0
        while last is not None:
            removed, last = self._purge_history(before, last)
            done += removed
            report(done)
        return done

    @retried
    def _purge_history(self, before: datetime.datetime, after: int) -> tuple[int, int | None]:
        h = history.c
        known = sa.exists().where(expirations.c.server_id == h.server_id)
        with self._database.begin() as connection:
            ids = list(
                connection.scalars(
                    sa.select(h.id)
                    .where(h.id > after, h.at < before, ~known)
                    .order_by(h.id)
                    .limit(_HISTORY_PAGE)
                )
            )
            if ids:
                connection.execute(sa.delete(history).where(h.id.in_(ids)))
        return len(ids), ids[-1] if len(ids) == _HISTORY_PAGE else None
