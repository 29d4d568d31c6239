# SPDX-License-Identifier: Apache-2.0
"""Steering by our API: holding, leaving out, moving, ending, taking in; exclusions, the brake."""

from __future__ import annotations

import datetime
import threading
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from blazar_vmexpire.db.models import holds as holds_table
from blazar_vmexpire.db.models import notices
from tests.blazar_harness import START, Api
from tests.functional.world import World

pytestmark = [
    pytest.mark.databases("sqlite"),
    pytest.mark.options({"virtual:vm": {"on_end_action": "delete"}}),
]

ALL_DATABASES = pytest.mark.databases("sqlite", "mariadb", "postgresql")
ROOT = "/v1/vm-expirations"
EXCLUSIONS = "/v1/vm-expiration-exclusions"
BRAKE = "/v1/vm-expiration-brake"
WHY = "ticket OPS-17"


def iso(moment: datetime.datetime | None) -> str:
    """Write a date as the API does."""
    assert moment is not None
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def patch(world: World, server_id: str, api: Api | None = None, **changes: Any) -> Any:
    """PATCH one, as an administrator unless said otherwise."""
    headers = changes.pop("headers", {})
    body = {"reason": WHY, **changes}
    return (api or world.as_admin).patch(f"{ROOT}/{server_id}", json=body, headers=headers)


def expire(world: World, server_id: str, **body: Any) -> Any:
    """POST expire-now, as an administrator."""
    return world.as_admin.post(f"{ROOT}/{server_id}/expire-now", json={"reason": WHY, **body})


def end_of(world: World, server_id: str) -> datetime.datetime:
    """Return the end that a VM has."""
    found = world.row(server_id).ends_at
    assert found is not None
    return found


def last(world: World, server_id: str, event: str) -> dict[str, Any]:
    """Return the details of the last event of that name."""
    return [details for name, details in world.history(server_id) if name == event][-1]


def requests(world: World, server_id: str, *events: str) -> list[str | None]:
    """Return the ids of the requests by which these events came about, oldest first."""
    answer = world.as_admin.get(f"{ROOT}/{server_id}/history")
    return [
        entry["request_id"]
        for entry in answer.json["vm_expiration_history"]
        if entry["event"] in events
    ]


# The end ------------------------------------------------------------------------------------------


@ALL_DATABASES
def test_an_administrator_moves_an_end_anywhere_and_says_why(world: World) -> None:
    server_id = world.adopt()
    far = START + timedelta(days=900)
    answer = patch(world, server_id, ends_at=iso(far))
    assert answer.status_code == 200, answer.json
    assert answer.json["vm_expiration"]["ends_at"] == iso(far)
    assert answer.headers["ETag"] == '"1"'
    assert world.lease(server_id).end_date == far
    details = last(world, server_id, "extended")
    assert (details["reason"], details["by_admin"]) == (WHY, True)
    assert world.row(server_id).extensions == 0
    past = patch(world, server_id, ends_at="2020-01-01T00:00Z")
    assert past.status_code == 400
    assert "has passed" in past.json["error_message"]


def test_an_end_that_an_administrator_brings_forward_still_has_its_notice(world: World) -> None:
    server_id = world.adopt()
    assert patch(world, server_id, ends_at=iso(START + timedelta(hours=1))).status_code == 200
    world.live(START + timedelta(days=1))
    assert world.state(server_id) == "noticed"
    assert end_of(world, server_id) >= START + timedelta(days=2)
    world.live(end_of(world, server_id) + timedelta(minutes=5))
    assert world.state(server_id) == "deleted"


@pytest.mark.options({"virtual:vm": {"quarantine": "3d"}})
def test_a_quarantined_vm_is_given_back_with_its_new_end(world: World) -> None:
    server_id = world.adopt()
    world.live(end_of(world, server_id) - timedelta(days=2))
    assert world.state(server_id) == "quarantined"
    far = world.clock.now() + timedelta(days=100)
    answer = patch(world, server_id, ends_at=iso(far))
    assert answer.json["vm_expiration"]["state"] == "reviving"
    world.settle()
    assert world.state(server_id) == "active"
    vm = world.cloud.compute.vms[server_id]
    assert (vm.vm_state, vm.locked) == ("active", False)


