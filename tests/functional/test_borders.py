# SPDX-License-Identifier: Apache-2.0
"""Nova, Glance, Keystone and the mail server break, as seen through real connections to them."""

from __future__ import annotations

import collections
import datetime
import itertools
import random
from datetime import timedelta

import pytest
import sqlalchemy as sa

from blazar_vmexpire.db.models import expirations
from tests.crowds import end_together
from tests.fault_proxy import (
    CUT,
    DROP,
    HANG,
    LOST,
    REFUSE,
    RESET,
    Fault,
    always,
    at_random,
    exchanges,
    page,
    truncate,
)
from tests.functional.borders import Borders, Ways
from tests.functional.broken_ends import OPTIONS, assert_ended, break_each
from tests.functional.world import World

# What is tried here lies between us and the services; the database has a file of its own.
pytestmark = pytest.mark.databases("sqlite")

SERVICES = ["nova", "glance", "keystone", "smtp"]

#: The second is cut in its body.
FAULTS = [LOST, truncate(300), page(503)]
#: The same in other words, or less; truncated in its first line.
MORE_FAULTS = [DROP, RESET, CUT, truncate(5), page(500)]


@pytest.fixture
def ways(borders: Borders) -> Ways:
    """Our plug-in goes through the proxies."""
    return borders.ways


def the_end(world: World, server_id: str) -> datetime.datetime:
    """Return when a VM's lease ends, according to us and to Blazar."""
    found = world.row(server_id).ends_at
    assert found is not None
    assert world.lease(server_id).end_date == found
    return found


def told_at(world: World, server_id: str) -> datetime.datetime:
    """Return when the first notice of a VM's end was accepted."""
    return min(
        notice.accepted_at
        for notice in world.notices(server_id)
        if notice.kind.startswith("reminder/") and notice.accepted_at is not None
    )


@pytest.mark.sampled(4)
@pytest.mark.options(OPTIONS)
@pytest.mark.parametrize(
    "fault",
    [*FAULTS, *(pytest.param(fault, marks=pytest.mark.long) for fault in MORE_FAULTS)],
    ids=lambda fault: f"{fault.name} {fault.received or ''}".strip(),
)
@pytest.mark.parametrize(
    ("border", "least", "most"),
    # Over a connection that was kept from the last mail four exchanges are enough.
    [("nova", 12, 16), ("glance", 3, 6), ("keystone", 1, 5), ("smtp", 4, 10)],
)
def test_each_exchange_of_an_end_fails(
    world: World, borders: Borders, border: str, least: int, most: int, fault: Fault
) -> None:
    # The mail server may have taken a mail whose taking it could not tell us.
    repeated = border == "smtp" and fault.sent is None
    assert break_each(world, borders[border], fault, b"", most, repeated=repeated) >= least


#: With everything that is done to a VM, and tries that are not many.
WHOLE = {
    "virtual:vm": {"on_end_action": "snapshot", "quarantine": "1d"},
    "vmexpire_worker": {"retry_interval": "1m", "retry_max_interval": "10m"},
}


@pytest.mark.sampled(2)
@pytest.mark.options(WHOLE)
@pytest.mark.options({"vmexpire_mail": {"timeout": "1s"}})
@pytest.mark.options({"vmexpire_cloud": {"request_timeout": "1s"}})
@pytest.mark.parametrize(
    "fault",
    [REFUSE, *(pytest.param(fault, marks=pytest.mark.long) for fault in (HANG, LOST))],
    ids=lambda fault: fault.name,
)
@pytest.mark.parametrize("border", SERVICES)
def test_a_life_with_a_border_broken_for_a_while_at_each_stage(
    world: World, borders: Borders, border: str, fault: Fault
) -> None:
    """Short of a minimum_notice nothing moves, and nothing is done early, late, or not at all."""
    # A second of real time for each exchange that hangs.
    hit = exchanges(range(1, 2)) if fault == HANG else always
    proxy = borders[border]
    with proxy.broken(fault, hit):
        server_id = world.adopt()
        world.live(world.clock.now() + timedelta(minutes=2))
    world.live(world.clock.now() + timedelta(minutes=20))
    end = the_end(world, server_id)
    for days in (10, 3, 2, 1, 0):
        world.live(end - timedelta(days=days, minutes=1))
        stopped = "stopped" if days == 0 else "active"
        assert world.cloud.compute.vms[server_id].vm_state == stopped
        with proxy.broken(fault, hit):
            world.live(world.clock.now() + timedelta(minutes=4))
    assert the_end(world, server_id) == end
    world.live(end + timedelta(minutes=40))
    assert_ended(world, server_id, repeated=True)
    assert the_end(world, server_id) == end
    assert told_at(world, server_id) <= end - timedelta(days=3)
    sent = collections.Counter(mail["Message-ID"] for mail in world.mails)
    assert set(sent) == {notice.message_id for notice in world.notices(server_id)}
    if not (border == "smtp" and fault == LOST):
        assert set(sent.values()) == {1}
    if fault != REFUSE:
        assert proxy.done[fault.name]


