# SPDX-License-Identifier: Apache-2.0
"""``POST /v1/vm-expirations/{server_id}/extend``: a later end, and the VM back, from any state."""

from __future__ import annotations

import concurrent.futures
import datetime
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from blazar.context import BlazarContext
from werkzeug.test import Client

from blazar_vmexpire import leases
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db.models import expirations
from blazar_vmexpire.exceptions import ClaimLost
from blazar_vmexpire.worker import claims
from tests.blazar_harness import Api
from tests.functional.world import DATE, World

pytestmark = [
    pytest.mark.databases("sqlite"),
    pytest.mark.options({"virtual:vm": {"on_end_action": "snapshot"}}),
]

ALL_DATABASES = pytest.mark.databases("sqlite", "mariadb", "postgresql")
UNKNOWN = "11111111-1111-4111-8111-111111111111"


def path(server_id: str) -> str:
    """Say where a VM is extended."""
    return f"/v1/vm-expirations/{server_id}/extend"


def extend(world: World, server_id: str, api: Api | None = None, **more: Any) -> Any:
    """POST, as Alice unless said otherwise."""
    return (api or world.as_alice).post(path(server_id), **more)


def latest(world: World, days: float = 30) -> datetime.datetime:
    """Say how far an owner can extend at this moment."""
    return world.clock.now().replace(second=0, microsecond=0) + timedelta(days=days)


def end_of(world: World, server_id: str) -> datetime.datetime:
    """Return the end that our row has."""
    found = world.row(server_id).ends_at
    assert found is not None
    return found


def shown(moment: datetime.datetime) -> str:
    """Write a date as the API shows it."""
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def assert_given_back(world: World, server_id: str, new_end: datetime.datetime) -> None:
    """See that all is as if nothing had ever begun, up to the new end."""
    row, lease = world.row(server_id), world.lease(server_id)
    assert (row.state, row.ends_at, row.progress.get("undo")) == ("active", new_end, None)
    assert (lease.status, lease.end_date, lease.project_id) == ("ACTIVE", new_end, world.alpha)
    assert [r.status for r in lease.reservations] == ["active"]
    assert ("end_lease", new_end, "UNDONE") in [
        (e.event_type, e.time, e.status) for e in lease.events
    ]
    vm = world.cloud.compute.vms[server_id]
    assert (vm.vm_state, vm.locked) == ("active", False)
    assert not world.cloud.image.images
    assert len(world.all_leases()) == 1
    assert "lease_put_back" not in world.events(server_id)
    assert not [n for n in world.notices(server_id) if n.kind == "restored"]


# From every state ------------------------------------------------------------------------------


def active(world: World) -> str:
    """A VM in the middle of its first term."""
    server_id = world.adopt()
    world.live(end_of(world, server_id) - timedelta(days=20))
    return server_id


def noticed(world: World) -> str:
    """A VM whose owner has been told."""
    server_id = world.adopt()
    world.live(end_of(world, server_id) - timedelta(days=9))
    return server_id


def quarantined(world: World) -> str:
    """A VM that is locked and stopped, before its end."""
    world.harness.conf.set_override("quarantine", timedelta(days=7), group="virtual:vm")
    server_id = world.adopt()
    world.live(end_of(world, server_id) - timedelta(days=6))
    return server_id


def ending(world: World) -> str:
    """A VM that is locked and stopped, its lease over, its image being made."""
    world.cloud.image.reads = None
    server_id = world.adopt()
    world.live(end_of(world, server_id) + timedelta(minutes=5))
    assert world.lease(server_id).status == "TERMINATED"
    assert len(world.cloud.image.images) == 1
    return server_id


def failed(world: World) -> str:
    """A VM whose end failed for good after it was locked and stopped."""
    server_id = ending(world)
    for _ in range(3):
        for image_id in list(world.cloud.image.images):
            world.cloud.image.fail(image_id)
        # The next image is made when what is wrong may be over.
        world.live(world.clock.now() + timedelta(minutes=20))
    return server_id


def vanished(world: World) -> str:
    """A VM that Nova says 404 about, this once."""
    server_id = noticed(world)
    message = f"Instance {server_id} could not be found."
    world.cloud.fault(f"/servers/{server_id}$", method="GET", times=1, status=404, message=message)
    world.see(server_id)
    return server_id


