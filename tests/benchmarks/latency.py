# SPDX-License-Identifier: Apache-2.0
"""``make bench-latency``: how soon a VM has its lease, on a sandbox of its own that is idle.

Nova's notification is all that can be so quick: the sandbox reconciles once an hour. Counted is
from the moment in which its owner sees the VM as ACTIVE to that in which they find the lease. They
look ten times a second, so each may be 0.1 s more than is said.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks import report
from tests.benchmarks.report import Figure
from tests.integration.cloudlib import Cloud
from tests.integration.waiting import Stopwatch, wait_for
from tools.demo.terms import free_offset
from tools.sandbox import Sandbox

#: Of the sandbox: nothing ends, and nothing but notifications finds a VM.
SETTINGS = ("virtual:vm.lease_duration=60m", "vmexpire_intake.reconcile_interval=1h")

#: Between two looks, in seconds.
_LOOK = 0.1


def figures(latencies: Sequence[float]) -> list[Figure]:
    """Say how soon that was.

    :param latencies: of each VM, in seconds; at least one.
    """
    number = len(latencies)
    ordered = sorted(latencies)
    return [
        Figure(
            f"lease of a VM that became ACTIVE, median of {number}",
            statistics.median(ordered),
            "s",
            at_most=2,
            raw=ordered,
        ),
        Figure(f"  longest of {number}", ordered[-1], "s", at_most=5),
    ]


def measure(directory: Path, number: int, say: report.Progress) -> list[float]:
    """Boot VMs one after the other, and return how long each lease took, in seconds."""
    sandbox = Sandbox(directory, say)
    try:
        sandbox.up(free_offset(), SETTINGS)
        cloud = Cloud(sandbox)
        try:
            latencies = []
            for turn in range(1, number + 1):
                latencies.append(_boot(cloud, f"idle {turn}"))
                say(f"VM {turn} of {number}: {latencies[-1]:.2f} s")
            return latencies
        finally:
            cloud.database.engine.dispose()
    finally:
        sandbox.down()


def _boot(cloud: Cloud, name: str) -> float:
    """Boot a VM and delete it; return how long its lease took, in seconds."""
    vm = cloud.ask_for_vm(name, cloud.alice)

    def active() -> bool:
        server = vm.server()
        assert server, f"{vm} is gone"
        return bool(server["status"] == "ACTIVE")

    wait_for(f"status ACTIVE of {vm}", active, 60, every=_LOOK)
    watch = Stopwatch()
    wait_for(f"the lease of {vm}", vm.lease_in_list, 15, every=_LOOK)
    latency = watch.read()
    vm.delete()
    return latency


def main() -> None:
    """Do it."""
    parser = argparse.ArgumentParser(prog="make bench-latency", description=__doc__)
    parser.add_argument("--vms", type=int, default=20, help="how many VMs are booted")
    arguments = parser.parse_args()
    if arguments.vms < 1:
        parser.error("--vms must be at least 1")
    say = report.Progress(time.monotonic())
    with tempfile.TemporaryDirectory(prefix="vmx-latency-") as directory:
        latencies = measure(Path(directory) / "sandbox", arguments.vms, say)
    sys.stdout.write("\n" + report.table(figures(latencies)))


if __name__ == "__main__":
    main()
