# SPDX-License-Identifier: Apache-2.0
"""A VM that an administrator holds: its clock stops, and goes on when the hold is over."""

from __future__ import annotations

import concurrent.futures
import datetime
import threading
from datetime import timedelta

import pytest

from blazar_vmexpire import holds, lifecycle
from blazar_vmexpire.db import holds as rows
from blazar_vmexpire.db.api import Expiration
from blazar_vmexpire.db.engine import retried
from blazar_vmexpire.db.holds import Hold
from blazar_vmexpire.db.models import expirations
from blazar_vmexpire.exceptions import ClaimLost
from blazar_vmexpire.holds import Refused
from blazar_vmexpire.retention import Retention
from blazar_vmexpire.worker import claims
from blazar_vmexpire.worker.bursts import Bursts
from blazar_vmexpire.worker.claims import Claims
from tests.functional.world import World

SQLITE = pytest.mark.databases("sqlite")
QUARANTINE = pytest.mark.options({"virtual:vm": {"quarantine": "7d"}})

#: minimum_notice, and the margin that it is given.
NOTICE = timedelta(days=2, hours=2)


def hold(world: World, server_id: str, **length: float) -> datetime.datetime:
    """Have an administrator hold a VM, and say until when."""
    until = lifecycle.floor_minute(world.clock.now()) + timedelta(**length)

    @retried
    def act() -> None:
        with world.harness.database.begin() as connection:
            holds.hold(
                connection,
                server_id,
                until=until,
                reason="it is looked into",
                ticket="INC-7",
                author="root",
                book=world.harness.plugin.tools.book,
                now=world.clock.now(),
            )

    act()
    return until


def release(world: World, server_id: str) -> Expiration | None:
    """Have an administrator release it."""
    with world.harness.database.begin() as connection:
        return holds.release(
            connection,
            server_id,
            reason="all is well",
            author="root",
            book=world.harness.plugin.tools.book,
            now=world.clock.now(),
        )


def held(world: World, server_id: str) -> Hold | None:
    """Return the hold on a VM."""
    with world.harness.database.begin() as connection:
        return rows.get(connection, server_id)


def end_of(world: World, server_id: str) -> datetime.datetime:
    """Say when its lease ends: in our row and in Blazar's."""
    ends_at = world.row(server_id).ends_at
    assert ends_at is not None
    assert world.lease(server_id).end_date == ends_at
    return ends_at


def before_end(world: World, server_id: str, **duration: float) -> None:
    """Let time pass until so long before its end."""
    world.live(end_of(world, server_id) - timedelta(**duration))


def is_its_owners(world: World, server_id: str) -> None:
    """Check that a VM runs and can be used."""
    vm = world.cloud.compute.vms[server_id]
    assert (vm.vm_state, vm.locked) == ("active", False)
    assert world.lease(server_id).status == "ACTIVE"


# The hold itself ----------------------------------------------------------------------------------


@SQLITE
def test_across_the_end_that_it_had(world: World) -> None:
    """One mail, that its end is off; then its owner is told anew, and it ends as any other."""
    server_id = world.adopt()
    before_end(world, server_id, days=5)
    old_end, mails = end_of(world, server_id), len(world.mails)
    assert (world.state(server_id), mails) == ("noticed", 1)

    until = hold(world, server_id, days=100)
    assert world.state(server_id) == "held"
    assert end_of(world, server_id) == until + NOTICE
    assert world.row(server_id).next_at == world.clock.now()
    world.live(until - timedelta(minutes=1))
    assert (world.state(server_id), len(world.mails)) == ("held", mails + 1)
    is_its_owners(world, server_id)

    world.live(until + timedelta(hours=1))
    assert (world.state(server_id), len(world.mails)) == ("noticed", mails + 2)
    assert held(world, server_id) is None
    assert end_of(world, server_id) == until + NOTICE
    before_end(world, server_id, minutes=5)
    assert server_id in world.cloud.compute.vms
    world.live(until + NOTICE + timedelta(hours=1))
    assert server_id not in world.cloud.compute.vms

    history = dict(world.history(server_id))
    assert history["held"] == {
        "reason": "it is looked into",
        "ticket": "INC-7",
        "until": until.isoformat(),
        "old_end": old_end.isoformat(),
        "new_end": (until + NOTICE).isoformat(),
    }
    assert history["released"]["reason"] == "the hold is over"


