# SPDX-License-Identifier: Apache-2.0
"""VMs are found in Nova's list, whoever else finds them or lists them at the same moment."""

from __future__ import annotations

import concurrent.futures
import datetime
import threading
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from blazar_vmexpire import service
from blazar_vmexpire.db import api as db_api
from tests.functional.intake import (
    ANY_DATABASE,
    INTERVAL,
    MAKE_SURE,
    SMALL_PAGES,
    SPREAD,
    TERM,
    Reconcile,
    asked,
    check_lease,
    chore,
    end_of,
    pages,
    reconcile,
    unversioned,
    wait_for_state,
    wait_until,
)
from tests.functional.world import World

__all__ = ["reconcile"]


def test_vms_that_were_there_before_get_a_full_term_and_more(
    world: World, reconcile: Reconcile
) -> None:
    """The very first reconciliation spreads the ends; later ones give a plain term."""
    begun = world.clock.now()
    old = begun - timedelta(days=2000)
    before = [world.boot(created_at=old + timedelta(hours=n)) for n in range(40)]
    world.harness.work()
    for server_id in before:
        check_lease(world, server_id, end_of(server_id, begun, SPREAD))
        ends_at = world.row(server_id).ends_at
        assert ends_at is not None
        assert begun + TERM <= ends_at <= begun + TERM + SPREAD
    assert len({world.row(s).ends_at.date() for s in before}) >= 8  # type: ignore[union-attr]
    assert chore(world).last_finished_at == begun
    assert len(world.as_alice.get("/v1/leases").json["leases"]) == 40
    later = world.boot(created_at=old)
    reconcile()
    check_lease(world, later, begun + INTERVAL + TERM)


@pytest.mark.options({"virtual:vm": {"adoption_spread": "0"}})
@ANY_DATABASE
def test_without_a_spread_all_first_ends_are_one(world: World) -> None:
    servers = [world.boot() for _ in range(5)]
    world.harness.work()
    for server_id in servers:
        check_lease(world, server_id, world.clock.now() + TERM)


def test_what_is_known_and_unchanged_is_left_alone(world: World, reconcile: Reconcile) -> None:
    servers = [world.boot() for _ in range(7)]
    world.harness.work()
    before = sorted(world.rows(), key=lambda row: row.server_id)
    reconcile()
    reconcile()
    assert sorted(world.rows(), key=lambda row: row.server_id) == before
    assert sum(asked(world, server_id) for server_id in servers) == 0
    assert chore(world).last_error is None


def test_what_notifications_missed_is_found(world: World, reconcile: Reconcile) -> None:
    kept, lost = world.boot(), world.boot()
    world.harness.work()
    world.cloud.compute.vanish(lost)
    new = world.boot()
    begun = world.clock.now() + INTERVAL
    reconcile()
    check_lease(world, new, begun + TERM)
    assert world.state(lost) == "deleted"
    assert world.events(lost) == ["adopted", "vanished", "deleted"]
    assert sorted(world.all_leases()) == sorted(str(world.row(s).lease_id) for s in (kept, new))
    assert world.mails == []


@pytest.mark.parametrize(
    ("vm_state", "task_state"),
    [("building", "spawning"), ("error", None), ("active", "resize_prep")],
)
@ANY_DATABASE
def test_a_vm_that_is_busy_or_broken_is_taken_in_when_that_is_over(
    world: World, reconcile: Reconcile, vm_state: str, task_state: str | None
) -> None:
    server_id = world.boot(vm_state=vm_state, task_state=task_state)
    world.harness.work()
    reconcile()
    assert world.rows() == []
    vm = world.cloud.compute.vms[server_id]
    vm.vm_state, vm.task_state = "active", None
    reconcile()
    check_lease(world, server_id, end_of(server_id, world.clock.now() - MAKE_SURE))


def test_projects_that_are_left_out(world: World, reconcile: Reconcile) -> None:
    world.harness.conf.set_override("excluded_projects", [world.beta], group="virtual:vm")
    out = [
        world.boot(project_id=world.beta, user_id=world.bob),
        world.boot(project_id=world.cloud.identity.service_project),
    ]
    there = world.boot()
    world.harness.work()
    for server_id in out:
        world.see(server_id)
    reconcile()
    assert [row.server_id for row in world.rows()] == [there]
    assert world.all_leases() == [world.row(there).lease_id]


