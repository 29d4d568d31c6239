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

import concurrent.futures
import dataclasses
import datetime
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from oslo_log import log as logging

from blazar_vmexpire import RESOURCE_TYPE, explicit, lease_sets, lifecycle
from blazar_vmexpire.brake import ENDABLE, Slots
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db.api import Expiration
from blazar_vmexpire.db.engine import retried
from blazar_vmexpire.db.models import expirations, notices
from blazar_vmexpire.lifecycle import State
from blazar_vmexpire.terms import Verdict
from blazar_vmexpire.worker.case import TELL_OF_THE_END
from blazar_vmexpire.worker.ending import begun
from blazar_vmexpire.worker.keeping import PACED
from blazar_vmexpire.worker.tools import Tools

LOG = logging.getLogger(__name__)

#: How far ahead is looked: 100,000 leases are moved in a fraction of it.
_AHEAD = datetime.timedelta(minutes=5)
#: With fewer than this due, each is a step of its own, which looks at its VM first.
_MANY = 200
_PAGE = 1000
#: Pages in hand at a time: while one waits for the database, another uses the processor.
_AT_ONCE = 3


class _End(NamedTuple):
    """An end that is due or will soon be."""

    server_id: str
    ends_at: datetime.datetime
    paced: bool
    """Whether the brake limits how many such ends are begun, as of the VM's last step."""


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
        result = Result()
        if tools.conf[RESOURCE_TYPE].dry_run:
            # Nothing ends: each VM's own step says what would have.
            return result
        coming = self._coming(now)
        if any(end.paced for end in coming):
            with tools.database.begin() as connection:
                slots = tools.brake.slots(connection, now)
            if slots.limited:
                coming, beyond = _sort_out(coming, slots)
                result.moved = self._each_page(
                    beyond, lambda page, before: self._move(page, slots, before)
                )
        due = [end.server_id for end in coming if end.ends_at <= now]
        if len(due) >= _MANY:
            result.taken = self._each_page(due, lambda page, before: self._take(page))
        if result.taken or result.moved:
            LOG.info(
                "Of many servers whose lease ends, %d ends were begun, %d wait for their turn",
                result.taken,
                result.moved,
            )
        return result

    def _each_page(
        self, server_ids: Sequence[str], work: Callable[[Sequence[str], int], int]
    ) -> int:
        """Do something to VMs, some pages at a time, and say to how many it was done.

        :param work: is given a page, and how many VMs are on those before it.
        """
        done = 0
        with concurrent.futures.ThreadPoolExecutor(_AT_ONCE, "vmexpire-burst") as pool:
            pages = [
                pool.submit(work, server_ids[begin : begin + _PAGE], begin)
                for begin in range(0, len(server_ids), _PAGE)
            ]
            try:
                for page in pages:
                    done += page.result()
                    self._keep()
            finally:
                for page in pages:
                    page.cancel()
        return done

    def _coming(self, now: datetime.datetime) -> list[_End]:
        """List VMs whose end is due or will soon be, in the order in which they may go."""
        x = expirations.c
        unpaced = {name for name, action in self._tools.actions.items() if not action.paced}
        with self._tools.database.begin() as connection:
            found = connection.execute(
                sa.select(x.server_id, x.ends_at, x.on_end_action)
                .where(x.state.in_(ENDABLE), x.ends_at <= now + _AHEAD)
                .order_by(sa.func.coalesce(x.waiting_since, x.ends_at), x.server_id)
            )
            return [
                _End(row.server_id, row.ends_at, row.on_end_action not in unpaced) for row in found
            ]

    @retried
    def _move(self, page: Sequence[str], slots: Slots, before: int) -> int:
        """Move ends before they are due.

        :param before: how many may be moved before those of this page.
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
    def _take(self, server_ids: Sequence[str]) -> int:
        """Close leases and begin the action at the end, in one transaction."""
        tools = self._tools
        now = tools.clock()
        with tools.database.begin() as connection:
            # The brake's row before the VMs', here as everywhere.
            free = tools.brake.slots(connection, now).free
            rows = _free(connection, server_ids, now)
            held = lease_sets.hold(connection, _ends(rows))
            told = _told(connection, rows)
            session = tools.book.session(connection, now, {row.project_id or "" for row in rows})
            takable: list[Expiration] = []
            paced: list[str] = []
            for row in rows:
                verdict = session.judge_row(row)
                accepted_at = told.get((row.server_id, row.generation))
                if row.lease_id not in held or not self._may_end(row, accepted_at, verdict):
                    continue
                if tools.actions[verdict.terms.on_end_action].paced:
                    if free is not None and len(paced) >= free:
                        continue
                    paced.append(row.server_id)
                takable.append(row)
            for columns, same in _by_columns(takable):
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
            tools.brake.begin_ends(connection, paced, now)
            db_api.record_many(
                connection,
                "end_begun",
                now,
                [(row, {"action": row.on_end_action}) for row in takable],
            )
        return len(takable)

    def _may_end(
        self, row: Expiration, accepted_at: datetime.datetime | None, verdict: Verdict
    ) -> bool:
        """Say whether there is nothing to do for a VM but to begin its end.

        :param accepted_at: when the first notice of this very end was accepted.
        :param verdict: the terms have to be those that it was last looked at with.
        """
        now = self._tools.clock()
        if accepted_at is None or row.ends_at is None or row.ends_at > now:
            return False
        if not verdict.expires or verdict.digest != row.terms_digest:
            return False
        terms = verdict.terms
        plan = lifecycle.agenda(row.ends_at, terms)
        return (
            not lifecycle.closed(now, terms)
            and lifecycle.needed_end(plan, now, accepted_at, terms) is None
            and (not terms.quarantine or bool(row.progress.get("quarantine", {}).get("done")))
            and (row.state == State.QUARANTINED or "quarantine" not in row.progress)
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
            # A lease of its owner's may be about to begin.
            ~explicit.pending_in_sql(),
        )
        .with_for_update(skip_locked=True)
    )
    rows = {row.server_id: Expiration.of(row) for row in found}
    return [rows[i] for i in server_ids if i in rows]


def _ends(rows: Iterable[Expiration]) -> dict[str, datetime.datetime]:
    return {row.lease_id: row.ends_at for row in rows if row.lease_id and row.ends_at}


def _told(
    connection: sa.Connection, rows: Sequence[Expiration]
) -> dict[tuple[str, int], datetime.datetime]:
    """Say when the first notice of an end was accepted: by VM and generation."""
    n = notices.c
    found = connection.execute(
        sa.select(n.server_id, n.generation, sa.func.min(n.accepted_at))
        .where(
            n.server_id.in_([row.server_id for row in rows]),
            n.accepted_at.is_not(None),
            sa.or_(*(n.kind.startswith(kind) for kind in TELL_OF_THE_END)),
        )
        .group_by(n.server_id, n.generation)
    )
    return {(row[0], row[1]): row[2] for row in found}


def _by_columns(
    rows: Iterable[Expiration],
) -> Iterator[tuple[dict[str, Any], list[Expiration]]]:
    """Group VMs whose rows are written alike."""
    groups: dict[str, tuple[dict[str, Any], list[Expiration]]] = {}
    for row in rows:
        columns = begun(row, str(row.on_end_action))
        columns["progress"] = db_api.as_json(columns["progress"])
        groups.setdefault(columns["progress"], (columns, []))[1].append(row)
    yield from groups.values()


def _sort_out(coming: Sequence[_End], slots: Slots) -> tuple[list[_End], list[str]]:
    """Say which may go when their end comes, and which have to wait."""
    going: list[_End] = []
    beyond: list[str] = []
    paced = 0
    for end in coming:
        if not end.paced:
            going.append(end)
        elif paced < slots.free_at(max(end.ends_at, slots.now)):
            paced += 1
            going.append(end)
        else:
            beyond.append(end.server_id)
    return going, beyond
