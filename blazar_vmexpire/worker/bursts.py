# SPDX-License-Identifier: Apache-2.0
"""Ends that come together: a page at a time, where one by one would take hours.

A few minutes ahead it is seen how many ends are coming. Those beyond the brake's pace are moved
*before* they are due, so that Blazar's own engine, which would need an hour for some ten thousand
events, never begins with them. When many are due that may go, their leases are closed a thousand in
a transaction; what is then done to each VM is a step of its own, as always, and begins with a look
at it. VMs of which anything is out of the ordinary (a worker has them in hand, a question is open,
a notice is not old enough, the lease is not what it has to be) are left to the step of their own.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from oslo_log import log as logging

from blazar_vmexpire import lease_sets, lifecycle
from blazar_vmexpire.brake import ENDABLE, Slots
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db.api import Expiration, NoticeRow
from blazar_vmexpire.db.engine import retried
from blazar_vmexpire.db.models import expirations, notices
from blazar_vmexpire.lifecycle import State, Terms
from blazar_vmexpire.worker.case import Case
from blazar_vmexpire.worker.ending import begun
from blazar_vmexpire.worker.keeping import PACED
from blazar_vmexpire.worker.tools import Tools

LOG = logging.getLogger(__name__)

#: How far ahead is looked: 100,000 leases are moved in a fraction of it.
_AHEAD = datetime.timedelta(minutes=5)
#: With fewer than this due, each is a step of its own, which looks at its VM first.
_MANY = 200
_PAGE = 1000


@dataclasses.dataclass(slots=True)
class Result:
    """What was done."""

    taken: int = 0
    """Ends that were begun."""
    moved: int = 0
    """Ends that were moved, to wait for their turn."""


class Bursts:
    """One look at the ends that are due or will soon be.

    :param keep: called after each page; may raise to give up (the chore was taken over).
    """

    def __init__(self, tools: Tools, keep: Callable[[], None] = lambda: None) -> None:
        self._tools = tools
        self._keep = keep

    def run(self) -> Result:
        """Do it."""
        tools = self._tools
        now = tools.clock()
        terms = tools.book.terms()
        paced = tools.actions[terms.on_end_action].paced
        coming = self._coming(now)
        result = Result()
        beyond: list[str] = []
        if paced and coming:
            with tools.database.begin() as connection:
                slots = tools.brake.slots(connection, now)
            if slots.limited:
                coming, beyond = _sort_out(coming, slots)
            for page in _pages(beyond):
                result.moved += self._move(page, slots, result.moved)
                self._keep()
        due = [server_id for server_id, ends_at in coming if ends_at <= now]
        if len(due) >= _MANY:
            for page in _pages(due):
                result.taken += self._take(page, terms, paced=paced)
                self._keep()
        if result.taken or result.moved:
            LOG.info(
                "Of many servers whose lease ends, %d ends were begun, %d wait for their turn",
                result.taken,
                result.moved,
            )
        return result

    def _coming(self, now: datetime.datetime) -> list[tuple[str, datetime.datetime]]:
        """List VMs whose end is due or will soon be, in the order in which they may go."""
        x = expirations.c
        with self._tools.database.begin() as connection:
            found = connection.execute(
                sa.select(x.server_id, x.ends_at)
                .where(x.state.in_(ENDABLE), x.ends_at <= now + _AHEAD)
                .order_by(sa.func.coalesce(x.waiting_since, x.ends_at), x.server_id)
            )
            return [(row.server_id, row.ends_at) for row in found]

    @retried
    def _move(self, page: Sequence[str], slots: Slots, before: int) -> int:
        """Move ends before they are due.

        :param before: how many were moved before this page.
        """
        now = self._tools.clock()
        with self._tools.database.begin() as connection:
            rows = _free(connection, page, now)
            held = lease_sets.hold(connection, _ends(rows))
            movable = [row for row in rows if held.get(row.lease_id or "") == "ACTIVE"]
            turns = [
                slots.turn(before + position, had_one=row.waiting_since is not None)
                for position, row in enumerate(movable)
            ]
            together: dict[datetime.datetime, list[Expiration]] = {}
            for turn, row in zip(turns, movable, strict=True):
                together.setdefault(turn, []).append(row)
            for turn, same in together.items():
                self._move_to(connection, turn, same, now)
            db_api.record_many(
                connection,
                "moved",
                now,
                [
                    (row, {"old_end": row.ends_at, "new_end": turn, "reason": PACED})
                    for row, turn in zip(movable, turns, strict=True)
                ],
            )
        return len(movable)

    @staticmethod
    def _move_to(
        connection: sa.Connection,
        turn: datetime.datetime,
        rows: Sequence[Expiration],
        now: datetime.datetime,
    ) -> None:
        x = expirations.c
        lease_sets.move(connection, [str(row.lease_id) for row in rows], turn, now)
        connection.execute(
            sa.update(expirations)
            .where(x.server_id.in_([row.server_id for row in rows]))
            .values(
                # What was due before the end (a mail that is tried again) stays due.
                next_at=sa.case((x.next_at < x.ends_at, x.next_at), else_=turn),
                waiting_since=sa.func.coalesce(x.waiting_since, x.ends_at),
            )
        )
        # By itself: MySQL assigns from left to right, and would see the new end above.
        connection.execute(
            sa.update(expirations)
            .where(x.server_id.in_([row.server_id for row in rows]))
            .values(ends_at=turn)
        )

    @retried
    def _take(self, server_ids: Sequence[str], terms: Terms, *, paced: bool) -> int:
        """Close leases and begin the action at the end, in one transaction."""
        tools = self._tools
        now = tools.clock()
        with tools.database.begin() as connection:
            # The brake's row before the VMs', here as everywhere.
            free = tools.brake.slots(connection, now).free if paced else None
            rows = _free(connection, server_ids, now)
            held = lease_sets.hold(connection, _ends(rows))
            told = _notices(connection, rows)
            takable = [
                row
                for row in rows
                if row.lease_id in held and self._may_end(row, told.get(row.server_id, []), terms)
            ][:free]
            for columns, same in _by_columns(takable, terms):
                connection.execute(
                    sa.update(expirations)
                    .where(expirations.c.server_id.in_([row.server_id for row in same]))
                    .values(next_at=now, **columns)
                )
            lease_sets.close(
                connection,
                [str(row.lease_id) for row in takable if held[str(row.lease_id)] == "ACTIVE"],
                now,
            )
            if paced:
                tools.brake.begin_ends(connection, [row.server_id for row in takable], now)
            details = {"action": terms.on_end_action}
            db_api.record_many(connection, "end_begun", now, [(row, details) for row in takable])
        return len(takable)

    def _may_end(self, row: Expiration, told: list[NoticeRow], terms: Terms) -> bool:
        """Say whether there is nothing to do for a VM but to begin its end."""
        now = self._tools.clock()
        if row.ends_at is None or row.ends_at > now:
            return False
        case = Case(
            row=row,
            facts=None,
            notices=told,
            terms=terms,
            plan=lifecycle.agenda(row.ends_at, terms),
            now=now,
        )
        return (
            case.accepted_at is not None
            and lifecycle.needed_end(case.plan, now, case.accepted_at, terms) is None
            and (not terms.quarantine or bool(row.progress.get("quarantine", {}).get("done")))
            and (row.state == State.QUARANTINED or "quarantine" not in row.progress)
            and self._tools.book.in_scope(row.project_id or "")
        )


def _free(
    connection: sa.Connection, server_ids: Sequence[str], now: datetime.datetime
) -> list[Expiration]:
    """Hold those of some VMs whose end can come, and of which nothing is out of the ordinary."""
    x = expirations.c
    found = connection.execute(
        sa.select(expirations)
        .where(
            x.server_id.in_(server_ids),
            x.state.in_(ENDABLE),
            sa.or_(x.claimed_until.is_(None), x.claimed_until < now),
            x.questions == x.answered,
            x.attempts == 0,
        )
        .with_for_update(skip_locked=True)
    )
    rows = {row.server_id: Expiration.of(row) for row in found}
    return [rows[i] for i in server_ids if i in rows]


def _ends(rows: Iterable[Expiration]) -> dict[str, datetime.datetime]:
    return {row.lease_id: row.ends_at for row in rows if row.lease_id and row.ends_at}


def _notices(connection: sa.Connection, rows: Sequence[Expiration]) -> dict[str, list[NoticeRow]]:
    """Read the accepted notices of some VMs."""
    n = notices.c
    found = connection.execute(
        sa.select(notices).where(
            n.server_id.in_([row.server_id for row in rows]), n.accepted_at.is_not(None)
        )
    )
    told: dict[str, list[NoticeRow]] = {}
    for row in found:
        told.setdefault(row.server_id, []).append(NoticeRow.of(row))
    return told


def _by_columns(
    rows: Iterable[Expiration], terms: Terms
) -> Iterator[tuple[dict[str, Any], list[Expiration]]]:
    """Group VMs whose rows are written alike."""
    groups: dict[str, tuple[dict[str, Any], list[Expiration]]] = {}
    for row in rows:
        columns = begun(row, terms)
        columns["progress"] = db_api.as_json(columns["progress"])
        groups.setdefault(columns["progress"], (columns, []))[1].append(row)
    yield from groups.values()


def _sort_out(
    coming: Sequence[tuple[str, datetime.datetime]], slots: Slots
) -> tuple[list[tuple[str, datetime.datetime]], list[str]]:
    """Say which may go when their end comes, and which have to wait."""
    going: list[tuple[str, datetime.datetime]] = []
    beyond: list[str] = []
    for server_id, ends_at in coming:
        if len(going) < slots.free_at(max(ends_at, slots.now)):
            going.append((server_id, ends_at))
        else:
            beyond.append(server_id)
    return going, beyond


def _pages(items: Sequence[str]) -> Iterator[Sequence[str]]:
    for begin in range(0, len(items), _PAGE):
        yield items[begin : begin + _PAGE]
