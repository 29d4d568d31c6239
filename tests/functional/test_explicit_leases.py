# SPDX-License-Identifier: Apache-2.0
"""Leases that owners make for their VMs themselves, by Blazar's own POST."""

from __future__ import annotations

import datetime
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from blazar.manager import exceptions as manager_exceptions
from blazar.plugins.dummy_vm_plugin import DummyVMPlugin

from blazar_vmexpire.leases import EVENTS, LEASES, RESERVATIONS
from tests.blazar_harness import Api
from tests.functional.world import DATE, World

CHOOSING = {"virtual:vm": {"on_end_action": "delete", "allowed_actions": ["snapshot"]}}


@pytest.fixture
def server_id(world: World) -> str:
    """A VM of Alice's in the middle of its first term, of which 50 days are left."""
    server_id = world.adopt()
    world.live(world.clock.now() + timedelta(days=10))
    return server_id


def body(world: World, server_id: str, **values: Any) -> dict[str, Any]:
    """Return what a lease is asked for with: for 20 days, unless ``values`` say otherwise."""
    of_the_lease = ("name", "start_date", "end_date", "before_end_date", "reservations")
    request: dict[str, Any] = {
        "name": "mine",
        "start_date": "now",
        "end_date": world.clock.now() + timedelta(days=20),
        "events": [],
        "reservations": [
            {
                "resource_type": "virtual:vm",
                "server_id": server_id,
                **{k: v for k, v in values.items() if k not in of_the_lease},
            }
        ],
        **{k: v for k, v in values.items() if k in of_the_lease},
    }
    return {
        key: value.strftime(DATE) if isinstance(value, datetime.datetime) else value
        for key, value in request.items()
    }


def ask(world: World, server_id: str, api: Api | None = None, **values: Any) -> Any:
    """POST a lease for a VM."""
    return (api or world.as_alice).post("/v1/leases", json=body(world, server_id, **values))


def make(world: World, server_id: str, api: Api | None = None, **values: Any) -> dict[str, Any]:
    """Make a lease for a VM, let it start, and return it as Blazar showed it first."""
    answer = ask(world, server_id, api, **values)
    assert answer.status_code == 201, answer.json
    world.settle()
    lease: dict[str, Any] = answer.json["lease"]
    assert world.row(server_id).lease_id == lease["id"]
    return lease


def tables(world: World) -> list[list[Any]]:
    """Return all that Blazar's tables have of leases."""
    with world.harness.database.begin() as connection:
        return [
            sorted(map(tuple, connection.execute(sa.select(table))), key=str)
            for table in (LEASES, RESERVATIONS, EVENTS)
        ]


def message(answer: Any) -> str:
    """Return the sentence of an error."""
    return str(answer.json["error_message"])


# It takes the implicit lease's place --------------------------------------------------------------


@pytest.mark.options(CHOOSING)
def test_it_takes_the_implicit_leases_place_once_it_has_started(
    world: World, server_id: str
) -> None:
    implicit = world.lease(server_id)
    new_end = world.clock.now() + timedelta(days=20)
    answer = ask(world, server_id, on_end_action="snapshot")
    assert answer.status_code == 201, answer.json
    made = answer.json["lease"]
    assert made["status"] == "PENDING"

    # Blazar may still roll it back, so nothing has changed.
    world.harness.work()
    row = world.row(server_id)
    assert (row.lease_id, row.ends_at, row.generation) == (
        implicit.lease_id,
        implicit.end_date,
        0,
    )
    assert world.lease(server_id) == implicit

    world.settle()
    row = world.row(server_id)
    assert (row.lease_id, row.ends_at) == (made["id"], new_end)
    assert world.all_leases() == [made["id"]]
    lease = world.lease(server_id)
    assert (lease.status, lease.trust_id) == ("ACTIVE", None)
    assert (lease.project_id, lease.user_id) == (world.alpha, world.alice)
    seen = world.as_alice.get(f"/v1/vm-expirations/{server_id}").json["vm_expiration"]
    assert seen["chosen_actions"] == {"before_end_action": None, "on_end_action": "snapshot"}
    assert (seen["on_end_action"], seen["imposed_on_end_action"]) == ("snapshot", None)
    shown = world.as_alice.get(f"/v1/leases/{made['id']}").json["lease"]
    assert shown["name"] == "mine"
    # The reservation's id is the one that its owner was given.
    assert [r["id"] for r in shown["reservations"]] == [r["id"] for r in made["reservations"]]
    assert {e.event_type: (e.time, e.status) for e in lease.events} == {
        "start_lease": (lease.start_date, "DONE"),
        "before_end_lease": (new_end - timedelta(days=10), "UNDONE"),
        "end_lease": (new_end, "UNDONE"),
    }
    # Whatever else looks at leases finds nothing wrong with it.
    world.clock.advance(minutes=16)
    world.settle()
    assert world.lease(server_id) == lease
    assert world.events(server_id) == ["adopted", "actions_chosen", "shortened", "explicit_lease"]

    world.live(new_end + timedelta(minutes=30))
    assert server_id not in world.cloud.compute.vms
    (image,) = world.cloud.image.images.values()
    assert image["owner"] == world.alpha
    assert "image" in world.mails[0].get_content()