@pytest.mark.options(WHOLE)
@pytest.mark.parametrize("seed", [1, *(pytest.param(n, marks=pytest.mark.long) for n in (2, 3, 4))])
def test_lives_with_every_border_broken_at_random(
    world: World, borders: Borders, seed: int
) -> None:
    generator = random.Random(seed)
    for proxy in borders.services:
        for fault in (*FAULTS, *MORE_FAULTS):
            proxy.break_(fault, at_random(generator, 0.03))
    servers = [world.boot(f"vm{n}") for n in range(3)]
    for server_id in servers:
        world.see(server_id)
    world.live(world.clock.now() + timedelta(hours=4))
    ends = {server_id: the_end(world, server_id) for server_id in servers}
    world.live(min(ends.values()) - timedelta(days=1, minutes=1))
    assert {world.cloud.compute.vms[s].vm_state for s in servers} == {"active"}
    world.live(min(ends.values()) - timedelta(minutes=1))
    assert set(servers) <= set(world.cloud.compute.vms)
    world.live(max(ends.values()) + timedelta(minutes=10))
    borders.mend()
    world.live(world.clock.now() + timedelta(hours=2))
    for server_id in servers:
        assert_ended(world, server_id, repeated=True)
        assert told_at(world, server_id) <= ends[server_id] - timedelta(days=3)
        assert the_end(world, server_id) == ends[server_id]
    assert sum(sum(proxy.done.values()) for proxy in borders.services) > 10


@pytest.mark.options({"virtual:vm": {"on_end_action": "snapshot"}})
def test_nova_that_cannot_make_images_for_hours(world: World, borders: Borders) -> None:
    """As when its own way to Glance is broken: not one image has failed by that."""
    server_id = world.adopt()
    end = the_end(world, server_id)
    world.live(end - timedelta(minutes=1))
    world.clock.set(end)
    while world.cloud.compute.vms[server_id].vm_state != "stopped":
        world.harness.work()
        world.clock.advance(seconds=2)
    with borders.nova.broken(page(503), exchanges(range(1, 1000), b"^POST .*/action")):
        world.settle()
        world.live(end + timedelta(hours=6))
        assert borders.nova.done["page 503"] > 10
        assert world.state(server_id) == "ending"
    world.live(world.clock.now() + timedelta(hours=1))
    assert_ended(world, server_id, repeated=False)


# For days ----------------------------------------------------------------------------------------

#: The notice is sent 2 days and 12 hours before the end.
SHORT_NOTICE = pytest.mark.options(
    {
        "virtual:vm": {"on_end_action": "snapshot", "hours_before_end_lease": 60},
        "vmexpire_worker": {"retry_max_interval": "4h"},
    }
)


@pytest.mark.sampled(4)
@SHORT_NOTICE
@pytest.mark.parametrize("border", SERVICES)
def test_three_days_without_it_around_the_notice(
    world: World, borders: Borders, border: str
) -> None:
    """Who could not be told has a minimum_notice from when they are; the others keep their end."""
    server_id = world.adopt()
    end = the_end(world, server_id)
    world.live(end - timedelta(days=3, hours=12))
    with borders[border].broken(REFUSE):
        world.live(end - timedelta(hours=12))
        assert world.cloud.compute.vms[server_id].vm_state == "active"
        needed = border in ("keystone", "smtp")
        assert bool(world.mails) != needed
    world.live(world.clock.now() + timedelta(hours=5))
    assert set(world.recipients()) == {"alice@example.org"}
    assert len(world.mails) == len({mail["Message-ID"] for mail in world.mails})
    moved = the_end(world, server_id)
    if needed:
        spare = moved - told_at(world, server_id) - timedelta(days=2)
        assert timedelta(0) <= spare <= timedelta(hours=2, minutes=1)
    else:
        assert moved == end
    world.live(moved - timedelta(minutes=1))
    assert world.cloud.compute.vms[server_id].vm_state == "active"
    world.live(moved + timedelta(minutes=30))
    assert_ended(world, server_id, repeated=False)