def reviving(world: World) -> str:
    """A VM that has been given a new end, and is not given back yet."""
    server_id = ending(world)
    assert extend(world, server_id, json={"end_date": latest(world, 9).strftime(DATE)})
    return server_id


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


# Races -----------------------------------------------------------------------------------------


class Meeting:
    """Alice extends while Nova or Glance answers: what was asked for is done, nobody knows yet.

    :param at: the how-manieth request that is.
    """

    def __init__(
        self, world: World, server_id: str, at: int, where: str = "/compute|/image"
    ) -> None:
        self.answer: Any = None
        self._world, self._server_id, self._at = world, server_id, at
        self._asked = 0
        world.cloud.fault(where, rewrite=self._on_answer)

    def _on_answer(self, body: Any) -> Any:
        self._asked += 1
        if self._asked == self._at:
            self.answer = extend(self._world, self._server_id)
        return body


@pytest.mark.sampled(4)
@pytest.mark.parametrize("at", range(1, 16))
def test_whatever_step_it_meets_exactly_one_wins_and_the_loser_is_told(
    world: World, at: int
) -> None:
    world.cloud.image.reads = 1
    server_id = world.adopt()
    end = end_of(world, server_id)
    lease_id = world.row(server_id).lease_id
    world.live(end - timedelta(minutes=1))
    meeting = Meeting(world, server_id, at)
    world.live(end + timedelta(minutes=5))
    world.settle()
    assert meeting.answer is not None
    if meeting.answer.status_code == 200:
        assert_given_back(world, server_id, end_of(world, server_id))
        assert world.row(server_id).lease_id == lease_id
        assert not world.cloud.requests(f"/servers/{server_id}$", "DELETE")
    else:
        assert meeting.answer.status_code == 409
        assert "too late" in meeting.answer.json["error_message"]
        assert server_id not in world.cloud.compute.vms
        assert world.state(server_id) == "deleted"
        assert "extended" not in world.events(server_id)


@pytest.mark.options({"virtual:vm": {"on_end_action": "delete"}})
def test_both_outcomes_are_met(world: World) -> None:
    """The first request of an end is a look at the VM; the last but one deletes it."""
    outcomes = {}
    for name, where in (("first", "/servers/[^/]+$"), ("delete", "DELETE")):
        server_id = world.adopt(name)
        world.live(end_of(world, server_id) - timedelta(minutes=1))
        if name == "first":
            meeting = Meeting(world, server_id, 1, where)
        else:
            world.cloud.compute.reads = 1000  # the deletion takes its time
        world.live(end_of(world, server_id) + timedelta(minutes=5))
        outcomes[name] = meeting.answer if name == "first" else extend(world, server_id)
    assert {name: answer.status_code for name, answer in outcomes.items()} == {
        "first": 200,
        "delete": 409,
    }
    assert world.row(server_id).progress["irreversible"] is True


def test_an_image_whose_id_was_lost_is_removed(world: World) -> None:
    """The owner extends while Nova is being asked for the image: its id is never written."""
    world.cloud.image.reads = None
    server_id = world.adopt()
    world.live(end_of(world, server_id) - timedelta(minutes=1))
    answers = []

    def on_answer(body: Any) -> Any:
        if body and "image_id" in body:
            answers.append(extend(world, server_id))
        return body

    world.cloud.fault("/action$", method="POST", rewrite=on_answer)
    world.live(world.clock.now() + timedelta(minutes=5))
    assert [answer.status_code for answer in answers] == [200]
    assert "image_asked" not in world.events(server_id)
    assert "image_removed" in world.events(server_id)
    assert_given_back(world, server_id, end_of(world, server_id))


def test_with_glance_away_the_vm_is_given_back_all_the_same(world: World) -> None:
    server_id = ending(world)
    (image_id,) = world.cloud.image.images
    world.cloud.image.fail(image_id)  # Nova has given up, and Glance is to be asked what it has
    world.cloud.compute.settle(server_id)
    away = world.cloud.fault("/image", status=503)
    assert extend(world, server_id).status_code == 200
    world.live(world.clock.now() + timedelta(minutes=1))
    vm = world.cloud.compute.vms[server_id]
    assert (vm.vm_state, vm.locked) == ("active", False)
    away.remove()
    world.live(world.clock.now() + timedelta(hours=1))
    assert_given_back(world, server_id, end_of(world, server_id))


