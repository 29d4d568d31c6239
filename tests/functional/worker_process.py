# SPDX-License-Identifier: Apache-2.0
"""``blazar-vmexpire-worker`` as a process of its own, to be started, signalled and killed."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from tests.fakes.cloud import FakeCloud
from tests.functional.manage import settings


def wait_until(true: Callable[[], Any], what: str, seconds: float = 30) -> None:
    """Wait for something that another process does."""
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, f"not within {seconds} s: {what}"
        time.sleep(0.1)


class Command:
    """Starts the service, and stops what is left of it."""

    def __init__(self, directory: pathlib.Path, url: str, cloud: FakeCloud) -> None:
        self.directory = directory
        self.url = url
        self.options: dict[str, dict[str, Any]] = {
            "virtual:vm": {"undeliverable_contact": "operators@example.org"},
            "vmexpire_intake": {"notifications": "false"},
            "vmexpire_worker": {"enabled": "false"},
        }
        for group, values in cloud.conf_overrides().items():
            self.options[group] = dict(values)
        self.process: subprocess.Popen[str] | None = None

    def configure(self) -> list[str]:
        """Write the configuration, and name it."""
        return settings(self.directory, self.url, self.options)

    def start(self) -> subprocess.Popen[str]:
        """Start it."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "blazar_vmexpire.cmd.worker", *self.configure()],
            stderr=subprocess.PIPE,
            text=True,
        )
        return self.process

    def kill(self) -> None:
        """End it as ``kill -9`` does, if it runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    @property
    def log(self) -> str:
        """What it has logged."""
        path = self.directory / "blazar.log"
        return path.read_text() if path.exists() else ""
