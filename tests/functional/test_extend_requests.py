# SPDX-License-Identifier: Apache-2.0
"""Who may extend a VM by our own API, and what can be sent."""

from __future__ import annotations

from typing import Any

import pytest
from werkzeug.test import Client

from tests.functional.extending import (
    active,
    assert_given_back,
    extend,
    latest,
    noticed,
    path,
    quarantined,
    shown,
)
from tests.functional.world import World

pytestmark = [
    pytest.mark.databases("sqlite"),
    pytest.mark.options({"virtual:vm": {"on_end_action": "snapshot"}}),
]

UNKNOWN = "11111111-1111-4111-8111-111111111111"


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
