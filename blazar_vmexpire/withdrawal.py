# SPDX-License-Identifier: Apache-2.0
"""Letting go of every VM and removing every lease of ours, so that the plug-in can be taken out.

VMs to which nothing was done are let go a page at a time. The others are given back by the same
steps that a worker takes when ``scope`` is ``none``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import sqlalchemy as sa

from blazar_vmexpire import extension, leases
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db.api import Expiration
from blazar_vmexpire.db.engine import Database, retried
from blazar_vmexpire.db.models import expirations
from blazar_vmexpire.lifecycle import State
from blazar_vmexpire.worker.claims import Clock
from blazar_vmexpire.worker.exempting import CAN_BE_LET_GO

#: States in which a VM is let go of already. What was only seen has no lease, and gets none.
_LET_GO = (State.EXEMPT, State.DELETED, State.SEEN)
_HELD = expirations.c.state.not_in(_LET_GO)

_PAGE = 1000


@dataclasses.dataclass(slots=True)
class Survey:
    """What a withdrawal has to do."""

    leases: int = 0
    """Leases of VMs in Blazar's tables, those that are over included."""
    untouched: int = 0
    """VMs with a lease to which nothing was done."""
    unlock: list[Expiration] = dataclasses.field(default_factory=list)
    """VMs that we locked."""
    start: list[Expiration] = dataclasses.field(default_factory=list)
    """VMs that we stopped, and that go on."""
    kept: list[Expiration] = dataclasses.field(default_factory=list)
    """VMs that were shelved or stopped at their end, and stay so."""
    going: list[Expiration] = dataclasses.field(default_factory=list)
    """VMs whose deletion Nova has been asked for: that cannot be taken back."""
    labelled: int = 0
    """VMs whose metadata tell their end, or may."""


class Withdrawal:
    """Each of its methods can be called again, and goes on where the last call ended.

    :param actor: who withdraws, for the history.
    """

    def __init__(self, database: Database, clock: Clock, actor: str) -> None:
        self._database = database
        self._clock = clock
        self._actor = actor

    def survey(self) -> Survey:
        """Say what there is to do. Nothing is changed."""
        found = Survey()
        with self._database.begin() as connection:
            found.leases = leases.count(connection)
        found.labelled = self.labelled()
        for row in self.held():
            undo = row.progress.get("undo", {})
            if row.progress.get("irreversible"):
                found.going.append(row)
                continue
            if undo.get("unlock"):
                found.unlock.append(row)
            if row.state == State.ENDED:
                found.kept.append(row)
                continue
            if undo.get("start"):
                found.start.append(row)
            if not extension.begun(row):
                found.untouched += 1
        return found

    def held(self) -> Iterator[Expiration]:
        """Yield the VMs that are not let go of yet."""
        for page in db_api.pages(self._database, _HELD, _PAGE):
            yield from page

    def labelled(self) -> int:
        """Count the VMs whose metadata tell their end, or may."""
        x = expirations.c
        with self._database.begin() as connection:
            return (
                connection.scalar(
                    sa.select(sa.func.count())
                    .select_from(expirations)
                    .where(
                        x.state.not_in((State.VANISHED, State.DELETED)),
                        sa.not_(db_api.IRREVERSIBLE),
                        sa.or_(x.shown_end.is_not(None), x.show_after.is_not(None)),
                    )
                )
                or 0
            )

    def let_go(self, report: Callable[[int], None]) -> int:
        """Let go of VMs to which nothing was done, and remove their leases.

        Left for :meth:`hasten` are those of which something has to be undone, and those whose lease
        Blazar is at work on.

        :param report: called after each page with the number of VMs so far.
        :returns: how many.
        """
        done = 0
        for page in db_api.pages(self._database, _HELD, _PAGE):
            done += self._let_go([row.server_id for row in page])
            report(done)
        return done

    @retried
    def _let_go(self, server_ids: Sequence[str]) -> int:
        now = self._clock()
        x = expirations.c
        with self._database.begin() as connection:
            found = connection.execute(
                sa.select(expirations)
                .where(x.server_id.in_(server_ids), x.state.in_(CAN_BE_LET_GO))
                .with_for_update()
            )
            rows = [
                row
                for row in map(Expiration.of, found)
                if not extension.begun(row) and not row.progress.get("irreversible")
            ]
            busy = leases.in_transition(connection, [row.lease_id for row in rows if row.lease_id])
            rows = [row for row in rows if row.lease_id not in busy]
            if not rows:
                return 0
            connection.execute(
                sa.update(expirations)
                .where(x.server_id.in_([row.server_id for row in rows]))
                # Another generation: whatever a worker was about to do to it is off.
                .values(
                    state=State.EXEMPT.value,
                    generation=x.generation + 1,
                    progress="{}",
                    next_at=None,
                    attempts=0,
                    last_error=None,
                )
            )
            leases.destroy(connection, [row.lease_id for row in rows if row.lease_id])
            db_api.write_history(
                connection,
                [
                    {
                        "server_id": row.server_id,
                        "project_id": row.project_id,
                        "at": now,
                        "event": "exempt",
                        "generation": row.generation + 1,
                        "actor": self._actor,
                        "details": {"reason": "withdrawn", "ends_at": row.ends_at},
                    }
                    for row in rows
                ],
            )
        return len(rows)

    @retried
    def hasten(self) -> None:
        """Make the VMs that are left due now, for a worker whose ``scope`` is ``none``."""
        with self._database.begin() as connection:
            connection.execute(sa.update(expirations).where(_HELD).values(next_at=self._clock()))

    def sweep(self, report: Callable[[int], None]) -> int:
        """Remove the leases that are left of VMs that are let go of, or gone.

        :param report: called after each page with the number of leases so far.
        :returns: how many.
        """
        done, last = 0, ""
        while True:
            with self._database.begin() as connection:
                page = leases.page_of_ids(connection, last, _PAGE)
            if not page:
                break
            done += self._remove(page)
            last = page[-1]
            report(done)
        # Those whose reservation somebody detached.
        named = expirations.c.lease_id.is_not(None) & ~_HELD
        for rows in db_api.pages(self._database, named, _PAGE):
            self._remove([row.lease_id for row in rows if row.lease_id])
        return done

    @retried
    def _remove(self, lease_ids: Sequence[str]) -> int:
        with self._database.begin() as connection:
            kept = set(
                connection.scalars(
                    sa.select(expirations.c.lease_id).where(
                        expirations.c.lease_id.in_(lease_ids), _HELD
                    )
                )
            )
            removed = [lease_id for lease_id in lease_ids if lease_id not in kept]
            leases.destroy(connection, removed)
        return len(removed)
