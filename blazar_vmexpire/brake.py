# SPDX-License-Identifier: Apache-2.0
"""The brake on mass deletion: a pace that is always kept, and a stop that only people release.

All workers share one row of the database. Who decides whether something may go holds that row until
their transaction ends, and counts in the same transaction what went in the last hour; so the pace
holds whatever their number is, and a brake that has tripped stops the next deletion everywhere.

Two things are counted: *ends* that are begun (the lease is closed, the VM is locked and stopped),
so that those who have to wait do so with a live lease; and *deletions*, the calls that cannot be
undone, whatever led to them. A shelving is paced, and counted, as a deletion is.
"""

from __future__ import annotations

import bisect
import dataclasses
import datetime
import enum
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from oslo_config import cfg

from blazar_vmexpire import lifecycle
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db.models import brake as brakes
from blazar_vmexpire.db.models import expirations, passes
from blazar_vmexpire.exceptions import Braked
from blazar_vmexpire.lifecycle import State

_HOUR = datetime.timedelta(hours=1)
#: How soon one tries again whose turn had come, and who found that others were still counted.
_NEXT_TRY = datetime.timedelta(minutes=5)
#: How soon a deletion that the tripped brake has stopped asks again.
_ASK_AGAIN = datetime.timedelta(minutes=1)

#: States of VMs that have no lease, or that are gone or kept: they are not among those that could
#: go.
_OUTSIDE = (State.SEEN, State.ENDED, State.DELETED, State.EXEMPT)

#: States in which a VM's end can come.
ENDABLE = (State.NOTICED.value, State.QUARANTINED.value)


