# SPDX-License-Identifier: Apache-2.0
"""The end of a VM while Nova, Glance or our own process fail at any of its steps."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from oslo_db.exception import DBDeadlock

from tests.functional.killed import die_at_request
from tests.functional.world import World

pytestmark = [
    pytest.mark.options(
        {
            "virtual:vm": {"on_end_action": "snapshot"},
            "vmexpire_worker": {"retry_max_interval": "20s"},
        }
    ),
    # What is tried here lies between us, Nova and Glance; restarts are tried on all databases.
    pytest.mark.databases("sqlite"),
]

ACTION = r"/compute/v2.1/servers/[^/]+/action"
SERVER = r"/compute/v2.1/servers/[^/]+$"
IMAGE = r"/image/v2/images"


@pytest.fixture
def server_id(world: World) -> str:
    """A VM of Alice's, noticed, an hour before its end."""
    server_id = world.adopt()
    end = world.row(server_id).ends_at
    assert end is not None
    world.live(end - timedelta(hours=1))
    assert world.state(server_id) == "noticed"
    return server_id


def live_on(world: World, **duration: float) -> None:
    """Let the time of the end come, and more."""
    world.live(world.clock.now() + timedelta(hours=1) + timedelta(**duration))


def assert_ended_once(world: World, server_id: str) -> None:
    """Check that the VM is gone, its one image complete and its project's, and one mail says so."""
    assert world.state(server_id) == "deleted"
    assert server_id not in world.cloud.compute.vms
    images = list(world.cloud.image.images.values())
    assert [(i["status"], i["owner"]) for i in images] == [("active", world.alpha)]
    assert [n.kind for n in world.notices(server_id)].count("ended") == 1
    assert (
        sum("deleted" in mail["Subject"] and "has been" in mail["Subject"] for mail in world.mails)
        == 1
    )


