# SPDX-License-Identifier: Apache-2.0
"""An extension by our own API that meets the end, or a lease that somebody else has in hand."""

from __future__ import annotations

import concurrent.futures
from datetime import timedelta
from typing import Any

import pytest
from blazar.context import BlazarContext

from blazar_vmexpire import leases
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.exceptions import ClaimLost
from blazar_vmexpire.worker import claims
from tests.functional.extending import (
    active,
    assert_given_back,
    end_of,
    ending,
    extend,
    latest,
    noticed,
)
from tests.functional.world import World

pytestmark = [
    pytest.mark.databases("sqlite"),
    pytest.mark.options({"virtual:vm": {"on_end_action": "snapshot"}}),
]

ALL_DATABASES = pytest.mark.databases("sqlite", "mariadb", "postgresql")


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
