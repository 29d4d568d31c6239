# SPDX-License-Identifier: Apache-2.0
"""Comparing Nova's server list with the leases: the leg of intake that finds everything.

One pass reads all pages. A page costs one read of our table; a VM that is known and unchanged costs
nothing more. While a page is compared the next one is on its way, and the new VMs of those before
it are being written. A listing that is not
complete (an error, a cell that is down, a page cut short) proves nothing about VMs that are not in
it: they are looked at one by one only after a complete one, and only Nova's 404 counts.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import datetime
import gc
import json
from collections.abc import Callable, Iterator
from typing import Any

import sqlalchemy as sa
from oslo_db import exception as oslo_db_exception
from oslo_log import log as logging

from blazar_vmexpire import adoption, lifecycle, subjects
from blazar_vmexpire.adoption import Newcomer
from blazar_vmexpire.cloud import errors
from blazar_vmexpire.cloud.servers import GONE, Server
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db import projects
from blazar_vmexpire.db.engine import retried
from blazar_vmexpire.db.models import expirations
from blazar_vmexpire.labels import Labels
from blazar_vmexpire.lifecycle import State
from blazar_vmexpire.subjects import Facts
from blazar_vmexpire.terms import Session
from blazar_vmexpire.worker import judging
from blazar_vmexpire.worker.kept import as_left
from blazar_vmexpire.worker.tools import Tools

LOG = logging.getLogger(__name__)

#: States whose VM a complete listing has to contain.
_EXPECTED = (*sorted(lifecycle.LEASED), State.ENDED, State.REVIVING, State.FAILED, State.EXEMPT)
#: States in which it matters what terms depend on.
_FOLLOWED = frozenset(_EXPECTED)
#: Pages whose new VMs are written at a time: while some wait for the database, another uses the
#: processor. Pages are compared one by one: that needs the processor alone.
_AT_ONCE = 3
#: New objects after which Python looks for cycles meanwhile: some ten megabytes.
_OBJECTS = 100_000
#: How many VMs that a listing lacks are made due in one statement.
_BATCH = 1000


@dataclasses.dataclass(slots=True)
class Result:
    """What a reconciliation found."""

    listed: int = 0
    adopted: int = 0
    woken: int = 0
    """Known VMs that need a look."""
    out_of_scope: int = 0
    busy: int = 0
    """Left alone for now: building, broken, or in the middle of a task."""
    missing: int = 0
    """Have a row, but were not listed: each will be asked for by itself."""


class Reconciliation:
    """One pass over all servers of the cloud.

    :param keep: called after each page; may raise to give up (the chore was taken over).
    :param report: called after each page with the number of servers that were listed until then.
    """

    def __init__(
        self,
        tools: Tools,
        keep: Callable[[], None] = lambda: None,
        report: Callable[[int], None] = lambda listed: None,
    ) -> None:
        self._tools = tools
        self._keep = keep
        self._report = report
        self._spread = datetime.timedelta(0)
        self._service_project_id = ""
        self._session: Session
        self._labels = Labels.of(tools.conf)

    def run(self, *, first: bool) -> Result:
        """Do it.

        :param first: whether this is the first one ever: then first ends are spread.
        :raises errors.CloudError: Nova's or Keystone's answer was not complete. What was taken in
            until then stays; nothing is concluded about VMs that were not listed.
        """
        tools = self._tools
        started = tools.clock()
        self._spread = tools.book.adoption_spread if first else datetime.timedelta(0)
        self._service_project_id = tools.cloud.keystone.service_project_id
        # Before the servers are listed: hardly a project of theirs is missing then.
        judging.refresh_projects(tools)
        with tools.database.begin() as connection:
            self._session = tools.book.session(connection, started)
        result = Result()
        listed: set[str] = set()
        pages = tools.cloud.nova.pages(tools.conf.vmexpire_intake.page_size)
        under_way: collections.deque[concurrent.futures.Future[int]] = collections.deque()
        with (
            _seldom_collecting(),
            concurrent.futures.ThreadPoolExecutor(_AT_ONCE, "vmexpire-adopt") as pool,
        ):
            for page in _ahead(pages):
                listed.update(raw["id"] for raw in page)
                newcomers = self._page(page, result)
                if newcomers:
                    under_way.append(pool.submit(self._adopt, newcomers))
                if len(under_way) == _AT_ONCE:
                    result.adopted += under_way.popleft().result()
                self._keep()
                self._report(len(listed))
            result.adopted += sum(adopting.result() for adopting in under_way)
        result.listed = len(listed)
        result.missing = self._wake_missing(listed, started)
        return result

    def _page(self, page: list[dict[str, Any]], result: Result) -> list[Newcomer]:
        """Compare a page with what we know, and add what was found.

        :returns: those that are to be taken in.
        """
        known = self._known([raw["id"] for raw in page])
        # By UUID, as Nova may list a server twice.
        new: dict[str, Server] = {}
        wake: list[str] = []
        other: dict[str, Facts] = {}
        kept: list[dict[str, Any]] = []
        for raw in page:
            row = known.get(raw["id"])
            if row is None:
                self._sort_in(raw, new, result)
            elif _needs_a_look(raw, row) or (
                row.state in lifecycle.LEASED and self._labels.edited(raw.get("metadata"), row)
            ):
                wake.append(raw["id"])
            elif row.state in _FOLLOWED and raw.get("status") != "UNKNOWN":
                self._compare(raw, row, other)
                if row.state == State.ENDED:
                    kept.append(raw)
        if kept:
            wake += self._in_use_again(kept)
        if wake:
            self._wake(wake)
            result.woken += len(wake)
        if other:
            self._note(other)
        newcomers = self._judged(list(new.values())) if new else []
        expiring = [newcomer for newcomer in newcomers if newcomer.verdict.expires]
        result.out_of_scope += len(newcomers) - len(expiring)
        settled = [newcomer for newcomer in expiring if adoption.settled(newcomer.server)]
        result.busy += len(expiring) - len(settled)
        return settled

    def _sort_in(self, raw: dict[str, Any], new: dict[str, Server], result: Result) -> None:
        """Put a VM that has no row where it belongs."""
        status = raw.get("status")
        if status == "UNKNOWN" or status in GONE:
            result.busy += 1
            return
        if raw.get("tenant_id") == self._service_project_id:
            result.out_of_scope += 1
            return
        try:
            new[raw["id"]] = Server.from_json(raw)
        except errors.Unavailable as error:
            # The other VMs need not wait until Nova has made up its mind about this one.
            LOG.error("Server %s is not taken in: %s", raw["id"], error)
            result.busy += 1

    def _judged(self, servers: list[Server]) -> list[Newcomer]:
        """Say which VMs expire, and on what terms."""
        tools = self._tools
        session = self._session
        unknown = {server.project_id for server in servers} - session.projects.keys()
        if unknown:
            for project_id in unknown:
                judging.ensure_project(tools, project_id)
            with tools.database.begin() as connection:
                there = projects.read(connection, unknown)
            session = dataclasses.replace(session, projects={**session.projects, **there})
        return [Newcomer.of(server, self._labels.keys, session.judge) for server in servers]

    def _compare(self, raw: dict[str, Any], row: Any, other: dict[str, Facts]) -> None:
        """Note what Nova shows of a known VM, if terms depend on it and it has changed."""
        try:
            facts = subjects.facts_of(raw, self._labels.keys)
        except (LookupError, TypeError, AttributeError) as error:
            LOG.error("Server %s is listed with something missing: %r", raw["id"], error)
            return
        if subjects.digest(facts) != row.facts_digest:
            other[raw["id"]] = facts

    def _in_use_again(self, listed: list[dict[str, Any]]) -> list[str]:
        """Say which of the VMs that were kept at their end are not as they were left."""
        x = expirations.c
        with self._tools.database.begin() as connection:
            progress = {
                row.server_id: json.loads(row.progress)
                for row in connection.execute(
                    sa.select(x.server_id, x.progress).where(
                        x.server_id.in_([raw["id"] for raw in listed]), x.state == State.ENDED
                    )
                )
            }
        found = []
        for raw in listed:
            # One that is brief is a question for the next time.
            with contextlib.suppress(errors.Unavailable):
                server = Server.from_json(raw)
                if (
                    server.id in progress
                    and adoption.settled(server)
                    and not as_left(self._tools.actions, progress[server.id], server)
                ):
                    found.append(server.id)
        return found

    def _known(self, server_ids: list[str]) -> dict[str, Any]:
        x = expirations.c
        with self._tools.database.begin() as connection:
            rows = connection.execute(
                sa.select(
                    x.server_id,
                    x.state,
                    x.project_id,
                    x.user_id,
                    x.facts_digest,
                    x.shown_end,
                    x.shown_state,
                    x.show_after,
                ).where(x.server_id.in_(server_ids))
            ).all()
        return {row[0]: row for row in rows}

    def _adopt(self, newcomers: list[Newcomer]) -> int:
        """Take a page's new VMs in; those that a notification brought in meanwhile are its own."""
        try:
            return self._adopt_all(newcomers)
        except oslo_db_exception.DBDuplicateEntry:
            known = self._known([newcomer.server.id for newcomer in newcomers])
            return self._adopt([new for new in newcomers if new.server.id not in known])

    @retried
    def _adopt_all(self, newcomers: list[Newcomer]) -> int:
        tools = self._tools
        with tools.database.begin() as connection:
            adoption.adopt_page(
                connection,
                newcomers,
                tools.clock(),
                self._spread,
                tell=tools.conf.vmexpire_mail.tell_adoptions,
            )
        return len(newcomers)

    @retried
    def _note(self, other: dict[str, Facts]) -> None:
        """Write down what VMs show now; whether their terms change with it, the review says."""
        with self._tools.database.begin() as connection:
            connection.execute(
                sa.update(expirations).where(expirations.c.server_id == sa.bindparam("id")),
                [{"id": server_id, **adoption.seen(facts)} for server_id, facts in other.items()],
            )

    @retried
    def _wake(self, server_ids: list[str]) -> None:
        with self._tools.database.begin() as connection:
            db_api.ask(connection, server_ids, self._tools.clock())

    def _wake_missing(self, listed: set[str], started: datetime.datetime) -> int:
        """Make those due that should have been listed and were not."""
        x = expirations.c
        with self._tools.database.begin() as connection:
            expected = connection.scalars(
                sa.select(x.server_id).where(x.state.in_(_EXPECTED), x.adopted_at < started)
            ).all()
        missing = [server_id for server_id in expected if server_id not in listed]
        for begin in range(0, len(missing), _BATCH):
            self._wake(missing[begin : begin + _BATCH])
        if missing:
            LOG.info(
                "%d servers have a lease and were not listed by Nova: each is asked for by itself",
                len(missing),
            )
        return len(missing)


def _needs_a_look(raw: dict[str, Any], row: Any) -> bool:
    """Say whether Nova lists of a known VM what only a look at it can settle."""
    status = raw.get("status")
    if status == "UNKNOWN":
        return False
    if row.state in (State.DELETED, State.SEEN, State.VANISHED):
        return status not in GONE
    return (
        status in GONE
        or raw.get("tenant_id") != row.project_id
        or raw.get("user_id") != row.user_id
    )


@contextlib.contextmanager
def _seldom_collecting() -> Iterator[None]:
    """Look less often for garbage in cycles, of which a page of JSON has none.

    A page makes tens of thousands of objects. Every 700 of them Python would look through the young
    ones, and now and then through all that the process holds: up to a quarter of the time.
    """
    before = gc.get_threshold()
    gc.set_threshold(_OBJECTS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _ahead(pages: Iterator[list[dict[str, Any]]]) -> Iterator[list[dict[str, Any]]]:
    """Yield pages while the next one is being fetched by a thread of its own."""
    with concurrent.futures.ThreadPoolExecutor(1, "vmexpire-list") as pool:
        coming = pool.submit(next, pages, None)
        while (page := coming.result()) is not None:
            coming = pool.submit(next, pages, None)
            yield page
