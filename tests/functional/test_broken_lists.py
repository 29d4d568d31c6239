# SPDX-License-Identifier: Apache-2.0
"""A list of servers that is not what it must be: nothing is concluded from what it lacks."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from tests.functional.intake import (
    ANY_DATABASE,
    INTERVAL,
    SMALL_PAGES,
    SPREAD,
    Reconcile,
    asked,
    check_lease,
    chore,
    end_of,
    reconcile,
)
from tests.functional.world import World

__all__ = ["reconcile"]


def _on_page(world: World, number: int, **fault: Any) -> None:
    """Make a page of the next listing fail: 0 is the first."""
    if number == 0:
        world.cloud.fault("/servers/detail", **fault)
        return

    def next_one(body: Any) -> Any:
        _on_page(world, number - 1, **fault)
        return body

    world.cloud.fault("/servers/detail", rewrite=next_one, times=1)


def _link_back(body: Any) -> Any:
    """Let the next page be the one after the first server of this one."""
    href = f"http://nova.invalid/servers/detail?marker={body['servers'][0]['id']}"
    return {**body, "servers_links": [{"rel": "next", "href": href}]}


def _lacks(key: str) -> Callable[[Any], Any]:
    def rewrite(body: Any) -> Any:
        return {"servers": [{k: v for k, v in s.items() if k != key} for s in body["servers"]]}

    return rewrite


BROKEN: dict[str, dict[str, Any]] = {
    "500": {"status": 500},
    "503 of a proxy": {"status": 503, "html": True},
    "404": {"status": 404},
    "403": {"status": 403},
    "429": {"status": 429},
    "truncated": {"truncate": True},
    "connection reset": {"close": True},
    "empty body": {"empty": True},
    "HTML": {"html": True},
    "null": {"body": {"servers": None}},
    "no servers": {"body": {}},
    "a list": {"body": []},
    "a server that is empty": {"body": {"servers": [{}]}},
    "servers without an id": {"rewrite": _lacks("id")},
    "a next link that loops": {"rewrite": _link_back},
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("how", "page"), [*((how, 1) for how in BROKEN), ("500", 0), ("500", 2), ("truncated", 0)]
)
@SMALL_PAGES
@ANY_DATABASE
def test_of_a_list_that_is_broken_off_nothing_is_concluded(
    world: World, reconcile: Reconcile, how: str, page: int
) -> None:
    _check_nothing_concluded(world, reconcile, lambda: _on_page(world, page, **BROKEN[how]))


@pytest.mark.options({"vmexpire_cloud": {"request_timeout": "1s"}})
@SMALL_PAGES
@ANY_DATABASE
def test_of_a_list_that_hangs_nothing_is_concluded(world: World, reconcile: Reconcile) -> None:
    _check_nothing_concluded(world, reconcile, lambda: _on_page(world, 1, hang=True))


@SMALL_PAGES
def test_of_a_list_without_the_services_nothing_is_concluded(
    world: World, reconcile: Reconcile
) -> None:
    _check_nothing_concluded(
        world, reconcile, lambda: world.cloud.fault("/os-services", status=500)
    )


def _check_nothing_concluded(
    world: World, reconcile: Reconcile, break_it: Callable[[], object]
) -> None:
    servers = [
        world.boot(created_at=world.clock.now() - timedelta(hours=1, minutes=n)) for n in range(8)
    ]
    world.harness.work()
    finished = chore(world).last_finished_at
    assert finished is not None
    gone = servers[4]
    world.cloud.compute.vanish(gone)
    rows = sorted(world.rows(), key=lambda row: row.server_id)
    leases = sorted(world.all_leases())
    break_it()
    reconcile()
    assert sorted(world.rows(), key=lambda row: row.server_id) == rows
    assert sorted(world.all_leases()) == leases
    assert sum(asked(world, server_id) for server_id in servers) == 0
    failed = chore(world)
    assert failed.last_finished_at == finished
    assert failed.last_error.startswith("nova: list ")
    assert failed.claimed_by is None
    for fault in list(world.cloud._faults):
        fault.remove()
    reconcile()
    right = chore(world)
    assert right.last_error is None
    assert right.last_finished_at > finished
    assert world.state(gone) == "deleted"
    assert len(world.all_leases()) == 7


@SMALL_PAGES
def test_the_first_reconciliation_is_the_first_that_comes_to_its_end(
    world: World, reconcile: Reconcile
) -> None:
    """What one that was broken off has taken in stays; the rest is still spread."""
    begun = world.clock.now()
    servers = [world.boot(created_at=begun - timedelta(hours=n)) for n in range(7)]
    _on_page(world, 1, status=500, times=1)
    world.harness.work()
    assert {row.server_id for row in world.rows()} == set(servers[:3])
    assert chore(world).last_finished_at is None
    reconcile()
    for server_id in servers[:3]:
        check_lease(world, server_id, end_of(server_id, begun, SPREAD))
    for server_id in servers[3:]:
        check_lease(world, server_id, end_of(server_id, begun + INTERVAL, SPREAD))
    assert chore(world).last_finished_at == begun + INTERVAL


def test_a_vm_that_the_list_lacks_is_asked_for_and_stays(
    world: World, reconcile: Reconcile
) -> None:
    """The list is complete by its own account, and yet it lacks half of the VMs."""
    servers = [world.boot() for _ in range(6)]
    world.harness.work()
    leases = sorted(world.all_leases())

    def half(body: Any) -> Any:
        return {"servers": [s for s in body["servers"] if s["id"] in servers[:3]]}

    lacking = world.cloud.fault("/servers/detail", rewrite=half)
    for _ in range(3):
        reconcile()
    lacking.remove()
    assert sorted(world.all_leases()) == leases
    assert {asked(world, server_id) for server_id in servers[:3]} == {0}
    assert {asked(world, server_id) for server_id in servers[3:]} == {3}
    for server_id in servers:
        assert world.state(server_id) == "active"
        assert world.events(server_id) == ["adopted"]


def test_an_empty_list_deletes_nothing(world: World, reconcile: Reconcile) -> None:
    servers = [world.boot() for _ in range(6)]
    world.harness.work()
    world.cloud.fault("/servers/detail", body={"servers": []})
    world.cloud.fault("/servers/[0-9a-f-]{36}$", status=503)
    reconcile()
    assert {world.state(server_id) for server_id in servers} == {"active"}
    assert len(world.all_leases()) == 6


def test_a_vm_that_is_listed_but_not_found_has_no_lease_in_the_end(
    world: World, reconcile: Reconcile
) -> None:
    """Nothing explains it, so that its lease is kept for an hour."""
    server_id = world.boot()
    world.cloud.fault(
        f"/servers/{server_id}$", status=404, message=f"Instance {server_id} could not be found."
    )
    world.harness.work()
    assert world.state(server_id) == "active"
    world.see(server_id)
    world.clock.advance(seconds=6)
    world.harness.work()
    assert world.state(server_id) == "vanished"
    for _ in range(3):
        reconcile()
        assert world.state(server_id) == "vanished"
        assert len(world.all_leases()) == 1
    world.live(world.clock.now() + timedelta(hours=1))
    assert world.state(server_id) == "deleted"
    for _ in range(3):
        reconcile()
    assert world.state(server_id) == "deleted"
    assert world.all_leases() == []
    events = ["adopted", "vanished", "vanished_unexplained", "deleted"]
    assert world.events(server_id) == events


def test_a_vm_that_is_not_found_once_reappears(world: World) -> None:
    server_id = world.adopt()
    lease_id = world.row(server_id).lease_id
    world.cloud.fault(
        f"/servers/{server_id}$",
        status=404,
        message=f"Instance {server_id} could not be found.",
        times=1,
    )
    world.see(server_id)
    assert world.state(server_id) == "vanished"
    world.clock.advance(seconds=6)
    world.harness.work()
    assert (world.state(server_id), world.row(server_id).lease_id) == ("active", lease_id)
    assert world.events(server_id) == ["adopted", "vanished", "reappeared"]
    assert len(world.all_leases()) == 1


def test_while_a_cell_is_down_its_vms_keep_their_leases(world: World, reconcile: Reconcile) -> None:
    near = world.boot()
    far = [world.boot(cell="cell2", host="compute2") for _ in range(3)]
    world.harness.work()
    finished = chore(world).last_finished_at
    world.cloud.compute.down_cells = {"cell2"}
    new = world.boot()
    reconcile()
    assert world.state(new) == "active"
    assert chore(world).last_finished_at == finished
    assert "Nova cannot reach the cell of 1 hosts (compute2)" in chore(world).last_error
    # Somebody speaks of one: it is asked for, and what comes back is no answer.
    world.see(far[0])
    assert world.row(far[0]).last_error is not None
    for server_id in [near, *far]:
        assert world.state(server_id) == "active"
        assert world.lease(server_id).status == "ACTIVE"
    world.cloud.compute.down_cells = set()
    world.cloud.compute.vanish(far[1])
    reconcile()
    assert chore(world).last_error is None
    assert world.state(far[1]) == "deleted"
    assert [world.state(server_id) for server_id in (near, far[0], far[2])] == ["active"] * 3


def test_a_vm_of_which_the_list_says_too_little_does_not_hold_up_the_others(
    world: World, reconcile: Reconcile, caplog: pytest.LogCaptureFixture
) -> None:
    odd, plain = world.boot(), world.boot()

    def without_a_date(body: Any) -> Any:
        for server in body["servers"]:
            if server["id"] == odd:
                del server["created"]
        return body

    fault = world.cloud.fault("/servers/detail", rewrite=without_a_date)
    world.harness.work()
    assert world.state(plain) == "active"
    assert world.row_or_none(odd) is None
    assert f"Server {odd} is not taken in" in caplog.text
    fault.remove()
    reconcile()
    assert world.state(odd) == "active"


def test_a_vm_that_is_listed_twice_is_taken_in_once(world: World) -> None:
    servers = [world.boot() for _ in range(3)]

    def doubled(body: Any) -> Any:
        return {"servers": [*body["servers"], *body["servers"]]}

    world.cloud.fault("/servers/detail", rewrite=doubled)
    world.harness.work()
    assert {row.server_id for row in world.rows()} == set(servers)
    assert len(world.all_leases()) == 3
    assert chore(world).last_error is None
