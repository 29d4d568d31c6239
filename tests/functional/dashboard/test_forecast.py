# SPDX-License-Identifier: Apache-2.0
"""The forecast: what is drawn is what stands in the table, and that is what the API counts."""

from __future__ import annotations

import datetime
from datetime import timedelta
from typing import Any

import pytest

from blazar_vmexpire.dashboard.admin.forecast import chart
from tests.fault_proxy import FaultProxy
from tests.functional.dashboard.pages import ADMIN_PANEL, Pages
from tests.functional.dashboard.present import days
from tests.functional.world import World

pytestmark = pytest.mark.databases("sqlite")

FORECAST = f"{ADMIN_PANEL}forecast"
FIRST = datetime.date(2027, 1, 4)
DAYS = [FIRST + timedelta(days=n) for n in range(28)]


def group(
    day: datetime.date | None, project: str, servers: int, rule: str | None = None
) -> dict[str, Any]:
    """Return a group as the API counts it."""
    return {
        "day": day and day.isoformat(),
        "project_id": project,
        "rule": rule,
        "servers": servers,
        "vcpus": servers * 2,
        "ram_mb": servers * 2048,
    }


@pytest.mark.options({"virtual:vm": {"lease_duration": "5d"}})
def test_what_the_api_counts_is_drawn_and_told(world: World, border: FaultProxy) -> None:
    for name, project in (("a", world.alpha), ("b", world.alpha), ("c", world.beta)):
        world.adopt(name, project_id=project)
    with Pages.of(world, "admin") as pages:
        shown = pages.get(FORECAST)
        day = f"{days(world, 5):%Y-%m-%d}"
        (row,) = [r for r in shown.find('//table[@id="forecast_table"]//tr') if r[0].text == day]
        assert [cell.text for cell in row] == [day, "3", "3", "6144", "2", "1"]
        heads = shown.text('//table[@id="forecast_table"]/thead//th')
        assert heads == ["Day", "Instances", "vCPUs", "RAM (MB)", "1. alpha", "2. beta"]
        (drawing,) = shown.find('//*[@id="forecast_chart"]')
        bars = drawing.xpath(".//*[local-name()='rect']")
        assert [float(bar.get("height")) for bar in bars] == [133.3, 66.7]
        assert drawing.xpath(".//*[local-name()='text'][@transform]/text()") == ["3"]
        (desc,) = shown.text('//*[@id="forecast_desc"]')
        assert f"3 in all; the most on {day}: 3." in desc
        other = pages.get(f"{FORECAST}?what=vcpus&by=rule")
        (row,) = [r for r in other.find('//table[@id="forecast_table"]//tr') if r[0].text == day]
        assert [cell.text for cell in row] == [day, "3", "3", "6144", "3"]
        assert "1. No rule" in other.text('//table[@id="forecast_table"]/thead//th')
        assert pages.get(f"{FORECAST}?what=evil&by=evil").status == 200


def test_a_cloud_in_which_nothing_ends_is_told_so(world: World, border: FaultProxy) -> None:
    with Pages.of(world, "admin") as pages:
        shown = pages.get(FORECAST)
        assert "Nothing ends in the coming four weeks." in shown.tree.text_content()


def test_what_is_overdue_counts_as_of_today_and_what_has_no_end_not_at_all() -> None:
    groups = [
        group(FIRST - timedelta(days=9), "a", 2),
        group(FIRST, "a", 1),
        group(None, "a", 7),
        group(DAYS[-1] + timedelta(days=1), "a", 5),
    ]
    found = chart(groups, DAYS, "servers", "project_id", {})
    assert [row["total"] for row in found["rows"]] == [3] + [0] * 27
    assert (found["sum"], found["most"], found["busiest"]) == (3, 3, FIRST.isoformat())


def test_small_groups_are_drawn_together_and_bars_add_up() -> None:
    groups = [group(DAYS[n % 3], f"p{n}", 20 - n) for n in range(9)]
    found = chart(groups, DAYS, "servers", "project_id", {"p0": "first"})
    names = [entry["name"] for entry in found["legend"]]
    assert names == ["first", "p1", "p2", "p3", "All others"]
    shades = [entry["shade"] for entry in found["legend"]]
    assert shades == sorted(shades, reverse=True)
    for row in found["rows"]:
        assert sum(row["parts"]) == row["total"]
        height = sum(bar["height"] for bar in row["bars"])
        assert height == pytest.approx(200 * row["total"] / found["most"], abs=0.3)
        assert all(bar["y"] >= -0.1 for bar in row["bars"])
