# SPDX-License-Identifier: Apache-2.0
"""Worker processes, in this one: they can be held up, interrupted and killed at any border.

Nothing of ours is replaced. The borders are where a worker meets the rest of the world: a request
(before it is sent, after it was answered) and the commit of a transaction.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import sqlalchemy as sa
from oslo_config import cfg

from blazar_vmexpire.db.api import Expiration
from blazar_vmexpire.service import Service
from blazar_vmexpire.worker.claims import Claims
from blazar_vmexpire.worker.steps import Steps
from blazar_vmexpire.worker.tools import assemble


class Killed(BaseException):
    """A process is gone: nothing that it would have done after this is done."""


def die() -> None:
    """Happen at a border: the process is killed there."""
    raise Killed


class WorkerProcess:
    """A ``blazar-vmexpire-worker`` with connections of its own, in the calling thread."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        self._conf = conf
        self._left = 0
        self._happening: Callable[[], None] | None = None
        self._at_commits = False
        self._start()

    def _start(self) -> None:
        self.tools = assemble(self._conf)
        self._worker = Service(self.tools).worker
        self._claims = Claims(
            self.tools.database, self.tools.clock, self._conf.vmexpire_worker.claim_duration
        )
        self._steps = Steps(self.tools, self._claims)
        self._held: list[Expiration] = []
        sa.event.listen(self.tools.database.engine, "commit", lambda _: self._commit())
        session = self.tools.cloud.nova._rest._adapter.session
        request = session.request

        def watched(*args: Any, **kwargs: Any) -> Any:
            self._border()
            answer = request(*args, **kwargs)
            self._border()
            return answer

        session.request = watched

    def close(self) -> None:
        """End."""
        self.tools.database.engine.dispose()

    # What it does

    def work(self, limit: int) -> int:
        """Do the next step of so many VMs that are due."""
        return self._worker.work_off(limit)

    def do_chores(self) -> None:
        """Do the chores that are due."""
        self._worker.do_duties()

    def claim(self, limit: int) -> None:
        """Claim VMs that are due, and get no further."""
        self._held += self._claims.claim(limit)

    def go_on(self) -> None:
        """Go on with what it claimed, however long ago that was."""
        held, self._held = self._held, []
        for row in held:
            self._steps.run(row)

    # What happens to it

    @contextlib.contextmanager
    def killed_at(self, border: int) -> Iterator[None]:
        """Kill it at its nth border from now, if it gets there; another one takes its place."""
        try:
            with self._at(border, die, commits=True):
                yield
        except Killed:
            self.close()
            self._start()

    @contextlib.contextmanager
    def interrupted_at(self, border: int, happening: Callable[[], None]) -> Iterator[None]:
        """Let something happen between two of its steps: at its nth request from now."""
        with self._at(border, happening, commits=False):
            yield

    @contextlib.contextmanager
    def _at(self, border: int, happening: Callable[[], None], *, commits: bool) -> Iterator[None]:
        self._left, self._happening, self._at_commits = border, happening, commits
        try:
            yield
        finally:
            self._left = 0

    def _commit(self) -> None:
        if self._at_commits:
            self._border()

    def _border(self) -> None:
        if self._left:
            self._left -= 1
            if not self._left and self._happening is not None:
                self._happening()
