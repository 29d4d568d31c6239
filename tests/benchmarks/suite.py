# SPDX-License-Identifier: Apache-2.0
"""All measurements in their order: what each figure is reckoned from."""

from __future__ import annotations

import concurrent.futures
import configparser
import contextlib
import dataclasses
import datetime
import functools
import multiprocessing
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

from blazar_vmexpire import RESOURCE_TYPE
from tests import databases
from tests.benchmarks import horizon, mails, measures
from tests.benchmarks.nova import NovaServer
from tests.benchmarks.report import Figure
from tests.databases import Backend

Run = Callable[..., Any]
"""Runs a function with arguments, wherever that is, and returns its result."""


@dataclasses.dataclass(frozen=True, slots=True)
class Size:
    """How much of everything.

    :ivar new: VMs that are adopted, and due rows of the queue.
    :ivar known: VMs whose reconciliation finds nothing to do, and leases.
    :ivar page: servers on a page.
    :ivar mails: notices that are sent.
    :ivar instances: on Horizon's page; 0 leaves Horizon out.
    :ivar times: how often what varies is repeated; its median counts.
    """

    new: int = 20_000
    known: int = 100_000
    page: int = 1000
    mails: int = 10_000
    instances: int = 100
    times: int = 5


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Run a function in a new interpreter: its memory is what it needed itself."""
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, spawn) as pool:
        return pool.submit(function, *arguments).result()


def measure(
    backend: Backend,
    size: Size,
    say: Callable[[str], None],
    run: Run = in_fresh_process,
    workers: int = 2,
) -> list[Figure]:
    """Measure all.

    :param backend: where databases come from.
    :param say: told in one line what is being done.
    :param run: runs a measurement.
    :param workers: how many work the queue off at once.
    """
    with tempfile.TemporaryDirectory(prefix="vmx-bench-") as directory:
        bench = _Bench(backend, size, say, run, workers, pathlib.Path(directory))
        return [
            *bench.with_new_vms(),
            *bench.with_known_vms(),
            *bench.with_mails(),
            *bench.with_horizon(),
        ]


class _Bench:
    def __init__(
        self,
        backend: Backend,
        size: Size,
        say: Callable[[str], None],
        run: Run,
        workers: int,
        directory: pathlib.Path,
    ) -> None:
        self._backend = backend
        self._size = size
        self._say = say
        self._run = run
        self._workers = workers
        self._directory = directory

    def with_new_vms(self) -> Iterator[Figure]:
        """Measure what begins with a cloud that we do not know."""
        count, times = self._size.new, self._size.times
        self._say(f"serialising {count:,} servers")
        with NovaServer(count, self._size.page) as nova:
            runs = []
            for turn in range(times):
                with self._database(nova) as options:
                    runs.append(self._run(measures.adopt, options, count))
                    rate = count / runs[-1]["seconds"]
                    self._say(f"adopted {count:,} VMs, {turn + 1} of {times}: {rate:,.0f} VMs/s")
                    if turn + 1 == times:
                        queue = self._queue(options)
            yield Figure(
                f"adopting {count:,} VMs on {self._backend.name}, one process",
                statistics.median(count / run["seconds"] for run in runs),
                "VMs/s",
                at_least=3000,
                raw=runs,
            )
            # Says something even while others are at work on the machine.
            yield Figure(
                "  processor time of that process for each VM",
                statistics.median(1e6 * run["cpu"] / count for run in runs),
                "µs",
            )
            yield queue

    def with_known_vms(self) -> Iterator[Figure]:
        """Measure what is done all the time, in a big cloud where all is well."""
        count, times = self._size.known, self._size.times
        self._say(f"serialising {count:,} servers")
        with NovaServer(count, self._size.page) as nova, self._database(nova) as options:
            self._say(f"adopting {count:,} VMs")
            adopted = self._run(measures.adopt, options, count)
            yield Figure(
                f"adopting {count:,} VMs, likewise",
                count / adopted["seconds"],
                "VMs/s",
                raw=adopted,
            )
            self._say(f"reconciling {count:,} known VMs, in turns with bare fetching")
            turns = self._run(measures.compare, options, count, times, self._say)
            yield Figure(
                f"fetching and parsing {count:,} servers bare ({nova.mean_size:,.0f} bytes each)",
                statistics.median(turn["bare_seconds"] for turn in turns),
                "s",
                raw=turns,
            )
            yield Figure(
                f"reconciling {count:,} known VMs, nothing to do",
                statistics.median(turn["seconds"] for turn in turns),
                "s",
            )
            yield Figure(
                "  the same, compared with bare",
                statistics.median(turn["seconds"] / turn["bare_seconds"] for turn in turns),
                "times",
                at_most=2,
            )
            self._say("the same once more in a fresh process, for its memory")
            memory = self._run(measures.memory, options, count)
            yield Figure(
                "  peak memory of a process that does it",
                memory["peak"] / 1e6,
                "MB",
                at_most=300,
                raw=memory,
            )
            self._say(f"auditing {count:,} leases")
            seconds = self._run(measures.audit, options, times)
            yield Figure(
                f"audit of {count:,} leases, all sound",
                1000 * statistics.median(seconds),
                "ms",
                raw=seconds,
            )
            self._say("asking what Blazar's engine asks")
            ticks = self._run(measures.tick, options, times)
            for how in ("with", "without"):
                yield Figure(
                    f"idle tick of Blazar's engine, {count:,} leases, {how} our index",
                    1000 * statistics.median(ticks[how]),
                    "ms",
                    raw=ticks[how],
                )

            yield from self._lists(options)
            yield from self._bursts(options)

    def with_mails(self) -> Iterator[Figure]:
        """Word notices and hand them to a mail server."""
        count, threads = self._size.mails, 4
        server = mails.MailServer()
        try:
            self._say(f"sending {count:,} mails bare")
            with server.expecting(count):
                bare = self._run(mails.send_bare, server.port, count)
            self._say(f"sending {count:,} notices")
            with server.expecting(count):
                ours = self._run(mails.hand_over, server.port, count, threads)
        finally:
            server.stop()
        yield Figure(
            f"sending {count:,} mails by bare smtplib over one connection, ready as they are",
            count / bare,
            "mails/s",
        )
        yield Figure(
            f"wording {count:,} whole notices and sending them, {threads} threads",
            count / ours["seconds"],
            "mails/s",
            at_least=200,
            raw=ours,
        )
        yield Figure("  processor time for each notice", 1e6 * ours["cpu"] / count, "µs")

    def with_horizon(self) -> list[Figure]:
        """Look at Horizon's page of instances with our part in it and without."""
        if not self._size.instances:
            return []
        return horizon.measure(self._directory, self._size.instances, self._size.times, self._say)

    def _lists(self, options: pathlib.Path) -> Iterator[Figure]:
        """List VMs by our API, page by page."""
        for one_project, whose in ((False, "of the whole cloud"), (True, "of one project")):
            self._say(f"listing pages {whose}")
            pages = self._run(
                functools.partial(measures.list_pages, one_project=one_project),
                options,
                self._size.times,
            )
            medians = {how: statistics.median(seconds) for how, seconds in pages.items()}
            slowest = max(medians, key=lambda how: medians[how])
            yield Figure(
                f"a page of 100 {whose}, {self._size.known:,} VMs, the slowest: {slowest}",
                1000 * medians[slowest],
                "ms",
                at_most=50,
                raw=pages,
            )

    def _bursts(self, options: pathlib.Path) -> Iterator[Figure]:
        """Let all leases end at once, beside a manager that does what it does then."""
        count = self._size.known
        few = min(200, count)
        self._say(f"having Blazar's own engine end {few} leases")
        self._run(measures.end_all, options, datetime.timedelta(days=30))
        seconds = self._run(measures.end_by_engine, options, few)
        yield Figure("leases that Blazar's own engine ends", few / seconds, "leases/s")
        for paced, how in ((True, "at the brake's pace"), (False, "the pace lifted")):
            self._say(f"ending {count:,} leases at once, {how}")
            self._run(measures.end_all, options, datetime.timedelta(0))
            with self._engine(options):
                done = self._run(measures.burst, options, count, paced)
            yield Figure(
                f"{count:,} leases end at once, beside a manager, {how}:"
                f" {done['taken']:,} taken, {done['moved']:,} moved, {done['left']:,} left",
                done["seconds"],
                "s",
                at_most=60,
                raw=done,
            )

    @contextlib.contextmanager
    def _engine(self, options: pathlib.Path) -> Iterator[None]:
        """Run a manager beside."""
        process = multiprocessing.get_context("spawn").Process(
            target=measures.run_engine, args=(options,), daemon=True
        )
        process.start()
        try:
            yield
        finally:
            process.kill()
            process.join()

    def _queue(self, options: pathlib.Path) -> Figure:
        """Work off a queue in which every VM is due."""
        count = self._size.new
        self._say(f"working off {count:,} due rows with {self._workers} workers")
        self._run(measures.make_due, options)
        # Time for the workers to come up, so that they begin together.
        start_at = time.time() + (5 if self._workers > 1 else 0)
        with concurrent.futures.ThreadPoolExecutor(self._workers) as pool:
            asked = [
                pool.submit(self._run, measures.work_off, options, start_at)
                for _ in range(self._workers)
            ]
            runs = [future.result() for future in asked]
        done = sum(run["rows"] for run in runs)
        assert done == count, f"{done} rows were finished instead of {count}"
        seconds = max(run["ended"] for run in runs) - min(run["begun"] for run in runs)
        return Figure(
            f"claiming and finishing {count:,} due rows, {self._workers} workers",
            count / seconds,
            "rows/s",
            raw=runs,
        )

    @contextlib.contextmanager
    def _database(self, nova: NovaServer) -> Iterator[pathlib.Path]:
        """Make a fresh database, and a configuration file that names it and the cloud."""
        url = self._backend.create("ours")
        settings = configparser.RawConfigParser(default_section="")
        settings.read_dict(nova.options())
        settings.read_dict(
            {
                "database": {"connection": databases.elsewhere(url)},
                RESOURCE_TYPE: {"undeliverable_contact": "operators@example.org"},
                # For Blazar's own manager, which is run with and beside ours.
                "DEFAULT": {"transport_url": "fake:/"},
                "manager": {"plugins": "virtual.vm.plugin"},
                "vmexpire_worker": {"enabled": "false"},
                "oslo_messaging_notifications": {"driver": "noop"},
                # All wait that have to; it is not the stop that is measured.
                "vmexpire_brake": {"trip_hours": "1000"},
            }
        )
        path = self._directory / "blazar.conf"
        with path.open("w") as file:
            settings.write(file)
        try:
            yield path
        finally:
            self._backend.drop(url)
