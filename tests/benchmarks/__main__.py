# SPDX-License-Identifier: Apache-2.0
"""``make bench``: measure, print a table, write JSON. A missed target is said, and is no error."""

from __future__ import annotations

import argparse
import datetime
import os
import pathlib
import platform
import signal
import sys
import time

from tests import databases
from tests.benchmarks import report, suite


def main() -> None:
    """Do it."""
    defaults = suite.Size()
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument(
        "--json", type=pathlib.Path, default=pathlib.Path("bench.json"), help="where it is written"
    )
    parser.add_argument("--database", choices=databases.NAMES, default="mariadb")
    parser.add_argument("--new", type=int, default=defaults.new, help="VMs to adopt")
    parser.add_argument("--known", type=int, default=defaults.known, help="VMs to reconcile")
    parser.add_argument("--times", type=int, default=defaults.times, help="repetitions")
    arguments = parser.parse_args()
    # kill ends it as Ctrl-C does: with its servers stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    began = time.monotonic()
    say = report.Progress(began)
    size = suite.Size(new=arguments.new, known=arguments.known, times=arguments.times)
    say(f"starting {arguments.database}")
    backend = databases.KINDS[arguments.database]()
    try:
        figures = suite.measure(backend, size, say)
    finally:
        backend.stop()
    sys.stdout.write("\n" + report.table(figures))
    about = {
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "took_seconds": round(time.monotonic() - began),
        "database": arguments.database,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        # Above the number of processors: others were at work here, and times say little.
        "load": os.getloadavg(),
    }
    report.write_json(arguments.json, figures, about)
    sys.stdout.write(f"Written to {arguments.json}\n")


if __name__ == "__main__":
    main()
