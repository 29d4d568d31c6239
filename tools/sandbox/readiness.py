# SPDX-License-Identifier: Apache-2.0
"""Waiting for services: until each works, or has ended, or is too slow."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence

from tools.sandbox import layout, ports, rest
from tools.sandbox.errors import SandboxError
from tools.sandbox.layout import HERE, State
from tools.sandbox.processes import Supervisor
from tools.sandbox.services import PYTHON, Service

# How long a service may take to work. A fresh, busy machine compiles Python files meanwhile.
PATIENCE = 180.0


class Readiness:
    """What works of one sandbox.

    run: runs a command to its end: (name for the log, argv); raises SandboxError if it fails
    report: takes the lines that tell of progress
    """

    def __init__(
        self,
        supervisor: Supervisor,
        run: Callable[..., bytes],
        report: Callable[[str], None],
    ) -> None:
        self._supervisor = supervisor
        self._run = run
        self._report = report

    def wait(self, entries: Sequence[Service], state: State) -> None:
        """Wait until all of `entries` work, telling of each; raise if one ends or is too slow."""
        end = time.monotonic() + PATIENCE
        waiting = [entry for entry in entries if entry.queue is None]
        while waiting:
            for entry in list(waiting):
                self._require_alive(entry)
                if self._works(entry, state):
                    waiting.remove(entry)
                    self._report(f"{entry.name} {'is at work' if entry.says else 'answers'}")
            if waiting and time.monotonic() > end:
                raise SandboxError(self._complaint(waiting[0], "does not answer"))
            time.sleep(0.1 if waiting else 0)
        servers = [entry for entry in entries if entry.queue]
        if servers:
            self._wait_for_consumers(servers, state, end)
            self._report(f"{', '.join(entry.name for entry in servers)}: taking work")

    def _works(self, entry: Service, state: State) -> bool:
        if entry.says:
            return self._supervisor.has_said(entry.name, entry.says)
        if entry.socket:
            return _accepts(entry.socket)
        if not ports.is_listening(state.ports[entry.name]):
            return False
        return entry.http is None or rest.answers(layout.url(state, entry.name, entry.http))

    def _wait_for_consumers(self, entries: Sequence[Service], state: State, end: float) -> None:
        queues = [entry.queue for entry in entries if entry.queue]
        while True:
            for entry in entries:
                self._require_alive(entry)
            # In short turns, to notice a service that ends.
            try:
                self._run(
                    "consumers",
                    [
                        *(*PYTHON, str(HERE / "consumers.py")),
                        *("5", str(state.ports["rabbitmq"]), *queues),
                    ],
                )
            except SandboxError:
                if time.monotonic() > end:
                    raise
            else:
                return

    def _require_alive(self, entry: Service) -> None:
        if not self._supervisor.main_pid(entry.name):
            raise SandboxError(self._complaint(entry, "ended"))

    def _complaint(self, entry: Service, what: str) -> str:
        log = self._supervisor.log_file(entry.name)
        tail = log.read_text(errors="replace").splitlines()[-15:] if log.exists() else []
        return "\n    ".join([f"{entry.name} {what}; the end of {log}:", *tail])


def _accepts(path: str) -> bool:
    """Whether something accepts connections on this Unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(2)
        return probe.connect_ex(path) == 0