def test_it_may_end_when_the_implicit_one_would_have(world: World, server_id: str) -> None:
    before = world.row(server_id)
    world.live(before.ends_at - timedelta(days=9))
    assert world.state(server_id) == "noticed"
    make(world, server_id, end_date=before.ends_at)
    after = world.row(server_id)
    # What was told is still true: nothing begins anew.
    assert (after.ends_at, after.extensions, after.state) == (before.ends_at, 0, "noticed")
    world.live(before.ends_at + timedelta(minutes=1))
    assert server_id not in world.cloud.compute.vms
    assert [n.kind for n in world.notices(server_id)] == ["reminder/10d", "reminder/2d", "ended"]


def test_with_a_later_end_it_is_an_extension_under_the_same_cap(
    world: World, server_id: str
) -> None:
    world.live(world.row(server_id).ends_at - timedelta(days=5))
    latest = world.clock.now().replace(second=0, microsecond=0) + timedelta(days=30)
    refused = ask(world, server_id, end_date=latest + timedelta(minutes=1))
    assert refused.status_code == 400
    assert f"past the latest allowed, {latest:{DATE}} UTC" in message(refused)
    make(world, server_id, end_date=latest)
    row = world.row(server_id)
    assert (row.ends_at, row.extensions, row.state) == (latest, 1, "active")

    # From then on it is updated like any lease of a VM.
    later = latest + timedelta(days=1)
    assert world.update(server_id, end_date=later).status_code == 400
    world.clock.advance(days=1)
    assert world.update(server_id, end_date=later).status_code == 200
    world.settle()
    assert (world.lease(server_id).end_date, world.row(server_id).extensions) == (later, 2)


@pytest.mark.parametrize("role", ["colleague", "admin"])
def test_whoever_makes_it_it_is_the_vms_owners(world: World, server_id: str, role: str) -> None:
    colleague = world.cloud.add_user("carol", email="carol@example.org")
    api = world.harness.api.as_user(colleague, world.alpha) if role == "colleague" else None
    far = world.clock.now() + timedelta(days=20 if api else 900)
    made = make(world, server_id, api or world.as_admin, end_date=far)
    lease = world.lease(server_id)
    assert (lease.project_id, lease.user_id) == (world.alpha, world.alice)
    assert (lease.end_date, lease.trust_id) == (far, None)
    assert world.as_alice.get(f"/v1/leases/{made['id']}").status_code == 200


# It is refused ------------------------------------------------------------------------------------