def test_a_deadlock_at_each_statement_of_an_end_costs_no_time(
    world: World, server_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A database settles it by refusing one of two: what that one did is done again at once."""
    refused: set[str] = set()

    def refuse(_: Any, __: Any, statement: str, *___: Any) -> None:
        if statement.startswith(("INSERT", "UPDATE", "DELETE")) and statement not in refused:
            refused.add(statement)
            raise DBDeadlock()

    sa.event.listen(world.harness.plugin.tools.database.engine, "before_cursor_execute", refuse)
    live_on(world, minutes=5)
    assert_ended_once(world, server_id)
    assert len(refused) > 10
    assert "failed, try" not in caplog.text
    assert "Traceback" not in caplog.text


FAULTS: list[dict[str, Any]] = [
    {"status": 500},
    {"status": 503},
    {"status": 429},
    {"html": True, "status": 404},
    {"empty": True},
    {"truncate": True},
    {"close": True},
    {"close": True, "after": True},
    {"truncate": True, "after": True},
]


@pytest.mark.sampled(4)
@pytest.mark.parametrize("fault", FAULTS, ids=str)
@pytest.mark.parametrize(
    ("path", "method"),
    [(ACTION, "POST"), (SERVER, "DELETE"), (SERVER, "GET"), (IMAGE, "GET"), (IMAGE, "PATCH")],
    ids=["action", "delete", "get", "image-get", "image-give"],
)
def test_every_call_that_fails_twice_is_made_good(
    world: World, server_id: str, path: str, method: str, fault: dict[str, Any]
) -> None:
    """Lost answers too: what was done all the same is not done twice, and leaves no stray."""
    world.cloud.fault(path, method=method, times=2, **fault)
    live_on(world, minutes=10)
    assert_ended_once(world, server_id)


@pytest.mark.sampled(2)
@pytest.mark.options({"vmexpire_worker": {"retry_max_interval": "4h"}})
@pytest.mark.parametrize("hours", [0.01, 72])
def test_nova_away_for_long(world: World, server_id: str, hours: float) -> None:
    broken = world.cloud.fault("/compute/", status=503)
    live_on(world, hours=hours)
    assert server_id in world.cloud.compute.vms
    broken.remove()
    live_on(world, hours=4)
    assert_ended_once(world, server_id)


def test_a_conflict_is_waited_out(world: World, server_id: str) -> None:
    broken = world.cloud.fault(ACTION, status=409, message="busy")
    live_on(world, minutes=10)
    assert world.state(server_id) == "ending"
    assert server_id in world.cloud.compute.vms
    broken.remove()
    live_on(world)
    assert_ended_once(world, server_id)


def test_a_refusal_for_good_is_left_to_an_operator(world: World, server_id: str) -> None:
    world.cloud.fault(ACTION, status=403, message="Quota exceeded for images")
    live_on(world, minutes=10)
    assert world.state(server_id) == "failed"
    assert "Quota exceeded" in str(world.row(server_id).last_error)
    assert server_id in world.cloud.compute.vms
    assert not world.cloud.requests(SERVER, "DELETE")


def test_a_vm_that_nova_says_404_about_by_mistake_is_not_given_up(
    world: World, server_id: str
) -> None:
    """A proxy's 404 is doubt; and Nova's own is asked for twice."""
    message = f"Instance {server_id} could not be found."
    world.cloud.fault(SERVER, method="GET", times=1, status=404, message=message)
    world.see(server_id)
    assert world.state(server_id) == "vanished"
    live_on(world, minutes=10)
    assert "reappeared" in world.events(server_id)
    assert_ended_once(world, server_id)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("steps", range(12))
def test_whatever_step_it_is_in_one_mistaken_404_ends_nothing(
    world: World, server_id: str, steps: int
) -> None:
    """Nova's own, to one look at the VM: from an API server that sees an old database."""
    end = world.row(server_id).ends_at
    assert end is not None
    world.clock.set(end)
    worker = world.harness.plugin.service.worker
    for _ in range(steps):
        worker.work_off(1)
        world.clock.advance(seconds=3)
    message = f"Instance {server_id} could not be found."
    path = rf"/compute/v2.1/servers/{server_id}$"
    world.cloud.fault(path, method="GET", times=1, status=404, message=message)
    live_on(world, minutes=10)
    assert_ended_once(world, server_id)


def test_whatever_step_it_is_in_a_vm_that_its_owner_deletes_is_over(world: World) -> None:
    """Between any two steps; no image is asked for, nothing is mailed about an end of ours."""
    for steps in range(8):
        server_id = world.adopt(f"vm{steps}")
        end = world.row(server_id).ends_at
        assert end is not None
        world.live(end - timedelta(hours=1))
        world.clock.set(end)
        worker = world.harness.plugin.service.worker
        for _ in range(steps):
            worker.work_off(1)
            world.clock.advance(seconds=3)
        if server_id in world.cloud.compute.vms:
            world.cloud.compute.vanish(server_id)
        world.live(world.clock.now() + timedelta(hours=1))
        assert world.state(server_id) == "deleted"


@pytest.mark.databases("sqlite", "mariadb", "postgresql")
def test_a_restart_of_the_manager_between_any_two_steps(world: World, server_id: str) -> None:
    end = world.row(server_id).ends_at
    assert end is not None
    world.clock.set(end)
    for _ in range(40):
        world.harness.plugin.service.worker.work_off(1)
        world.harness.restart()
        world.clock.advance(seconds=3)
        if world.state(server_id) == "deleted" and world.row(server_id).next_at is None:
            break
    assert_ended_once(world, server_id)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("calls", range(1, 14))
def test_a_process_killed_in_the_middle_of_a_step(world: World, server_id: str, calls: int) -> None:
    """The answer to its Nth request never reaches it, nor does it write anything after that.

    Its claim runs out, and another worker takes over.
    """

    end = world.row(server_id).ends_at
    assert end is not None
    world.clock.set(end)
    die_at_request(world, calls)
    world.harness.restart()
    world.live(world.clock.now() + timedelta(hours=1))
    assert_ended_once(world, server_id)


@pytest.mark.options({"virtual:vm": {"on_end_action": "delete"}})
def test_a_vm_that_nova_shows_as_deleted_is_gone_when_nova_says_404(
    world: World, server_id: str
) -> None:
    def shown_as_deleted(body: Any) -> Any:
        return {"server": {**body["server"], "status": "DELETED", "OS-EXT-STS:task_state": None}}

    world.cloud.compute.reads = 1000  # the deletion takes its time
    live_on(world)
    assert world.row(server_id).progress["irreversible"] is True
    shown = world.cloud.fault(SERVER, method="GET", rewrite=shown_as_deleted)
    world.live(world.clock.now() + timedelta(minutes=2))
    assert world.state(server_id) == "ending"
    shown.remove()
    world.cloud.compute.settle(server_id)
    world.live(world.clock.now() + timedelta(minutes=2))
    assert world.state(server_id) == "deleted"


@pytest.mark.long
@pytest.mark.options({"virtual:vm": {"on_end_action": "delete"}})
def test_a_deletion_that_nova_does_not_get_done_is_asked_for_less_and_less_and_shown(
    world: World, server_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its compute lost the request; from then on Nova ignores what it is asked for again."""
    end = world.row(server_id).ends_at
    assert end is not None
    world.cloud.compute.reads = 10**6
    world.live(end + timedelta(minutes=14))
    assert world.row(server_id).last_error is None
    world.live(end + timedelta(hours=4))
    row = world.row(server_id)
    assert (row.state, row.attempts) == ("ending", 0)
    assert row.last_error is not None
    assert row.last_error.startswith(f"step delete has been under way since {end:%Y-%m-%d %H:%M}")
    assert "ACTIVE, deleting" in row.last_error
    assert "nova-compute" in row.last_error
    asked = world.events(server_id).count("delete_asked")
    assert 6 <= asked <= 10
    assert len(world.cloud.requests(SERVER, "DELETE")) == asked
    assert caplog.text.count("step delete has been under way") == 1
    world.cloud.compute.settle(server_id)
    world.live(end + timedelta(hours=5))
    assert world.state(server_id) == "deleted"
    assert world.row(server_id).last_error is None
