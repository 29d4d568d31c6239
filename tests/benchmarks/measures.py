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
from typing import Any

import flask
import sqlalchemy as sa
from blazar import policy, rpc
from blazar import status as blazar_status
from blazar.db import api as blazar_db_api
from blazar.db.sqlalchemy import facade_wrapper
from blazar.manager import service as blazar_manager
from blazar.notification import notifier
from keystoneauth1 import adapter
from oslo_config import cfg
from oslo_db import options as db_options
from oslo_utils import timeutils

from blazar_vmexpire import lifecycle, service
from blazar_vmexpire.api import v1
from blazar_vmexpire.api.reading import Reading
from blazar_vmexpire.cloud import nova
from blazar_vmexpire.cloud.session import make_session
from blazar_vmexpire.conf import opts
from blazar_vmexpire.db import blazar_indexes, listing
from blazar_vmexpire.db.api import Expiration
from blazar_vmexpire.db.engine import retried
from blazar_vmexpire.db.models import chores, expirations
from blazar_vmexpire.intake.reconcile import Result
from blazar_vmexpire.leases import EVENTS, LEASES, RESERVATIONS
from blazar_vmexpire.worker import auditing, bursts, claims
from blazar_vmexpire.worker.tools import Tools, assemble
from tests import crowds
from tests.blazar_rpc import make_transport

#: A rule, and a user, that few VMs have.
_RARE = "rare"
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

    @retried
    def finish(row: Expiration) -> None:
        with tools.database.begin() as connection:
            claims.finish(connection, row, tomorrow)

    while rows := queue.claim(CLAIMED_AT_ONCE):
        for row in rows:
            finish(row)
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


def list_pages(options: pathlib.Path, times: int, *, one_project: bool) -> dict[str, list[float]]:
    """Ask our API for pages of 100 VMs, at several depths, in every order that it has.

    From the request, whose token was looked at already, to the JSON of the answer.

    :param one_project: all VMs are put into one project, which is listed; else the whole cloud is.
    :returns: seconds, each time, by order and depth.
    """
    tools = assemble(read_options(options))
    cfg.CONF(["--config-file", str(options)], project="blazar", default_config_dirs=[])
    policy.reset()
    application = flask.Flask("bench")
    application.register_blueprint(v1.get_rest())
    project_id = "0123456789abcdef0123456789abcdef"
    headers = {
        "X-User-Id": "bench",
        "X-Project-Id": project_id,
        "X-Roles": "reader" if one_project else "admin",
        "X-Service-Catalog": "[]",
        "Accept": "application/json",
    }
    with tools.database.begin() as connection:
        if one_project:
            connection.execute(sa.update(expirations).values(project_id=project_id))
        else:
            # A page and a half of some rule's, and as much of some user's.
            for column in (expirations.c.rule, expirations.c.user_id):
                connection.execute(
                    sa.update(expirations)
                    .where(expirations.c.server_id.in_(_some(connection, 150)))
                    .values({column: _RARE})
                )
        count = connection.scalar(sa.select(sa.func.count()).select_from(expirations)) or 0
    client = application.test_client()

    def ask(shown: int, **query: str) -> list[float]:
        query |= {"limit": "100"} if one_project else {"limit": "100", "all_projects": "1"}
        seconds = []
        for _ in range(times + 1):
            with _Stopwatch() as watch:
                answer = client.get("/v1/vm-expirations", query_string=query, headers=headers)
            assert answer.status_code == 200, answer.json
            assert len(answer.json["vm_expirations"]) == shown
            seconds.append(watch.seconds)
        # The first connects, and loads what is loaded once.
        return seconds[1:]

    found = {}
    for sort_key, column in listing.SORT_KEYS.items():
        for depth in (0, 50, 99):
            offset = count * depth // 100
            with tools.database.begin() as connection:
                marker = connection.scalar(
                    sa.select(expirations.c.server_id)
                    .order_by(column, expirations.c.server_id)
                    .offset(offset)
                    .limit(1)
                )
            shown = min(100, count - offset - 1)
            found[f"{sort_key}, {depth} % deep"] = ask(shown, sort_key=sort_key, marker=marker)
    if not one_project:
        few = min(100, count)
        found["a rare rule"] = ask(few, rule=_RARE)
        found["a user with few"] = ask(few, user_id=_RARE)
    Reading.of(application).close()
    cfg.CONF.reset()
    tools.database.engine.dispose()
    return found