def test_expire_now_ends_it_as_soon_as_its_owner_has_had_notice(world: World) -> None:
    server_id = world.adopt()
    answer = expire(world, server_id)
    assert answer.status_code == 200, answer.json
    end = end_of(world, server_id)
    assert answer.json["vm_expiration"]["ends_at"] == iso(end)
    assert START + timedelta(days=2) < end < START + timedelta(days=2, hours=3)
    world.settle()
    again = expire(world, server_id)
    assert again.json["vm_expiration"]["generation"] == 1
    world.live(end - timedelta(minutes=1))
    assert server_id in world.cloud.compute.vms
    assert set(world.recipients()) == {"alice@example.org"}
    world.live(end + timedelta(minutes=5))
    assert world.state(server_id) == "deleted"
    assert last(world, server_id, "shortened")["reason"] == WHY


@pytest.mark.parametrize("days", [1, 55])
def test_with_force_it_ends_at_once_and_the_history_says_by_whom_and_why(
    world: World, days: int
) -> None:
    server_id = world.adopt()
    world.live(START + timedelta(days=days))
    answer = expire(world, server_id, force=True)
    assert answer.status_code == 200, answer.json
    world.live(world.clock.now() + timedelta(minutes=10))
    assert world.state(server_id) == "deleted"
    forced = last(world, server_id, "end_forced")
    assert forced["reason"] == WHY
    history = world.as_alice.get(f"{ROOT}/{server_id}/history").json["vm_expiration_history"]
    (entry,) = [entry for entry in history if entry["event"] == "end_forced"]
    assert entry["actor"] not in (None, world.alice)
    shown = world.as_alice.get(f"{ROOT}/{server_id}").json["vm_expiration"]["notices"]
    assert "forced" not in [notice["kind"] for notice in shown]


@pytest.mark.options({"virtual:vm": {"quarantine": "1d"}})
def test_with_force_its_quarantine_begins_at_once_and_is_not_shortened(world: World) -> None:
    server_id = world.adopt()
    assert expire(world, server_id, force=True).status_code == 200
    world.live(START + timedelta(minutes=10))
    assert world.state(server_id) == "quarantined"
    assert world.cloud.compute.vms[server_id].vm_state == "stopped"
    world.live(START + timedelta(days=1, minutes=10))
    assert world.state(server_id) == "deleted"


@ALL_DATABASES
def test_force_is_for_that_one_end_only(world: World) -> None:
    """Its owner extends in the minute that is left: the new end needs a notice again."""
    server_id = world.adopt()
    assert expire(world, server_id, force=True).status_code == 200
    assert world.extend(server_id).status_code == 200
    world.live(START + timedelta(days=1))
    assert world.state(server_id) == "active"
    assert server_id in world.cloud.compute.vms


def test_force_waits_for_the_brake(world: World) -> None:
    server_id = world.adopt()
    assert brake(world, "trip").status_code == 200
    assert expire(world, server_id, force=True).status_code == 200
    world.live(START + timedelta(hours=3))
    assert server_id in world.cloud.compute.vms
    assert brake(world, "release").status_code == 200
    world.live(START + timedelta(hours=6))
    assert world.state(server_id) == "deleted"


# What is done at the end --------------------------------------------------------------------------


@ALL_DATABASES
def test_an_administrator_sets_what_is_done_to_one_vm(world: World) -> None:
    """Whatever its terms allow; and takes it back."""
    server_id = world.adopt()
    answer = patch(world, server_id, on_end_action="stop")
    assert answer.status_code == 200, answer.json
    assert answer.json["vm_expiration"]["on_end_action"] == "stop"
    assert last(world, server_id, "actions_chosen")["reason"] == WHY
    shown = world.as_alice.get(f"{ROOT}/{server_id}").json["vm_expiration"]
    assert shown["imposed_on_end_action"] == "stop"
    back = patch(world, server_id, on_end_action=None)
    assert back.json["vm_expiration"]["on_end_action"] == "delete"
    assert patch(world, server_id, on_end_action="stop").status_code == 200
    world.live(end_of(world, server_id) + timedelta(minutes=5))
    assert world.state(server_id) == "ended"
    assert world.cloud.compute.vms[server_id].vm_state == "stopped"


