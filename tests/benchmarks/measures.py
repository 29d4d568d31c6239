# SPDX-License-Identifier: Apache-2.0
"""What is measured, one function each.

Each of them can run in a process of its own: what goes in is plain (a configuration file, numbers),
and so is what comes out. Times are seconds.
"""

from __future__ import annotations

import datetime
import pathlib
import re
import time
from collections.abc import Callable

import sqlalchemy as sa
from blazar import status as blazar_status
from blazar.db import api as blazar_db_api
from blazar.db.sqlalchemy import facade_wrapper
from keystoneauth1 import adapter
from oslo_config import cfg
from oslo_db import options as db_options
from oslo_utils import timeutils

from blazar_vmexpire import service
from blazar_vmexpire.cloud import nova
from blazar_vmexpire.cloud.session import make_session
from blazar_vmexpire.conf import opts
from blazar_vmexpire.db import blazar_indexes
from blazar_vmexpire.db.models import chores, expirations
from blazar_vmexpire.intake.reconcile import Result
from blazar_vmexpire.leases import EVENTS, LEASES, RESERVATIONS
from blazar_vmexpire.worker import auditing, claims
from blazar_vmexpire.worker.tools import Tools, assemble

#: How many rows a worker of :func:`work_off` claims at a time.
CLAIMED_AT_ONCE = 500

_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)


def read_options(path: pathlib.Path) -> cfg.ConfigOpts:
    """Read a configuration file as the service does."""
    conf = cfg.ConfigOpts()
    opts.register_opts(conf)
    db_options.set_defaults(conf)
    conf(["--config-file", str(path)], project="blazar", default_config_dirs=[])
    return conf


def adopt(options: pathlib.Path, servers: int) -> dict[str, float]:
    """Reconcile for the first time, with empty tables.

    :returns: ``seconds``, ``cpu`` (seconds of this process), ``peak`` (its bytes of memory).
    """
    tools = assemble(read_options(options))
    with _Stopwatch() as watch:
        result = _reconcile(tools)
    assert result.adopted == servers, result
    with tools.database.begin() as connection:
        for table, rows in ((expirations, 1), (LEASES, 1), (RESERVATIONS, 1), (EVENTS, 3)):
            found = connection.scalar(sa.select(sa.func.count()).select_from(table))
            assert found == rows * servers, (table.name, found)
    tools.database.engine.dispose()
    return {"seconds": watch.seconds, "cpu": watch.cpu, "peak": peak_memory()}


def compare(
    options: pathlib.Path, servers: int, times: int, say: Callable[[str], None]
) -> list[dict[str, float]]:
    """Reconcile when there is nothing to do, and fetch and parse the same pages bare, in turns.

    :returns: for each turn ``seconds``, ``cpu``, ``bare_seconds``, ``bare_cpu``.
    """
    conf = read_options(options)
    tools = assemble(conf)
    # Not measured: connections, a token, what is imported on first use.
    _fetch_bare(conf, servers)
    turns = []
    for turn in range(times):
        with _Stopwatch() as bare:
            _fetch_bare(conf, servers)
        with _Stopwatch() as ours:
            _reconcile_idle(tools, servers)
        say(f"turn {turn + 1} of {times}: bare {bare.seconds:.2f} s, ours {ours.seconds:.2f} s")
        turns.append(
            {
                "seconds": ours.seconds,
                "cpu": ours.cpu,
                "bare_seconds": bare.seconds,
                "bare_cpu": bare.cpu,
            }
        )
    tools.database.engine.dispose()
    return turns


def memory(options: pathlib.Path, servers: int) -> dict[str, float]:
    """Reconcile when there is nothing to do; for a fresh process.

    :returns: ``peak``, bytes; ``before``, the same before it began.
    """
    tools = assemble(read_options(options))
    before = peak_memory()
    _reconcile_idle(tools, servers)
    tools.database.engine.dispose()
    return {"peak": peak_memory(), "before": before}


def make_due(options: pathlib.Path) -> None:
    """Make every VM's row due."""
    tools = assemble(read_options(options))
    with tools.database.begin() as connection:
        connection.execute(
            sa.update(expirations).values(
                next_at=tools.clock() - datetime.timedelta(seconds=1), claimed_until=None
            )
        )
    tools.database.engine.dispose()


