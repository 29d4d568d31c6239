# SPDX-License-Identifier: Apache-2.0
"""The worker: claims what is due and has it done, by a few threads, until it is stopped."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import datetime
import threading
import time
from collections.abc import Callable, Sequence

from oslo_log import log as logging

from blazar_vmexpire import tracing
from blazar_vmexpire.cloud import errors
from blazar_vmexpire.db.api import Expiration
from blazar_vmexpire.exceptions import ClaimLost
from blazar_vmexpire.worker.claims import RENEWALS, Chore, Claims, due_chores
from blazar_vmexpire.worker.steps import Steps
from blazar_vmexpire.worker.tools import Tools

LOG = logging.getLogger(__name__)

#: Rows claimed ahead for each thread: enough that none waits for the database.
_AHEAD = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Duty:
    """A chore and what is done in it."""

    chore: Chore
    work: Callable[[Chore], object]


class Worker:
    """Works off what is due.

    :param duties: chores that this worker takes its turn at.
    """

    def __init__(self, tools: Tools, duties: Sequence[Duty] = ()) -> None:
        self._tools = tools
        options = tools.conf.vmexpire_worker
        self._claims = Claims(tools.database, tools.clock, options.claim_duration)
        self._steps = Steps(tools, self._claims)
        self._duties = duties
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        # When the database last said what is due.
        self._turn_at = time.monotonic()

    def wake(self) -> None:
        """Look for due work at once."""
        self._wake.set()

    def start(self) -> None:
        """Start the threads. After a fork: in the process that serves."""
        self._turn_at = time.monotonic()
        duration = self._tools.conf.vmexpire_worker.claim_duration.total_seconds()
        self._run("vmexpire-claim", self._dispatch)
        self._run("vmexpire-renew", lambda: self._every(duration / RENEWALS, self._renew))
        for duty in self._duties:
            self._run(f"vmexpire-{duty.chore.name}", self._keep_at(duty))

    def stop(self) -> None:
        """Finish the steps in hand, begin no other, and wait for that."""
        self._stopping.set()
        self._wake.set()
        for thread in self._threads:
            thread.join()

    def ailments(self, stalled_after: datetime.timedelta) -> list[str]:
        """Say what is wrong: a thread that has died, or none that was free to work for long.

        :returns: sentences; none when all is well.
        """
        found = [
            f"thread {thread.name} has died" for thread in self._threads if not thread.is_alive()
        ]
        idle = time.monotonic() - self._turn_at
        if idle > stalled_after.total_seconds():
            found.append(f"due work has not been asked for in {idle:.0f} seconds")
        return found

    def work_off(self, limit: int = 1000) -> int:
        """Do, in the calling thread, the next step of each VM that is due at this moment.

        :returns: for how many.
        """
        rows = self._claims.claim(limit)
        self._tools.metrics.claimed(len(rows))
        for row in rows:
            self._steps.run(row)
        if not rows:
            self._tools.mailer.rest()
        return len(rows)

    def do_duties(self) -> None:
        """Do, in the calling thread, each chore that is due at this moment."""
        due = self._due_chores()
        for duty in self._duties:
            if duty.chore.name in due:
                self._take_turn(duty, asked=True)
                # One chore may make a later one due.
                due = self._due_chores()

    def _due_chores(self) -> set[str]:
        names = [duty.chore.name for duty in self._duties]
        try:
            due: set[str] = due_chores(self._tools.database, self._tools.clock, names)
        except Exception:
            LOG.exception("Cannot ask which chores are due")
            return set()
        return due

    def _run(self, name: str, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _dispatch(self) -> None:
        options = self._tools.conf.vmexpire_worker
        threads = options.threads
        room = threading.Semaphore(threads * _AHEAD)
        with concurrent.futures.ThreadPoolExecutor(threads, "vmexpire-step") as pool:

            def step(row: Expiration) -> None:
                try:
                    if self._stopping.is_set():
                        # Claimed ahead: others need not wait until that runs out.
                        self._give_back(row)
                    else:
                        self._steps.run(row)
                except Exception:
                    # The database is away for long: the row keeps what was committed.
                    LOG.exception(
                        "Server %s: how its step went could not be written; it is taken up again"
                        " when its claim runs out",
                        row.server_id,
                    )
                finally:
                    room.release()

            while not self._stopping.is_set():
                self._wake.clear()
                room.acquire()
                slots = 1
                while slots < threads * _AHEAD and room.acquire(blocking=False):
                    slots += 1
                rows = self._claim(slots)
                for row in rows:
                    pool.submit(step, row)
                for _ in range(slots - len(rows)):
                    room.release()
                if not rows:
                    # The mail server need not keep a connection for what comes later.
                    self._tools.mailer.rest()
                    self._wake.wait(options.poll_interval.total_seconds())
        self._tools.mailer.rest()

    def _give_back(self, row: Expiration) -> None:
        try:
            self._claims.release(row)
        except Exception:
            LOG.exception("Server %s stays claimed for a while", row.server_id)
        finally:
            self._claims.forget(row)

    def _claim(self, limit: int) -> list[Expiration]:
        try:
            rows: list[Expiration] = self._claims.claim(limit)
        except Exception:
            # Nothing is lost: what is due stays due. The database is asked again in a moment.
            LOG.exception("Cannot claim what is due")
            self._tools.metrics.error("database", "unavailable")
            return []
        self._turn_at = time.monotonic()
        self._tools.metrics.claimed(len(rows))
        return rows

    def _renew(self) -> None:
        self._claims.renew()
        for duty in self._duties:
            duty.chore.keep()

    def _every(self, seconds: float, work: Callable[[], None]) -> None:
        while not self._stopping.wait(seconds):
            try:
                work()
            except Exception:
                LOG.exception("Cannot renew claims")

    def _keep_at(self, duty: Duty) -> Callable[[], None]:
        def loop() -> None:
            pause = self._tools.conf.vmexpire_worker.poll_interval.total_seconds()
            while not self._stopping.is_set():
                self._take_turn(duty)
                self._stopping.wait(pause)

        return loop

    def _take_turn(self, duty: Duty, *, asked: bool = False) -> None:
        """Do a chore if it is due and nobody else is at it."""
        try:
            if not duty.chore.claim(asked=asked):
                return
            error = None
            tracing.begin()
            try:
                duty.work(duty.chore)
            except ClaimLost:
                raise
            except Exception as problem:
                if isinstance(problem, errors.CloudError):
                    self._tools.metrics.error(problem.service, type(problem).__name__.lower())
                error = str(problem) or type(problem).__name__
                LOG.exception("%s did not come to its end", duty.chore.name.capitalize())
            duty.chore.finish(error)
            self._tools.metrics.chore(duty.chore.name, "failed" if error else "done")
        except ClaimLost as lost:
            LOG.warning("%s", lost)
        except Exception:
            LOG.exception("Cannot take a turn at %s", duty.chore.name)
        else:
            self.wake()
