# SPDX-License-Identifier: Apache-2.0
"""An instance's own page: the tab with its dates and history, and the warning in the overview."""

from __future__ import annotations

import itertools
import urllib.parse
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blazar_vmexpire.dashboard import history, timeline
from blazar_vmexpire.notices import KINDS, Kind, Renderer
from blazar_vmexpire.notices.samples import REMINDER
from tests.fault_proxy import HANG, REFUSE, FaultProxy, page
from tests.functional.dashboard.pages import ADMIN_INSTANCES, INSTANCES, Pages, extend_url
from tests.functional.dashboard.present import written
from tests.functional.dashboard.stock import Stock
from tests.functional.world import World

pytestmark = [
    pytest.mark.databases("sqlite"),
    pytest.mark.options(
        {"virtual:vm": {"lease_duration": "12d", "quarantine": "3d", "on_end_action": "snapshot"}}
    ),
]

#: Where the link in a mail leads to.
TAB = "?" + urllib.parse.urlsplit(str(Renderer(dashboard_url="/").dashboard_link(REMINDER))).query
BANNER = '//div[@id="expiration_banner"]'


@pytest.fixture
def stock(world: World, pages: Pages) -> Stock:
    """Alice's pages of instances."""
    return Stock(world, pages, INSTANCES)


def test_the_dates_are_drawn_and_told(world: World, stock: Stock) -> None:
    server_id = world.adopt("web-1")
    end = world.row(server_id).ends_at
    assert end is not None
    shown = stock.details(server_id, TAB)
    assert shown.status == 200
    (drawing,) = shown.find('//*[@id="expiration_timeline"]')
    assert drawing.get("role") == "img"
    assert shown.text("//*[local-name()='title'][@id='expiration_title']") == [
        "Timeline of the instance"
    ]
    told = shown.text("//*[@id='expiration_timeline']/following-sibling::ol[1]/li")
    # Colours are the theme's, and each kind has a shape of its own.
    assert drawing.get("stroke") == "currentColor"
    assert told[0].endswith(": Now")
    assert told[1:] == [
        f"{written(end - timedelta(days=10))}: Next notice",
        f"{written(end - timedelta(days=3))}: Stopped and locked",
        f"{written(end)}: End: Saved as an image, then deleted",
    ]
    (desc,) = shown.text("//*[@id='expiration_desc']")
    assert all(line.partition(": ")[0] in desc for line in told)
    places = [
        float(mark.get("x")) for mark in drawing.xpath(".//*[local-name()='text'][@text-anchor]")
    ]
    assert places == sorted(places)
    assert (places[0], places[-1]) == (20, 980)


@given(st.lists(st.floats(20, 980), max_size=20).map(sorted))
def test_no_number_is_drawn_over_another_and_none_outside(places: list[float]) -> None:
    found = timeline.spread(places)
    assert all(b - a >= 23.9 for a, b in itertools.pairwise(found))
    assert all(20 - 1e-9 <= x <= 980 for x in found)


def test_what_happened_is_told_by_whom_and_why(world: World, stock: Stock) -> None:
    server_id = world.adopt("web-1")
    world.as_admin.patch(
        f"/v1/vm-expirations/{server_id}",
        json={
            "reason": "<script>an audit",
            "hold": {"until": f"{world.clock.now() + timedelta(days=30)}"[:16]},
        },
    )
    shown = stock.details(server_id, TAB)
    rows = shown.text('//table[@id="expiration_history"]/tbody/tr')
    assert "Taken in" in rows[0]
    assert "Held" in rows[-1]
    assert "Reason: <script>an audit" in rows[-1]
    assert f"Until: {world.clock.now() + timedelta(days=30):%Y-%m-%d %H:%M} UTC" in rows[-1]
    assert "<script>an audit" in shown.text("//dl")[-1]


def test_how_it_happened_is_told_in_words_and_in_the_readers_dates(
    world: World, stock: Stock
) -> None:
    server_id = world.adopt("web-1")
    end = world.row(server_id).ends_at
    assert end is not None
    world.live(end - timedelta(days=9))
    assert world.extend(server_id).status_code == 200
    new_end = world.row(server_id).ends_at
    assert new_end is not None
    rows = stock.details(server_id, TAB).text('//table[@id="expiration_history"]/tbody/tr')
    assert "Notice: Reminder (10d)" in rows[1]
    assert "Sent to: alice@example.org" in rows[1]
    assert f"End: {written(end)}" in rows[1]
    assert "message" not in rows[1].lower()
    assert rows[2].endswith("Action: A notice, no more")
    assert f"Old end: {written(end)}" in rows[-1]
    assert f"New end: {written(new_end)}" in rows[-1]
    # That nobody did it in an owner's place goes without saying.
    assert "administrator" not in rows[-1]