@SHORT_NOTICE
@pytest.mark.parametrize(
    "border",
    ["glance", *(pytest.param(b, marks=pytest.mark.long) for b in ("nova", "keystone", "smtp"))],
)
def test_three_days_without_it_around_the_end(world: World, borders: Borders, border: str) -> None:
    """Its owner was told: the end is done when it can be, and its date stays."""
    server_id = world.adopt()
    end = the_end(world, server_id)
    world.live(end - timedelta(days=1))
    with borders[border].broken(REFUSE):
        world.live(end - timedelta(minutes=1))
        assert world.cloud.compute.vms[server_id].vm_state == "active"
        world.live(end + timedelta(days=2))
        assert (server_id in world.cloud.compute.vms) == (border in ("nova", "glance"))
        told = [mail for mail in world.mails if "has been" in mail["Subject"]]
        # Keystone was asked for the owner a moment before: that is known for a while.
        assert bool(told) == (border == "keystone")
    world.live(world.clock.now() + timedelta(hours=5))
    assert_ended(world, server_id, repeated=False)
    assert the_end(world, server_id) == end


# No storm on return ------------------------------------------------------------------------------

VMS = 100
LONGEST = timedelta(hours=2)

STORM = pytest.mark.options(
    {
        "virtual:vm": {"on_end_action": "delete", "adoption_spread": "0s"},
        "vmexpire_brake": {"enabled": False},
        "vmexpire_worker": {"retry_interval": "1h", "retry_max_interval": "2h"},
    }
)


def crowd(world: World) -> None:
    """Take VMs in, all with the same end."""
    for number in range(VMS):
        world.boot(f"vm{number}")
    world.harness.work()


def waits(world: World, dates: list[datetime.datetime]) -> list[timedelta]:
    """Check that dates are spread over the latter half of the longest wait, as chance would."""
    found = sorted(date - world.clock.now() for date in dates)
    assert len(found) == VMS
    assert found[-1] <= LONGEST
    # Some 17 fall into each twelfth of the two hours that has any; 40 do not by chance.
    often = collections.Counter(wait // (LONGEST / 12) for wait in found)
    assert max(often.values()) <= VMS * 0.4
    assert len(often) >= 6
    assert len(set(found)) > VMS * 0.95
    return found


@STORM
def test_after_hours_without_nova_not_all_come_back_at_once(world: World, borders: Borders) -> None:
    crowd(world)
    now = world.clock.now()
    world.clock.advance(days=60)
    end_together(world.harness.database, world.clock.now(), now)
    with borders.nova.broken(REFUSE):
        for _ in range(3):
            world.harness.work()
            world.clock.advance(hours=2)
        world.harness.work()
    assert {row.state for row in world.rows()} == {"noticed"}
    waits(world, [row.next_at for row in world.rows() if row.next_at is not None])
    gone = [len(world.cloud.compute.vms)]
    until = world.clock.now() + LONGEST
    while world.clock.now() < until:
        world.clock.advance(minutes=20)
        world.harness.work()
        gone.append(len(world.cloud.compute.vms))
    world.live(until + timedelta(minutes=5))
    assert world.cloud.compute.vms == {}
    assert max(before - after for before, after in itertools.pairwise(gone)) <= VMS / 2


@pytest.mark.long
@STORM
def test_after_hours_without_a_mail_server_each_mail_is_sent_once(
    world: World, borders: Borders
) -> None:
    crowd(world)
    x = expirations.c
    with world.harness.database.begin() as connection:
        (end,) = set(connection.scalars(sa.select(x.ends_at)))
    world.clock.set(end - timedelta(days=10))
    with borders.smtp.broken(REFUSE):
        for _ in range(3):
            world.harness.work()
            world.clock.advance(hours=2)
        world.harness.work()
    assert world.mails == []
    waits(world, [row.next_at for row in world.rows() if row.next_at is not None])
    sent = [0]
    until = world.clock.now() + LONGEST
    while world.clock.now() < until:
        world.clock.advance(minutes=20)
        world.harness.work()
        sent.append(len(world.mails))
    assert max(after - before for before, after in itertools.pairwise(sent)) <= VMS / 2
    assert len(world.mails) == len({mail["Message-ID"] for mail in world.mails}) == VMS
    assert {row.ends_at for row in world.rows()} == {end}
