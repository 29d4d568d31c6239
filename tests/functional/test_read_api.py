# SPDX-License-Identifier: Apache-2.0
"""Reading by our API: VMs page by page, one of them, its history, and what ends when."""

from __future__ import annotations

import datetime
import json
import urllib.parse
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from blazar_vmexpire import holds
from blazar_vmexpire.db.models import expirations, history
from tests.blazar_harness import START, Api
from tests.functional.world import World

pytestmark = [
    pytest.mark.databases("sqlite"),
    pytest.mark.options({"virtual:vm": {"on_end_action": "snapshot"}}),
]

ALL_DATABASES = pytest.mark.databases("sqlite", "mariadb", "postgresql")
ROOT = "/v1/vm-expirations"
UNKNOWN = "11111111-1111-4111-8111-111111111111"


def shown(moment: datetime.datetime | None) -> str | None:
    """Write a date as the API shows it."""
    return None if moment is None else f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def put(world: World, **columns: Any) -> str:
    """Write the row of a VM of Alice's, as if it had been taken in."""
    row = {
        "server_id": str(uuid.uuid4()),
        "server_name": "web1",
        "project_id": world.alpha,
        "user_id": world.alice,
        "state": "active",
        "ends_at": START + timedelta(days=60),
        "facts": json.dumps({"vcpus": 2, "ram_mb": 512}),
        **columns,
    }
    with world.harness.database.begin() as connection:
        connection.execute(expirations.insert(), [row])
    return str(row["server_id"])


def listed(api: Api, **query: Any) -> list[str]:
    """List VMs: their UUIDs, of one page."""
    answer = api.get(ROOT, query_string=query)
    assert answer.status_code == 200, answer.json
    return [vm["server_id"] for vm in answer.json["vm_expirations"]]


def pages(api: Api, name: str, path: str = ROOT, **query: Any) -> Iterator[list[dict[str, Any]]]:
    """Follow the next links from page to page."""
    answer = api.get(path, query_string=query)
    while True:
        assert answer.status_code == 200, answer.json
        yield answer.json[name]
        if not answer.json[f"{name}_links"]:
            return
        (link,) = answer.json[f"{name}_links"]
        assert link["rel"] == "next"
        found = urllib.parse.urlsplit(link["href"])
        assert (found.netloc, found.path) == ("localhost", path)
        answer = api.get(f"{found.path}?{found.query}")


def ids_of(pages_: Iterator[list[dict[str, Any]]]) -> list[str]:
    """Put pages together."""
    return [vm["server_id"] for page in pages_ for vm in page]


# Which ------------------------------------------------------------------------------------------


def test_one_lists_the_vms_of_ones_own_project(world: World) -> None:
    mine = [put(world, ends_at=START + timedelta(days=n)) for n in range(3)]
    theirs = put(world, project_id=world.beta, user_id=world.bob)
    assert listed(world.as_alice) == mine
    assert listed(world.as_bob) == [theirs]
    assert listed(world.as_admin) == []
    assert listed(world.as_admin, project_id=world.alpha) == mine
    assert set(listed(world.as_admin, all_projects="true")) == {*mine, theirs}
    assert listed(world.as_alice, project_id=world.alpha, all_projects="false") == mine


@pytest.mark.parametrize(
    "query", [{"all_projects": "1"}, {"project_id": "beta"}, {"project_id": ""}]
)
def test_no_other_project_is_listed_whether_it_is_there_or_not(
    world: World, query: dict[str, str]
) -> None:
    put(world, project_id=world.beta)
    query = {k: world.beta if v == "beta" else v for k, v in query.items()}
    for path in (ROOT, f"{ROOT}/summary"):
        refused = world.as_alice.get(path, query_string=query)
        unknown = world.as_alice.get(path, query_string={**query, "user_id": "nobody"})
        assert refused.status_code == unknown.status_code == 403
        assert refused.json == unknown.json


