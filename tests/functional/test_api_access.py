# SPDX-License-Identifier: Apache-2.0
"""Every route of our API, tried by every kind of caller, with every kind of id."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any

import pytest
import sqlalchemy as sa

from blazar_vmexpire import exclusions
from blazar_vmexpire.api import policies, v1
from blazar_vmexpire.db.models import expirations, metadata
from tests.blazar_harness import Api
from tests.functional.world import World

pytestmark = pytest.mark.databases("sqlite")

UNKNOWN = "11111111-1111-4111-8111-111111111111"

#: Who asks: all of them but the first two have a token that is valid. The stranger has every role
#: in another project; the guest has none in the VM's own that any of our rules knows.
CALLERS = ("anonymous", "expired", "stranger", "guest", "reader", "member", "manager", "admin")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What callers get from a route that is asked about a VM of project alpha.

    :ivar statuses: of all callers, in their order.
    :ivar body: of a request that is right.
    :ivar query: likewise.
    """

    statuses: tuple[int, ...]
    body: Mapping[str, Any] | None = None
    query: str = ""


#: Of what one has in one's own project.
_READ = (401, 401, 404, 403, 200, 200, 200, 200)
_OWN_LIST = (401, 401, 200, 403, 200, 200, 200, 200)
#: Of what administrators do to a VM.
_OPERATORS = (401, 401, 404, 403, 403, 403, 403, 200)
_OPERATORS_202 = (401, 401, 403, 403, 403, 403, 403, 202)
#: Of what concerns the whole cloud.
_CLOUD = (401, 401, 403, 403, 403, 403, 403, 200)

TABLE: dict[str, list[Row]] = {
    "GET /v1/vm-expirations": [
        Row(statuses=_OWN_LIST),
        Row(statuses=_OWN_LIST, query="?user_id={alice}"),
        Row(statuses=(401, 401, 403, 403, 200, 200, 200, 200), query="?project_id={alpha}"),
        Row(statuses=(401, 401, 403, 403, 403, 403, 403, 200), query="?all_projects=1"),
    ],
    "GET /v1/vm-expirations/summary": [
        Row(statuses=_OWN_LIST),
        Row(statuses=(401, 401, 403, 403, 200, 200, 200, 200), query="?project_id={alpha}"),
        Row(statuses=(401, 401, 403, 403, 403, 403, 403, 200), query="?all_projects=1"),
    ],
    "GET /v1/vm-expirations/{server_id}": [Row(statuses=_READ)],
    "GET /v1/vm-expirations/{server_id}/history": [Row(statuses=_READ)],
    "POST /v1/vm-expirations": [Row(statuses=_OPERATORS_202, body={"server_id": UNKNOWN})],
    "POST /v1/vm-expirations/{server_id}/extend": [
        Row(statuses=(401, 401, 404, 403, 403, 200, 200, 200), body={}),
    ],
    # What becomes of each VM is told in the answer: see the test of it below.
    "POST /v1/vm-expirations/extend": [
        Row(
            statuses=(401, 401, 200, 200, 200, 200, 200, 200),
            body={"server_ids": ["{server_id}"]},
        )
    ],
    "PATCH /v1/vm-expirations/{server_id}": [
        Row(
            statuses=(401, 401, 404, 403, 403, 403, 200, 200),
            body={"reason": "an audit", "hold": {"until": "2026-09-01T10:00Z"}},
        ),
        *(
            Row(statuses=_OPERATORS, body={"reason": "a favour", **change})
            for change in (
                {"ends_at": "2027-09-01T10:00Z"},
                {"exempt": True},
                {"on_end_action": "stop"},
                {"hold": {"until": "2026-09-01T10:00Z"}, "ends_at": "2027-09-01T10:00Z"},
            )
        ),
    ],
    "POST /v1/vm-expirations/{server_id}/expire-now": [
        Row(statuses=_OPERATORS, body={"reason": "a leak"}),
        Row(statuses=_OPERATORS, body={"reason": "a leak", "force": True}),
    ],
    "GET /v1/vm-expiration-exclusions": [Row(statuses=_CLOUD)],
    "POST /v1/vm-expiration-exclusions": [
        Row(
            statuses=(401, 401, 403, 403, 403, 403, 403, 201),
            body={"kind": "server", "value": "{server_id}", "reason": "a favour"},
        )
    ],
    "DELETE /v1/vm-expiration-exclusions/{exclusion_id}": [
        Row(statuses=(401, 401, 403, 403, 403, 403, 403, 204))
    ],
    "GET /v1/vm-expiration-brake": [Row(statuses=_CLOUD)],
    "POST /v1/vm-expiration-brake": [
        Row(statuses=_CLOUD, body={"action": "trip", "reason": "a fire"}),
        Row(statuses=_CLOUD, body={"action": "release", "reason": "it is out"}),
    ],
}