def test_an_action_that_there_is_not_is_refused_naming_those_there_are(world: World) -> None:
    server_id = world.adopt()
    answer = patch(world, server_id, on_end_action="explode")
    assert answer.status_code == 400
    assert "'explode' is not known: it must be" in answer.json["error_message"]
    assert world.row(server_id).generation == 0


# Held and left out --------------------------------------------------------------------------------


@ALL_DATABASES
def test_a_manager_of_the_project_holds_and_releases(world: World) -> None:
    manager = world.harness.api.as_user(world.alice, world.alpha, ["member", "manager"])
    server_id = world.adopt()
    own_end = end_of(world, server_id)
    until = START + timedelta(days=100)
    held = patch(world, server_id, manager, hold={"until": iso(until), "ticket": "OPS-17"})
    assert held.status_code == 200, held.json
    assert held.json["vm_expiration"]["state"] == "held"
    with world.harness.database.begin() as connection:
        hold = connection.execute(sa.select(holds_table)).one()
    assert (hold.author, hold.reason, hold.ticket, hold.until) == (
        world.alice,
        WHY,
        "OPS-17",
        until,
    )
    released = patch(world, server_id, manager, hold=None)
    assert released.json["vm_expiration"]["state"] == "active"
    assert requests(world, server_id, "held", "released") == [
        held.headers["X-Openstack-Request-Id"],
        released.headers["X-Openstack-Request-Id"],
    ]
    assert end_of(world, server_id) == own_end
    none = patch(world, server_id, manager, hold=None)
    assert none.status_code == 409
    assert "is not held" in none.json["error_message"]


@ALL_DATABASES
def test_an_exemption_lets_go_of_a_vm_and_its_end_takes_it_in_again(world: World) -> None:
    server_id = world.adopt()
    begun = patch(world, server_id, exempt=True)
    assert begun.status_code == 200
    world.settle()
    assert world.state(server_id) == "exempt"
    assert world.all_leases() == []
    shown = world.as_alice.get(f"{ROOT}/{server_id}").json["vm_expiration"]
    assert WHY in shown["exemption"]["reason"]
    again = patch(world, server_id, exempt=True)
    assert again.status_code == 409
    ended = patch(world, server_id, exempt=False)
    assert ended.status_code == 200
    assert requests(world, server_id, "excluded", "exclusion_removed") == [
        begun.headers["X-Openstack-Request-Id"],
        ended.headers["X-Openstack-Request-Id"],
    ]
    world.settle()
    assert world.state(server_id) == "active"
    none = patch(world, server_id, exempt=False)
    assert none.status_code == 409


def test_an_exemption_can_end_by_itself(world: World) -> None:
    server_id = world.adopt()
    until = START + timedelta(days=5)
    assert patch(world, server_id, exempt={"until": iso(until)}).status_code == 200
    world.settle()
    shown = world.as_alice.get(f"{ROOT}/{server_id}").json["vm_expiration"]
    assert shown["exemption"]["until"] == iso(until)
    world.live(until + timedelta(hours=1))
    assert world.state(server_id) == "active"