@ALL_DATABASES
def test_filters_say_which(world: World) -> None:
    first = put(world, server_name="db", state="noticed", rule="gpu", ends_at=START)
    second = put(world, user_id=world.bob, ends_at=START + timedelta(days=1))
    kept = put(world, state="ended", ends_at=None)
    gone = put(world, state="deleted")
    put(world, state="seen", project_id=None)
    day = f"{START + timedelta(days=1):%Y-%m-%dT%H:%MZ}"
    for query, expected in (
        ({}, [first, second, kept]),
        ({"state": "noticed"}, [first]),
        ({"state": "deleted"}, [gone]),
        ({"state": "failed"}, []),
        ({"rule": "gpu"}, [first]),
        ({"rule": "gp"}, []),
        ({"name": "db"}, [first]),
        ({"user_id": world.bob}, [second]),
        ({"server_ids": second}, [second]),
        ({"server_ids": f"{kept},{UNKNOWN},{first.upper()}"}, [first, kept]),
        ({"server_ids": f"{gone},{second}", "state": "deleted"}, [gone]),
        ({"ends_before": day}, [first]),
        ({"ends_after": day}, [second]),
        ({"ends_after": day, "ends_before": day}, []),
        ({"ends_after": "2026-03-02 10:00", "name": "web1"}, [second]),
    ):
        assert listed(world.as_alice, **query) == expected, query
    assert gone not in listed(world.as_admin, all_projects="1")


# Page by page -----------------------------------------------------------------------------------


@pytest.mark.sampled(3)
@ALL_DATABASES
@pytest.mark.parametrize("sort_dir", ["asc", "desc"])
@pytest.mark.parametrize("sort_key", ["ends_at", "server_name", "server_id", "state"])
def test_pages_hold_every_vm_once_in_order(world: World, sort_key: str, sort_dir: str) -> None:
    """Also where many are equal, have no end, or a name with a comma or an umlaut in it."""
    for n in range(30):
        put(
            world,
            ends_at=None if n % 5 == 0 else START + timedelta(days=n % 3, seconds=n % 2),
            server_name=["web1", "WEB,1", "", "ähre", "\U0001f600"][n % 4],
            state=["active", "noticed", "ended"][n % 3],
        )
        put(world, project_id=world.beta)
    query = {"sort_key": sort_key, "sort_dir": sort_dir}
    whole = listed(world.as_alice, **query)
    assert len(set(whole)) == 30
    for limit in (1, 4, 30, 31):
        found = list(pages(world.as_alice, "vm_expirations", limit=limit, **query))
        assert [vm["server_id"] for page in found for vm in page] == whole
        assert len(found) == -(-30 // limit)
    rows = {row.server_id: row for row in world.rows()}
    if sort_key == "ends_at":
        ends = [rows[server_id].ends_at for server_id in whole]
        dated = [end for end in ends if end is not None]
        assert ends[len(dated) :] == [None] * 6
        assert dated == sorted(dated, reverse=sort_dir == "desc")
    if sort_key == "server_id":
        assert whole == sorted(whole, reverse=sort_dir == "desc")


@ALL_DATABASES
def test_a_uuid_is_a_marker_too_and_only_one_of_those_that_are_listed(world: World) -> None:
    mine = [put(world, ends_at=START + timedelta(days=n)) for n in range(4)]
    theirs = put(world, project_id=world.beta)
    assert listed(world.as_alice, marker=mine[1], limit=1) == [mine[2]]
    assert listed(world.as_alice, marker=mine[3]) == []
    answers = [
        world.as_alice.get(ROOT, query_string={"marker": marker}) for marker in (theirs, UNKNOWN)
    ]
    assert [answer.status_code for answer in answers] == [400, 400]
    said = [
        a.json["error_message"].replace(i, "X")
        for a, i in zip(answers, (theirs, UNKNOWN), strict=True)
    ]
    assert said[0] == said[1]


def test_a_vm_that_is_extended_between_two_pages_hides_no_other(world: World) -> None:
    mine = [put(world, ends_at=START + timedelta(days=n)) for n in range(6)]
    following = pages(world.as_alice, "vm_expirations", limit=2)
    assert [vm["server_id"] for vm in next(following)] == mine[:2]
    world.wreck(expirations, expirations.c.server_id == mine[1], ends_at=START + timedelta(days=90))
    assert ids_of(following) == [*mine[2:], mine[1]]


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("colour=red", "'colour' was unexpected"),
        ("limit=0", "limit: 0 is less than the minimum of 1"),
        ("limit=1001", "limit: 1001 is greater than the maximum of 1000"),
        ("limit=-1", "limit: '-1' is not of type 'integer'"),
        ("limit=" + "9" * 5000, "limit: '99999"),
        ("limit=%D9%A1", "is not of type 'integer'"),
        ("limit=1&limit=2", "limit is given 2 times"),
        ("state=seen", "'seen' is not one of"),
        ("sort_key=progress", "'progress' is not one of"),
        ("sort_dir=up", "'up' is not one of"),
        ("all_projects=maybe", "'maybe' is not of type 'boolean'"),
        ("ends_before=soon", "ends_before 'soon' is no date"),
        ("ends_after=0001-01-01T00:00%2B14:00", "is no date"),
        ("server_ids=", "does not match"),
        ("server_ids=web1", "'web1' does not match"),
        ("server_ids=" + ",".join([UNKNOWN] * 101), "server_ids: "),
        ("marker=web1", "marker 'web1' is none"),
        ("marker=" + UNKNOWN + ",soon", "is none"),
        ("marker=" + UNKNOWN + ",2026-03-02T10:00%2B01:00", "is none"),
        ("name=" + "x" * 256, "is too long"),
    ],
)
def test_queries_that_are_wrong_are_refused_with_a_sentence(
    world: World, query: str, says: str
) -> None:
    answer = world.as_alice.get(f"{ROOT}?{query}")
    assert answer.status_code == 400, answer.json
    assert says in answer.json["error_message"]
    assert len(answer.json["error_message"]) < 500
    assert answer.headers["x-openstack-request-id"].startswith("req-")