def _some(connection: sa.Connection, number: int) -> list[str]:
    """Return UUIDs of some VMs."""
    return list(connection.scalars(sa.select(expirations.c.server_id).limit(number)))


def end_all(options: pathlib.Path, ends_in: datetime.timedelta) -> None:
    """Give all leases the same end, of which their owners were told five days ago."""
    tools = assemble(read_options(options))
    now = lifecycle.floor_minute(tools.clock())
    crowds.end_together(tools.database, now + ends_in, now - datetime.timedelta(days=5))
    tools.database.engine.dispose()


def burst(options: pathlib.Path, servers: int, paced: bool) -> dict[str, float]:
    """Deal with the ends of all VMs, which are due.

    What Blazar's manager has in hand at that moment is left to steps of its own, here as always.

    :param paced: whether the brake's pace is kept.
    :returns: ``seconds``; how many were ``taken``, ``moved``, and ``left``.
    """
    conf = read_options(options)
    conf.set_override("enabled", paced, group="vmexpire_brake")
    tools = assemble(conf)
    x = expirations.c
    taken = moved = 0
    with _Stopwatch() as watch:
        while (result := bursts.Bursts(tools).run()) != bursts.Result():
            taken += result.taken
            moved += result.moved
    with tools.database.begin() as connection:
        left = connection.scalar(
            sa.select(sa.func.count()).where(
                x.state == lifecycle.State.NOTICED, x.ends_at <= tools.clock()
            )
        )
        closed = connection.scalar(
            sa.select(sa.func.count())
            .select_from(expirations.join(LEASES, LEASES.c.id == x.lease_id))
            .where(x.state == lifecycle.State.ENDING, LEASES.c.status == "TERMINATED")
        )
    assert (taken + moved + left, closed) == (servers, taken), (taken, moved, left, closed)
    tools.database.engine.dispose()
    return {"seconds": watch.seconds, "taken": taken, "moved": moved, "left": left}


def end_by_engine(options: pathlib.Path, leases: int) -> float:
    """Have Blazar's own engine end some leases, with our plug-in's hooks.

    :returns: seconds.
    """
    tools = assemble(read_options(options))
    past = lifecycle.floor_minute(tools.clock())
    some = sa.select(LEASES.c.id).order_by(LEASES.c.id).limit(leases).subquery()
    with tools.database.begin() as connection:
        ids = connection.scalars(sa.select(some)).all()
        connection.execute(
            sa.update(EVENTS)
            .where(EVENTS.c.lease_id.in_(ids), EVENTS.c.event_type == "end_lease")
            .values(time=past)
        )
    manager = _make_manager(options)
    with _Stopwatch() as watch:
        manager._process_events()
    with tools.database.begin() as connection:
        ended = connection.scalar(
            sa.select(sa.func.count()).where(
                LEASES.c.id.in_(ids), LEASES.c.status == blazar_status.lease.TERMINATED
            )
        )
    assert ended == leases, f"Blazar ended {ended} leases of {leases}"
    _forget_manager()
    tools.database.engine.dispose()
    return watch.seconds


def run_engine(options: pathlib.Path) -> None:
    """Be a manager whose engine ticks every ten seconds, until this process is ended."""
    manager = _make_manager(options)
    while True:
        began = time.monotonic()
        manager._process_events()
        time.sleep(max(0.0, began + 10 - time.monotonic()))


def _make_manager(options: pathlib.Path) -> Any:
    """Make Blazar's manager with our plug-in, whose worker does not run."""
    opts.register_opts(cfg.CONF)
    cfg.CONF(["--config-file", str(options)], project="blazar", default_config_dirs=[])
    db_options.set_defaults(cfg.CONF)
    facade_wrapper._clear_engine()
    notifier.init()
    if rpc.TRANSPORT is None:
        rpc.TRANSPORT = make_transport(cfg.CONF)
    manager = blazar_manager.ManagerService()
    assert manager.plugins, "the plug-in was not loaded: see the log"
    return manager


def _forget_manager() -> None:
    notifier.cleanup()
    # The transport stays: Blazar's API modules keep clients of the first that they see, and those
    # got no answers any more once a manager listened on another one.
    facade_wrapper._get_facade().writer.get_engine().dispose()
    facade_wrapper._clear_engine()
    cfg.CONF.reset()


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
