# SPDX-License-Identifier: Apache-2.0
"""How things stand, as the database has it: the same whichever process is asked."""

from __future__ import annotations

import datetime
import threading
import time
from collections.abc import Callable, Collection, Iterator

import sqlalchemy as sa
from oslo_db import exception as oslo_db_exception
from oslo_log import log as logging
from prometheus_client.core import GaugeMetricFamily, Metric

from blazar_vmexpire import lifecycle
from blazar_vmexpire.brake import Brake
from blazar_vmexpire.db import outbox
from blazar_vmexpire.db.engine import Database
from blazar_vmexpire.db.models import chores, expirations, notices
from blazar_vmexpire.intake import arrivals
from blazar_vmexpire.lifecycle import State
from blazar_vmexpire.metrics import PREFIX

LOG = logging.getLogger(__name__)

#: What was read is told again for so long, in seconds: several scrapers cost no more than one.
_FRESH = 15.0
_DAYS = (1, 7, 30)
_EPOCH = datetime.datetime(1970, 1, 1)


class Gauges:
    """Reads the database when it is scraped. A collector for a Prometheus registry.

    :param clock: naive UTC.
    :param notifiers: names of those that are on.
    """

    def __init__(
        self,
        database: Database,
        clock: Callable[[], datetime.datetime],
        brake: Brake,
        notifiers: Collection[str] = (),
    ) -> None:
        self._notifiers = notifiers
        self._database = database
        self._clock = clock
        self._brake = brake
        self._guard = threading.Lock()
        self._last: list[Metric] = []
        self._read_at = -_FRESH

    def describe(self) -> list[Metric]:
        """Say nothing beforehand: the registry need not ask the database to know the names."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Tell all; where the database does not answer, that alone."""
        with self._guard:
            if time.monotonic() - self._read_at >= _FRESH:
                self._last = self._read()
                self._read_at = time.monotonic()
            yield from self._last

    def _read(self) -> list[Metric]:
        up = _gauge("database_up", "1 while the database answers.")
        try:
            with self._database.begin() as connection:
                found = [
                    *self._vms(connection),
                    *self._backlog(connection),
                    *self._braked(connection),
                    *self._turns(connection),
                    *self._untold(connection),
                ]
        except (oslo_db_exception.DBError, sa.exc.SQLAlchemyError) as error:
            # A scrape that fails would hide what the process itself has counted.
            LOG.warning("The metrics lack what the database knows: %s", error)
            up.add_metric([], 0)
            return [up]
        up.add_metric([], 1)
        return [up, *found]

    def _vms(self, connection: sa.Connection) -> Iterator[Metric]:
        x, now = expirations.c, self._clock()
        counts = dict(
            connection.execute(sa.select(x.state, sa.func.count()).group_by(x.state)).tuples().all()
        )
        vms = _gauge("vms", "VMs by the state of their expiration.", "state")
        for state in State:
            vms.add_metric([state.value], counts.get(state.value, 0))
        yield vms
        ends = _gauge("ends_due", "VMs whose lease ends within so many days.", "days")
        leased = x.state.in_([state.value for state in lifecycle.LEASED])
        for days in _DAYS:
            count = connection.scalar(
                sa.select(sa.func.count()).where(
                    leased, x.ends_at <= now + datetime.timedelta(days=days)
                )
            )
            ends.add_metric([str(days)], count or 0)
        yield ends

    def _backlog(self, connection: sa.Connection) -> Iterator[Metric]:
        x, now = expirations.c, self._clock()
        count, oldest = connection.execute(
            sa.select(sa.func.count(), sa.func.min(x.next_at)).where(x.next_at <= now)
        ).one()
        yield _gauge("due", "VMs for which there is something to do now.", value=count)
        yield _gauge(
            "due_oldest_seconds",
            "For how long the longest due of them has been so.",
            value=(now - oldest).total_seconds() if oldest else 0,
        )
        waiting = connection.scalar(sa.select(sa.func.count()).where(notices.c.due_at.is_not(None)))
        yield _gauge(
            "notices_waiting",
            "Mails that are still to be accepted by the mail server.",
            value=waiting or 0,
        )

    def _braked(self, connection: sa.Connection) -> Iterator[Metric]:
        status = self._brake.status(connection, self._clock())
        for name, text, value in (
            ("tripped", "1 while the brake has tripped.", status.tripped_at is not None),
            ("pace", "How many VMs may go in an hour.", status.pace),
            ("ended", "Ends that were begun in the last hour.", status.ended),
            ("waiting", "VMs that wait for their turn.", status.waiting),
            ("vanished", "VMs that are gone from Nova unexplained.", status.vanished),
        ):
            yield _gauge(f"brake_{name}", text, value=value)

    @staticmethod
    def _turns(connection: sa.Connection) -> Iterator[Metric]:
        turns = _gauge(
            "chore_last_success_timestamp_seconds",
            "When a chore last came to its end without an error, in any process.",
            "chore",
        )
        for name, finished in connection.execute(
            sa.select(chores.c.name, chores.c.last_finished_at).where(
                chores.c.name != arrivals.NAME
            )
        ):
            if finished is not None:
                turns.add_metric([name], (finished - _EPOCH).total_seconds())
        yield turns
        came = arrivals.last(connection)
        yield _gauge(
            "last_notification_timestamp_seconds",
            "When one of Nova's notifications last came, to the minute; 0: none has.",
            value=(came - _EPOCH).total_seconds() if came else 0,
        )

    def _untold(self, connection: sa.Connection) -> Iterator[Metric]:
        count = _gauge(
            "notifications_waiting", "What a notifier has not handed over yet.", "notifier"
        )
        age = _gauge(
            "notifications_oldest_seconds", "For how long the first of them waits.", "notifier"
        )
        for name, waiting, oldest in outbox.backlog(connection, self._notifiers):
            count.add_metric([name], waiting)
            age.add_metric([name], (self._clock() - oldest).total_seconds() if oldest else 0)
        yield from (count, age)


def _gauge(name: str, text: str, *labels: str, value: float | None = None) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{PREFIX}_{name}", text, labels=labels or None, value=value)