@ALL_DATABASES
def test_several_changes_are_made_together_or_not_at_all(world: World) -> None:
    server_id = world.adopt()
    before = world.row(server_id)
    far = iso(START + timedelta(days=300))
    bad = patch(world, server_id, ends_at=far, on_end_action="explode")
    assert bad.status_code == 400
    assert world.row(server_id) == before
    assert world.lease(server_id).end_date == before.ends_at
    good = patch(world, server_id, ends_at=far, on_end_action="stop")
    found = good.json["vm_expiration"]
    assert (found["ends_at"], found["on_end_action"]) == (far, "stop")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"ends_at": "2026-09-01T10:00Z"}, "'reason' is a required property"),
        ({"reason": WHY}, "it says too little"),
        ({"reason": "", "exempt": True}, "reason"),
        ({"reason": " \t ", "exempt": True}, "reason"),
        ({"reason": "one\ntwo", "exempt": True}, "it must have no control characters"),
        ({"reason": "next\x85line", "exempt": True}, "it must have no control characters"),
        ({"reason": "nul\0", "exempt": True}, "it must have no control characters"),
        ({"reason": "x" * 1001, "exempt": True}, "reason"),
        ({"reason": WHY, "ends_at": "soon"}, "ends_at 'soon' is no date"),
        ({"reason": WHY, "hold": {"until": "soon"}}, "hold.until 'soon' is no date"),
        ({"reason": WHY, "hold": {"until": "2020-01-01T00:00Z"}}, "has passed"),
        ({"reason": WHY, "exempt": {"until": "2020-01-01T00:00Z"}}, "has passed"),
        ({"reason": WHY, "exempt": "yes"}, "exempt"),
        ({"reason": WHY, "state": "deleted"}, "'state' was unexpected"),
        ({"reason": WHY, "generation": 7}, "'generation' was unexpected"),
    ],
    ids=str,
)
def test_changes_that_are_wrong_are_refused_with_a_sentence(
    world: World, body: dict[str, Any], says: str
) -> None:
    server_id = world.adopt()
    answer = world.as_admin.patch(f"{ROOT}/{server_id}", json=body)
    assert answer.status_code == 400, answer.json
    assert says in answer.json["error_message"]
    assert world.row(server_id).generation == 0


@ALL_DATABASES
def test_text_that_is_none_is_refused(world: World) -> None:
    """Half of a character that takes two, as JSON can write it and no database stores."""
    server_id = world.adopt()
    answer = world.as_admin.patch(
        f"{ROOT}/{server_id}",
        data=b'{"reason": "\\ud83d", "exempt": true}',
        content_type="application/json",
    )
    assert answer.status_code == 400, answer.json
    assert "characters" in answer.json["error_message"]
    whole = patch(world, server_id, reason="\U0001f600 <b>&amp;", exempt=True)
    assert whole.status_code == 200, whole.json
    for query in ("name=%00", "user_id=%00", "rule=%00", "marker=%00"):
        assert world.as_alice.get(f"{ROOT}?{query}").status_code == 400, query
    assert world.as_alice.get(f"{ROOT}?name=%ff%fe").status_code == 200


# Who was first ------------------------------------------------------------------------------------


def test_with_if_match_the_loser_of_a_race_is_told(world: World) -> None:
    server_id = world.adopt()
    seen = world.as_admin.get(f"{ROOT}/{server_id}").headers["ETag"]
    first = patch(world, server_id, on_end_action="stop", headers={"If-Match": seen})
    assert first.status_code == 200
    requests = {
        "patch": lambda tag: patch(world, server_id, exempt=True, headers={"If-Match": tag}),
        "extend": lambda tag: world.as_alice.post(
            f"{ROOT}/{server_id}/extend", headers={"If-Match": tag}
        ),
        "expire": lambda tag: world.as_admin.post(
            f"{ROOT}/{server_id}/expire-now", json={"reason": WHY}, headers={"If-Match": tag}
        ),
    }
    before = world.row(server_id)
    for name, request in requests.items():
        for tag in (seen, '"7"', '""', f"W/{first.headers['ETag']}", '"x", "y"'):
            lost = request(tag)
            assert lost.status_code == 409, name
            assert lost.json["error_name"] == "vm_expiration.concurrent_update"
            assert "its generation is 1" in lost.json["error_message"]
    assert world.row(server_id) == before
    assert requests["extend"](f'"0", {first.headers["ETag"]}').status_code == 200
    assert requests["patch"]("*").status_code == 200


def test_a_stranger_learns_no_generation(world: World) -> None:
    server_id = world.adopt()
    answer = world.as_bob.post(f"{ROOT}/{server_id}/extend", headers={"If-Match": '"7"'})
    assert answer.status_code == 404


@ALL_DATABASES
def test_of_several_at_once_exactly_one_matches(world: World) -> None:
    server_id = world.adopt()
    admin = world.as_admin
    statuses = []

    def one(day: int) -> None:
        answer = patch(
            world,
            server_id,
            admin,
            ends_at=iso(START + timedelta(days=200 + day)),
            headers={"If-Match": '"0"'},
        )
        statuses.append(answer.status_code)

    threads = [threading.Thread(target=one, args=(day,)) for day in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200, 409, 409, 409]
    assert world.row(server_id).generation == 1