@pytest.mark.options({"virtual:vm": {"before_end_action": "snapshot"}})
def test_an_image_before_the_end_that_was_begun_is_removed(world: World) -> None:
    world.cloud.image.reads = None
    server_id = world.adopt()
    world.live(end_of(world, server_id) - timedelta(days=10) + timedelta(minutes=2))
    assert len(world.cloud.image.images) == 1
    assert extend(world, server_id).status_code == 200
    world.settle()
    assert_given_back(world, server_id, latest(world))


@ALL_DATABASES
def test_many_at_once_against_the_end(world: World) -> None:
    """Real threads: for each VM either its owner has won, or its end."""
    servers = [world.adopt(f"vm{n}") for n in range(6)]
    end = end_of(world, servers[0])
    world.live(end - timedelta(minutes=1))
    world.clock.set(end)
    alice = world.as_alice
    world.cloud.fault("/compute", delay=0.01)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        # Each end takes its steps in one thread while the extensions come in others.
        work = pool.submit(world.settle)
        answers = dict(
            zip(servers, pool.map(lambda s: extend(world, s, alice), servers), strict=True)
        )
        work.result()
    world.live(world.clock.now() + timedelta(minutes=5))
    for server_id, answer in answers.items():
        if answer.status_code == 200:
            assert world.cloud.compute.vms[server_id].vm_state == "active"
            assert world.state(server_id) == "active"
            assert world.lease(server_id).status == "ACTIVE"
        else:
            assert answer.status_code in (404, 409), answer.json
            assert server_id not in world.cloud.compute.vms


@ALL_DATABASES
def test_a_worker_that_read_the_row_before_can_write_nothing_after(world: World) -> None:
    server_id = active(world)
    with world.harness.database.begin() as connection:
        db_api.poke(connection, [server_id], world.clock.now())
    (claimed,) = world.harness.plugin.service.worker._claims.claim(1)
    assert extend(world, server_id).status_code == 200
    with world.harness.database.begin() as connection, pytest.raises(ClaimLost):
        claims.write(connection, claimed, progress={"irreversible": True})


# A lease that Blazar has in hand ---------------------------------------------------------------


@ALL_DATABASES
@pytest.mark.parametrize("status", ["UPDATING", "TERMINATING"])
def test_a_lease_in_transition_is_waited_for_and_its_owner_not_told(
    world: World, status: str
) -> None:
    server_id = noticed(world)
    table, where = leases.LEASES, leases.LEASES.c.id == world.row(server_id).lease_id
    old_end = end_of(world, server_id)
    world.wreck(table, where, status=status)
    assert extend(world, server_id).status_code == 200
    world.settle()
    assert (world.lease(server_id).status, world.lease(server_id).end_date) == (status, old_end)
    # Blazar has finished with it, in its own way.
    world.wreck(table, where, status="ACTIVE" if status == "UPDATING" else "TERMINATED")
    world.watch(minutes=1)
    assert_given_back(world, server_id, end_of(world, server_id))
    assert "lease_followed" in world.events(server_id)


def test_an_end_that_blazars_engine_has_in_hand_already_does_not_count(world: World) -> None:
    """It reads which events are due, and then runs them one by one, whatever has become of them."""
    server_id = world.adopt()
    end = end_of(world, server_id)
    world.live(end - timedelta(minutes=1))
    world.clock.set(end)
    (event,) = [e for e in world.lease(server_id).events if e.event_type == "end_lease"]
    assert extend(world, server_id).status_code == 200
    in_hand = leases.EVENTS.c.id == event.id
    assert world.wreck(leases.EVENTS, in_hand, status="IN_PROGRESS") == 1
    with BlazarContext():
        world.harness.manager.end_lease(lease_id=world.row(server_id).lease_id, event_id=event.id)
    assert world.lease(server_id).status == "TERMINATED"
    world.watch(minutes=1)
    assert_given_back(world, server_id, latest(world) - timedelta(minutes=1))


def test_a_lease_that_its_owner_damaged_is_put_back_and_they_are_told(world: World) -> None:
    server_id = active(world)
    assert world.update(server_id, user_id="somebody else").status_code == 200
    assert extend(world, server_id).status_code == 200
    world.watch(minutes=1)
    lease = world.lease(server_id)
    assert (lease.user_id, lease.end_date) == (world.alice, end_of(world, server_id))
    assert "lease_put_back" in world.events(server_id)
    assert [n.kind for n in world.notices(server_id)] == ["restored"]