@pytest.mark.parametrize(
    ("event", "details", "said"),
    [
        ("before_end", {"action": "snapshot"}, "Action: Saved as an image"),
        ("kept", {"action": "shelve"}, "Action: Shelved: saved, and switched off"),
        ("extended", {"by_admin": True, "note": None}, "By an administrator: yes"),
        ("notice_accepted", {"kind": "of_ours"}, "Notice: of ours"),
        ("of_ours", {"some_thing": "a\nb"}, "some thing: a b"),
        (
            "volumes_kept",
            {"volumes": [{"id": "v1", "name": "data", "status": "available"}, {"id": "v2"}]},
            "Volumes: data (v1), v2",
        ),
    ],
)
def test_details_in_words(event: str, details: dict[str, Any], said: str) -> None:
    assert history.details(event, details) == said


def test_every_notice_has_words() -> None:
    # The last reminder is kept by the kind that it has of its time.
    for kind in set(KINDS) - {Kind.LAST_REMINDER}:
        said = history.details("notice_accepted", {"kind": kind.value})
        assert said != f"Notice: {kind.replace('_', ' ')}", kind


def test_the_tab_leads_to_the_form_and_back(world: World, stock: Stock) -> None:
    server_id = world.adopt("web-1")
    (button,) = stock.details(server_id, TAB).find('//a[@id="expiration_extend"]')
    assert button.get("href") == extend_url(server_id, f"{INSTANCES}{server_id}/{TAB}")


def test_the_tab_is_asked_for_only_when_it_is_opened(
    world: World, stock: Stock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    server_id = world.adopt("web-1")
    caplog.clear()
    shown = stock.details(server_id)
    assert "Expiration" in shown.text('//ul[contains(@class, "nav-tabs")]/li')
    asked = [r.getMessage() for r in caplog.records if r.name == "blazar.api.v1.request_log"]
    assert len(asked) == 1
    assert not shown.find('//*[@id="expiration_timeline"]')


def test_the_overview_warns_when_no_reminder_comes_any_more(world: World, stock: Stock) -> None:
    server_id = world.adopt("web-1")
    assert stock.details(server_id).find(BANNER) == []
    soon = world.clock.now() + timedelta(days=4)
    world.as_admin.patch(
        f"/v1/vm-expirations/{server_id}",
        json={"reason": "asked for", "ends_at": f"{soon}"[:16]},
    )
    with world.harness.database.begin() as connection:
        # Its last reminder is over: the end is a day away.
        world_end = world.clock.now() + timedelta(days=1, minutes=1)
        connection.exec_driver_sql(
            f"UPDATE vm_expirations SET ends_at = '{world_end}', state = 'noticed'"
        )
    (told,) = stock.details(server_id).text(BANNER)
    assert f"This instance ends in 1 day, on {written(world_end)}." in told
    (link,) = stock.details(server_id).find(f"{BANNER}//a")
    assert link.get("href") == extend_url(server_id, f"{INSTANCES}{server_id}/")


def test_the_overview_of_one_that_was_stopped_offers_to_restore_it(
    world: World, stock: Stock
) -> None:
    server_id = world.adopt("web-1")
    world.live(world.clock.now() + timedelta(days=9, hours=1))
    (told,) = stock.details(server_id).text(BANNER)
    assert "Stopped and locked." in told
    assert "Restore it" in told


@pytest.mark.sampled(2)
@pytest.mark.parametrize("fault", [REFUSE, HANG, page(200), page(500)], ids=lambda f: f.name)
def test_a_service_that_gives_no_answer_is_said_to_in_the_tab_alone(
    world: World, border: FaultProxy, stock: Stock, settings: dict[str, Any], fault: Any
) -> None:
    settings.update(timeout=0.3, instances_timeout=0.3)
    server_id = world.adopt("web-1")
    with border.broken(fault):
        shown = stock.details(server_id, TAB)
        assert shown.status == 200
        assert "does not answer" in shown.text('//p[contains(@class, "alert-info")]')[0]
        assert stock.details(server_id).find(BANNER) == []


def test_one_that_does_not_expire_is_said_to(world: World, stock: Stock) -> None:
    server_id = world.boot("web-1")
    (told,) = stock.details(server_id, TAB).text('//p[contains(@class, "alert-info")]')
    assert told == f"no expiration of server {server_id} could be found"


def test_an_administrator_sees_it_too(world: World, border: FaultProxy) -> None:
    server_id = world.adopt("web-1")
    with Pages.of(world, "admin") as pages:
        shown = Stock(world, pages, ADMIN_INSTANCES).details(server_id, f"detail{TAB}")
        assert shown.find('//*[@id="expiration_timeline"]')
