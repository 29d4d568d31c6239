# SPDX-License-Identifier: Apache-2.0
"""``blazar-vmexpire-manage forecast``: it says what then comes to pass."""

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
from blazar_vmexpire.db.models import expirations
from tests.functional.manage import Done, Manage
from tests.functional.world import World

pytestmark = pytest.mark.databases("sqlite")

Forecast = Callable[..., Done]


@pytest.fixture
def forecast(manage: Manage, database_url: str) -> Forecast:
    """Run the command: with nothing but a database, and options."""

    def run(*arguments: str, **options: str) -> Done:
        done = manage(database_url, "forecast", *arguments, options={RESOURCE_TYPE: options})
        assert done.stderr == "" or done.returncode, done.stderr
        return done

    return run


def read(done: Done) -> tuple[dict[str, dict[str, int]], dict[str, int]]:
    """Read the days with something on them, and what comes later."""
    found: dict[str, Any] = json.loads(done.stdout)
    days = {day.pop("day"): day for day in found["days"]}
    return {day: freed for day, freed in days.items() if freed["servers"]}, found["later"]


def day_of(world: World, server_id: str) -> str:
    ends_at = world.row(server_id).ends_at
    assert ends_at is not None
    return f"{ends_at:%Y-%m-%d}"


def test_what_ends_on_which_day_and_what_it_frees(world: World, forecast: Forecast) -> None:
    one, two = world.adopt("one"), world.adopt("two")
    until = f"{world.clock.now() + timedelta(days=3):%Y-%m-%d %H:%M}"
    assert world.update(two, world.as_admin, end_date=until).status_code == 200
    world.settle()
    facts = world.row(one).facts
    alone = {"servers": 1, **{key: facts[key] for key in ("vcpus", "ram_mb", "disk_gb")}}
    assert all(alone.values())
    asked = len(world.cloud.log)

    days, later = read(forecast("--days", "61", "--format", "json"))
    assert days == {day_of(world, one): alone, day_of(world, two): alone}
    assert set(later.values()) == {0}
    days, later = read(forecast("--days", "60", "--format", "json"))
    assert (days, later) == ({day_of(world, two): alone}, alone)
    assert len(world.cloud.log) == asked

    world.live(world.clock.now() + timedelta(days=4))
    assert (world.state(one), world.state(two)) == ("active", "deleted")
    days, _ = read(forecast("--days", "99", "--format", "json"))
    assert list(days) == [day_of(world, one)]


def test_rules_that_were_changed_count_at_once(
    world: World, forecast: Forecast, tmp_path: pathlib.Path
) -> None:
    world.adopt("web")
    kept, left_out = world.adopt("kept", flavor="gpu"), world.adopt("left out", flavor="big")
    path = tmp_path / "rules.yaml"
    path.write_text(
        "rules:\n"
        "- {name: a, match: {flavor: gpu}, set: {on_end_action: stop, lease_duration: 14d}}\n"
        "- {name: b, match: {flavor: big}, set: {expire: false}}\n"
    )
    days, _ = read(forecast("--days", "61", "--format", "json", rules_file=str(path)))
    sooner = f"{world.clock.now() + timedelta(days=14):%Y-%m-%d}"
    assert days[sooner] == {"servers": 1, "vcpus": 0, "ram_mb": 0, "disk_gb": 0}
    assert [freed["servers"] for freed in days.values()] == [1, 1]
    assert world.row(kept).ends_at == world.row(left_out).ends_at


def test_what_will_not_end_by_itself_is_left_out_and_what_is_overdue_is_of_today(
    world: World, forecast: Forecast
) -> None:
    overdue, failed = world.adopt(), world.adopt()
    world.wreck(expirations, expirations.c.server_id == failed, state="failed")
    world.clock.advance(days=70)
    days, later = read(forecast("--format", "json"))
    assert {day: freed["servers"] for day, freed in days.items()} == {
        f"{world.clock.now():%Y-%m-%d}": 1
    }
    assert later["servers"] == 0
    assert day_of(world, overdue) not in days


def test_for_people(world: World, forecast: Forecast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "79")
    for _ in range(2):
        world.adopt()
    single = world.adopt()
    until = f"{world.clock.now() + timedelta(days=3):%Y-%m-%d %H:%M}"
    world.update(single, world.as_admin, end_date=until)
    lines = forecast("--days", "61").stdout.splitlines()
    assert lines[0].split() == ["day", "VMs", "vCPUs", "RAM", "GB", "disk", "GB"]
    assert len(lines) == 1 + 61 + 1
    bars = {line[4:14]: line.count("\N{BOX DRAWINGS HEAVY HORIZONTAL}") for line in lines[1:]}
    longest = max(bars.values())
    assert longest > 20
    assert abs(bars.pop(day_of(world, single)) - longest / 2) <= 1
    assert sum(bars.values()) == longest
    assert max(map(len, lines)) <= 79
    assert lines[4].startswith(f"{world.clock.now() + timedelta(days=3):%a %Y-%m-%d}")
    assert lines[-1].split() == ["later", "0", "0", "0", "0"]


def test_in_numbers_for_people_and_for_spreadsheets(world: World, forecast: Forecast) -> None:
    server_id = world.adopt()
    facts = world.row(server_id).facts
    table = forecast("--days", "3", "--format", "table").stdout.splitlines()
    assert [line.split()[0] for line in table] == [
        "day",
        *(f"{world.clock.now() + timedelta(days=n):%Y-%m-%d}" for n in range(3)),
        "later",
    ]
    rows = list(csv.DictReader(io.StringIO(forecast("--format", "csv").stdout)))
    assert len(rows) == 31
    assert rows[-1] == {
        "day": "later",
        "servers": "1",
        "vcpus": str(facts["vcpus"]),
        "ram_mb": str(facts["ram_mb"]),
        "disk_gb": str(facts["disk_gb"]),
    }


def test_where_nothing_ends(forecast: Forecast) -> None:
    done = forecast("--days", "2")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 4


@pytest.mark.parametrize("days", ["0", "many", "4000000"])
def test_days_that_are_none(forecast: Forecast, days: str) -> None:
    done = forecast("--days", days)
    assert done.returncode == 2
    assert "is no number of days" in done.stderr