def test_a_lease_that_its_owner_deleted_comes_back_with_the_new_end(world: World) -> None:
    server_id = active(world)
    lease_id = world.row(server_id).lease_id
    assert world.as_alice.delete(f"/v1/leases/{lease_id}").status_code in (200, 204)
    wanted = latest(world)
    answer = extend(world, server_id)
    assert answer.status_code == 200
    world.watch(minutes=1)
    assert world.lease(server_id).end_date == end_of(world, server_id) == wanted
    assert [n.kind for n in world.notices(server_id)] == ["restored"]


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


# Who may ---------------------------------------------------------------------------------------


def test_whose_it_is_not_learns_nothing(world: World) -> None:
    server_id = quarantined(world)
    before = world.row(server_id)
    strangers = {
        "another project": world.as_bob,
        "its user, elsewhere": world.harness.api.as_user(world.alice, world.beta),
        "a reader elsewhere": world.harness.api.as_user(world.bob, world.beta, ["reader"]),
    }
    for who, api in strangers.items():
        for body in ({}, {"end_date": shown(latest(world))}, {"end_date": "9999-01-01 00:00"}):
            theirs = extend(world, server_id, api, json=body)
            unknown = extend(world, UNKNOWN, api, json=body)
            assert theirs.status_code == unknown.status_code == 404, who
            assert theirs.json["error_message"].replace(server_id, "X") == (
                unknown.json["error_message"].replace(UNKNOWN, "X")
            )
            assert {**theirs.json, "error_message": ""} == {**unknown.json, "error_message": ""}
    assert world.row(server_id) == before


def test_a_reader_of_its_project_is_told_that_they_may_not(world: World) -> None:
    server_id = active(world)
    reader = world.harness.api.as_user(world.bob, world.alpha, ["reader"])
    answer = extend(world, server_id, reader)
    assert answer.status_code == 403
    assert "blazar:vm_expirations:extend" in answer.json["error_message"]
    assert world.row(server_id).generation == 0


def test_another_member_of_its_project_may(world: World) -> None:
    server_id = quarantined(world)
    colleague = world.harness.api.as_user(world.bob, world.alpha)
    assert extend(world, server_id, colleague).status_code == 200
    world.settle()
    assert_given_back(world, server_id, latest(world))


def test_without_a_token_nobody_may(world: World) -> None:
    server_id = active(world)
    answer = extend(world, server_id, headers={"X-Auth-Token": "none"})
    assert answer.status_code == 401
    assert world.row(server_id).generation == 0


def test_the_project_that_counts_is_the_servers_not_the_leases(world: World) -> None:
    """Blazar's API lets an owner write the lease's."""
    server_id = active(world)
    world.update(server_id, project_id=world.beta)
    assert extend(world, server_id, world.as_bob).status_code == 404
    assert extend(world, server_id).status_code == 200


def test_an_operator_can_give_it_to_another_role(world: World, tmp_path: Any) -> None:
    """What the manager's files say counts from the next request on."""
    rules = tmp_path / "support.yaml"
    rules.write_text('"blazar:vm_expirations:extend": "role:support"\n')
    world.harness.conf.set_override("policy_dirs", [str(tmp_path)], group="oslo_policy")
    server_id = active(world)
    support = world.harness.api.as_user(world.bob, world.beta, ["support"])
    assert extend(world, server_id).status_code == 403
    assert extend(world, server_id, support).status_code == 200


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