@pytest.mark.parametrize(
    ("version", "status"),
    [(None, 200), ("1.0", 200), ("latest", 200), ("1.99", 406), ("one", 400)],
)
def test_a_microversion_is_taken_as_by_blazars_own_routes(
    world: World, version: str | None, status: int
) -> None:
    headers = {"OpenStack-API-Version": f"reservation {version}"} if version else {}
    ours, blazars = (world.as_alice.get(path, headers=headers) for path in (ROOT, "/v1/leases"))
    assert ours.status_code == blazars.status_code == status
    for name in ("OpenStack-API-Version", "Vary"):
        assert ours.headers.get(name) == blazars.headers.get(name)


# One ----------------------------------------------------------------------------------------------


def show(world: World, server_id: str, api: Api | None = None) -> Any:
    """GET one, as Alice unless said otherwise."""
    return (api or world.as_alice).get(f"{ROOT}/{server_id}")


@pytest.mark.options({"virtual:vm": {"quarantine": "3d"}})
def test_all_that_is_known_of_one_is_shown(world: World) -> None:
    server_id = world.adopt()
    end = world.row(server_id).ends_at
    assert end is not None
    answer = show(world, server_id)
    assert answer.status_code == 200
    assert answer.headers["ETag"] == '"0"'
    assert answer.json["vm_expiration"] == {
        "server_id": server_id,
        "server_name": "web1",
        "project_id": world.alpha,
        "user_id": world.alice,
        "lease_id": world.row(server_id).lease_id,
        "state": "active",
        "rule": None,
        "before_end_action": "notification",
        "on_end_action": "snapshot",
        "ends_at": shown(end),
        "quarantine_at": shown(end - timedelta(days=3)),
        "next_notice_at": shown(end - timedelta(days=10)),
        "latest_allowed_end": shown(end),
        "extendable_from": None,
        "waiting_since": None,
        "extensions": 0,
        "extensions_left": None,
        "generation": 0,
        "hold": None,
        "exemption": None,
        "notices": [],
        "contacts": [
            {"kind": "owner", "value": world.alice},
            {"kind": "undeliverable_contact", "value": None},
        ],
        "chosen_actions": {"before_end_action": None, "on_end_action": None},
        "imposed_on_end_action": None,
        "last_error": None,
    }
    world.live(end - timedelta(days=9))
    found = show(world, server_id).json["vm_expiration"]
    assert found["state"] == "noticed"
    assert found["next_notice_at"] == shown(end - timedelta(days=2))
    (notice,) = found["notices"]
    assert (notice["recipient"], notice["told_end"]) == ("alice@example.org", shown(end))
    assert notice["accepted_at"] == shown(end - timedelta(days=10))
    world.live(end - timedelta(days=2))
    found = show(world, server_id).json["vm_expiration"]
    assert (found["state"], found["quarantine_at"]) == ("quarantined", None)