@SQLITE
def test_blazars_own_engine_cannot_end_it_either(world: World) -> None:
    """Not even with none of our workers there: the lease moved with the hold."""
    server_id = world.adopt()
    before_end(world, server_id, minutes=1)
    until = hold(world, server_id, days=3)
    for _ in range(6):
        world.clock.advance(hours=12)
        world.harness.tick()
    assert world.clock.now() > until - timedelta(minutes=1)
    is_its_owners(world, server_id)


@SQLITE
def test_the_end_that_it_had_stays_when_it_is_later(world: World) -> None:
    server_id = world.adopt()
    old_end = end_of(world, server_id)
    until = hold(world, server_id, days=10)
    assert end_of(world, server_id) == old_end
    world.live(until + timedelta(hours=1))
    assert (world.state(server_id), end_of(world, server_id)) == ("active", old_end)


@SQLITE
@QUARANTINE
def test_a_quarantined_vm_is_given_back_first(world: World) -> None:
    world.cloud.compute.reads = 3
    server_id = world.adopt()
    before_end(world, server_id, days=6)
    vm = world.cloud.compute.vms[server_id]
    world.cloud.compute.settle(server_id)
    assert (vm.vm_state, vm.locked) == ("stopped", True)

    until = hold(world, server_id, days=30)
    assert world.state(server_id) == "reviving"
    world.live(world.clock.now() + timedelta(minutes=5))
    assert world.state(server_id) == "held"
    is_its_owners(world, server_id)
    assert end_of(world, server_id) == until + timedelta(days=7) + NOTICE
    assert "clock_stopped" in world.events(server_id)
    world.live(until - timedelta(minutes=1))
    assert world.state(server_id) == "held"
    is_its_owners(world, server_id)


@SQLITE
@pytest.mark.options({"virtual:vm": {"on_end_action": "snapshot"}})
def test_an_end_that_was_begun_is_undone(world: World) -> None:
    """Its image is being made: the VM is started again, and the image removed."""
    world.cloud.image.reads = None
    server_id = world.adopt()
    old_end = end_of(world, server_id)
    world.live(old_end + timedelta(minutes=5))
    assert (world.state(server_id), len(world.cloud.image.images)) == ("ending", 1)

    until = hold(world, server_id, days=30)
    world.cloud.compute.vms[server_id].task_state = None
    world.live(world.clock.now() + timedelta(minutes=5))
    assert world.state(server_id) == "held"
    is_its_owners(world, server_id)
    assert world.cloud.image.images == {}
    assert end_of(world, server_id) == until + NOTICE

    # The end that it had is past: released, it gets one of which its owner can be told.
    release(world, server_id)
    assert end_of(world, server_id) == lifecycle.ceil_minute(world.clock.now() + NOTICE)


@SQLITE
def test_held_anew_it_has_the_new_hold(world: World) -> None:
    server_id = world.adopt()
    old_end = end_of(world, server_id)
    hold(world, server_id, days=300)
    world.settle()
    until = hold(world, server_id, days=90)
    assert end_of(world, server_id) == until + NOTICE
    world.settle()
    assert world.state(server_id) == "held"
    release(world, server_id)
    assert end_of(world, server_id) == old_end


# While it is held ---------------------------------------------------------------------------------


@SQLITE
def test_an_owner_extends_within_the_cap_and_keeps_that(world: World) -> None:
    server_id = world.adopt()
    before_end(world, server_id, days=15)
    until = hold(world, server_id, days=20)
    world.settle()
    end = world.clock.now().replace(second=0) + timedelta(days=29)

    early = world.update(server_id, end_date=until + timedelta(days=1))
    by_admin = world.update(server_id, world.as_admin, end_date=until + timedelta(days=1))
    beyond = world.update(server_id, end_date=end + timedelta(days=2))
    assert [answer.status_code for answer in (early, by_admin, beyond)] == [400] * 3
    assert f"the server is held until {until:%Y-%m-%d %H:%M} UTC" in str(early.json)
    assert end_of(world, server_id) == until + NOTICE

    assert world.update(server_id, end_date=end).status_code == 200
    world.settle()
    assert (world.state(server_id), end_of(world, server_id)) == ("held", end)
    release(world, server_id)
    assert end_of(world, server_id) == end


