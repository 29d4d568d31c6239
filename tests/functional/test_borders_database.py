# SPDX-License-Identifier: Apache-2.0
"""The connection to the database breaks: at any statement, at random, for days."""

from __future__ import annotations

import collections
import random
import time
from datetime import timedelta

import oslo_db.api
import pytest
import sqlalchemy as sa
from oslo_db.exception import DBConnectionError

from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db.models import expirations
from tests.crowds import end_together
from tests.fault_proxy import CUT, LOST, REFUSE, RESET, Fault, Moment, at_random, page
from tests.functional.borders import Borders, Ways
from tests.functional.broken_ends import OPTIONS, assert_ended, break_each
from tests.functional.worker_process import wait_until
from tests.functional.world import World

pytestmark = [
    pytest.mark.options(OPTIONS),
    # SQLite has no connection that could break.
    pytest.mark.databases("mariadb", "postgresql"),
    pytest.mark.one_server,
]

#: What is of interest: not what a connection is tried and prepared with, each time it is used.
STATEMENT = rb"^.{4,5}(?!SELECT 1\0)(SELECT|INSERT|UPDATE|DELETE|COMMIT)"
COMMIT = rb"^.{4,5}COMMIT"


@pytest.fixture
def ways(borders: Borders) -> Ways:
    """Our plug-in goes through the proxies."""
    return borders.ways


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let oslo.db wait for 5 ms before it tries again, instead of seconds of real time."""

    class Shortly:
        @staticmethod
        def sleep(seconds: float) -> None:
            time.sleep(min(seconds, 0.005))

    monkeypatch.setattr(oslo_db.api, "time", Shortly)


def test_the_answer_to_each_commit_of_an_end_is_lost(world: World, borders: Borders) -> None:
    """What was to be committed is, but the worker is told that it is not."""
    assert break_each(world, borders["database"], LOST, COMMIT, 60) > 20


def test_a_mail_is_not_repeated_for_a_connection_that_breaks(
    world: World, borders: Borders
) -> None:
    """That it was accepted is written by the next."""
    accepting = rb"^.{4,5}UPDATE vm_expiration_notices"
    assert break_each(world, borders["database"], RESET, accepting, 3) == 1


@pytest.mark.options({"database": {"max_retries": 10, "retry_interval": 10}})
def test_what_our_api_reads_is_there_again_as_soon_as_the_database_is(
    world: World, borders: Borders
) -> None:
    """Meanwhile the answer is 503, at once, whether there was a connection or not."""
    server_id = world.adopt()
    database, api = borders["database"], world.as_alice
    paths = ["", "/summary", f"/{server_id}", f"/{server_id}/history"]
    for _ in range(2):
        with database.broken(REFUSE):
            database.cut_all()
            began = time.monotonic()
            answers = [api.get(f"/v1/vm-expirations{path}") for path in paths]
            assert [answer.status_code for answer in answers] == [503] * len(paths)
            assert answers[0].json["error_message"] == "the database does not answer"
            assert time.monotonic() - began < 8
        answers = [api.get(f"/v1/vm-expirations{path}") for path in paths]
        assert [answer.status_code for answer in answers] == [200] * len(paths)


@pytest.mark.long
@pytest.mark.parametrize("fault", [RESET, CUT, LOST], ids=lambda fault: fault.name)
def test_the_connection_breaks_at_each_statement_of_an_end(
    world: World, borders: Borders, fault: Fault
) -> None:
    """Before it, in the middle of it, and when it has been executed."""
    assert break_each(world, borders["database"], fault, STATEMENT, 200) > 80


@pytest.mark.long
@pytest.mark.options({"virtual:vm": {"quarantine": "1d"}})
@pytest.mark.options({"vmexpire_worker": {"retry_interval": "1m", "retry_max_interval": "10m"}})
def test_lives_with_every_border_broken_at_random(world: World, borders: Borders) -> None:
    """The database too: at all that our plug-in does, its chores included."""
    generator = random.Random(5)
    database = borders["database"]
    for fault in (RESET, CUT, LOST):
        database.break_(fault, at_random(generator, 0.005))
        for proxy in borders.services:
            proxy.break_(fault, at_random(generator, 0.03))
    servers = [world.adopt("vm1"), world.adopt("vm2")]
    world.live(world.clock.now() + timedelta(hours=2))
    ends = {server_id: world.lease(server_id).end_date for server_id in servers}
    world.live(min(ends.values()) - timedelta(days=1, minutes=1))
    assert {world.cloud.compute.vms[s].vm_state for s in servers} == {"active"}
    world.live(min(ends.values()) - timedelta(minutes=1))
    assert set(servers) <= set(world.cloud.compute.vms)
    world.live(max(ends.values()) + timedelta(minutes=10))
    borders.mend()
    world.live(world.clock.now() + timedelta(hours=2))
    for server_id in servers:
        assert_ended(world, server_id, repeated=True)
        assert world.lease(server_id).end_date == ends[server_id]
        told_at = [n.accepted_at for n in world.notices(server_id) if n.accepted_at is not None]
        assert min(told_at) <= ends[server_id] - timedelta(days=3)
    assert sum(database.done.values()) >= 3


@pytest.mark.options({"virtual:vm": {"on_end_action": "delete"}})
@pytest.mark.options({"vmexpire_worker": {"claim_duration": "1h", "retry_interval": "1s"}})
@pytest.mark.options({"vmexpire_intake": {"notifications": False}})
def test_the_workers_threads_outlive_what_breaks(
    world: World, borders: Borders, caplog: pytest.LogCaptureFixture
) -> None:
    """Its real threads, at their own pace; they are at work as before when the breaks are over."""
    database, worker = borders["database"], world.harness.plugin.service.worker
    servers = [world.boot(f"vm{number}") for number in range(20)]
    world.harness.work()
    told_at = world.clock.now()
    world.clock.advance(days=60)
    end_together(world.harness.database, world.clock.now(), told_at)
    generator = random.Random(11)
    for fault in (RESET, CUT, LOST):
        database.break_(fault, at_random(generator, 0.02))
    world.harness.poll()
    names = {thread.name for thread in worker._threads}
    assert len(names) > 5
    wait_until(lambda: sum(database.done.values()) > 30, "the connection breaks often", 120)
    # Nobody can be reached for a moment, either.
    database.break_(REFUSE)
    wait_until(lambda: "Cannot claim what is due" in caplog.text, "a claim is given up", 120)
    borders.mend()

    def at_rest() -> bool:
        # What the worker was told is not its own, though it is: until that claim runs out.
        world.clock.advance(minutes=1)
        return all(row.state == "deleted" and row.next_at is None for row in world.rows())

    wait_until(at_rest, "every VM ends", 120)
    assert all(thread.is_alive() for thread in worker._threads)
    assert world.cloud.compute.vms == {}
    deleted = [r.path for r in world.cloud.requests("/servers/[^/]+$", "DELETE") if r.status == 204]
    assert sorted(path.rsplit("/", 1)[1] for path in deleted) == sorted(servers)
    sent = collections.Counter(mail["Message-ID"] for mail in world.mails)
    assert {world.notices(s)[-1].message_id for s in servers} <= set(sent)
    assert max(sent.values()) <= 3
    assert {world.lease(server_id).status for server_id in servers} == {"TERMINATED"}


@pytest.mark.options({"virtual:vm": {"hours_before_end_lease": 60}})
@pytest.mark.parametrize("days", [3.5, 1])
def test_three_days_without_a_database(world: World, borders: Borders, days: float) -> None:
    """Away when the notice is due, or when the end is: only who was not told has a later end."""
    server_id = world.adopt()
    end = world.lease(server_id).end_date
    world.live(end - timedelta(days=days))
    worker = world.harness.plugin.service.worker
    with borders["database"].broken(REFUSE):
        for _ in range(3):
            world.clock.advance(days=1)
            with pytest.raises((DBConnectionError, sa.exc.OperationalError)):
                worker.work_off()
        worker.do_duties()
    assert world.cloud.compute.vms[server_id].vm_state == "active"
    world.settle()
    told_at = min(n.accepted_at for n in world.notices(server_id) if n.accepted_at is not None)
    moved = world.lease(server_id).end_date
    if days > 3:
        spare = moved - told_at - timedelta(days=2)
        assert timedelta(0) <= spare <= timedelta(hours=2, minutes=1)
        world.live(moved - timedelta(minutes=1))
        assert world.cloud.compute.vms[server_id].vm_state == "active"
    else:
        assert moved == end
    world.live(max(moved, world.clock.now()) + timedelta(minutes=10))
    assert_ended(world, server_id, repeated=False)
    assert len(world.mails) == len({mail["Message-ID"] for mail in world.mails})


def test_a_database_that_is_restarted_is_waited_for(
    world: World, borders: Borders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the driver's error is one that oslo.db does not know as a lost connection."""
    server_id = world.boot()
    with world.harness.database.begin() as connection:
        db_api.see(connection, server_id, world.clock.now())
    waited = []

    class Meanwhile:
        @staticmethod
        def sleep(seconds: float) -> None:
            waited.append(seconds)
            if len(waited) == 3:
                borders["database"].mend()

    monkeypatch.setattr(oslo_db.api, "time", Meanwhile)
    borders["database"].break_(REFUSE)
    assert world.harness.plugin.service.worker.work_off() == 1
    assert len(waited) == 3
    assert world.state(server_id) == "active"


@pytest.mark.options({"vmexpire_intake": {"notifications": False}})
def test_a_step_whose_outcome_cannot_be_written_is_logged_and_done_again(
    world: World, borders: Borders, caplog: pytest.LogCaptureFixture
) -> None:
    """The database goes in the middle of it, and stays away for longer than is waited."""
    server_id = world.adopt()
    world.wreck(expirations, sa.true(), questions=expirations.c.questions + 1)

    def without_database(moment: Moment) -> bool:
        borders["database"].break_(REFUSE)
        return True

    borders.nova.break_(page(503), without_database)
    world.wreck(expirations, sa.true(), next_at=world.clock.now())
    world.harness.poll()
    said = f"Server {server_id}: how its step went could not be written"
    wait_until(lambda: said in caplog.text, "it is logged", 60)
    borders.mend()
    world.clock.advance(minutes=3)
    wait_until(lambda: world.row(server_id).answered == 2, "it is done again", 60)
    assert world.state(server_id) == "active"
