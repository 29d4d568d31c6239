# SPDX-License-Identifier: Apache-2.0
"""The short form of ``make chaos``: one pass of each fault while 25 VMs expire, on a sandbox alone.

It comes before the other scenarios, which would otherwise share the machine with it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos import plan as plans
from tests.chaos import run as runs
from tools.sandbox import Sandbox

#: With it ``make test`` would take longer than its twenty minutes.
pytestmark = pytest.mark.long


@pytest.fixture
def sandbox(home: Path) -> Iterator[Sandbox]:
    """A sandbox that is still to be brought up; taken down afterwards."""
    cloud = Sandbox(home / "chaos", report=lambda line: None)
    yield cloud
    cloud.down()


def test_every_vm_ends_once_whatever_is_killed_or_stopped(sandbox: Sandbox) -> None:
    """Two managers and three workers, each of them killed, and all of them together."""
    plan = plans.make(int(os.environ.get("SEED", "1")), plans.SHORT)

    def say(line: str) -> None:
        sys.stdout.write(f"{line}\n")

    say(f"SEED={plan.seed}")
    runs.bring_up(sandbox, plan.scale)
    result = runs.run(sandbox, plan, say)
    for line in (*result.table(), *result.failures()):
        say(line)
    assert result.holds, [check.claim for check in result.checks if not check.holds]
