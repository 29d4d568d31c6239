# SPDX-License-Identifier: Apache-2.0
"""The connection to the database breaks: at any statement, at random, for days."""

from __future__ import annotations

import collections
import time
from collections.abc import Iterator
from datetime import timedelta

import oslo_db.api
import pytest
import sqlalchemy as sa

from blazar_vmexpire.db.models import expirations
from tests.crowds import end_together
from tests.fault_proxy import CUT, LOST, RESET, Fault, exchange
from tests.functional.borders import Borders, Ways
from tests.functional.world import World

pytestmark = [
    pytest.mark.options(
        {
            "virtual:vm": {"on_end_action": "snapshot"},
            "vmexpire_brake": {"enabled": False},
            "vmexpire_worker": {"retry_interval": "5s", "retry_max_interval": "5s"},
        }
    ),
    # SQLite has no connection that could break.
    pytest.mark.databases("mariadb", "postgresql"),
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


def crowd(world: World, number: int) -> Iterator[str]:
    """Take VMs in, whose ends are due; and give them out one by one, while the others wait."""
    servers = [world.boot(f"vm{n}") for n in range(number)]
    world.harness.work()
    now = world.clock.now()
    world.clock.advance(days=60)
    end_together(world.harness.database, world.clock.now(), now)
    never = world.clock.now() + timedelta(days=3650)
    world.wreck(expirations, sa.true(), next_at=never)
    for server_id in servers:
        world.wreck(expirations, expirations.c.server_id == server_id, next_at=world.clock.now())
        yield server_id


def run_off(world: World, server_id: str) -> None:
    """Let the worker, and nothing else, work until a VM's expiration is at rest."""
    worker = world.harness.plugin.service.worker
    for _ in range(60):
        worker.work_off(1)
        row = world.row(server_id)
        if row.next_at is None:
            return
        later = max(row.next_at, row.claimed_until or row.next_at) + timedelta(seconds=1)
        world.clock.set(max(world.clock.now(), later))
    raise AssertionError(f"it does not come to rest: {row}")


def assert_ended(world: World, server_id: str, borders: Borders, twice: bool = False) -> None:
    """Check that a VM ended once, with its image, and that nothing is left over.

    :param twice: whether a mail may have been repeated.
    """
    row = world.row(server_id)
    assert row.state == "deleted", (row, world.events(server_id))
    assert row.claimed_by is None
    asked = [
        request.status
        for request in world.cloud.requests(rf"/compute/v2.1/servers/{server_id}$", "DELETE")
    ]
    assert asked.count(204) == 1
    assert server_id not in world.cloud.compute.vms
    images = [
        image
        for image in world.cloud.image.images.values()
        if image["vmexpire_server_id"] == server_id
    ]
    assert [(i["status"], i["owner"]) for i in images] == [("active", world.alpha)]
    events = collections.Counter(world.events(server_id))
    assert events["end_begun"] == 1
    assert events["deleted"] == 1
    assert world.lease(server_id).status == "TERMINATED"
    (ended,) = [n for n in world.notices(server_id) if n.kind == "ended"]
    assert ended.accepted_at is not None
    sent = [mail["Message-ID"] for mail in world.mails].count(ended.message_id)
    assert 1 <= sent <= (2 if twice else 1)


def break_each(world: World, borders: Borders, fault: Fault, what: bytes, most: int) -> int:
    """End a VM with a break at the first of such exchanges, one at the second, until none is left.

    :returns: how many there were.
    """
    proxy = borders.database
    assert proxy is not None
    repeated = 0
    for number, server_id in enumerate(crowd(world, most), 1):
        before, mails = proxy.done[fault.name], len(world.mails)
        with proxy.broken(fault, exchange(number, what)):
            run_off(world, server_id)
        assert_ended(world, server_id, borders, twice=True)
        repeated += len(world.mails) - mails - 1
        if proxy.done[fault.name] == before:
            # Where the commit of a mail's acceptance is what breaks, and nowhere else.
            assert repeated <= 1
            return number - 1
    raise AssertionError(f"an end takes more than {most} of these")


def test_the_answer_to_each_commit_of_an_end_is_lost(world: World, borders: Borders) -> None:
    """What was to be committed is, but the worker is told that it is not."""
    assert break_each(world, borders, LOST, COMMIT, 80) > 20


@pytest.mark.long
@pytest.mark.parametrize("fault", [RESET, CUT, LOST], ids=lambda fault: fault.name)
def test_the_connection_breaks_at_each_statement_of_an_end(
    world: World, borders: Borders, fault: Fault
) -> None:
    """Before it, in the middle of it, and when it has been executed."""
    assert break_each(world, borders, fault, STATEMENT, 200) > 80