def key(route: Any) -> str:
    """Name a route as the table does."""
    return f"{route.method} {route.shown_path}"


def callers(world: World) -> dict[str, Api]:
    """Make everybody who asks."""
    api, identity = world.harness.api, world.cloud.identity
    expired = api.as_user(world.alice, world.alpha)
    identity.tokens.pop(expired._token)
    guest = Api(api._application, world.cloud, identity.issue(world.bob, world.alpha, ["guest"]))
    return {
        "anonymous": Api(api._application, world.cloud, ""),
        "expired": expired,
        "stranger": api.as_user(world.bob, world.beta, ["member", "manager"]),
        "guest": guest,
        "reader": api.as_user(world.bob, world.alpha, ["reader"]),
        "member": api.as_user(world.bob, world.alpha, ["member"]),
        "manager": api.as_user(world.bob, world.alpha, ["member", "manager"]),
        "admin": api.as_admin(),
    }


def everything(world: World) -> list[Any]:
    """Read all of our tables."""
    with world.harness.database.begin() as connection:
        return [connection.execute(sa.select(t)).all() for t in metadata.tables.values()]


def exclude(world: World, value: str) -> int:
    """Leave out a project; return the exclusion's id."""
    with world.harness.database.begin() as connection:
        return exclusions.add(
            connection,
            kind=exclusions.Kind.PROJECT,
            value=value,
            reason="a secret",
            author="root",
            expires_at=None,
            now=world.clock.now(),
        ).id


def ask(api: Api, name: str, row: Row, world: World, **ids: Any) -> Any:
    """Send a request of the table."""
    method, _, path = name.partition(" ")
    query = row.query.format(alice=world.alice, alpha=world.alpha)
    more = {} if row.body is None else {"json": _filled(row.body, ids)}
    return api.request(method, path.format(**ids) + query, **more)


def _filled(body: Mapping[str, Any], ids: Mapping[str, Any]) -> dict[str, Any]:
    text = json.dumps(body)
    for name, value in ids.items():
        text = text.replace(f"{{{name}}}", str(value))
    filled: dict[str, Any] = json.loads(text)
    return filled


# The table says all ------------------------------------------------------------------------------


def test_the_table_has_every_route_and_no_other() -> None:
    assert set(TABLE) == {key(route) for route in v1.declared()}
    for rows in TABLE.values():
        assert all(len(row.statuses) == len(CALLERS) for row in rows)


def test_every_route_of_the_application_was_declared(world: World) -> None:
    """Blazar's helper makes a second one of each, whose path ends in .json."""
    application = world.harness.api._application.v1
    found = {
        f"{method} {re.sub('/?[.]json$', '', rule.rule)}"
        for rule in application.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if rule.rule.startswith("/v1/vm-exp")
    }
    assert found == {f"{route.method} {route.path}" for route in v1.declared()}


def test_every_rule_is_asked_by_a_route_and_names_it() -> None:
    by_rule: dict[str, set[str]] = {}
    for route in v1.declared():
        assert route.rules, f"{key(route)} asks no rule"
        for rule in route.rules:
            by_rule.setdefault(rule, set()).add(key(route))
    assert by_rule == {
        rule.name: {f"{o['method']} {o['path']}" for o in rule.operations}
        for rule in policies.list_rules()
    }


# And is true --------------------------------------------------------------------------------------


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", sorted(TABLE))
def test_every_caller_gets_what_the_table_says(world: World, name: str) -> None:
    """Whoever is refused has changed nothing."""
    everybody = callers(world)
    for row in TABLE[name]:
        for caller, status in zip(CALLERS, row.statuses, strict=True):
            server_id = world.adopt(caller)
            ids = {"server_id": server_id, "exclusion_id": exclude(world, server_id)}
            before = everything(world)
            answer = ask(everybody[caller], name, row, world, **ids)
            assert answer.status_code == status, (caller, row.query, answer.json)
            if status >= 400:
                assert everything(world) == before, caller
            assert status != 200 or answer.headers["x-openstack-request-id"].startswith("req-")


