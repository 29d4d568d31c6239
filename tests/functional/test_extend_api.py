# SPDX-License-Identifier: Apache-2.0
"""``POST /v1/vm-expirations/{server_id}/extend``: a later end, and the VM back, from any state."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from datetime import timedelta

import pytest
import sqlalchemy as sa

from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db.models import expirations
from tests.functional.extending import (
    active,
    assert_given_back,
    end_of,
    ending,
    extend,
    failed,
    latest,
    noticed,
    quarantined,
    reviving,
    shown,
    vanished,
)
from tests.functional.world import DATE, World

pytestmark = [
    pytest.mark.databases("sqlite"),
    pytest.mark.options({"virtual:vm": {"on_end_action": "snapshot"}}),
]


# From every state ------------------------------------------------------------------------------

STATES: list[Callable[[World], str]] = [
    active,
    noticed,
    quarantined,
    ending,
    failed,
    vanished,
    reviving,
]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
@pytest.mark.parametrize("days", [None, 25], ids=["latest", "date"])
def test_from_every_state_the_vm_is_its_owners_again(
    world: World, state: Callable[[World], str], days: int | None
) -> None:
    server_id = state(world)
    before = world.row(server_id)
    assert before.state == state.__name__
    new_end = latest(world, days or 30)
    body = {} if days is None else {"end_date": shown(new_end)}

    answer = extend(world, server_id, json=body)

    assert answer.status_code == 200, answer.json
    now_theirs = before.state in ("active", "noticed")
    expected = {
        "server_id": server_id,
        "server_name": "web1",
        "project_id": world.alpha,
        "user_id": world.alice,
        "lease_id": before.lease_id,
        "state": "active" if now_theirs else "reviving",
        "ends_at": shown(new_end),
        "latest_allowed_end": shown(max(new_end, latest(world))),
        "extendable_from": None,
        "extensions": before.extensions + (1 if new_end > end_of_row(before) else 0),
        "generation": before.generation + 1,
    }
    assert {key: answer.json["vm_expiration"][key] for key in expected} == expected
    if before.state in ("active", "noticed", "quarantined", "vanished"):
        # Not a moment in which Blazar shows another date than we do.
        assert (world.lease(server_id).status, world.lease(server_id).end_date) == (
            "ACTIVE",
            new_end,
        )
    world.settle()
    assert_given_back(world, server_id, new_end)
    assert world.row(server_id).lease_id == before.lease_id


def end_of_row(row: db_api.Expiration) -> datetime.datetime:
    """Return the end that a row has."""
    assert row.ends_at is not None
    return row.ends_at


def test_who_asked_and_from_where_to_where_is_in_the_history(world: World) -> None:
    server_id = quarantined(world)
    old_end, new_end = end_of(world, server_id), latest(world)
    extend(world, server_id, headers={"X-OpenStack-Request-ID": "ignored"})
    world.settle()
    events = world.history(server_id)
    assert ("extended", old_end.isoformat(), new_end.isoformat(), False) in [
        (event, details.get("old_end"), details.get("new_end"), details.get("by_admin"))
        for event, details in events
    ]
    assert [event for event, _ in events][-4:] == [
        "unlocked",
        "start_asked",
        "revived",
        "notice_accepted",
    ]
    with world.harness.database.begin() as connection:
        actor, request_id = connection.execute(
            sa.text("SELECT actor, request_id FROM vm_expiration_history WHERE event = 'extended'")
        ).one()
    assert actor == world.alice
    assert request_id.startswith("req-")


@pytest.mark.parametrize("state", [active, noticed], ids=lambda state: state.__name__)
def test_blazars_own_engine_and_api_go_on_with_the_lease(
    world: World, state: Callable[[World], str]
) -> None:
    server_id = state(world)
    before_end_at = world.lease(server_id).before_end_at
    old_end = end_of(world, server_id)
    assert before_end_at is not None
    assert extend(world, server_id).status_code == 200
    lease = world.lease(server_id)
    assert lease.before_end_at == before_end_at + (lease.end_date - old_end)
    world.settle()
    shorter = latest(world, 20)
    assert world.update(server_id, end_date=shorter).status_code == 200
    world.live(shorter - timedelta(days=1))
    assert server_id in world.cloud.compute.vms
    world.live(shorter + timedelta(minutes=1))
    assert server_id not in world.cloud.compute.vms
    assert world.state(server_id) == "deleted"


def test_without_a_date_nothing_is_ever_shortened(world: World) -> None:
    server_id = world.adopt()
    end = end_of(world, server_id)  # of a full term, later than an extension reaches
    for _ in range(2):
        answer = extend(world, server_id)
        assert answer.status_code == 200
        assert answer.json["vm_expiration"]["ends_at"] == shown(end)
        assert answer.json["vm_expiration"]["latest_allowed_end"] == shown(end)
    row = world.row(server_id)
    assert (row.ends_at, row.generation, row.extensions) == (end, 0, 0)


def test_asked_twice_is_extended_once(world: World) -> None:
    server_id = ending(world)
    answers = [extend(world, server_id).json["vm_expiration"] for _ in range(3)]
    assert answers[0] == answers[1] == answers[2]
    world.settle()
    assert world.events(server_id).count("extended") == 1
    assert_given_back(world, server_id, latest(world))


def test_a_vm_that_vanished_for_good_is_let_go_all_the_same(world: World) -> None:
    server_id = noticed(world)
    world.cloud.compute.vanish(server_id)
    world.see(server_id)
    assert world.state(server_id) == "vanished"
    assert extend(world, server_id).status_code == 200
    world.live(world.clock.now() + timedelta(minutes=1))
    assert world.state(server_id) == "deleted"
    assert world.all_leases() == []


def test_what_was_done_is_undone_even_if_the_vm_had_vanished_meanwhile(world: World) -> None:
    """Locked and stopped, then lost from sight: a VM that reappears is not left so."""
    server_id = quarantined(world)
    message = f"Instance {server_id} could not be found."
    world.cloud.fault(f"/servers/{server_id}$", method="GET", times=1, status=404, message=message)
    world.see(server_id)
    assert world.state(server_id) == "vanished"
    world.clock.advance(seconds=6)
    worker = world.harness.plugin.service.worker
    while world.state(server_id) == "vanished":
        worker.work_off(1)
    assert world.state(server_id) == "active"
    assert extend(world, server_id).json["vm_expiration"]["state"] == "reviving"
    world.settle()
    assert_given_back(world, server_id, latest(world))


# How far ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [active, quarantined, ending], ids=lambda state: state.__name__)
def test_beyond_the_cap_is_refused_naming_the_latest_date(
    world: World, state: Callable[[World], str]
) -> None:
    server_id = state(world)
    before = world.row(server_id)
    for too_far in (latest(world) + timedelta(minutes=1), datetime.datetime(9999, 12, 31, 23, 59)):
        answer = extend(world, server_id, json={"end_date": too_far.strftime(DATE)})
        assert answer.status_code == 400
        assert (
            f"is past the latest allowed, {latest(world):%Y-%m-%d %H:%M} UTC (now +"
            in (answer.json["error_message"])
        )
    after = world.row(server_id)
    assert (after.ends_at, after.generation, after.state) == (
        before.ends_at,
        before.generation,
        before.state,
    )


def test_too_close_is_refused_and_so_is_what_has_passed(world: World) -> None:
    server_id = active(world)
    for moment, says in (
        (latest(world, 2) - timedelta(minutes=1), "is before the earliest allowed,"),
        (latest(world, 0), "has passed: it is"),
        (datetime.datetime(1970, 1, 1), "has passed: it is"),
    ):
        answer = extend(world, server_id, json={"end_date": shown(moment)})
        assert answer.status_code == 400
        assert says in answer.json["error_message"]
    assert world.row(server_id).generation == 0


def test_an_administrator_is_not_capped_and_needs_a_date_in_the_future(world: World) -> None:
    server_id = ending(world)
    past = extend(world, server_id, world.as_admin, json={"end_date": "2020-01-01 00:00"})
    assert past.status_code == 400
    far = latest(world, 3000)
    answer = extend(world, server_id, world.as_admin, json={"end_date": shown(far)})
    assert answer.status_code == 200
    world.settle()
    assert_given_back(world, server_id, far)


@pytest.mark.options({"virtual:vm": {"max_total_duration": "60d"}})
@pytest.mark.parametrize("state", [quarantined, ending], ids=lambda state: state.__name__)
def test_a_vm_whose_life_is_over_is_given_back_by_administrators_only(
    world: World, state: Callable[[World], str]
) -> None:
    """Nor is there any end to be had by extending again and again to where it is."""
    server_id = state(world)
    end = end_of(world, server_id)
    answer = extend(world, server_id)
    assert answer.status_code == 409
    assert (
        f"cannot be extended any more: the latest allowed end is {end:%Y-%m-%d %H:%M} UTC"
        in (answer.json["error_message"])
    )
    assert "creation of the server + max_total_duration 60d" in answer.json["error_message"]
    same = extend(world, server_id, json={"end_date": shown(end)})
    assert same.status_code == 400
    assert world.row(server_id).generation == 0
    new_end = latest(world, 20)
    by_admin = extend(world, server_id, world.as_admin, json={"end_date": shown(new_end)})
    assert by_admin.status_code == 200
    world.settle()
    assert_given_back(world, server_id, new_end)


def test_a_name_written_in_the_minute_of_the_end_is_no_extension(world: World) -> None:
    server_id = ending(world)
    end = end_of(world, server_id)
    world.clock.set(end + timedelta(seconds=50))
    world.update(server_id, name="another name")
    world.settle()
    assert world.state(server_id) == "ending"
    assert end_of(world, server_id) == end


# Those that have no end ------------------------------------------------------------------------


def test_one_that_does_not_expire_is_refused_with_its_reason(world: World) -> None:
    server_id = active(world)
    world.harness.conf.set_override("scope", "none", group="virtual:vm")
    world.live(world.clock.now() + timedelta(hours=1))
    assert world.state(server_id) == "exempt"
    answer = extend(world, server_id)
    assert answer.status_code == 409
    assert "does not expire" in answer.json["error_message"]
    assert extend(world, server_id, world.as_bob).status_code == 404


@pytest.mark.parametrize("state", ["seen", "deleted"])
def test_one_that_is_not_known_yet_or_is_gone_is_not_found(world: World, state: str) -> None:
    server_id = active(world)
    world.wreck(expirations, expirations.c.server_id == server_id, state=state)
    for api in (world.as_alice, world.as_bob, world.as_admin):
        answer = extend(world, server_id, api)
        assert answer.status_code == 404
        assert server_id in answer.json["error_message"]
