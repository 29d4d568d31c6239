# SPDX-License-Identifier: Apache-2.0
"""``blazar-vmexpire-manage plan``: what it says is what the service then does."""

from __future__ import annotations

import csv
import io
import json
import pathlib
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from blazar_vmexpire import RESOURCE_TYPE
from blazar_vmexpire.db.models import expirations, history
from tests.functional.manage import Done, Manage
from tests.functional.world import World

Plan = Callable[..., Done]

GPU = "rules: [{name: gpu, match: {flavor: gpu}, set: {lease_duration: 14d}}]\n"
WEEKDAYS = """
rules:
- name: weekdays
  set: {calendar: {closed: [fri, sat, sun], time_zone: UTC}}
"""
OUT = "rules: [{name: nobody, set: {expire: false}}]\n"


@pytest.fixture
def plan(world: World, manage: Manage, database_url: str, tmp_path: pathlib.Path) -> Plan:
    """Run the command against the world's database and cloud, as of the world's time."""
    options: dict[str, dict[str, Any]] = {**world.cloud.conf_overrides()}
    options[RESOURCE_TYPE] = {"undeliverable_contact": "operators@example.org"}

    def run(*arguments: str, rules: str | None = None, output: str = "json") -> Done:
        now = f"{world.clock.now():%Y-%m-%dT%H:%M}"
        more = list(arguments)
        if "--at" not in more:
            more += ["--at", now]
        if rules is not None:
            path = tmp_path / "planned.yaml"
            path.write_text(rules)
            more += ["--rules", str(path)]
        return manage(database_url, "plan", "--format", output, *more, options=options)

    return run