def test_what_is_listed_is_what_is_shown(world: World) -> None:
    server_id = world.adopt()
    (found,) = world.as_alice.get(ROOT).json["vm_expirations"]
    alone = show(world, server_id).json["vm_expiration"]
    assert alone.items() >= found.items()
    assert alone.keys() - found.keys() == {
        "hold",
        "exemption",
        "notices",
        "contacts",
        "chosen_actions",
        "imposed_on_end_action",
        "last_error",
    }


@ALL_DATABASES
def test_a_hold_and_an_exemption_are_shown_with_their_reasons(world: World) -> None:
    server_id = world.adopt()
    own_end = world.row(server_id).ends_at
    until = START + timedelta(days=70)
    with world.harness.database.begin() as connection:
        holds.hold(
            connection,
            server_id,
            until=until,
            reason="an audit",
            ticket="OPS-17",
            author="root",
            book=world.harness.plugin.tools.book,
            now=world.clock.now(),
        )
    world.settle()
    assert show(world, server_id).json["vm_expiration"]["hold"] == {
        "until": shown(until),
        "reason": "an audit",
        "ticket": "OPS-17",
        "author": "root",
        "created_at": shown(START),
        "end_without_it": shown(own_end),
    }
    world.harness.conf.set_override("scope", "none", group="virtual:vm")
    world.see(server_id)
    found = show(world, server_id).json["vm_expiration"]
    assert (found["state"], found["exemption"]) == (
        "exempt",
        {"reason": "scope is none", "until": None},
    )


def test_one_that_is_gone_is_still_shown_and_one_that_nobody_looked_at_is_not(
    world: World,
) -> None:
    gone = put(world, state="deleted")
    seen = put(world, state="seen", project_id=None)
    assert show(world, gone).json["vm_expiration"]["state"] == "deleted"
    for api in (world.as_alice, world.as_admin):
        assert show(world, seen, api).status_code == 404


# Terms --------------------------------------------------------------------------------------------


def test_the_terms_are_those_of_the_rules_file_as_it_is_now(world: World, tmp_path: Path) -> None:
    """One that cannot be used leaves the terms as they were."""
    path = tmp_path / "rules.yaml"
    server_id = put(world)

    def actions() -> str:
        answer = show(world, server_id)
        assert answer.status_code == 200, answer.json
        return str(answer.json["vm_expiration"]["on_end_action"])

    assert actions() == "snapshot"
    path.write_text("rules: [{name: all, set: {on_end_action: shelve}}]\n")
    world.harness.conf.set_override("rules_file", str(path), group="virtual:vm")
    assert actions() == "shelve"
    path.write_text("rules: [{name: all, set: {on_end_action: nothing at all}}]\n")
    assert actions() == "shelve"
    path.write_text("rules: [{name: all, set: {on_end_action: delete}}]\n")
    assert actions() == "delete"


def test_with_a_rules_file_that_never_could_be_used_nothing_wrong_is_shown(
    world: World, tmp_path: Path
) -> None:
    server_id = put(world)
    world.harness.conf.set_override("rules_file", str(tmp_path / "none"), group="virtual:vm")
    answer = show(world, server_id)
    assert answer.status_code == 503
    assert "rules file" in answer.json["error_message"]


# The past -----------------------------------------------------------------------------------------


def past(world: World, server_id: str, api: Api | None = None, **query: Any) -> Any:
    """GET a history, as Alice unless said otherwise."""
    return (api or world.as_alice).get(f"{ROOT}/{server_id}/history", query_string=query)


def test_the_history_says_what_happened_by_whom_and_outlives_the_vm(world: World) -> None:
    server_id = world.adopt()
    end = world.row(server_id).ends_at
    assert end is not None
    world.live(end - timedelta(days=5))
    assert world.extend(server_id).status_code == 200
    found = past(world, server_id).json["vm_expiration_history"]
    assert [entry["event"] for entry in found] == world.events(server_id)
    (extended,) = [entry for entry in found if entry["event"] == "extended"]
    assert extended["actor"] == world.alice
    assert extended["request_id"].startswith("req-")
    assert extended["details"]["old_end"] == shown(end)
    # Its row is removed some time after it has gone.
    with world.harness.database.begin() as connection:
        connection.execute(sa.delete(expirations))
    assert past(world, server_id).json["vm_expiration_history"] == found
    assert past(world, server_id, world.as_admin).json["vm_expiration_history"] == found
    assert show(world, server_id).status_code == 404
    assert past(world, server_id, world.as_bob).status_code == 404


