# SPDX-License-Identifier: Apache-2.0
"""Running scenarios side by side: each in a thread of its own, all on one sandbox.

A scenario is mostly waiting for dates, so a dozen take no longer than one. The first test of a
sandbox starts it and all the scenarios that this session wants of it; each test then waits for its
own, and fails with what that one raised.
"""

from __future__ import annotations

import contextvars
import functools
import random
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

from tests.integration import cloudlib, waiting
from tests.integration.cloudlib import Cloud
from tests.integration.waiting import Stopwatch
from tools.demo.terms import free_offset
from tools.sandbox import Sandbox, SandboxError, ports
from tools.sandbox.schema import archive_path

#: What this session's sandboxes listen on: between the look and the start of the last of its
#: services, a port is free.
_given: set[int] = set()
_choosing = threading.Lock()

#: Lines of a log that a failure shows.
_TAIL = 40
#: Columns of each: some of Blazar's own lines have thousands.
_WIDTH = 400


class Scenario:
    """One test, and what becomes of it."""

    def __init__(self, name: str, play: Callable[[Cloud], None]) -> None:
        self.name = name
        self.play = play
        self.outcome: Future[None] = Future()
        self.seconds = 0.0
        #: Why it may have failed.
        self.evidence = ""


class Stage:
    """One sandbox, and the scenarios played on it.

    :param settings: what its blazar.conf has besides the sandbox's own terms.
    :param hypervisor: ``fake``, or ``libvirt`` for guests that are real.
    :param extras: what else the sandbox is to have, of its ``--with``.
    """

    def __init__(
        self,
        name: str,
        directory: Path,
        settings: list[str],
        scenarios: list[Scenario],
        *,
        hypervisor: str = "fake",
        extras: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.scenarios = {scenario.name: scenario for scenario in scenarios}
        self.cloud: Future[Cloud] = Future()
        self.start_seconds = 0.0
        self._settings = settings
        self._hypervisor = hypervisor
        self._extras = extras
        self._progress: list[str] = []
        self._sandbox = Sandbox(directory, report=self._progress.append)
        self._cancelled = threading.Event()
        self._starter: threading.Thread | None = None
        self._players: list[threading.Thread] = []

    def open(self, after: Stage | None = None) -> None:
        """Start the sandbox, and then all scenarios, once; returns at once.

        :param after: another stage, which is left to make alone what is made once on a machine.
        """
        if self._starter is not None:
            return
        self._starter = threading.Thread(target=self._start, args=(after,), daemon=True)
        self._starter.start()

    def _start(self, after: Stage | None) -> None:
        while after and not (archive_path().exists() or after.cloud.done()):
            time.sleep(1)
        watch = Stopwatch()
        try:
            self._bring_up()
            cloud = Cloud(self._sandbox)
        except BaseException as error:  # noqa: BLE001 - whoever waits for it gets it
            error.add_note(f"of sandbox {self.name!r}: " + "\n    ".join(self._progress[-20:]))
            self.cloud.set_exception(error)
            for scenario in self.scenarios.values():
                scenario.outcome.set_exception(error)
            return
        self.start_seconds = watch.read()
        self.cloud.set_result(cloud)
        for scenario in self.scenarios.values():
            context = contextvars.copy_context()
            thread = threading.Thread(
                target=functools.partial(context.run, self._play, cloud, scenario),
                name=scenario.name,
                daemon=True,
            )
            self._players.append(thread)
            thread.start()

    def _bring_up(self) -> None:
        """Start the sandbox where ports are free: somebody may take them at the last moment."""
        for attempt in range(5):
            try:
                self._sandbox.up(
                    _free_offset(),
                    self._settings,
                    hypervisor=self._hypervisor,
                    extras=self._extras,
                )
            except SandboxError as error:
                if "ports already taken" not in str(error) or attempt == 4:
                    raise
            else:
                return

    def _play(self, cloud: Cloud, scenario: Scenario) -> None:
        waiting.cancelled.set(self._cancelled)
        vms: list[cloudlib.Vm] = []
        cloudlib.booted.set(vms)
        watch = Stopwatch()
        try:
            scenario.play(cloud)
        except BaseException as error:  # noqa: BLE001 - its test raises it
            scenario.seconds = watch.read()
            scenario.evidence = _gather(cloud, vms)
            scenario.outcome.set_exception(error)
        else:
            scenario.seconds = watch.read()
            scenario.outcome.set_result(None)

    def close(self, *, keep: bool) -> None:
        """Stop the sandbox for certain, whatever is going on in it.

        :param keep: leave its logs and configuration where they are.
        """
        self._cancelled.set()
        if self._starter is None:
            return
        while self._starter.is_alive():
            # A start that is under way ends when its processes do.
            self._sandbox.supervisor.kill()
            self._starter.join(1)
        for thread in self._players:
            thread.join(5)
        if self.cloud.exception() is None:
            self.cloud.result().database.engine.dispose()
        self._sandbox.down()
        if not keep:
            shutil.rmtree(self._sandbox.files.directory, ignore_errors=True)

    @property
    def directory(self) -> Path:
        """Where the sandbox is."""
        return self._sandbox.files.directory


def _free_offset() -> int:
    """Find an offset at which all ports of a sandbox are free, that no other stage was given.

    Two that differ by hundreds share no port, whatever services they are of: no two of the standard
    ports do. In any order, because another session may be looking at the same moment.
    """
    hundreds = range(1000, ports.MAXIMUM_OFFSET, 100)
    with _choosing:
        shuffled = random.sample(hundreds, len(hundreds))
        offset = free_offset(found for found in shuffled if found not in _given)
        _given.add(offset)
        return offset


def _gather(cloud: Cloud, vms: list[cloudlib.Vm]) -> str:
    """Say what is known of a scenario's VMs, and what blazar-manager's log says of them."""
    parts = []
    for vm in vms:
        try:
            parts.append(vm.facts())
        except Exception as error:  # noqa: BLE001 - evidence of one failure must not hide it
            parts.append(f"{vm}: {error!r}")
    try:
        lines = cloud.sandbox.log("blazar-manager").read_text(errors="replace").splitlines()
    except OSError as error:
        lines = [str(error)]
    about = [line for line in lines if any(vm.id in line for vm in vms)]
    wrong = [line for line in lines if " ERROR " in line or " CRITICAL " in line]
    for title, found in (
        ("about these VMs", about),
        ("errors", wrong),
        ("its end", lines),
    ):
        cut = [line[:_WIDTH] for line in found[-_TAIL:]]
        parts.append("\n".join([f"--- blazar-manager.log, {title}", *cut]))
    return "\n".join(parts)


def describe(stages: dict[str, Stage]) -> list[str]:
    """Say how long everything took."""
    lines = []
    for stage in stages.values():
        lines.append(f"{stage.name} sandbox: up in {stage.start_seconds:.0f} s")
        for scenario in sorted(stage.scenarios.values(), key=lambda s: s.seconds):
            lines.append(f"  {scenario.seconds:6.1f} s  {scenario.name}")
        if stage.cloud.done() and not stage.cloud.exception():
            latencies = sorted(stage.cloud.result().latencies.values())
            if latencies:
                middle = latencies[len(latencies) // 2]
                lines.append(
                    f"  lease of a VM that became ACTIVE: median {middle:.2f} s,"
                    f" longest {latencies[-1]:.2f} s, of {len(latencies)} VMs"
                )
    return lines