def by_id(done: Done) -> dict[str, dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    return {server["server_id"]: server for server in json.loads(done.stdout)["servers"]}


def test_it_says_what_is_due_next_and_changes_nothing(world: World, plan: Plan) -> None:
    known, new = world.adopt("known"), world.boot("new")
    before = world.rows()
    asked = len(world.cloud.log)
    found = by_id(plan())
    assert found[known]["state"] == "active"
    assert found[known]["next_step"] == "notice"
    ends_at = world.row(known).ends_at
    assert ends_at is not None
    assert found[known]["next_at"] == f"{ends_at - timedelta(days=10):%Y-%m-%dT%H:%M:%SZ}"
    assert found[known]["change"] == ""
    assert found[new]["state"] is None
    assert found[new]["change"].startswith("taken in: ends ")
    assert world.rows() == before
    assert {request.method for request in world.cloud.log[asked:]} <= {"GET", "POST"}
    posts = [request for request in world.cloud.log[asked:] if request.method == "POST"]
    assert all(request.path.endswith("/v3/auth/tokens") for request in posts)


def test_it_knows_closed_days(world: World, plan: Plan, tmp_path: pathlib.Path) -> None:
    server_id = world.adopt()
    friday = world.row(server_id).ends_at
    assert friday is not None
    assert friday.weekday() == 4
    monday = friday + timedelta(days=3)
    found = by_id(plan(rules=WEEKDAYS))[server_id]
    assert found["ends_at"] == f"{monday:%Y-%m-%dT%H:%M:%SZ}"
    assert f"to {monday:%Y-%m-%d %H:%M} UTC" in found["change"]
    path = tmp_path / "rules.yaml"
    path.write_text(WEEKDAYS)
    tools = world.harness.plugin.tools
    tools.conf.set_override("rules_file", str(path), RESOURCE_TYPE)
    world.harness.plugin.service.reload(tools.conf, {})
    world.harness.work()
    assert world.row(server_id).ends_at == monday
    assert world.row(server_id).generation == 0


@pytest.mark.options({RESOURCE_TYPE: {"on_end_action": "stop"}})
def test_of_one_that_was_kept_at_its_end_nothing_more_is_due(world: World, plan: Plan) -> None:
    server_id = world.adopt()
    world.live(world.clock.now() + timedelta(days=61))
    assert world.state(server_id) == "ended"
    planned = by_id(plan())[server_id]
    assert (planned["state"], planned["next_step"], planned["ends_at"]) == ("ended", "-", None)
    assert planned["change"] == ""


def test_what_it_says_of_a_changed_file_is_what_comes_to_pass(
    world: World, plan: Plan, tmp_path: pathlib.Path
) -> None:
    gpu, web = world.adopt("gpu1", flavor="gpu"), world.adopt("web1")
    found = by_id(plan(rules=GPU))
    assert found[web]["change"] == ""
    assert "end moves from" in found[gpu]["change"]
    assert "rule - becomes gpu" in found[gpu]["change"]
    path = tmp_path / "rules.yaml"
    path.write_text(GPU)
    tools = world.harness.plugin.tools
    tools.conf.set_override("rules_file", str(path), RESOURCE_TYPE)
    world.harness.plugin.service.reload(tools.conf, {})
    world.harness.work()
    for server_id in (gpu, web):
        ends_at = world.row(server_id).ends_at
        assert found[server_id]["ends_at"] == f"{ends_at:%Y-%m-%dT%H:%M:%SZ}"
    assert all(server["change"] == "" for server in by_id(plan(rules=GPU)).values())


def test_who_would_be_let_go_and_who_taken_in_again(world: World, plan: Plan) -> None:
    server_id = world.adopt()
    found = by_id(plan(rules=OUT))
    assert found[server_id]["change"] == "let go: rule 'nobody' says so"
    assert found[server_id]["ends_at"] is None
    # Before it is switched on.
    other = world.boot("later")
    done = by_id(plan("--scope", "none"))
    assert done[other]["change"] == ""
    assert done[other]["ends_at"] is None


def test_only_changes(world: World, plan: Plan) -> None:
    gpu, _web = world.adopt("gpu1", flavor="gpu"), world.adopt("web1")
    assert list(by_id(plan("--changes", rules=GPU))) == [gpu]


def test_a_later_date(world: World, plan: Plan) -> None:
    server_id = world.adopt()
    ends_at = world.row(server_id).ends_at
    assert ends_at is not None
    found = by_id(plan("--at", f"{ends_at - timedelta(days=1):%Y-%m-%dT%H:%M}"))
    assert found[server_id]["next_step"] == "end"
    assert found[server_id]["next_at"] == f"{ends_at:%Y-%m-%dT%H:%M:%SZ}"


def test_totals_by_day(world: World, plan: Plan) -> None:
    server_id = world.adopt()
    ends_at = world.row(server_id).ends_at
    assert ends_at is not None
    done = plan()
    (day,) = json.loads(done.stdout)["days"]
    flavor = world.row(server_id).facts
    assert day == {
        "day": f"{ends_at:%Y-%m-%d}",
        "servers": 1,
        "vcpus": flavor["vcpus"],
        "ram_mb": flavor["ram_mb"],
        "disk_gb": flavor["disk_gb"],
    }
    assert day["vcpus"] > 0


def test_for_people(world: World, plan: Plan) -> None:
    world.adopt("web1")
    world.boot("\x1b[31mred")
    done = plan(output="table")
    assert done.returncode == 0, done.stderr
    assert "2 servers; something would change for 1 of them" in done.stdout
    assert "What ends on each day" in done.stdout
    assert "\x1b" not in done.stdout


def test_for_spreadsheets(world: World, plan: Plan) -> None:
    server_id = world.boot("=cmd()")
    rows = list(csv.DictReader(io.StringIO(plan(output="csv").stdout)))
    assert [row["server_id"] for row in rows] == [server_id]
    assert rows[0]["server_name"] == "'=cmd()"


def test_a_broken_file_is_told_in_one_sentence(plan: Plan) -> None:
    done = plan(rules="rules:\n  - {name: x, set: {lease: 3d}}\n")
    assert done.returncode == 1
    assert "planned.yaml, line 2, rule 'x'" in done.stderr
    assert done.stdout == ""


def test_a_listing_that_breaks_off_is_no_plan(world: World, plan: Plan) -> None:
    world.adopt()
    world.cloud.fault("/servers/detail", status=503)
    done = plan()
    assert done.returncode == 1
    assert "could not be read to its end" in done.stderr


def test_nothing_is_written_to_the_tables(world: World, plan: Plan) -> None:
    world.adopt()
    with world.harness.database.begin() as connection:
        before = [len(connection.execute(table.select()).all()) for table in (expirations, history)]
    plan(rules=GPU)
    with world.harness.database.begin() as connection:
        after = [len(connection.execute(table.select()).all()) for table in (expirations, history)]
    assert before == after


@pytest.mark.databases("sqlite")
def test_of_one_that_is_held_its_release_comes_next(
    world: World, plan: Plan, manage: Manage, database_url: str
) -> None:
    held = world.adopt()
    until = f"{world.clock.now() + timedelta(days=90):%Y-%m-%dT%H:%M}"
    added = manage(database_url, "hold", "add", held, "--until", until, "--reason", "evidence")
    assert added.returncode == 0, added.stderr
    found = by_id(plan())[held]
    assert (found["state"], found["next_step"], found["change"]) == ("held", "release", "")
