# SPDX-License-Identifier: Apache-2.0
"""The queue: how a row becomes one worker's own, and how what it then writes is fenced.

A claim is a token of its own in ``claimed_by`` until ``claimed_until``. Every statement that a
worker writes to a row it has claimed carries the token *and* the ``generation`` it read. So a
worker that was taken for dead, or whose VM was extended meanwhile, cannot write what is no longer
true: its statement matches no row, and :class:`ClaimLost` ends what it was doing.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import socket
import threading
import uuid
from collections.abc import Callable, Collection, Iterator
from typing import Any

import sqlalchemy as sa
from oslo_db import exception as oslo_db_exception
from oslo_log import log as logging

from blazar_vmexpire.db import journal
from blazar_vmexpire.db.api import Expiration, as_json
from blazar_vmexpire.db.engine import Database, retried
from blazar_vmexpire.db.journal import Finish
from blazar_vmexpire.db.models import chores, expirations
from blazar_vmexpire.exceptions import ClaimLost

LOG = logging.getLogger(__name__)

#: Claims are renewed this often within their duration.
RENEWALS = 4

Clock = Callable[[], datetime.datetime]
"""Says what time it is: naive UTC."""

_LOST = "server {} was changed by somebody else meanwhile"


class Claims:
    """What one worker process has claimed.

    :param duration: how long a claim holds without being renewed.
    """

    def __init__(self, database: Database, clock: Clock, duration: datetime.timedelta) -> None:
        self._database = database
        self._clock = clock
        self._duration = duration
        # Token of a batch -> the VMs of it whose work is not over.
        self._held: dict[str, set[str]] = {}
        self._guard = threading.Lock()
        # Readable in the table: which host and process.
        self._owner = f"{socket.gethostname()[:16]}:{os.getpid()}"

    @retried
    def claim(self, limit: int) -> list[Expiration]:
        """Claim what is due, at most ``limit`` rows, longest due first.

        They share a token that no other claim has or will have.
        """
        now = self._clock()
        token = self._new_token()
        x = expirations.c
        free = sa.and_(x.next_at <= now, sa.or_(x.claimed_until.is_(None), x.claimed_until < now))
        with self._database.begin() as connection:
            # Rows that another worker is claiming at this moment are skipped, not waited for.
            ids = connection.scalars(
                sa.select(x.server_id)
                .where(free)
                .order_by(x.next_at)
                .limit(limit)
                .with_for_update(skip_locked=True)
            ).all()
            if not ids:
                return []
            connection.execute(
                sa.update(expirations)
                .where(x.server_id.in_(ids), free)
                .values(claimed_by=token, claimed_until=now + self._duration)
            )
            rows = [
                Expiration.of(row)
                for row in connection.execute(
                    sa.select(expirations).where(x.claimed_by == token).order_by(x.next_at)
                )
            ]
        with self._guard:
            self._held[token] = {row.server_id for row in rows}
        return rows

    @retried
    def renew(self) -> None:
        """Hold on to all that is claimed: to be called well within ``duration``."""
        with self._guard:
            tokens = list(self._held)
        if not tokens:
            return
        with self._database.begin() as connection:
            connection.execute(
                sa.update(expirations)
                .where(expirations.c.claimed_by.in_(tokens))
                .values(claimed_until=self._clock() + self._duration)
            )

    def forget(self, row: Expiration) -> None:
        """Stop renewing the claim on a row: its work is over."""
        token = str(row.claimed_by)
        with self._guard:
            pending = self._held.get(token, set())
            pending.discard(row.server_id)
            if not pending:
                self._held.pop(token, None)

    @retried
    def release(self, row: Expiration, next_at: datetime.datetime | None = None) -> None:
        """Give a row back that could not be finished.

        :param next_at: when it is due again, unless somebody has made it due meanwhile; None leaves
            what is there, which is right after :class:`ClaimLost`: whoever changed the row has said
            when it is due.
        """
        columns: dict[str, Any] = {"claimed_by": None, "claimed_until": None}
        if next_at is not None:
            columns["next_at"] = _unless_woken(row, next_at)
        with self._database.begin() as connection:
            connection.execute(
                sa.update(expirations)
                .where(
                    expirations.c.server_id == row.server_id,
                    expirations.c.claimed_by == row.claimed_by,
                )
                .values(**columns)
            )

    def _new_token(self) -> str:
        return f"{self._owner}:{uuid.uuid4().hex}"[:64]


def hold(connection: sa.Connection, row: Expiration) -> None:
    """Keep others from changing a claimed row until the transaction ends.

    :raises ClaimLost: as :func:`write`.
    """
    found = connection.execute(
        sa.select(expirations.c.server_id).where(*_fence(row)).with_for_update()
    ).first()
    if found is None:
        raise ClaimLost(_LOST.format(row.server_id))


def write(connection: sa.Connection, row: Expiration, **columns: Any) -> None:
    """Write columns of a claimed row; ``progress`` and ``chosen`` as mappings.

    :raises ClaimLost: when the row is no longer this claimer's, or of another generation.
    """
    for name in ("progress", "chosen"):
        if columns.get(name) is not None:
            columns[name] = as_json(columns[name])
    changed = connection.execute(
        sa.update(expirations).where(*_fence(row)).values(**columns)
    ).rowcount
    if changed != 1:
        raise ClaimLost(_LOST.format(row.server_id))


def finish(
    connection: sa.Connection,
    row: Expiration,
    next_at: datetime.datetime | None,
    **columns: Any,
) -> None:
    """Write the outcome of a step and give the row back, due again at ``next_at``.

    Who made the row due while the step was under way (a notification, a hook of Blazar's) may speak
    of what the step did not see any more: then it stays due when they said.

    :param next_at: naive UTC; None lets it rest.
    :raises ClaimLost: as :func:`write`.
    """
    write(
        connection,
        row,
        next_at=_unless_woken(row, next_at),
        claimed_by=None,
        claimed_until=None,
        **columns,
    )
    state = columns.get("state", row.state)
    journal.of(connection).finishes[row.server_id] = Finish(row.state, state, next_at)


def answered(row: Expiration) -> dict[str, Any]:
    """Say what :func:`finish` writes to a row whose VM was found in Nova, alive.

    All questions are answered that there were when the row was claimed; and what Nova had said of
    a deletion by then was not true, or is not any more.
    """
    x = expirations.c
    return {
        "answered": row.questions,
        "deletion_told_at": sa.case(
            (x.questions != row.questions, x.deletion_told_at),
            else_=sa.null(),
        ),
    }


def drop(connection: sa.Connection, row: Expiration) -> None:
    """Remove a claimed row of a VM that does not concern us.

    :raises ClaimLost: as :func:`write`, and when somebody has spoken of the VM meanwhile.
    """
    unasked = expirations.c.questions == row.questions
    if connection.execute(sa.delete(expirations).where(*_fence(row), unasked)).rowcount != 1:
        raise ClaimLost(_LOST.format(row.server_id))


def _unless_woken(
    row: Expiration, next_at: datetime.datetime | None
) -> sa.ColumnElement[datetime.datetime]:
    """Say when a row is due again: then, or when somebody said who made it due meanwhile."""
    x = expirations.c
    woken = sa.or_(x.questions != row.questions, x.next_at.is_distinct_from(row.next_at))
    return sa.case((woken, x.next_at), else_=sa.literal(next_at, x.next_at.type))


def _fence(row: Expiration) -> tuple[sa.ColumnElement[bool], ...]:
    x = expirations.c
    return (
        x.server_id == row.server_id,
        x.claimed_by == row.claimed_by,
        x.generation == row.generation,
    )


@retried
def hasten(database: Database, clock: Clock, name: str) -> None:
    """Make a chore due now, whoever does it; if somebody is at it, it is due again after that."""
    with database.begin() as connection:
        connection.execute(sa.update(chores).where(chores.c.name == name).values(next_at=clock()))


#: There are few. A statement that stays the same is not made ready anew each time.
_ALL_CHORES = sa.select(chores.c.name, chores.c.next_at, chores.c.claimed_until)


@retried
def due_chores(database: Database, clock: Clock, names: Collection[str]) -> set[str]:
    """Return which of these chores are due with nobody at them, and which never ran.

    One cheap read, so that asking often costs little; who gets a chore is settled by its claim.
    """
    now = clock()
    with database.begin() as connection:
        rows = connection.execute(_ALL_CHORES).all()
    waiting = {
        name
        for name, next_at, until in rows
        if next_at > now or (until is not None and until >= now)
    }
    return set(names) - waiting


class Chore:
    """Work that runs once at a time in the whole cloud: a claimed row of its own.

    :param name: its row's name.
    :param interval: time between the starts of two runs.
    :param duration: how long a claim holds; :meth:`renew` prolongs it.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        name: str,
        *,
        interval: datetime.timedelta,
        duration: datetime.timedelta,
    ) -> None:
        self.name = name
        self._database = database
        self._clock = clock
        self._interval = interval
        self._duration = duration
        self._token = f"{socket.gethostname()[:16]}:{os.getpid()}:{uuid.uuid4().hex}"[:64]
        self._held = False
        self._started_at: datetime.datetime | None = None

    def claim(self, *, early: bool = False, asked: bool = False) -> bool:
        """Claim the chore if it is due and nobody is at it.

        :param early: also if it is not due yet.
        :param asked: whether :func:`due_chores` has just named it.
        :returns: whether it is ours to do now.
        """
        # Asked all the time: only what is likely to be had is worth a write.
        likely = early or asked or due_chores(self._database, self._clock, [self.name])
        claimed: bool = bool(likely) and self._claim(early)
        self._held = self._held or claimed
        return claimed

    @retried
    def _claim(self, early: bool) -> bool:
        now = self._clock()
        with self._database.begin() as connection:
            claimed = self._take(connection, now, early) or (
                self._add_missing(connection, now) and self._take(connection, now, early)
            )
        if claimed:
            self._started_at = now
        return claimed

    def _take(self, connection: sa.Connection, now: datetime.datetime, early: bool) -> bool:
        c = chores.c
        return bool(
            connection.execute(
                sa.update(chores)
                .where(
                    c.name == self.name,
                    sa.true() if early else c.next_at <= now,
                    sa.or_(c.claimed_until.is_(None), c.claimed_until < now),
                )
                .values(
                    claimed_by=self._token,
                    claimed_until=now + self._duration,
                    last_started_at=now,
                    # Else it would count as made due while it was under way.
                    next_at=now if early else c.next_at,
                )
            ).rowcount
        )

    @retried
    def renew(self) -> None:
        """Hold on to the chore.

        :raises ClaimLost: when somebody else has taken it over.
        """
        with self._database.begin() as connection:
            self._write(connection, claimed_until=self._clock() + self._duration)

    def keep(self) -> None:
        """Hold on to the chore, if it is ours: for a thread that does so while another works.

        That it was taken over is for the one who works to notice.
        """
        if self._held:
            with contextlib.suppress(ClaimLost):
                self.renew()

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Hold on to the chore in the block, however long its steps take."""
        over = threading.Event()
        pause = self._duration.total_seconds() / RENEWALS

        def hold_on() -> None:
            while not over.wait(pause):
                try:
                    self.keep()
                except Exception:
                    LOG.exception("Cannot renew the claim on %s", self.name)

        holder = threading.Thread(target=hold_on, name=f"vmexpire-{self.name}", daemon=True)
        holder.start()
        try:
            yield
        finally:
            over.set()
            holder.join()

    def owner(self) -> str | None:
        """Say who is at it, by host and process; None: nobody."""
        c = chores.c
        with self._database.begin() as connection:
            token = connection.scalar(
                sa.select(c.claimed_by).where(c.name == self.name, c.claimed_until >= self._clock())
            )
        return None if token is None else str(token).rpartition(":")[0]

    def finish(self, error: str | None = None) -> None:
        """Give the chore back, due again an interval after its start.

        :param error: what went wrong; None when it came to its end.
        :raises ClaimLost: when somebody else has taken it over.
        """
        self._held = False
        self._finish(error)

    @retried
    def _finish(self, error: str | None) -> None:
        now = self._clock()
        columns: dict[str, Any] = {"last_error": error}
        if error is None:
            columns["last_finished_at"] = now
        started = self._started_at or now
        with self._database.begin() as connection:
            self._write(
                connection,
                claimed_by=None,
                claimed_until=None,
                # Made due while it was under way: what it did not see yet is still to be done.
                next_at=sa.case(
                    (chores.c.next_at > started, chores.c.next_at),
                    else_=max(now, started + self._interval),
                ),
                **columns,
            )

    def finished_before(self) -> bool:
        """Say whether the chore has ever come to its end."""
        with self._database.begin() as connection:
            return (
                connection.scalar(
                    sa.select(chores.c.last_finished_at).where(chores.c.name == self.name)
                )
                is not None
            )

    def _add_missing(self, connection: sa.Connection, now: datetime.datetime) -> bool:
        """Add the chore's row if there is none yet, and say whether there was none."""
        name = chores.c.name
        if connection.execute(sa.select(name).where(name == self.name)).first() is not None:
            return False
        # Another worker may add it at the same moment.
        with contextlib.suppress(oslo_db_exception.DBDuplicateEntry), connection.begin_nested():
            connection.execute(chores.insert(), [{"name": self.name, "next_at": now}])
        return True

    def _write(self, connection: sa.Connection, **columns: Any) -> None:
        changed = connection.execute(
            sa.update(chores)
            .where(chores.c.name == self.name, chores.c.claimed_by == self._token)
            .values(**columns)
        ).rowcount
        if changed != 1:
            raise ClaimLost(f"{self.name} was taken over by another worker")
