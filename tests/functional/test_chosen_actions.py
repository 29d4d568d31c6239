# SPDX-License-Identifier: Apache-2.0
"""Actions that the owner of a VM chooses, by Blazar's own PUT with the reservation's id."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from tests.blazar_harness import Api
from tests.functional.world import DATE, World

SNAPSHOT_ALLOWED = {"virtual:vm": {"on_end_action": "delete", "allowed_actions": ["snapshot"]}}
DELETE_ALLOWED = {"virtual:vm": {"on_end_action": "snapshot", "allowed_actions": ["delete"]}}


@pytest.fixture
def server_id(world: World) -> str:
    """A VM of Alice's in the middle of its first term, of which 50 days are left."""
    server_id = world.adopt()
    world.live(world.clock.now() + timedelta(days=10))
    return server_id


def choose(world: World, server_id: str, api: Api | None = None, /, **values: Any) -> Any:
    """PUT values into the reservation of a VM's lease, those of the lease itself under its name."""
    lease = world.lease(server_id)
    (reservation,) = lease.reservations
    of_the_lease = values.pop("lease", {})
    return (api or world.as_alice).put(
        f"/v1/leases/{lease.lease_id}",
        json={"reservations": [{"id": reservation.id, **values}], **of_the_lease},
    )


def message(answer: Any) -> str:
    """Return the sentence of an error."""
    return str(answer.json["error_message"])


def chosen(world: World, server_id: str) -> list[tuple[str, str]]:
    """Return the actions at the end that were chosen, each after the one before it."""
    return [
        (details["instead_of"]["on_end_action"], details["on_end_action"])
        for event, details in world.history(server_id)
        if event == "actions_chosen"
    ]


@pytest.mark.options(SNAPSHOT_ALLOWED)
def test_a_gentler_end_than_announced_is_no_reason_to_announce_it_again(
    world: World, server_id: str
) -> None:
    end = world.row(server_id).ends_at
    before = world.lease(server_id)
    world.live(end - timedelta(hours=1))
    assert choose(world, server_id, on_end_action="snapshot").status_code == 200
    world.settle()
    after = world.lease(server_id)
    assert (after.lease_id, after.status, after.end_date) == (before.lease_id, "ACTIVE", end)
    assert (world.state(server_id), chosen(world, server_id)) == (
        "noticed",
        [("delete", "snapshot")],
    )
    world.live(end + timedelta(minutes=30))
    assert world.state(server_id) == "deleted"
    assert len(world.cloud.image.images) == 1
    assert [n.kind for n in world.notices(server_id)] == ["reminder/10d", "reminder/2d", "ended"]


@pytest.mark.options(DELETE_ALLOWED)
def test_of_an_end_that_leaves_less_the_owner_is_told_anew(world: World, server_id: str) -> None:
    end = world.row(server_id).ends_at
    world.live(end - timedelta(days=5))
    assert len(world.mails) == 1
    assert choose(world, server_id, on_end_action="delete").status_code == 200
    world.settle()
    assert len(world.mails) == 2
    assert "deleted" in world.mails[1].get_content()
    assert "No image of the VM will be taken" in world.mails[1].get_content()
    assert world.row(server_id).ends_at == end
    world.live(end + timedelta(minutes=1))
    assert server_id not in world.cloud.compute.vms
    assert world.cloud.image.images == {}


@pytest.mark.options(DELETE_ALLOWED)
def test_not_when_it_is_too_late_to_tell(world: World, server_id: str) -> None:
    end = world.row(server_id).ends_at
    world.live(end - timedelta(days=1))
    before = world.row(server_id)
    answer = choose(world, server_id, on_end_action="delete")
    assert answer.status_code == 409
    assert "too soon to tell of 'delete' instead of 'snapshot'" in message(answer)
    world.settle()
    assert world.row(server_id).generation == before.generation
    assert world.lease(server_id).status == "ACTIVE"
    # With another end there is time.
    later = f"{end + timedelta(days=10):{DATE}}"
    answer = choose(world, server_id, on_end_action="delete", lease={"end_date": later})
    assert answer.status_code == 200, answer.json
    world.live(end + timedelta(days=10, minutes=1))
    assert server_id not in world.cloud.compute.vms
    assert world.cloud.image.images == {}


@pytest.mark.options(
    {"virtual:vm": {"before_end_action": "notification", "allowed_actions": ["snapshot"]}}
)
def test_the_action_before_the_end(world: World, server_id: str) -> None:
    end = world.row(server_id).ends_at
    assert choose(world, server_id, before_end_action="snapshot").status_code == 200
    world.settle()
    world.live(end - timedelta(days=9))
    assert len(world.cloud.image.images) == 1
    # What was done before this end stays done.
    assert choose(world, server_id, on_end_action="snapshot").status_code == 200
    world.live(end - timedelta(days=1))
    assert len(world.cloud.image.images) == 1
    world.live(end + timedelta(minutes=30))
    assert (world.state(server_id), len(world.cloud.image.images)) == ("deleted", 2)


@pytest.mark.databases("sqlite")
@pytest.mark.options(SNAPSHOT_ALLOWED)
def test_toggling_postpones_nothing(world: World, server_id: str) -> None:
    end = world.row(server_id).ends_at
    for hours in range(24 * 11, -1, -22):
        world.live(end - timedelta(hours=hours))
        for action in ("snapshot", "delete"):
            choose(world, server_id, on_end_action=action)
    world.live(end + timedelta(minutes=30))
    assert world.state(server_id) == "deleted"
    assert "moved" not in world.events(server_id)


@pytest.mark.sampled(3)
@pytest.mark.databases("sqlite")
@pytest.mark.options(SNAPSHOT_ALLOWED)
@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"on_end_action": "stop"}, "on_end_action 'stop' cannot be chosen for this server"),
        ({"on_end_action": "stop"}, "it can be delete or snapshot"),
        ({"on_end_action": 7}, "cannot be chosen"),
        ({"before_end_action": "delete"}, "it can be notification or snapshot"),
        ({"server_id": "11111111-1111-4111-8111-111111111111"}, "only before_end_action and"),
        ({"resource_id": "11111111-1111-4111-8111-111111111111"}, "not resource_id"),
        ({"start_date": "2026-01-01 10:00"}, "belong to the lease"),
        ({"end_date": "2026-05-01 10:00"}, "belong to the lease"),
        ({"status": "deleted"}, "not status"),
    ],
    ids=str,
)
def test_what_cannot_be_chosen_is_refused_with_a_sentence(
    world: World, server_id: str, values: dict[str, Any], says: str
) -> None:
    before = world.row(server_id), world.lease(server_id).reservations
    answer = choose(world, server_id, **values)
    assert answer.status_code == 400
    assert says in message(answer)
    assert (world.row(server_id), world.lease(server_id).reservations) == before
    assert world.lease(server_id).status == "ACTIVE"
    assert choose(world, server_id, world.as_bob, on_end_action="snapshot").status_code == 403


@pytest.mark.options(SNAPSHOT_ALLOWED)
def test_what_was_chosen_counts_for_as_long_as_it_is_allowed(world: World, server_id: str) -> None:
    end = world.row(server_id).ends_at
    assert choose(world, server_id, on_end_action="snapshot").status_code == 200
    world.settle()
    world.harness.conf.set_override("allowed_actions", [], group="virtual:vm")
    world.live(end + timedelta(minutes=30))
    assert world.state(server_id) == "deleted"
    assert world.cloud.image.images == {}