@pytest.mark.sampled(3)
@pytest.mark.databases("sqlite")
@pytest.mark.options(CHOOSING)
@pytest.mark.parametrize(
    ("values", "code", "says"),
    [
        ({"server_id": None}, 400, "server_id"),
        ({"server_id": "not-a-uuid"}, 400, "is not a UUID"),
        ({"server_id": 17}, 400, "is not a UUID"),
        ({"start_date": "2026-03-20 10:00"}, 400, "start_date must be 'now'"),
        ({"end_date": "2026-03-13 10:00"}, 400, "before the earliest allowed, 2026-03-14 10:00"),
        ({"end_date": "2026-05-01 10:01"}, 400, "past the latest allowed, 2026-05-01 10:00"),
        ({"on_end_action": "stop"}, 400, "on_end_action 'stop' cannot be chosen for this server"),
        ({"on_end_action": "stop"}, 400, "it can be delete or snapshot"),
        ({"on_end_action": "notification"}, 400, "cannot be chosen"),
        ({"on_end_action": ["delete"]}, 400, "cannot be chosen"),
        ({"on_end_action": None}, 400, "cannot be chosen"),
        ({"before_end_action": "delete"}, 400, "it can be notification or snapshot"),
        ({"amount": 1}, 400, "amount is not known"),
        ({"min": 1, "max": 2}, 400, "max, min are not known"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_with_a_sentence(
    world: World, server_id: str, values: dict[str, Any], code: int, says: str
) -> None:
    before = tables(world), world.row(server_id)
    answer = ask(world, **({"server_id": server_id} | values))
    assert (answer.status_code, says in message(answer)) == (code, True), message(answer)
    assert (tables(world), world.row(server_id)) == before


def test_a_stranger_learns_nothing(world: World, server_id: str) -> None:
    nobodys = "11111111-1111-4111-8111-111111111111"
    seen = world.boot("seen")
    before = tables(world)
    make_up: list[dict[str, Any]] = [
        {},
        {"end_date": "2099-01-01 00:00"},
        {"on_end_action": "stop"},
        {"start_date": "2098-01-01 00:00", "end_date": "2099-01-01 00:00"},
        {"amount": 1},
    ]
    for values in make_up:
        answers = [
            (answer.status_code, message(answer).replace(asked, "X"))
            for asked in (server_id, seen, nobodys)
            for answer in [ask(world, asked, world.as_bob, **values)]
        ]
        assert answers == [
            (400, "server X is not one of your project's whose leases you can change")
        ] * len(answers)
    assert tables(world) == before


def test_a_second_one_is_refused(world: World, server_id: str) -> None:
    first = ask(world, server_id).json["lease"]["id"]
    before = tables(world)
    answer = ask(world, server_id, name="another")
    assert (answer.status_code, f"is about to get lease {first}" in message(answer)) == (409, True)
    assert tables(world) == before
    world.settle()
    before = tables(world)
    answer = ask(world, server_id, name="another")
    assert (answer.status_code, f"already has lease {first}" in message(answer)) == (409, True)
    assert tables(world) == before


@pytest.mark.options({"virtual:vm": {"quarantine": "1d"}})
def test_a_vm_of_which_something_is_under_way_gets_none(world: World, server_id: str) -> None:
    row = world.row(server_id)
    world.live(row.ends_at - timedelta(hours=12))
    assert world.state(server_id) == "quarantined"
    before = tables(world)
    answer = ask(world, server_id)
    assert answer.status_code == 409
    assert f"server {server_id} is quarantined" in message(answer)
    assert str(row.lease_id) in message(answer)
    assert tables(world) == before


def test_a_vm_that_does_not_expire_gets_none(world: World, server_id: str) -> None:
    world.harness.conf.set_override("excluded_projects", [world.alpha], group="virtual:vm")
    world.see(server_id)
    answer = ask(world, server_id)
    assert (answer.status_code, "does not expire" in message(answer)) == (409, True)
    assert world.all_leases() == []


# Blazar rolls it back, or dies over it ------------------------------------------------------------


class Hosts(DummyVMPlugin):  # type: ignore[misc]
    """Reserves hosts; or refuses to."""

    resource_type = "physical:host"

    def __init__(self, *, full: bool) -> None:
        self._full = full

    def allocation_candidates(self, lease_values: dict[str, Any]) -> list[str]:
        """Find none that enforcement could count."""
        return []

    def list_allocations(self, query: dict[str, Any], detail: bool = False) -> list[Any]:
        """Find none either."""
        return []

    def reserve_resource(self, reservation_id: str, values: dict[str, Any]) -> str:
        """Reserve a host, if there is one left."""
        if self._full:
            raise manager_exceptions.NotEnoughHostsAvailable()
        return "1"


def add_hosts(world: World, *, full: bool = False) -> dict[str, Any]:
    """Let Blazar reserve hosts, too; return a reservation of one."""
    plugin = Hosts(full=full)
    manager = world.harness.manager
    manager.plugins["physical:host"] = plugin
    manager.resource_actions["physical:host"] = {
        name: getattr(plugin, name) for name in ("on_start", "on_end", "before_end")
    }
    return {"resource_type": "physical:host"}


#: What is reserved in one lease, in this order, and what is said of it.
TOGETHER: dict[str, tuple[list[str], str]] = {
    "the VM twice": (["web1", "web1"], "holds nothing else"),
    "two VMs": (["web1", "web2"], "holds nothing else"),
    "a host and a VM": (["host", "web1"], "holds nothing else"),
    "a VM and a host that is not left": (["web1", "no host"], "Not enough"),
    "a VM and one that is not theirs": (["web1", "bobs"], "not one of your project's"),
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("case", TOGETHER)
def test_what_blazar_rolls_back_has_changed_nothing(
    world: World, server_id: str, case: str
) -> None:
    """Where our reservation is the first, it was taken note of, and Blazar destroys it then."""
    what, says = TOGETHER[case]
    ours = body(world, server_id)["reservations"][0]
    offered = {
        "web1": ours,
        "web2": ours | {"server_id": world.adopt("web2")},
        "bobs": ours | {"server_id": world.adopt("web3", project_id=world.beta)},
    }
    host = add_hosts(world, full="no host" in what)
    reservations = [offered.get(name, host) for name in what]
    before = tables(world)
    answer = ask(world, server_id, reservations=reservations)
    assert answer.status_code == (500 if what == ["web1", "no host"] else 400), answer.json
    assert says in message(answer)
    assert tables(world) == before
    world.settle()
    assert tables(world) == before
    for row in world.rows():
        assert (row.generation, row.chosen) == (0, {})
    # Nothing of it stands in the way of the next.
    make(world, server_id)


def test_a_lease_that_holds_a_host_as_well_stays_that_hosts(world: World, server_id: str) -> None:
    """Blazar asks us before it reserves the host, so that we cannot know of it."""
    implicit = world.lease(server_id)
    host = add_hosts(world)
    ours = body(world, server_id)["reservations"][0]
    answer = ask(world, server_id, reservations=[ours, host])
    assert answer.status_code == 201, answer.json
    world.watch(minutes=16)
    lease_id = answer.json["lease"]["id"]
    shown = world.as_alice.get(f"/v1/leases/{lease_id}").json["lease"]
    assert shown["status"] == "ACTIVE"
    assert [r["resource_type"] for r in shown["reservations"]] == ["physical:host"]
    assert world.lease(server_id) == implicit
    assert (world.row(server_id).chosen, world.row(server_id).generation) == ({}, 0)
    assert world.events(server_id)[1:] == ["explicit_lease_dropped", "lease_removed"]


# The manager dies over it -------------------------------------------------------------------------


def stuck(world: World, lease_id: str, status: str, start_event: str = "UNDONE") -> None:
    """Leave a lease as a manager that was killed does."""
    world.wreck(
        EVENTS,
        (EVENTS.c.lease_id == lease_id) & (EVENTS.c.event_type == "start_lease"),
        status=start_event,
    )
    world.wreck(LEASES, LEASES.c.id == lease_id, status=status, updated_at=world.clock.now())


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("status", "start_event"),
    [
        ("CREATING", "UNDONE"),
        ("PENDING", "IN_PROGRESS"),
        ("STARTING", "IN_PROGRESS"),
        ("ERROR", "ERROR"),
    ],
)
def test_of_one_that_a_dead_manager_left_behind_nothing_stays(
    world: World, server_id: str, status: str, start_event: str
) -> None:
    implicit = world.lease(server_id)
    lease_id = ask(world, server_id).json["lease"]["id"]
    stuck(world, lease_id, status, start_event)
    # For as long as the manager may be alive, the lease is not touched, and no other is made.
    if status != "ERROR":
        world.watch(minutes=1)
        assert sorted(world.all_leases()) == sorted([lease_id, implicit.lease_id])
        assert ask(world, server_id).status_code == 409
    world.watch(minutes=18)
    assert world.all_leases() == [implicit.lease_id]
    assert world.lease(server_id) == implicit
    assert (world.row(server_id).chosen, world.row(server_id).generation) == ({}, 0)
    assert world.mails == []
    make(world, server_id)


def test_one_that_has_not_started_is_waited_for_also_at_the_end(
    world: World, server_id: str
) -> None:
    """Blazar's engine is away: nothing has changed, but the VM does not end meanwhile."""
    end = world.row(server_id).ends_at
    world.live(end - timedelta(minutes=30))
    new_end = world.clock.now() + timedelta(days=20)
    lease_id = ask(world, server_id, end_date=new_end).json["lease"]["id"]
    while world.clock.now() < end + timedelta(minutes=40):
        world.clock.advance(minutes=2)
        world.harness.work()  # and no tick
    assert world.row(server_id).lease_id != lease_id
    assert server_id in world.cloud.compute.vms
    world.settle()
    assert (world.row(server_id).lease_id, world.row(server_id).ends_at) == (lease_id, new_end)
    assert world.all_leases() == [lease_id]
    assert world.state(server_id) == "active"


def test_its_owner_may_think_better_of_it(world: World, server_id: str) -> None:
    implicit = world.lease(server_id)
    lease_id = ask(world, server_id).json["lease"]["id"]
    moved = world.as_alice.put(
        f"/v1/leases/{lease_id}",
        json={"end_date": f"{world.clock.now() + timedelta(days=9):{DATE}}"},
    )
    assert (moved.status_code, "has not started" in message(moved)) == (409, True)
    assert world.as_alice.delete(f"/v1/leases/{lease_id}").status_code == 204
    world.settle()
    assert world.lease(server_id) == implicit
    assert world.row(server_id).chosen == {}
    assert world.mails == []


def test_who_extends_the_implicit_one_meanwhile_did_so_later(world: World, server_id: str) -> None:
    world.live(world.row(server_id).ends_at - timedelta(days=5))
    lease_id = ask(world, server_id, end_date=world.clock.now() + timedelta(days=10)).json["lease"][
        "id"
    ]
    later = world.clock.now().replace(second=0, microsecond=0) + timedelta(days=30)
    assert world.update(server_id, end_date=later).status_code == 200
    world.settle()
    row = world.row(server_id)
    assert (row.lease_id, row.ends_at, row.extensions) == (lease_id, later, 1)
    assert world.lease(server_id).end_date == later
    assert world.all_leases() == [lease_id]


# When it is deleted -------------------------------------------------------------------------------


@pytest.mark.options(CHOOSING)
def test_when_it_is_deleted_the_implicit_one_comes_back(world: World, server_id: str) -> None:
    new_end = world.clock.now() + timedelta(days=20)
    made = make(world, server_id, on_end_action="snapshot")
    assert world.as_alice.delete(f"/v1/leases/{made['id']}").status_code == 204
    world.settle()
    lease = world.lease(server_id)
    assert lease.lease_id != made["id"]
    assert world.all_leases() == [lease.lease_id]
    assert (lease.status, lease.end_date, lease.trust_id) == ("ACTIVE", new_end, None)
    assert world.row(server_id).chosen == {}
    shown = world.as_alice.get(f"/v1/leases/{lease.lease_id}").json["lease"]
    assert shown["name"] == f"web1 {server_id}"
    (mail,) = world.mails
    assert "The lease that was made for it by hand was deleted" in mail.get_content()
    # It ends on the usual terms, and another can be made.
    make(world, server_id, name="again")
    assert world.as_alice.delete(f"/v1/leases/{world.row(server_id).lease_id}").status_code == 204
    world.settle()
    world.live(new_end + timedelta(minutes=1))
    assert server_id not in world.cloud.compute.vms
    assert world.cloud.image.images == {}


@pytest.mark.parametrize(
    ("kept_until", "days_before_the_end"), [("the end it had before", 50), ("now", 1)]
)
def test_it_leaves_no_later_end_than_the_terms_allow(
    world: World, server_id: str, kept_until: str, days_before_the_end: int
) -> None:
    """What an administrator granted goes with the lease."""
    implicit = world.row(server_id).ends_at
    world.live(implicit - timedelta(days=days_before_the_end))
    make(world, server_id, world.as_admin, end_date=world.clock.now() + timedelta(days=900))
    now = world.clock.now().replace(second=0, microsecond=0)
    lease_id = world.row(server_id).lease_id
    assert world.as_alice.delete(f"/v1/leases/{lease_id}").status_code == 204
    world.settle()
    latest = implicit if kept_until != "now" else now + timedelta(days=30)
    assert world.row(server_id).ends_at == world.lease(server_id).end_date == latest
    world.live(latest + timedelta(minutes=1))
    assert server_id not in world.cloud.compute.vms
    kinds = [n.kind for n in world.notices(server_id) if n.accepted_at]
    assert {"reminder/10d", "reminder/2d"} <= set(kinds)


@pytest.mark.long
@pytest.mark.options({"virtual:vm": {"max_total_duration": "70d"}})
def test_making_and_deleting_one_over_and_over_keeps_no_vm(world: World, server_id: str) -> None:
    end = world.row(server_id).ends_at
    moment = end - timedelta(days=12)
    for n in range(48):
        world.live(moment)
        if server_id not in world.cloud.compute.vms:
            break
        moment += timedelta(hours=7)
        ask(world, server_id, name=f"lease {n}", end_date=world.row(server_id).ends_at)
        world.settle()
        world.as_alice.delete(f"/v1/leases/{world.row(server_id).lease_id}")
        world.settle()
    world.live(end + timedelta(minutes=1))
    assert server_id not in world.cloud.compute.vms
    assert [n.kind for n in world.notices(server_id)].count("reminder/10d") == 1


@pytest.mark.options(
    {"virtual:vm": {"on_end_action": "delete", "allowed_actions": ["snapshot"]}},
)
def test_what_was_announced_stays_when_it_is_too_late_to_tell_of_anything_else(
    world: World, server_id: str
) -> None:
    end = world.row(server_id).ends_at
    world.live(end - timedelta(days=1))
    make(world, server_id, end_date=end, on_end_action="snapshot")
    # Less of the VM is left by the terms' own action, and the owner was told otherwise.
    assert world.as_alice.delete(f"/v1/leases/{world.row(server_id).lease_id}").status_code == 204
    world.settle()
    world.live(end + timedelta(minutes=30))
    assert world.row(server_id).state == "deleted"
    assert len(world.cloud.image.images) == 1


# before_end_date ----------------------------------------------------------------------------------


@pytest.mark.options({"virtual:vm": {"before_end_action": "snapshot"}})
@pytest.mark.parametrize("how", ["POST", "PUT"])
@pytest.mark.parametrize("days", [15, 1])
def test_it_moves_the_action_and_no_notice(
    world: World, server_id: str, how: str, days: int
) -> None:
    end = world.clock.now() + timedelta(days=20)
    if how == "POST":
        make(world, server_id, before_end_date=end - timedelta(days=days))
    else:
        make(world, server_id)
        answer = world.update(server_id, before_end_date=end - timedelta(days=days))
        assert answer.status_code == 200, answer.json
        world.settle()
    assert world.lease(server_id).before_end_at == end - timedelta(days=days)
    world.live(end - timedelta(days=days, minutes=1))
    assert world.cloud.image.images == {}
    world.live(end - timedelta(days=days) + timedelta(minutes=30))
    assert len(world.cloud.image.images) == 1
    world.live(end + timedelta(minutes=1))
    assert server_id not in world.cloud.compute.vms
    told = {n.kind: n.accepted_at for n in world.notices(server_id) if n.accepted_at}
    assert told["reminder/10d"] - (end - timedelta(days=10)) < timedelta(minutes=1)
    assert told["reminder/2d"] - (end - timedelta(days=2)) < timedelta(minutes=1)
    assert "moved" not in world.events(server_id)


@pytest.mark.options({"manager": {"minutes_before_end_lease": 0}})
def test_without_an_event_of_blazars_own_it_gets_ours(world: World, server_id: str) -> None:
    make(world, server_id)
    end = world.row(server_id).ends_at
    assert world.lease(server_id).before_end_at == end - timedelta(days=10)
    assert len(world.lease(server_id).events) == 3
