# SPDX-License-Identifier: Apache-2.0
"""The ends of many VMs, one after the other, a border broken at another moment of each."""

from __future__ import annotations

import collections
from collections.abc import Iterator
from datetime import timedelta

import sqlalchemy as sa

from blazar_vmexpire.db.models import expirations
from tests.crowds import end_together
from tests.fault_proxy import Fault, FaultProxy, exchange
from tests.functional.world import World

#: Options with which an end is that of a VM alone, and a try follows soon on one that failed.
OPTIONS = {
    "virtual:vm": {"on_end_action": "snapshot"},
    "vmexpire_brake": {"enabled": False},
    "vmexpire_worker": {"retry_interval": "5s", "retry_max_interval": "5s"},
}


def break_each(
    world: World,
    proxy: FaultProxy,
    fault: Fault,
    matching: bytes,
    most: int,
    *,
    repeated: bool = False,
) -> int:
    """End a VM with a fault at its first exchange, one at the second, until none is left.

    Of each it is checked that it ended once, with its image, and that nothing is left over.

    :param matching: a regex for the exchanges that are meant.
    :param most: how many these are at most.
    :param repeated: whether a mail may be sent twice by that.
    :returns: how many they were.
    """
    for number, server_id in enumerate(_in_turn(world, most + 1)):
        before = proxy.done[fault.name]
        with proxy.broken(fault, exchange(number + 1, matching)):
            _run_off(world, server_id)
        hit = proxy.done[fault.name] > before
        try:
            assert_ended(world, server_id, repeated=repeated)
        except AssertionError as error:
            raise AssertionError(f"{fault.name} at exchange {number + 1}: {error}") from error
        if not hit:
            return number
    raise AssertionError(f"an end takes more than {most} of these exchanges")


def assert_ended(world: World, server_id: str, *, repeated: bool) -> None:
    """Check that a VM ended once, with its image, and that nothing is left over.

    :param repeated: whether one mail may have been sent twice.
    """
    row = world.row(server_id)
    assert row.state == "deleted", (row, world.events(server_id))
    assert row.next_at is None
    assert row.claimed_by is None
    assert server_id not in world.cloud.compute.vms
    deletions = world.cloud.requests(rf"/compute/v2.1/servers/{server_id}$", "DELETE")
    assert [request.status for request in deletions].count(204) == 1
    images = [
        image
        for image in world.cloud.image.images.values()
        if image["vmexpire_server_id"] == server_id
    ]
    assert [(i["status"], i["owner"]) for i in images] == [("active", world.alpha)]
    events = collections.Counter(world.events(server_id))
    assert (events["end_begun"], events["deleted"]) == (1, 1)
    assert world.lease(server_id).status == "TERMINATED"
    (ended,) = [n for n in world.notices(server_id) if n.kind == "ended"]
    assert ended.accepted_at is not None
    sent = collections.Counter(mail["Message-ID"] for mail in world.mails)
    assert 1 <= sent[ended.message_id] <= (2 if repeated else 1)


def _in_turn(world: World, number: int) -> Iterator[str]:
    """Take VMs in whose ends are due, and give them out one by one, while the others wait."""
    servers = [world.boot(f"vm{n}") for n in range(number)]
    world.harness.work()
    told_at = world.clock.now()
    world.clock.advance(days=60)
    end_together(world.harness.database, world.clock.now(), told_at)
    world.wreck(expirations, sa.true(), next_at=world.clock.now() + timedelta(days=3650))
    for server_id in servers:
        world.wreck(expirations, expirations.c.server_id == server_id, next_at=world.clock.now())
        yield server_id


def _run_off(world: World, server_id: str) -> None:
    """Let the worker, and nothing else, work until a VM's expiration is at rest."""
    worker = world.harness.plugin.service.worker
    for _ in range(60):
        worker.work_off(1)
        row = world.row(server_id)
        if row.next_at is None and row.claimed_by is None:
            return
        due = [date for date in (row.next_at, row.claimed_until) if date is not None]
        world.clock.set(max([world.clock.now(), *due]) + timedelta(seconds=1))
    raise AssertionError(f"it does not come to rest: {row}")
