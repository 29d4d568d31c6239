# SPDX-License-Identifier: Apache-2.0
"""Telling other programs what happens to VMs: the histories, read on from where each has got.

It is a chore of its own for each notifier, so one that hangs, fails or is away keeps nobody but
itself: steps write to the history what they write anyway. What was handed over is written down
afterwards: a crash in between hands it over once more, with the same id; none loses it.
"""

from __future__ import annotations

import datetime
import fnmatch
import random
import threading
import time
from collections.abc import Callable, Sequence

from oslo_log import log as logging

from blazar_vmexpire import lifecycle, notifiers, words
from blazar_vmexpire.db import outbox
from blazar_vmexpire.db.engine import retried
from blazar_vmexpire.db.outbox import Cursor, Entry
from blazar_vmexpire.notifiers import NotDelivered, Notification, Notifier, Rejected
from blazar_vmexpire.worker.courier import Courier
from blazar_vmexpire.worker.tools import Tools

LOG = logging.getLogger(__name__)

#: How often it is looked for what is new.
INTERVAL = datetime.timedelta(seconds=2)
_PAGE = 500
#: After so many seconds it is written down how far one has got, and others may take their turn.
_WRITE_EVERY = 2.0
_TURN = 60.0
_FIRST_WAIT = datetime.timedelta(seconds=5)
_LONGEST_WAIT = datetime.timedelta(minutes=5)


class Publishing:
    """What the chore of one notifier does. One object a worker, from its start to its end."""

    def __init__(self, tools: Tools, name: str, notifier: Notifier) -> None:
        self._tools = tools
        self.name = name
        self._notifier = notifier
        self._events: Sequence[str] = tools.conf.vmexpire_notifiers.events
        self._stopping = threading.Event()
        self._courier = Courier(
            notifier,
            tools.conf.vmexpire_notifiers.timeout.total_seconds(),
            self._stopping.is_set,
        )

    def stop(self) -> None:
        """Hand nothing over any more, and wait for nothing."""
        self._stopping.set()

    def close(self) -> None:
        """Let go of connections, once the last turn is over."""
        self._notifier.close()

    def run(self, renew: Callable[[], None]) -> None:
        """Hand over what is there, for a while.

        :param renew: called before it is written down how far it got; may raise to give up (the
            chore was taken over).
        """
        now = self._tools.clock()
        cursor = self._begin(now)
        if cursor.retry_at is not None and now < cursor.retry_at:
            return
        begun = time.monotonic()
        while not self._stopping.is_set() and time.monotonic() - begun < _TURN:
            entries = self._read(cursor.position, now)
            if not entries:
                return
            position, problem = self._hand_over(cursor.position, entries)
            renew()
            if problem is not None:
                self._put_off(cursor, position, problem)
                return
            if position != cursor.position:
                self._write(position)
            cursor = Cursor(name=self.name, position=position, attempts=0, retry_at=None)

    def _hand_over(self, position: int, entries: Sequence[Entry]) -> tuple[int, str | None]:
        """Hand entries over, one after the other, for a moment.

        :returns: the place of the last that is done with, and why it is the last, if for a problem.
        """
        begun = time.monotonic()
        for entry in entries:
            if self._is_wanted(entry.event):
                try:
                    self._deliver(notifiers.make(entry))
                except NotDelivered as error:
                    return position, str(error)
                except Exception as error:
                    # Who wrote the notifier is not known, nor what it raises.
                    LOG.debug("Notifier %s failed", self.name, exc_info=True)
                    return position, f"{type(error).__name__}: {words.one_line(str(error))}"
            position = entry.id
            if time.monotonic() - begun > _WRITE_EVERY or self._stopping.is_set():
                break
        return position, None

    def _deliver(self, notification: Notification) -> None:
        try:
            self._courier.deliver(notification)
        except Rejected as error:
            LOG.error(
                "Notifier %s: %s of server %s was refused for good, and is left out: %s",
                self.name,
                notification.event_type,
                notification.payload["server_id"],
                words.without_addresses(str(error)),
            )
            self._tools.metrics.notified(self.name, "rejected")
        else:
            self._tools.metrics.notified(self.name, "delivered")

    def _is_wanted(self, event: str) -> bool:
        return any(fnmatch.fnmatchcase(event, pattern) for pattern in self._events)

    def _put_off(self, cursor: Cursor, position: int, problem: str) -> None:
        if self._stopping.is_set():
            self._write(position)
            return
        attempts = (cursor.attempts if position == cursor.position else 0) + 1
        retry_at = self._tools.clock() + lifecycle.backoff(
            attempts,
            _FIRST_WAIT,
            _LONGEST_WAIT,
            random.random(),  # noqa: S311 - spreads load, guards nothing
        )
        said = words.without_addresses(problem)
        LOG.log(
            logging.WARNING if attempts == 1 else logging.DEBUG,
            "Notifier %s is told nothing until %s UTC, and then goes on where it was: %s",
            self.name,
            retry_at.isoformat(" ", "seconds"),
            said,
        )
        self._tools.metrics.notified(self.name, "put_off")
        self._write(position, attempts=attempts, retry_at=retry_at, last_error=said)

    @retried
    def _begin(self, now: datetime.datetime) -> Cursor:
        """Read how far it has got, and leave out what is too old to be told."""
        oldest = now - self._tools.conf.vmexpire_notifiers.catch_up
        with self._tools.database.begin() as connection:
            cursor = outbox.cursor(connection, self.name)
            count, last = outbox.too_old(connection, cursor.position, oldest)
            if not count:
                return cursor
            outbox.write(connection, self.name, last)
        LOG.error(
            "Notifier %s was away for long: %d notifications from before %s UTC are left out",
            self.name,
            count,
            oldest.isoformat(" ", "seconds"),
        )
        self._tools.metrics.notified(self.name, "too_old", count)
        return Cursor(name=self.name, position=last, attempts=0, retry_at=None)

    @retried
    def _read(self, after: int, now: datetime.datetime) -> list[Entry]:
        with self._tools.database.begin() as connection:
            return outbox.read(connection, after, now, _PAGE)

    @retried
    def _write(
        self,
        position: int,
        *,
        attempts: int = 0,
        retry_at: datetime.datetime | None = None,
        last_error: str | None = None,
    ) -> None:
        with self._tools.database.begin() as connection:
            outbox.write(
                connection,
                self.name,
                position,
                attempts=attempts,
                retry_at=retry_at,
                last_error=last_error,
            )
