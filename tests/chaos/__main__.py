# SPDX-License-Identifier: Apache-2.0
"""``make chaos``: 200 VMs expire on a sandbox in which everything is killed or stopped in turn.

Exit codes: 0 all holds, 1 something does not, 130 interrupted.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time
from pathlib import Path

from keystoneauth1.exceptions import ClientException

from tests.benchmarks.report import Progress
from tests.chaos import plan as plans
from tests.chaos import run as runs
from tests.chaos.crowd import NotBooted
from tools.sandbox import Sandbox, SandboxError
from tools.sandbox.processes import undisturbed

PROJECT = Path(__file__).resolve().parents[2]
DIRECTORY = PROJECT / ".sandbox" / "chaos"

SCALES = {"full": plans.FULL, "short": plans.SHORT}


def main() -> int:
    """Do it; returns the exit code."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--seed", type=int, help="repeat the run of this seed; default: a new one")
    parser.add_argument("--scale", choices=SCALES, default="full")
    parser.add_argument("--dir", type=Path, default=DIRECTORY, help="where the sandbox is")
    arguments = parser.parse_args()
    # A CI job that is cancelled, or a terminal that closes, is an interruption like Ctrl-C.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    seed = random.randrange(10**6) if arguments.seed is None else arguments.seed
    plan = plans.make(seed, SCALES[arguments.scale])
    _print(f"SEED={seed}", "", "The plan, in minutes and seconds since the first boot:")
    _print(*(f"  {line}" for line in plan.lines()), "")
    say = Progress(time.monotonic())
    sandbox = Sandbox(arguments.dir, report=lambda line: None)
    code = 130
    try:
        code = _run(sandbox, plan, say)
    except KeyboardInterrupt:
        say("interrupted")
    finally:
        with undisturbed():
            sandbox.down(wipe=code == 0)
    if code == 1:
        _print(f"Logs, mails and database are in {arguments.dir}; SEED={seed} repeats this run.")
    return code


def _run(sandbox: Sandbox, plan: plans.Plan, say: Progress) -> int:
    say("starting a sandbox with two managers and three workers")
    try:
        sandbox.down(wipe=True)
        runs.bring_up(sandbox, plan.scale)
        result = runs.run(sandbox, plan, say)
    except (SandboxError, ClientException, NotBooted, runs.Broken) as error:
        _print("", f"[FAILED] {error}")
        return 1
    _print("", f"SEED={plan.seed}", *result.table())
    if not result.holds:
        _print("", *result.failures())
        return 1
    _print("", "All holds.")
    return 0


def _print(*lines: str) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