def test_names_that_no_table_can_hold(world: World) -> None:
    names = ["\N{FIRE}" * 300, "a\0b", "", "x\r\ny", "\ud83d", "'; DROP TABLE leases; --"]
    servers = [world.boot(name) for name in names]
    world.harness.work()
    assert {world.state(server_id) for server_id in servers} == {"active"}
    assert all(world.lease(server_id).status == "ACTIVE" for server_id in servers)


# Both legs at once, and two of one


def test_a_notification_comes_between_looking_and_taking_in(world: World) -> None:
    servers = [world.boot() for _ in range(5)]
    database = world.harness.plugin.tools.database
    taken: list[str] = []

    def see_one(*_: Any) -> None:
        # The first transaction after the page came in is the one that looks for known VMs.
        if not taken and pages(world):
            taken.append(servers[2])
            with world.harness.database.begin() as connection:
                db_api.see(connection, servers[2], world.clock.now())

    sa.event.listen(database.engine, "checkin", see_one)
    begun = world.clock.now()
    world.harness.work()
    assert taken
    for server_id in servers:
        spread = timedelta(0) if server_id in taken else SPREAD
        check_lease(world, server_id, end_of(server_id, begun, spread))
    assert len(world.all_leases()) == 5
    assert chore(world).last_error is None


@pytest.mark.options({"vmexpire_intake": {"page_size": 7}})
def test_both_legs_find_the_same_vms_at_once(world: World) -> None:
    servers = [world.boot() for _ in range(60)]
    world.harness.poll()
    for server_id in reversed(servers):
        world.harness.notify("compute.instance.create.end", unversioned(server_id))
    for server_id in servers:
        wait_for_state(world, server_id, "active")
    wait_until(
        lambda: (begun := chore(world)) and begun.last_finished_at,
        "the reconciliation comes to its end",
    )
    world.harness.stop()
    assert len(world.all_leases()) == 60
    assert sorted(world.all_leases()) == sorted(str(row.lease_id) for row in world.rows())
    assert all(world.events(server_id) == ["adopted"] for server_id in servers)


def test_of_two_that_want_to_reconcile_one_does(world: World) -> None:
    for _ in range(3):
        world.boot()
    tools = world.harness.plugin.tools
    start = threading.Barrier(2)

    def run(_: int) -> bool:
        own = service.reconciliation_chore(tools)
        start.wait()
        if not own.claim():
            return False
        service.reconcile(tools, own)
        own.finish()
        return True

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(run, range(2))) == [False, True]
    # The list, and the empty page that is its end.
    assert pages(world) == 2
    assert len(world.all_leases()) == 3


@SMALL_PAGES
def test_who_is_taken_for_dead_stops_and_the_other_finishes(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    begun = world.clock.now()
    servers = [world.boot(created_at=begun - timedelta(hours=n)) for n in range(18)]
    other = service.reconciliation_chore(world.harness.plugin.tools)

    def take_over(body: Any) -> Any:
        world.clock.set(world.clock.now() + timedelta(minutes=5, seconds=1))
        assert other.claim()
        return body

    world.cloud.fault("/servers/detail", rewrite=take_over, times=1)
    world.harness.work()
    assert "reconciliation was taken over by another worker" in caplog.text
    # What was in hand is written; no page after that is looked at.
    assert 0 < len(world.rows()) < len(servers)
    assert chore(world).last_finished_at is None
    service.reconcile(world.harness.plugin.tools, other)
    other.finish()
    assert {row.server_id for row in world.rows()} == set(servers)
    assert len(world.all_leases()) == 18
    for server_id in servers:
        ends_at = world.row(server_id).ends_at
        assert ends_at is not None
        assert ends_at >= begun + TERM
        check_lease(world, server_id, end_of(server_id, _adopted_at(world, server_id), SPREAD))


def _adopted_at(world: World, server_id: str) -> datetime.datetime:
    adopted_at = world.row(server_id).adopted_at
    assert adopted_at is not None
    return adopted_at


@pytest.mark.options({"vmexpire_intake": {"reconciliation": False}})
@ANY_DATABASE
def test_reconciliation_can_be_switched_off(world: World) -> None:
    world.boot()
    world.harness.work()
    assert pages(world) == 0
    assert world.rows() == []