def work_off(options: pathlib.Path, start_at: float) -> dict[str, float]:
    """Claim what is due and finish it, each row in a transaction of its own, until nothing is left.

    As a worker does it, without the step in between.

    :param start_at: ``time.time()`` to begin at, so that several workers begin together.
    :returns: ``rows``; ``begun`` and ``ended`` (``time.time()``).
    """
    tools = assemble(read_options(options))
    queue = claims.Claims(tools.database, tools.clock, datetime.timedelta(minutes=1))
    tomorrow = tools.clock() + datetime.timedelta(days=1)
    with tools.database.begin() as connection:
        connection.execute(sa.select(1))
    time.sleep(max(0, start_at - time.time()))
    begun = time.time()
    done = 0
    while rows := queue.claim(CLAIMED_AT_ONCE):
        for row in rows:
            with tools.database.begin() as connection:
                claims.finish(connection, row, tomorrow)
            queue.forget(row)
        done += len(rows)
    ended = time.time()
    tools.database.engine.dispose()
    return {"rows": done, "begun": begun, "ended": ended}


def audit(options: pathlib.Path, times: int) -> list[float]:
    """Look for leases that are not what they have to be, where all are sound.

    :returns: seconds, each time.
    """
    tools = assemble(read_options(options))
    seconds = []
    for _ in range(times):
        with _Stopwatch() as watch:
            found = auditing.audit(tools)
        assert found == 0, f"{found} leases are damaged"
        seconds.append(watch.seconds)
    tools.database.engine.dispose()
    return seconds


def tick(options: pathlib.Path, times: int) -> dict[str, list[float]]:
    """Ask what Blazar's engine asks every ten seconds, when nothing is due.

    :returns: seconds, each time, ``with`` our index on its events and ``without``.
    """
    tools = assemble(read_options(options))
    index = next(wanted for wanted in blazar_indexes.WANTED if wanted.columns == ("status", "time"))
    found = {}
    cfg.CONF(["--config-file", str(options)], project="blazar", default_config_dirs=[])
    db_options.set_defaults(cfg.CONF)
    facade_wrapper._clear_engine()
    try:
        found["with"] = [_tick() for _ in range(times)]
        _drop(tools, index)
        found["without"] = [_tick() for _ in range(times)]
        blazar_indexes.add_missing(tools.database, lambda line: None)
        facade_wrapper._get_facade().writer.get_engine().dispose()
    finally:
        facade_wrapper._clear_engine()
        cfg.CONF.reset()
    tools.database.engine.dispose()
    return found


def peak_memory() -> int:
    """Say the most memory that this process has had so far (resident, VmHWM), in bytes."""
    found = _PEAK.search(pathlib.Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


class _Stopwatch:
    """Measures a block: ``seconds`` on the clock, ``cpu`` of this process."""

    def __enter__(self) -> _Stopwatch:
        self._seconds, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.seconds = time.perf_counter() - self._seconds
        self.cpu = time.process_time() - self._cpu


def _reconcile(tools: Tools) -> Result:
    """Reconcile as the service does: as a chore that is claimed, and renewed at each page."""
    with tools.database.begin() as connection:
        connection.execute(sa.update(chores).values(next_at=tools.clock()))
    chore = service.reconciliation_chore(tools)
    assert chore.claim()
    result = service.reconcile(tools, chore)
    chore.finish()
    return result


def _reconcile_idle(tools: Tools, servers: int) -> None:
    result = _reconcile(tools)
    assert result == Result(listed=servers), result


def _fetch_bare(conf: cfg.ConfigOpts, servers: int) -> None:
    """Fetch and parse all pages, and do nothing with them."""
    bare = adapter.Adapter(
        make_session(conf),
        service_type="compute",
        interface="internal",
        region_name=conf.os_region_name,
        default_microversion=nova.MICROVERSION,
    )
    limit = conf.vmexpire_intake.page_size
    params = {"all_tenants": "1", "limit": str(limit)}
    listed = 0
    while page := bare.get("/servers/detail", params=params).json()["servers"]:
        listed += len(page)
        params["marker"] = page[-1]["id"]
    assert listed == servers, listed


def _tick() -> float:
    with _Stopwatch() as watch:
        events = blazar_db_api.event_get_all_sorted_by_filters(
            sort_key="time",
            sort_dir="asc",
            filters={
                "status": blazar_status.event.UNDONE,
                "time": {"op": "le", "border": timeutils.utcnow()},
            },
        )
    assert not events, events
    return watch.seconds


def _drop(tools: Tools, index: blazar_indexes.BlazarIndex) -> None:
    where = f" ON {index.table}" if tools.database.dialect == "mysql" else ""
    with tools.database.begin() as connection:
        connection.execute(sa.text(f"DROP INDEX {index.name}{where}"))