class Kind(enum.StrEnum):
    """What is counted."""

    END = "end"
    DELETION = "deletion"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Slots:
    """How many ends may be begun, and when those may that have to wait."""

    now: datetime.datetime
    pace: int
    """How many may be begun in an hour."""
    recent: Sequence[datetime.datetime] = ()
    """When those were begun that count now, in their order."""
    tail: datetime.datetime | None = None
    """The last turn that somebody waits for, if it is an hour away or more; a whole minute."""
    at_tail: int = 0
    """How many turns there are in the hour before ``tail``, or else before an hour from now."""
    tripped: bool = False
    limited: bool = True
    """False where the brake is switched off: then nobody waits."""

    @property
    def free(self) -> int | None:
        """How many may be begun now; None: any number."""
        return self.free_at(self.now) if self.limited else None

    def free_at(self, moment: datetime.datetime) -> int:
        """Say how many might be begun then, if none were until then."""
        if self.tripped:
            return 0
        counting = len(self.recent) - bisect.bisect_right(self.recent, moment - _HOUR)
        return max(0, self.pace - counting)

    def turn(self, position: int, *, had_one: bool) -> datetime.datetime:
        """Say when one may go who has to wait: behind all who wait already.

        :param position: among those who are made to wait now, from 0.
        :param had_one: its turn had come before: it does not go to the end of the queue again.
        :returns: naive UTC, a whole minute.
        """
        if had_one and not self.tripped:
            return lifecycle.ceil_minute(self.now + _NEXT_TRY)
        tail = self.tail or lifecycle.ceil_minute(self.now + _HOUR)
        return tail + (self.at_tail + position) // self.pace * _HOUR


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How the brake stands. Dates are naive UTC."""

    enabled: bool
    tripped_at: datetime.datetime | None
    tripped_by: str | None
    reason: str | None
    details: Mapping[str, Any]
    told_at: datetime.datetime | None
    released_at: datetime.datetime | None
    released_by: str | None
    release_reason: str | None
    known: int
    """VMs that have a lease, or had one whose end is under way."""
    pace: int
    """How many may go in an hour."""
    ended: int
    """Ends begun in the last hour."""
    deleted: int
    """Deletions asked for in the last hour."""
    waiting: int
    """VMs that wait for their turn."""
    vanished: int
    """VMs that Nova does not know any more, with nothing to explain it."""
    most_waiting: int
    """When more wait, it trips."""
    most_vanished: int
    """When more have vanished, it trips."""


class Brake:
    """Decides how many may go. All methods work in the caller's transaction.

    :param conf: ``[vmexpire_brake]`` is read anew at each question.
    """

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        self._conf = conf

    @property
    def enabled(self) -> bool:
        """Whether there is a limit at all."""
        enabled: bool = self._conf.vmexpire_brake.enabled
        return enabled

    # What may go -------------------------------------------------------------------------------

    def slots(self, connection: sa.Connection, now: datetime.datetime) -> Slots:
        """Say how many ends may be begun now. Nobody else is told until the transaction ends."""
        if not self.enabled:
            return Slots(now=now, pace=1, limited=False)
        tripped = self._hold(connection).tripped_at is not None
        recent = connection.scalars(
            sa.select(passes.c.at)
            .where(passes.c.kind == Kind.END, passes.c.at > now - _HOUR)
            .order_by(passes.c.at)
        ).all()
        soonest = lifecycle.ceil_minute(now + _HOUR)
        tail = connection.scalar(
            sa.select(sa.func.max(expirations.c.ends_at)).where(*_waits(soonest))
        )
        return Slots(
            now=now,
            pace=self._pace(_known(connection)),
            recent=recent,
            tail=tail,
            at_tail=_waiting(connection, (tail or soonest) - _HOUR),
            tripped=tripped,
        )

    def begin_ends(
        self, connection: sa.Connection, server_ids: Sequence[str], now: datetime.datetime
    ) -> None:
        """Count ends that are begun in this transaction, after :meth:`slots` has allowed them."""
        _spend(connection, Kind.END, server_ids, now)

    def begin_deletion(
        self, connection: sa.Connection, server_id: str, now: datetime.datetime, *, repeated: bool
    ) -> None:
        """Count a deletion, or a shelving, that is about to be asked of Nova.

        :param repeated: it was asked before, and is asked again in case that was lost.
        :raises Braked: it must not be asked now.
        """
        if self.enabled:
            if self._hold(connection).tripped_at is not None:
                raise Braked("the brake has tripped", now + _ASK_AGAIN)
            pace = self._pace(_known(connection))
            if not repeated and _spent(connection, Kind.DELETION, now) >= pace:
                oldest = connection.scalar(
                    sa.select(sa.func.min(passes.c.at)).where(
                        passes.c.kind == Kind.DELETION, passes.c.at > now - _HOUR
                    )
                )
                raise Braked(f"{pace} were deleted in the last hour", (oldest or now) + _HOUR)
        if not repeated:
            _spend(connection, Kind.DELETION, [server_id], now)

    def tripped(self, connection: sa.Connection) -> bool:
        """Say whether it has tripped, without holding it."""
        if not self.enabled:
            return False
        return connection.scalar(sa.select(brakes.c.tripped_at)) is not None

    def holds_vanished(self, connection: sa.Connection, now: datetime.datetime) -> bool:
        """Say whether VMs that vanished unexplained keep their leases.

        It does not wait for :meth:`watch`: as soon as so many have vanished that the brake will
        trip, none of them is let go.
        """
        if not self.enabled:
            return False
        if self._hold(connection).tripped_at is not None:
            return True
        status = self.status(connection, now)
        return status.vanished > status.most_vanished

    # Tripping and releasing --------------------------------------------------------------------

    def status(self, connection: sa.Connection, now: datetime.datetime) -> Status:
        """Say how it stands."""
        row = connection.execute(sa.select(brakes)).one()
        known = _known(connection)
        pace = self._pace(known)
        return Status(
            enabled=self.enabled,
            tripped_at=row.tripped_at,
            tripped_by=row.tripped_by,
            reason=row.reason,
            details=json.loads(row.details),
            told_at=row.told_at,
            released_at=row.released_at,
            released_by=row.released_by,
            release_reason=row.release_reason,
            known=known,
            pace=pace,
            ended=_spent(connection, Kind.END, now),
            deleted=_spent(connection, Kind.DELETION, now),
            waiting=_waiting(connection, now) + self._due_beyond(connection, now, pace),
            vanished=_vanished(connection),
            most_waiting=int(self._conf.vmexpire_brake.trip_hours * pace) + row.tolerated_waiting,
            most_vanished=pace + row.tolerated_vanished,
        )

    def watch(self, connection: sa.Connection, now: datetime.datetime) -> Status | None:
        """Trip if there is reason to.

        What an administrator has accepted by a release is accepted for as long as it has not
        become less.

        :returns: how the brake stood when it tripped just now; None when it did not.
        """
        if not self.enabled or self._hold(connection).tripped_at is not None:
            return None
        status = self.status(connection, now)
        reasons = []
        if status.waiting > status.most_waiting:
            reasons.append(
                f"{status.waiting} servers wait for their end, more than"
                f" {status.most_waiting} (the pace is {status.pace} an hour)"
            )
        if status.vanished > status.most_vanished:
            reasons.append(
                f"{status.vanished} servers have vanished from Nova without being deleted, more"
                f" than {status.most_vanished}"
            )
        if reasons:
            reason = "; ".join(reasons)
            self.trip(connection, reason=reason, by=None, now=now)
            return dataclasses.replace(status, reason=reason, tripped_at=now)
        self._forget_tolerance(connection, status)
        return None

    def trip(
        self, connection: sa.Connection, *, reason: str, by: str | None, now: datetime.datetime
    ) -> bool:
        """Stop everything that cannot be undone.

        :param by: the administrator who did it by hand; None for the service itself.
        :returns: False when it has tripped before.
        """
        changed = connection.execute(
            sa.update(brakes)
            .where(brakes.c.tripped_at.is_(None))
            .values(
                tripped_at=now,
                tripped_by=by,
                reason=reason,
                details=db_api.as_json(what_would_go(connection, now)),
                told_at=None,
            )
        ).rowcount
        return bool(changed)

    def release(
        self, connection: sa.Connection, *, reason: str | None, by: str, now: datetime.datetime
    ) -> bool:
        """Let it go on, at its pace; what waits and what has vanished until now is accepted.

        :param by: the administrator who does it.
        :returns: False when it had not tripped.
        """
        if self._hold(connection).tripped_at is None:
            return False
        status = self.status(connection, now)
        connection.execute(
            sa.update(brakes).values(
                tripped_at=None,
                released_at=now,
                released_by=by,
                release_reason=reason,
                tolerated_waiting=status.waiting,
                tolerated_vanished=status.vanished,
            )
        )
        # What it has held longest need not wait until it would have been looked at again.
        x = expirations.c
        connection.execute(
            sa.update(expirations)
            .where(x.state == State.VANISHED, x.unexplained_at.is_not(None))
            .values(next_at=now)
        )
        return True

    def told(
        self, connection: sa.Connection, tripped_at: datetime.datetime, now: datetime.datetime
    ) -> None:
        """Note that the mail server took the operator's mail.

        :param tripped_at: which trip the mail told of; it may have been released meanwhile.
        """
        connection.execute(
            sa.update(brakes).where(brakes.c.tripped_at == tripped_at).values(told_at=now)
        )

    # -------------------------------------------------------------------------------------------

    def _pace(self, known: int) -> int:
        options = self._conf.vmexpire_brake
        least: int = options.deletions_per_hour
        return max(least, int(known * options.deletions_share / 100))

    @staticmethod
    def _hold(connection: sa.Connection) -> Any:
        return connection.execute(sa.select(brakes).with_for_update()).one()

    @staticmethod
    def _due_beyond(connection: sa.Connection, now: datetime.datetime, pace: int) -> int:
        """Count what is due, and would have to wait."""
        x = expirations.c
        due = connection.scalar(
            sa.select(sa.func.count()).where(x.state.in_(ENDABLE), x.ends_at <= now)
        )
        return max(0, (due or 0) - max(0, pace - _spent(connection, Kind.END, now)))

    @staticmethod
    def _forget_tolerance(connection: sa.Connection, status: Status) -> None:
        b = brakes.c
        connection.execute(
            sa.update(brakes)
            .where(
                (b.tolerated_waiting > status.waiting) | (b.tolerated_vanished > status.vanished)
            )
            .values(
                tolerated_waiting=sa.case(
                    (b.tolerated_waiting > status.waiting, status.waiting),
                    else_=b.tolerated_waiting,
                ),
                tolerated_vanished=sa.case(
                    (b.tolerated_vanished > status.vanished, status.vanished),
                    else_=b.tolerated_vanished,
                ),
            )
        )


def forget_passes(connection: sa.Connection, before: datetime.datetime) -> None:
    """Remove what is counted no more."""
    connection.execute(sa.delete(passes).where(passes.c.at < before))


def _known(connection: sa.Connection) -> int:
    return (
        connection.scalar(
            sa.select(sa.func.count()).where(
                expirations.c.state.in_([s.value for s in State if s not in _OUTSIDE])
            )
        )
        or 0
    )


def _spent(connection: sa.Connection, kind: Kind, now: datetime.datetime) -> int:
    return (
        connection.scalar(
            sa.select(sa.func.count()).where(passes.c.kind == kind, passes.c.at > now - _HOUR)
        )
        or 0
    )


def _spend(
    connection: sa.Connection, kind: Kind, server_ids: Collection[str], now: datetime.datetime
) -> None:
    if server_ids:
        connection.execute(
            passes.insert(),
            [{"kind": kind.value, "server_id": i, "at": now} for i in server_ids],
        )


def _waits(after: datetime.datetime) -> tuple[sa.ColumnElement[bool], ...]:
    """Select those whose turn comes later than that."""
    x = expirations.c
    return x.state.in_(ENDABLE), x.waiting_since.is_not(None), x.ends_at > after


def _waiting(connection: sa.Connection, after: datetime.datetime) -> int:
    """Count those whose turn comes later than that."""
    return connection.scalar(sa.select(sa.func.count()).where(*_waits(after))) or 0


def _vanished(connection: sa.Connection) -> int:
    x = expirations.c
    return (
        connection.scalar(
            sa.select(sa.func.count()).where(
                x.state == State.VANISHED, x.unexplained_at.is_not(None)
            )
        )
        or 0
    )


#: How many VMs are named where the brake tells what would have gone.
_MOST_NAMED = 200


def what_would_go(connection: sa.Connection, now: datetime.datetime) -> dict[str, Any]:
    """Name those whose end has come or is under way, and those that have vanished.

    :returns: for ``ending`` and ``vanished`` their ``count`` and, of 200 at most, ``servers``: a
        list of UUID, name and project's id, in the order in which they would go.
    """
    x = expirations.c
    ending = (x.state == State.ENDING) | (
        x.state.in_(ENDABLE) & ((x.ends_at <= now) | x.waiting_since.is_not(None))
    )
    gone = (x.state == State.VANISHED) & x.unexplained_at.is_not(None)
    found: dict[str, Any] = {}
    for name, where in (("ending", ending), ("vanished", gone)):
        count = connection.scalar(sa.select(sa.func.count()).where(where)) or 0
        rows = connection.execute(
            sa.select(x.server_id, x.server_name, x.project_id)
            .where(where)
            .order_by(sa.func.coalesce(x.waiting_since, x.ends_at), x.server_id)
            .limit(_MOST_NAMED)
        )
        found[name] = {"count": count, "servers": [list(row) for row in rows]}
    return found