@pytest.mark.parametrize("name", sorted(n for n in TABLE if "{server_id}" in n))
def test_what_is_anothers_is_as_if_it_were_not_there(world: World, name: str) -> None:
    """A VM of another project, its lease's id, an exclusion's id: only administrators see it."""
    theirs = world.adopt("theirs", project_id=world.beta, user_id=world.bob)
    lease_id = world.row(theirs).lease_id
    excluded = exclude(world, "0" * 32)
    before = everything(world)
    everybody = callers(world)
    for row in TABLE[name]:
        for caller in ("guest", "reader", "member", "manager"):
            answers = {
                server_id: ask(everybody[caller], name, row, world, server_id=server_id)
                for server_id in (theirs, lease_id, excluded, UNKNOWN)
            }
            assert {a.status_code for a in answers.values()} == {404}, (caller, answers)
            told = {
                a.json["error_message"].replace(str(server_id), "X")
                for server_id, a in answers.items()
            }
            assert len(told) == 1, told
        for server_id in (lease_id, excluded, UNKNOWN):
            answer = ask(everybody["admin"], name, row, world, server_id=server_id)
            assert answer.status_code == 404
    assert everything(world) == before


def test_no_answer_tells_of_another_project(world: World) -> None:
    """Whatever is asked, by whomever: what they get back has no other project's ids in it."""
    secrets = [
        world.adopt(f"secret{n}", project_id=world.beta, user_id=world.bob) for n in range(3)
    ]
    for server_id in secrets:
        world.wreck(expirations, expirations.c.server_id == server_id, rule="their-rule")
    mine = world.adopt("mine")
    ids = {"server_id": mine, "exclusion_id": exclude(world, "secret-project")}
    everybody = callers(world)
    hidden = [*secrets, world.beta, "their-rule", "secret"]
    for name, rows in TABLE.items():
        for row in rows:
            for caller in ("guest", "reader", "member", "manager"):
                text = ask(everybody[caller], name, row, world, **ids).text
                assert not [secret for secret in hidden if secret in text], (name, caller)
    for marker in secrets:
        answer = everybody["reader"].get(f"/v1/vm-expirations?marker={marker}")
        assert answer.status_code == 400


def test_of_many_vms_each_is_extended_for_those_who_may_extend_it(world: World) -> None:
    """What is another project's is as if it were not there, here as everywhere."""
    mine = world.adopt("mine")
    theirs = world.adopt("theirs", project_id=world.beta, user_id=world.bob)
    ids = [mine, theirs, UNKNOWN, str(world.row(theirs).lease_id), "web1"]
    everybody = callers(world)
    for caller, expected in (
        ("stranger", [404, 200, 404, 404, 404]),
        ("guest", [403, 404, 404, 404, 404]),
        ("reader", [403, 404, 404, 404, 404]),
        ("member", [200, 404, 404, 404, 404]),
        ("admin", [200, 200, 404, 404, 404]),
    ):
        answer = everybody[caller].post("/v1/vm-expirations/extend", json={"server_ids": ids})
        results = answer.json["results"]
        assert [result["server_id"] for result in results] == ids
        assert [result["status"] for result in results] == expected, caller
        told = {r["error"].replace(r["server_id"], "X") for r in results if r["status"] == 404}
        assert len(told) == 1
        for result in results:
            assert (result["vm_expiration"] is None) is (result["status"] != 200)


@pytest.mark.parametrize("scope", ["system", "domain", "none"], ids=lambda scope: f"{scope}-scoped")
def test_a_token_of_no_project_reaches_nothing(world: World, scope: str) -> None:
    """Not even what no project is known of."""
    server_id = world.adopt()
    nobodys = world.adopt("nobodys")
    world.wreck(expirations, expirations.c.server_id == nobodys, project_id=None)
    api = world.harness.api.as_user(world.alice, world.alpha, ["member", "manager"])
    token = world.cloud.identity.tokens[api._token]
    del token["project"]
    if scope == "system":
        token["system"] = {"all": True}
    if scope == "domain":
        token["domain"] = {"id": "default", "name": "Default"}
    for name, rows in TABLE.items():
        for row in rows:
            for vm in (server_id, nobodys):
                answer = ask(api, name, row, world, server_id=vm, exclusion_id=1)
                if name == "POST /v1/vm-expirations/extend":
                    (result,) = answer.json["results"]
                    assert result["status"] == 404
                else:
                    assert answer.status_code in (403, 404), (name, answer.json)