@SQLITE
def test_our_own_route_extends_it_too(world: World) -> None:
    server_id = world.adopt()
    before_end(world, server_id, days=15)
    hold(world, server_id, days=20)
    answer = world.as_alice.post(f"/v1/vm-expirations/{server_id}/extend", json={})
    assert (answer.status_code, answer.json["vm_expiration"]["state"]) == (200, "held")
    assert end_of(world, server_id) == world.clock.now() + timedelta(days=30)


@SQLITE
def test_its_lease_is_put_back_as_always(world: World) -> None:
    server_id = world.adopt()
    until = hold(world, server_id, days=90)
    world.settle()
    assert world.as_alice.delete(f"/v1/leases/{world.row(server_id).lease_id}").status_code == 204
    world.settle()
    assert (world.state(server_id), end_of(world, server_id)) == ("held", until + NOTICE)
    assert [notice.kind for notice in world.notices(server_id)] == ["restored"]
    assert len(world.mails) == 1


@SQLITE
def test_a_damage_is_found_by_the_audit(world: World) -> None:
    server_id = world.adopt()
    hold(world, server_id, days=90)
    world.settle()
    world.update(server_id, project_id="0" * 32)
    world.watch(minutes=2)
    assert world.lease(server_id).project_id == world.alpha
    assert world.state(server_id) == "held"


@SQLITE
def test_one_that_goes_is_let_go(world: World) -> None:
    server_id = world.adopt()
    hold(world, server_id, days=90)
    world.settle()
    world.cloud.compute.vanish(server_id)
    world.see(server_id)
    world.live(world.clock.now() + timedelta(minutes=1))
    assert world.state(server_id) == "deleted"
    assert world.all_leases() == []
    assert release(world, server_id) is not None
    assert (world.state(server_id), held(world, server_id)) == ("deleted", None)


@SQLITE
def test_one_that_was_lost_for_a_moment_is_held_again(world: World) -> None:
    server_id = world.adopt()
    until = hold(world, server_id, days=90)
    world.settle()
    text = f"Instance {server_id} could not be found."
    world.cloud.fault(rf"/servers/{server_id}$", method="GET", times=1, status=404, message=text)
    world.see(server_id)
    assert world.state(server_id) == "vanished"
    world.live(world.clock.now() + timedelta(minutes=1))
    assert (world.state(server_id), end_of(world, server_id)) == ("held", until + NOTICE)


@SQLITE
def test_out_of_scope_wins_and_the_hold_goes_on_afterwards(world: World) -> None:
    server_id = world.adopt()
    until = hold(world, server_id, days=90)
    world.settle()
    world.harness.conf.set_override("excluded_projects", [world.alpha], group="virtual:vm")
    world.see(server_id)
    assert (world.state(server_id), world.all_leases()) == ("exempt", [])
    with pytest.raises(Refused, match="is exempt: it has no clock running"):
        hold(world, server_id, days=5)

    world.live(world.clock.now() + timedelta(days=10))
    world.harness.conf.set_override("excluded_projects", [], group="virtual:vm")
    world.see(server_id)
    world.settle()
    term = world.clock.now() + timedelta(days=60)
    assert (world.state(server_id), end_of(world, server_id)) == ("held", until + NOTICE)
    release(world, server_id)
    assert end_of(world, server_id).date() == term.date()


@SQLITE
def test_neither_brake_nor_bursts_count_it(world: World) -> None:
    """Whatever its row says of its end."""
    server_id = world.adopt()
    hold(world, server_id, days=90)
    world.settle()
    past = world.clock.now() - timedelta(days=1)
    world.wreck(expirations, expirations.c.server_id == server_id, ends_at=past, next_at=None)
    tools = world.harness.plugin.tools
    result = Bursts(tools).run()
    assert (result.taken, result.moved) == (0, 0)
    with world.harness.database.begin() as connection:
        status = tools.brake.status(connection, world.clock.now())
    # It has a lease, and could go later.
    assert (status.waiting, status.known) == (0, 1)
    assert world.state(server_id) == "held"


# Releasing ----------------------------------------------------------------------------------------