# Taking in ----------------------------------------------------------------------------------------


@ALL_DATABASES
def test_a_vm_is_taken_in_at_once(world: World) -> None:
    server_id = world.boot()
    answer = world.as_admin.post(ROOT, json={"server_id": server_id.upper()})
    assert answer.status_code == 202, answer.json
    assert answer.json["vm_expiration"] == {"server_id": server_id, "state": "seen"}
    world.settle()
    assert world.state(server_id) == "active"
    again = world.as_admin.post(ROOT, json={"server_id": server_id})
    assert again.json["vm_expiration"]["state"] == "active"
    bad = world.as_admin.post(ROOT, json={"server_id": "web1"})
    assert bad.status_code == 400


# Many ---------------------------------------------------------------------------------------------


@ALL_DATABASES
def test_several_are_extended_at_once_each_with_its_result(world: World) -> None:
    servers = [world.adopt(f"web{n}") for n in range(3)]
    world.live(START + timedelta(days=55))
    until = world.clock.now() + timedelta(days=20)
    body = {"server_ids": [*servers, "nonsense"], "until": iso(until)}
    answer = world.as_alice.post(f"{ROOT}/extend", json=body)
    assert answer.status_code == 200, answer.json
    results = answer.json["results"]
    assert [result["status"] for result in results] == [200, 200, 200, 404]
    assert {result["vm_expiration"]["ends_at"] for result in results[:3]} == {iso(until)}
    assert [end_of(world, server_id) for server_id in servers] == [until] * 3
    too_far = world.as_alice.post(
        f"{ROOT}/extend", json={"server_ids": servers, "until": "2030-01-01T00:00Z"}
    )
    assert [result["status"] for result in too_far.json["results"]] == [400] * 3
    assert "past the latest allowed" in too_far.json["results"][0]["error"]


@pytest.mark.parametrize(
    "ids", [[], ["a", "a"], [str(n) for n in range(101)], "web1", None, [None]], ids=str
)
def test_lists_of_vms_that_are_none_are_refused(world: World, ids: Any) -> None:
    assert world.as_alice.post(f"{ROOT}/extend", json={"server_ids": ids}).status_code == 400


# Exclusions ---------------------------------------------------------------------------------------


@ALL_DATABASES
def test_exclusions_are_made_listed_and_taken_back(world: World) -> None:
    server_id = world.adopt()
    body = {"kind": "project", "value": world.alpha, "reason": WHY}
    made = world.as_admin.post(EXCLUSIONS, json=body)
    assert made.status_code == 201, made.json
    exclusion = made.json["vm_expiration_exclusion"]
    assert exclusion.items() >= body.items()
    assert exclusion["expires_at"] is None
    world.settle()
    assert world.state(server_id) == "exempt"
    twice = world.as_admin.post(EXCLUSIONS, json=body)
    assert twice.status_code == 409
    assert "is excluded already" in twice.json["error_message"]
    soon = {"kind": "user", "value": "u", "reason": WHY, "expires_at": iso(START + timedelta(1))}
    assert world.as_admin.post(EXCLUSIONS, json=soon).status_code == 201

    def listed(**query: str) -> list[str]:
        answer = world.as_admin.get(EXCLUSIONS, query_string=query)
        return [found["value"] for found in answer.json["vm_expiration_exclusions"]]

    assert listed() == [world.alpha, "u"]
    assert listed(kind="user") == listed(value="u") == ["u"]
    world.clock.advance(days=2)
    assert listed() == [world.alpha]
    assert listed(all="1") == [world.alpha, "u"]
    where = f"{EXCLUSIONS}/{exclusion['id']}"
    gone = world.as_admin.delete(f"{where}?reason=over")
    assert (gone.status_code, gone.data) == (204, b"")
    world.settle()
    assert world.state(server_id) == "active"
    for missing in (where, f"{EXCLUSIONS}/0", f"{EXCLUSIONS}/x", f"{EXCLUSIONS}/{'9' * 40}"):
        assert world.as_admin.delete(missing).status_code == 404, missing


