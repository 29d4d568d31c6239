# SPDX-License-Identifier: Apache-2.0
"""Starting and ending the sandbox's processes, and never anybody else's.

Every process is started with two variables in its environment, the sandbox's directory and the
service's name, and its children inherit them. Whatever carries them is ours, even if the command
that started it was killed before it could note anything down, and even if it left its parent and
session as epmd does. Process ids are written to files for people to read; they are not trusted.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

DIRECTORY_VARIABLE = "VMEXPIRE_SANDBOX"
SERVICE_VARIABLE = "VMEXPIRE_SANDBOX_SERVICE"

PROC = Path("/proc")


class Process(NamedTuple):
    """A process of the sandbox. `started` (clock ticks since boot) tells a reused pid apart."""

    pid: int
    started: int
    service: str


def _stat(pid: int) -> tuple[str, int] | None:
    """State letter and start time of a process, None if there is none."""
    try:
        # The command's name, in parentheses, may hold anything: count from its end.
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], int(fields[19])


def _environment(pid: int) -> dict[str, str]:
    try:
        content = (PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return {}
    pairs = (item.partition(b"=") for item in content.split(b"\0"))
    return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}


class Supervisor:
    """The processes of one sandbox directory."""

    def __init__(self, directory: Path, run: Path, log: Path) -> None:
        self.directory = directory
        self.run = run
        self.log = log
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._log_begins: dict[str, int] = {}

    def environment(self, service: str, extra: Mapping[str, str]) -> dict[str, str]:
        """A small environment of its own: none of the caller's OS_*, proxy, Python variables."""
        return {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(self.run),
            "LANG": "C.UTF-8",
            # setproctitle would write over the environment by which we know our processes.
            "SPT_NOENV": "1",
            **extra,
            DIRECTORY_VARIABLE: str(self.directory),
            SERVICE_VARIABLE: service,
        }

    def start(self, service: str, argv: Sequence[str], env: Mapping[str, str]) -> int:
        """Start a service in a session of its own, its output appended to its log."""
        self.run.mkdir(parents=True, exist_ok=True)
        with self.log_file(service).open("ab") as log:
            self._log_begins[service] = log.tell()
            child = subprocess.Popen(
                argv,
                env=self.environment(service, env),
                cwd=self.run,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._children[child.pid] = child
        stat = _stat(child.pid)
        self._pid_file(service).write_text(f"{child.pid} {stat[1] if stat else 0}\n")
        return child.pid

    def has_said(self, service: str, words: str) -> bool:
        """Whether a service has `words` in its log since it was last started from here."""
        with self.log_file(service).open("rb") as log:
            log.seek(self._log_begins.get(service, 0))
            return words.encode() in log.read()

    def log_file(self, service: str) -> Path:
        return self.log / f"{service}.log"

    def _pid_file(self, service: str) -> Path:
        return self.run / f"{service}.pid"

    def main_pid(self, service: str) -> int | None:
        """The pid that `start` noted, if that very process still lives."""
        try:
            pid, started = map(int, self._pid_file(service).read_text().split())
        except (OSError, ValueError):
            return None
        self._reap()
        return pid if _stat(pid) in {(state, started) for state in "RSDTtIW"} else None

    def find(self, services: Collection[str] | None = None) -> list[Process]:
        """All living processes of this sandbox, or those of some of its services."""
        self._reap()
        return [
            process for process in self._ours() if services is None or process.service in services
        ]

    def _ours(self) -> Iterator[Process]:
        mine = str(self.directory)
        for entry in PROC.iterdir():
            if not entry.name.isdigit():
                continue
            env = _environment(int(entry.name))
            stat = _stat(int(entry.name))
            if stat and stat[0] not in "ZX" and env.get(DIRECTORY_VARIABLE) == mine:
                yield Process(int(entry.name), stat[1], env.get(SERVICE_VARIABLE, ""))

    def _reap(self) -> None:
        """Collect our own ended children; a zombie would look like a process that will not end."""
        for pid, child in list(self._children.items()):
            if child.poll() is not None:
                del self._children[pid]

    def stop(self, services: Collection[str] | None = None, grace: float = 5.0) -> list[str]:
        """SIGTERM, then after `grace` seconds SIGKILL; returns the services that needed it."""
        for process in self.find(services):
            _send(process, signal.SIGTERM)
        self._wait(services, grace)
        return self.kill(services)

    def kill(self, services: Collection[str] | None = None) -> list[str]:
        """SIGKILL until nothing is left; returns the names of the services that were hit."""
        hit = set()
        for _ in range(50):
            left = self.find(services)
            for process in left:
                _send(process, signal.SIGKILL)
                hit.add(process.service)
            if not left:
                break
            self._wait(services, 0.2)
        for name in {path.stem for path in self.run.glob("*.pid")}:
            if services is None or name in services:
                self._pid_file(name).unlink(missing_ok=True)
        return sorted(hit)

    def _wait(self, services: Collection[str] | None, seconds: float) -> None:
        end = time.monotonic() + seconds
        while self.find(services) and time.monotonic() < end:
            time.sleep(0.05)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Ignore the signals that ask for an end, while an end is being made."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _send(process: Process, number: signal.Signals) -> None:
    """Signal exactly this process: a pidfd cannot come to mean another one."""
    with contextlib.suppress(ProcessLookupError):
        handle = os.pidfd_open(process.pid)
        try:
            stat = _stat(process.pid)
            if stat and stat[1] == process.started:
                signal.pidfd_send_signal(handle, number)
        finally:
            os.close(handle)