@SQLITE
def test_released_early_it_has_the_end_again_that_it_had(world: World) -> None:
    server_id = world.adopt()
    old_end = end_of(world, server_id)
    hold(world, server_id, days=300)
    world.live(world.clock.now() + timedelta(days=20))

    released = release(world, server_id)
    assert released is not None
    assert (released.state, end_of(world, server_id)) == ("active", old_end)
    (entry,) = [details for event, details in world.history(server_id) if event == "released"]
    assert (entry["reason"], entry["new_end"]) == ("all is well", old_end.isoformat())
    assert release(world, server_id) is None
    before_end(world, server_id, days=9)
    assert (world.state(server_id), len(world.mails)) == ("noticed", 1)


@SQLITE
def test_released_while_it_is_given_back(world: World) -> None:
    """The undoing goes on; then its clock does."""
    world.harness.conf.set_override("quarantine", timedelta(days=7), group="virtual:vm")
    server_id = world.adopt()
    before_end(world, server_id, days=6)
    hold(world, server_id, days=30)
    released = release(world, server_id)
    assert released is not None
    assert released.state == "reviving"
    world.live(world.clock.now() + timedelta(minutes=5))
    is_its_owners(world, server_id)
    assert world.state(server_id) in ("active", "noticed")


@SQLITE
def test_a_hold_that_was_over_long_ago_leaves_time_to_tell(world: World) -> None:
    """All workers were away meanwhile; Blazar's engine was not."""
    server_id = world.adopt()
    until = hold(world, server_id, days=90)
    world.settle()
    world.clock.set(until + timedelta(days=30))
    for _ in range(3):
        world.harness.tick()
    world.settle()
    is_its_owners(world, server_id)
    assert end_of(world, server_id) > world.clock.now() + timedelta(days=2)
    assert len(world.mails) == 1


# What is refused ----------------------------------------------------------------------------------


@SQLITE
def test_what_cannot_be_held(world: World) -> None:
    building = world.boot(vm_state="building")
    world.see(building)
    server_id = world.adopt()
    for wrong, words in (
        (building, "is not one of those that expire"),
        ("11111111-1111-4111-8111-111111111111", "is not one of those that expire"),
    ):
        with pytest.raises(Refused, match=words):
            hold(world, wrong, days=5)
    with pytest.raises(Refused, match="has passed: a hold must end in the future"):
        hold(world, server_id, days=-1)
    assert held(world, server_id) is None


@SQLITE
def test_one_that_is_being_deleted_is_gone(world: World) -> None:
    world.cloud.compute.reads = None
    server_id = world.adopt()
    world.live(end_of(world, server_id) + timedelta(minutes=1))
    assert world.row(server_id).progress["irreversible"]
    with pytest.raises(Refused, match="is being deleted"):
        hold(world, server_id, days=5)
    assert held(world, server_id) is None


# Races --------------------------------------------------------------------------------------------


def test_a_step_that_is_under_way_cannot_be_finished_any_more(world: World) -> None:
    server_id = world.adopt()
    before_end(world, server_id, days=5)
    world.clock.set(end_of(world, server_id))
    tools = world.harness.plugin.tools
    (row,) = Claims(tools.database, world.clock.now, timedelta(minutes=2)).claim(1)
    hold(world, server_id, days=5)
    with tools.database.begin() as connection, pytest.raises(ClaimLost):
        claims.write(connection, row, progress={"irreversible": True})
    assert end_of(world, server_id) == world.clock.now() + timedelta(days=5) + NOTICE


@pytest.mark.databases("mariadb", "postgresql")
def test_of_two_at_one_moment_the_last_one_counts(world: World) -> None:
    server_id = world.adopt()
    barrier = threading.Barrier(2)

    def act(days: int) -> datetime.datetime:
        barrier.wait()
        return hold(world, server_id, days=days)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        asked = list(pool.map(act, [90, 120]))
    there = held(world, server_id)
    assert there is not None
    assert there.until in asked
    assert end_of(world, server_id) == there.until + NOTICE
    assert world.events(server_id).count("held") == 2


@SQLITE
def test_goes_with_what_is_kept_of_the_vm(world: World) -> None:
    server_id = world.adopt()
    hold(world, server_id, days=90)
    world.settle()
    world.cloud.compute.vanish(server_id)
    world.see(server_id)
    world.live(world.clock.now() + timedelta(days=1))
    later = world.clock.now() + timedelta(days=1)
    assert Retention(world.harness.plugin.tools.database).purge_vms(later, lambda _: None) == 1
    assert held(world, server_id) is None