def test_an_exclusion_of_one_vm_has_its_requests_in_the_history(world: World) -> None:
    server_id = world.adopt()
    body = {"kind": "server", "value": server_id, "reason": WHY}
    made = world.as_admin.post(EXCLUSIONS, json=body)
    gone = world.as_admin.delete(f"{EXCLUSIONS}/{made.json['vm_expiration_exclusion']['id']}")
    assert requests(world, server_id, "excluded", "exclusion_removed") == [
        made.headers["X-Openstack-Request-Id"],
        gone.headers["X-Openstack-Request-Id"],
    ]


@pytest.mark.parametrize(
    "body",
    [
        {"kind": "galaxy", "value": "x", "reason": WHY},
        {"kind": "server", "value": "web1", "reason": WHY},
        {"kind": "user", "value": "", "reason": WHY},
        {"kind": "user", "value": "a\nb", "reason": WHY},
        {"kind": "user", "value": "u"},
        {"kind": "user", "value": "u", "reason": WHY, "expires_at": "2020-01-01T00:00Z"},
    ],
    ids=str,
)
def test_exclusions_that_are_wrong_are_refused(world: World, body: dict[str, str]) -> None:
    answer = world.as_admin.post(EXCLUSIONS, json=body)
    assert answer.status_code == 400, answer.json
    assert world.as_admin.get(f"{EXCLUSIONS}?all=1").json == {"vm_expiration_exclusions": []}


# The brake ----------------------------------------------------------------------------------------


def brake(world: World, action: str) -> Any:
    """POST to the brake, as an administrator."""
    return world.as_admin.post(BRAKE, json={"action": action, "reason": WHY})


@ALL_DATABASES
def test_the_brake_is_shown_tripped_and_released(world: World) -> None:
    world.adopt()
    found = world.as_admin.get(BRAKE).json["vm_expiration_brake"]
    assert (found["tripped_at"], found["known"], found["now"]["ending"]["count"]) == (None, 1, 0)
    assert brake(world, "release").status_code == 409
    tripped = brake(world, "trip")
    assert tripped.status_code == 200, tripped.json
    assert tripped.json["vm_expiration_brake"]["reason"] == WHY
    assert tripped.json["vm_expiration_brake"]["tripped_at"] == iso(START)
    assert brake(world, "trip").status_code == 409
    released = brake(world, "release").json["vm_expiration_brake"]
    assert (released["tripped_at"], released["release_reason"]) == (None, WHY)


@pytest.mark.options({"vmexpire_brake": {"enabled": False}})
def test_a_brake_that_is_switched_off_is_not_tripped(world: World) -> None:
    answer = brake(world, "trip")
    assert answer.status_code == 409
    assert "enabled is false" in answer.json["error_message"]


# The manager --------------------------------------------------------------------------------------


@pytest.mark.options({"DEFAULT": {"rpc_response_timeout": 1}})
def test_every_write_answers_503_in_time_while_the_manager_is_away(world: World) -> None:
    server_id = world.adopt()
    world.harness.stop()
    before = datetime.datetime.now(datetime.UTC)
    answers = [
        world.as_alice.post(f"{ROOT}/{server_id}/extend"),
        world.as_alice.post(f"{ROOT}/extend", json={"server_ids": [server_id]}),
        patch(world, server_id, exempt=True),
        expire(world, server_id),
        world.as_admin.post(ROOT, json={"server_id": server_id}),
        world.as_admin.post(EXCLUSIONS, json={"kind": "user", "value": "u", "reason": WHY}),
        world.as_admin.delete(f"{EXCLUSIONS}/1"),
        brake(world, "trip"),
    ]
    assert [answer.status_code for answer in answers] == [503] * len(answers)
    took = datetime.datetime.now(datetime.UTC) - before
    assert took < timedelta(seconds=4 * len(answers))
    assert world.row(server_id).generation == 0
    with world.harness.database.begin() as connection:
        assert connection.execute(sa.select(notices)).all() == []