# What is sent ----------------------------------------------------------------------------------


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "text",
    [
        "2026-04-29 10:00",
        "2026-04-29T10:00",
        "2026-04-29T10:00Z",
        "2026-04-29T10:00:59Z",
        "2026-04-29T10:00:00.123456Z",
        "2026-04-29T12:00:00+02:00",
        "2026-04-29 05:30-04:30",
    ],
)
def test_dates_in_blazars_way_and_iso_8601(world: World, text: str) -> None:
    server_id = noticed(world)
    answer = extend(world, server_id, json={"until": text})
    assert answer.status_code == 200, answer.json
    assert answer.json["vm_expiration"]["ends_at"] == "2026-04-29T10:00:00Z"


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "text",
    [
        *("", "tomorrow", "now", "2026-04-29", "2026-13-29 10:00", "2026-04-29 25:00"),
        *("2026-04-29 10:00\n", "2026-W18-3", "1777456800", "٢٠٢٦-٠٤-٢٩ 10:00"),
        *("0001-01-01T00:00+14:00", "9999-12-31T23:59-14:00", "x" * 5000),
    ],
)
def test_dates_that_are_none_are_refused_with_a_sentence(world: World, text: str) -> None:
    server_id = active(world)
    answer = extend(world, server_id, json={"end_date": text})
    assert answer.status_code == 400
    assert "is no date: it must be like 2027-01-10 04:50" in answer.json["error_message"]
    assert len(answer.json["error_message"]) < 300
    assert world.row(server_id).generation == 0


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("sent", "code", "says"),
    [
        ({"json": {"colour": "red"}}, 400, "'colour' was unexpected"),
        (
            {"json": {"until": "2026-05-01 10:00", "end_date": "2026-05-01 10:00"}},
            400,
            "the body: it says too much",
        ),
        ({"json": {"end_date": None}}, 400, "end_date: None is not of type 'string'"),
        ({"json": {"end_date": 17}}, 400, "end_date: 17 is not of type 'string'"),
        ({"json": []}, 400, "the body: [] is not of type 'object'"),
        ({"json": None, "data": "null"}, 400, "the body: None is not of type 'object'"),
        ({"data": "{"}, 400, "the body is no JSON"),
        ({"data": b"\xff\xfe"}, 400, "the body is no JSON"),
        ({"data": "[" * 60000}, 400, "the body is no JSON"),
        ({"data": "x" * 70000}, 413, "more than 65536 bytes"),
        ({"data": "{}", "content_type": "text/yaml"}, 400, "must be application/json"),
        ({"json": {"end_date": ["x" * 9000]}}, 400, "is not of type 'string'"),
    ],
    ids=str,
)
def test_bodies_that_are_wrong_are_refused_with_a_sentence(
    world: World, sent: dict[str, Any], code: int, says: str
) -> None:
    server_id = active(world)
    if "data" in sent:
        sent = {
            "content_type": "application/json",
            **{k: v for k, v in sent.items() if k != "json"},
        }
    answer = extend(world, server_id, **sent)
    assert answer.status_code == code
    if "x" * 9000 not in str(sent):
        assert says in answer.json["error_message"]
    assert len(answer.json["error_message"]) < 400
    assert (answer.json["error_code"], answer.json["error_name"]) == (code, code)
    assert answer.headers["x-openstack-request-id"].startswith("req-")
    assert world.row(server_id).generation == 0


@pytest.mark.parametrize("data", [b"", b"  \n", b"{}"])
def test_nothing_need_be_sent(world: World, data: bytes) -> None:
    server_id = active(world)
    for content_type in (None, "application/json"):
        answer = extend(world, server_id, data=data, content_type=content_type)
        if data != b"{}" or content_type:
            assert answer.status_code == 200, answer.json
            assert answer.json["vm_expiration"]["ends_at"] == shown(latest(world))


def test_neither_a_length_nor_an_accept_header_need_be_sent(world: World) -> None:
    server_id = active(world)
    api = world.as_alice
    answer = Client(api._application).open(
        path(server_id),
        method="POST",
        headers={"X-Auth-Token": api._token},
        environ_overrides={"REMOTE_ADDR": "192.0.2.1"},
    )
    assert {"Accept", "Content-Length"}.isdisjoint(answer.request.headers.keys())
    assert answer.status_code == 200
    assert answer.mimetype == "application/json"
    assert world.row(server_id).extensions == 1


@pytest.mark.parametrize("server_id", ["web1", "%20", "..%2f..%2fleases", "0", "x" * 3000, "';--"])
def test_what_is_no_uuid_is_not_found(world: World, server_id: str) -> None:
    answer = extend(world, server_id)
    assert answer.status_code == 404


def test_a_uuid_is_the_same_however_it_is_written(world: World) -> None:
    server_id = active(world)
    assert extend(world, server_id.upper()).status_code == 200
    assert world.row(server_id).extensions == 1


@pytest.mark.options({"DEFAULT": {"rpc_response_timeout": 1}})
def test_while_the_manager_is_away_the_answer_is_503(world: World) -> None:
    server_id = active(world)
    world.harness.stop()
    answer = extend(world, server_id)
    assert answer.status_code == 503
    assert "blazar-manager did not answer" in answer.json["error_message"]
    assert world.row(server_id).generation == 0