@ALL_DATABASES
def test_of_a_history_one_sees_what_happened_in_ones_own_project(world: World) -> None:
    server_id = put(world)
    with world.harness.database.begin() as connection:
        for event, project_id in (
            ("excluded", None),
            ("adopted", world.alpha),
            ("told", world.beta),
        ):
            connection.execute(
                history.insert(),
                [{"server_id": server_id, "project_id": project_id, "at": START, "event": event}],
            )

    def events(api: Api) -> list[str]:
        return [e["event"] for e in past(world, server_id, api).json["vm_expiration_history"]]

    assert events(world.as_alice) == ["adopted"]
    assert events(world.as_bob) == ["told"]
    assert events(world.as_admin) == ["excluded", "adopted", "told"]


@ALL_DATABASES
def test_the_history_comes_page_by_page(world: World) -> None:
    server_id = put(world)
    with world.harness.database.begin() as connection:
        connection.execute(
            history.insert(),
            [
                {"server_id": server_id, "project_id": p, "at": START, "event": f"{n}"}
                for n in range(7)
                for p in (world.alpha, world.beta)
            ],
        )
    path = f"{ROOT}/{server_id}/history"
    found = list(pages(world.as_alice, "vm_expiration_history", path, limit=3))
    assert [[entry["event"] for entry in page] for page in found] == [
        ["0", "1", "2"],
        ["3", "4", "5"],
        ["6"],
    ]


# What ends when -----------------------------------------------------------------------------------


@ALL_DATABASES
def test_the_summary_counts_by_day_project_and_rule(world: World) -> None:
    tomorrow = START + timedelta(days=1)
    put(world, ends_at=tomorrow, facts=json.dumps({"vcpus": 4, "ram_mb": 2048}))
    put(world, ends_at=tomorrow + timedelta(hours=13))
    put(world, ends_at=tomorrow + timedelta(hours=14), facts=None)  # the day after
    put(world, ends_at=tomorrow, rule="gpu")
    put(world, state="ended", ends_at=None)
    put(world, ends_at=tomorrow, project_id=world.beta)
    put(world, state="deleted", ends_at=tomorrow)

    def group(day: str | None, project: str, rule: str | None, *numbers: int) -> dict[str, Any]:
        servers, vcpus, ram_mb = numbers
        return {
            "day": day,
            "project_id": project,
            "rule": rule,
            "servers": servers,
            "vcpus": vcpus,
            "ram_mb": ram_mb,
        }

    mine = [
        group("2026-03-03", world.alpha, None, 2, 6, 2560),
        group("2026-03-03", world.alpha, "gpu", 1, 2, 512),
        group("2026-03-04", world.alpha, None, 1, 0, 0),
        group(None, world.alpha, None, 1, 2, 512),
    ]
    theirs = group("2026-03-03", world.beta, None, 1, 2, 512)
    summary = f"{ROOT}/summary"
    assert world.as_alice.get(summary).json["vm_expirations_summary"] == mine
    assert world.as_bob.get(summary).json["vm_expirations_summary"] == [theirs]
    everywhere = world.as_admin.get(f"{summary}?all_projects=1").json["vm_expirations_summary"]
    assert sorted(map(str, everywhere)) == sorted(map(str, [*mine, theirs]))
    one_day = world.as_alice.get(f"{summary}?ends_before=2026-03-04T00:00Z&rule=gpu")
    assert one_day.json["vm_expirations_summary"] == mine[1:2]


# Trouble ------------------------------------------------------------------------------------------


def test_reading_needs_no_manager(world: World) -> None:
    server_id = world.adopt()
    world.harness.stop()
    for path in ("", "/summary", f"/{server_id}", f"/{server_id}/history"):
        assert world.as_alice.get(ROOT + path).status_code == 200
