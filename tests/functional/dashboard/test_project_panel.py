# SPDX-License-Identifier: Apache-2.0
"""Project > Reservations > Instance Expiration: the table, the form, several at once."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.fault_proxy import HANG, REFUSE, FaultProxy, page, truncate
from tests.functional.dashboard.pages import INSTANCES, PANEL, Page, Pages, extend_url
from tests.functional.dashboard.present import days, written
from tests.functional.world import World

pytestmark = [
    pytest.mark.databases("sqlite"),
    pytest.mark.options({"virtual:vm": {"lease_duration": "5d", "on_end_action": "snapshot"}}),
]

NO_ANSWER = "The service that ends instances does not answer. Try again in a moment."
SEVERAL = "vm_expirations__extend_several"


def test_instances_are_listed_with_what_becomes_of_them_the_most_urgent_first(
    world: World, pages: Pages
) -> None:
    later = world.adopt("later")
    world.as_admin.patch(
        f"/v1/vm-expirations/{later}",
        json={"reason": "asked for", "ends_at": f"{world.clock.now() + timedelta(days=20)}"[:16]},
    )
    sooner = world.adopt("<b>sooner")
    shown = pages.get(PANEL)
    assert shown.status == 200
    assert shown.told == []
    rows = shown.rows()
    assert list(rows) == ["<b>sooner", "later"]
    ends = world.row(sooner).ends_at
    assert ends is not None
    _name, when, happens, state, left, _actions = rows["<b>sooner"]
    assert when == f"{written(ends)} in 4 days"
    assert happens == "Saved as an image, then deleted"
    assert (state, left) == ("Announced", "No limit")
    assert shown.find(f'//a[@href="{INSTANCES}{sooner}/"]')
    # What is urgent is said by a word, a sign and a colour.
    (label,) = shown.find(f'//tr[@data-object-id="{sooner}"]//span[contains(@class, "bg-")]')
    assert "bg-warning" in label.get("class")
    assert label.xpath('.//span[contains(@class, "fa-exclamation-triangle")][@aria-hidden="true"]')


def test_only_what_can_be_extended_offers_it(world: World, pages: Pages) -> None:
    extendable, far = world.adopt("soon"), world.adopt("far")
    world.as_admin.patch(
        f"/v1/vm-expirations/{far}",
        json={"reason": "asked for", "ends_at": f"{world.clock.now() + timedelta(days=90)}"[:16]},
    )
    shown = pages.get(PANEL)
    assert shown.row_actions(extendable) == {"Extend": extend_url(extendable, PANEL)}
    assert shown.row_actions(far) == {}


def test_one_is_extended_to_the_date_that_its_owner_chooses(world: World, pages: Pages) -> None:
    server_id = world.adopt("web-1")
    form = pages.get(extend_url(server_id, INSTANCES))
    (field,) = form.find('//input[@name="until"]')
    latest = days(world, 30)
    assert field.get("type") == "datetime-local"
    assert field.get("value") == field.get("max") == f"{latest:%Y-%m-%dT%H:%M}"
    assert form.text('//label[@for="id_until"]') == ["New end (UTC)"]
    chosen = days(world, 12)
    done = pages.post(extend_url(server_id, INSTANCES), {"until": f"{chosen:%Y-%m-%dT%H:%M}"})
    assert (done.status, done.response["Location"]) == (302, INSTANCES)
    assert done.told == [f"web-1 ends on {written(chosen)} now."]
    assert world.row(server_id).ends_at == chosen


def test_without_a_date_one_is_extended_as_far_as_it_can_be(world: World, pages: Pages) -> None:
    server_id = world.adopt("web-1")
    assert pages.post(extend_url(server_id, PANEL), {"until": ""}).status == 302
    assert world.row(server_id).ends_at == days(world, 30)


def test_a_date_beyond_the_cap_is_refused_in_the_form_with_the_apis_sentence(
    world: World, pages: Pages
) -> None:
    server_id = world.adopt("web-1")
    before = world.row(server_id).ends_at
    refused = pages.post(
        extend_url(server_id, PANEL), {"until": f"{days(world, 31):%Y-%m-%dT%H:%M}"}
    )
    assert refused.status == 200
    (error,) = refused.text('//form[@id="extend_form"]//div[contains(@class, "alert-danger")]')
    assert "is past the latest allowed" in error
    assert world.row(server_id).ends_at == before


@pytest.mark.sampled(3)
@pytest.mark.parametrize("elsewhere", ["https://evil.example.org/", "//evil.example.org", "\\\\e"])
def test_one_is_led_back_to_this_site_alone(world: World, pages: Pages, elsewhere: str) -> None:
    server_id = world.adopt("web-1")
    done = pages.post(extend_url(server_id, elsewhere), {"until": ""})
    assert done.response["Location"] == PANEL


def test_several_are_extended_and_of_each_that_cannot_be_it_is_said_why(
    world: World, pages: Pages
) -> None:
    ids = [world.adopt(f"web-{n}") for n in range(3)]
    unknown = "11111111-1111-4111-8111-111111111111"
    done = pages.post(PANEL, {"action": SEVERAL, "object_ids": [ids[0], ids[2], unknown]})
    assert (done.status, done.response["Location"]) == (302, PANEL)
    assert done.told == [
        f"{unknown}: no expiration of server {unknown} could be found",
        "2 instances have been extended.",
    ]
    assert [world.row(i).ends_at == days(world, 30) for i in ids] == [True, False, True]


@pytest.mark.options({"virtual:vm": {"quarantine": "3d", "minimum_notice": "1d"}})
def test_one_that_was_stopped_is_restored(world: World, pages: Pages) -> None:
    server_id = world.adopt("web-1")
    (row,) = pages.get(PANEL).rows().values()
    quarantine = world.clock.now() + timedelta(days=2)
    assert f"Stopped and locked from {written(quarantine)} on." in row[2]
    world.live(world.clock.now() + timedelta(days=2, hours=1))
    shown = pages.get(PANEL)
    assert shown.rows()["web-1"][3] == "Stopped and locked"
    assert shown.row_actions(server_id) == {"Restore": extend_url(server_id, PANEL)}
    form = pages.get(extend_url(server_id, PANEL))
    assert "it is unlocked, and started again if it was running" in form.text("//form")[-1]
    assert pages.post(extend_url(server_id, PANEL), {"until": ""}).status == 302
    world.settle()
    assert world.state(server_id) == "active"


@pytest.mark.options({"virtual:vm": {"max_extensions": 1, "extension_window": "3d"}})
def test_how_often_and_from_when_on_one_can_extend_is_shown(world: World, pages: Pages) -> None:
    server_id = world.adopt("web-1")
    from_then_on = written(days(world, 2))
    assert pages.get(PANEL).rows()["web-1"][4] == f"From {from_then_on} on"
    form = pages.get(extend_url(server_id, PANEL))
    assert f"It can be extended from {from_then_on} on." in form.text("//form")[-1]
    world.live(world.clock.now() + timedelta(days=4))
    assert pages.get(PANEL).rows()["web-1"][4] == "1"
    pages.post(extend_url(server_id, PANEL), {"until": ""})
    assert pages.get(PANEL).rows()["web-1"][4] == "None left"


def test_pages_are_turned_by_the_apis_markers(world: World, pages: Pages) -> None:
    for n in range(5):
        world.adopt(f"web-{n}", created_at=world.clock.now())
        world.clock.advance(minutes=1)
    pages.case.client.cookies["API_RESULT_PAGE_SIZE"] = "2"
    shown, trail = pages.get(PANEL), []

    def link(page_: Page, word: str) -> str | None:
        found = page_.find(f'//tfoot//a[contains(., "{word}")]')
        return PANEL + found[0].get("href") if found else None

    while True:
        trail.append(list(shown.rows()))
        if (following := link(shown, "Next")) is None:
            break
        shown = pages.get(following)
    assert trail == [["web-0", "web-1"], ["web-2", "web-3"], ["web-4"]]
    for before in reversed(trail[:-1]):
        shown = pages.get(str(link(shown, "Prev")))
        assert list(shown.rows()) == before
    assert link(shown, "Prev") is None


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("field", "typed", "expected"),
    [
        ("name", "web-1", ["web-1"]),
        ("name", "web", []),
        ("state", "announced", ["web-0", "web-1"]),
        ("state", "held", []),
        ("days", "5.01", ["web-0", "web-1"]),
        ("days", "2", []),
    ],
)
def test_filters_are_the_apis(
    world: World, pages: Pages, field: str, typed: str, expected: list[str]
) -> None:
    for n in range(2):
        world.adopt(f"web-{n}")
        world.clock.advance(minutes=1)
    q = "vm_expirations__filter__q"
    assert pages.post(PANEL, {q: typed, f"{q}_field": field}).status == 302
    shown = pages.get(PANEL)
    assert list(shown.rows()) == expected
    if not expected:
        assert "No instance is like that." in shown.text('//tr[contains(@class, "empty")]')


def test_a_filter_that_makes_no_sense_is_said_to(world: World, pages: Pages) -> None:
    q = "vm_expirations__filter__q"
    pages.post(PANEL, {q: "soon", f"{q}_field": "days"})
    assert pages.get(PANEL).text('//tr[contains(@class, "empty")]') == [
        "soon is no number of days."
    ]
    pages.post(PANEL, {q: "dead", f"{q}_field": "state"})
    (told,) = pages.get(PANEL).told
    assert told.startswith("There is no state dead. There are: Active, Announced,")


def test_a_project_without_instances_that_expire_is_told_so(world: World, pages: Pages) -> None:
    shown = pages.get(PANEL)
    assert shown.text('//tr[contains(@class, "empty")]') == ["No instance of this project expires."]
    assert shown.told == []


def test_nobody_sees_what_is_not_theirs(world: World, border: FaultProxy) -> None:
    server_id = world.adopt("web-1")
    with Pages.of(world, "bob") as pages:
        assert pages.get(PANEL).rows() == {}
        for answer in (
            pages.get(extend_url(server_id, PANEL)),
            pages.post(extend_url(server_id, PANEL), {"until": ""}),
        ):
            assert (answer.status, answer.response["Location"]) == (302, PANEL)
            assert answer.told[-1] == f"no expiration of server {server_id} could be found"


def test_a_reader_is_told_that_they_may_not(world: World, border: FaultProxy) -> None:
    server_id = world.adopt("web-1")
    before = world.row(server_id).ends_at
    with Pages.of(world, roles=["reader"]) as pages:
        assert list(pages.get(PANEL).rows()) == ["web-1"]
        refused = pages.post(extend_url(server_id, PANEL), {"until": ""})
        (error,) = refused.text('//form[@id="extend_form"]//div[contains(@class, "alert-danger")]')
        assert "You are not allowed to do this" in error
        done = pages.post(PANEL, {"action": SEVERAL, "object_ids": [server_id]})
        assert done.status == 302
        assert len(done.told) == 1
    assert world.row(server_id).ends_at == before


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "fault", [REFUSE, HANG, page(200), page(500), page(503), truncate(300)], ids=lambda f: f.name
)
def test_a_service_that_gives_no_answer_is_said_to(
    world: World, border: FaultProxy, pages: Pages, settings: dict[str, object], fault: object
) -> None:
    settings["timeout"] = 0.5
    server_id = world.adopt("web-1")
    with border.broken(fault):
        shown = pages.get(PANEL)
        assert shown.status == 200
        assert shown.text('//tr[contains(@class, "empty")]') == [NO_ANSWER]
        asked = pages.get(extend_url(server_id, PANEL))
        assert (asked.status, asked.response["Location"]) == (302, PANEL)
        done = pages.post(PANEL, {"action": SEVERAL, "object_ids": [server_id]})
        assert NO_ANSWER in done.told
    assert list(pages.get(PANEL).rows()) == ["web-1"]


def test_a_cloud_without_the_service_has_no_panel(world: World) -> None:
    with Pages.of(world) as pages:
        assert pages.get(PANEL).status != 200
        assert "Instance Expiration" not in pages.get("/project/api_access/").tree.text_content()


def test_one_whose_token_is_over_is_asked_to_log_in(world: World, pages: Pages) -> None:
    world.cloud.identity.revoke_tokens()
    shown = pages.get(PANEL)
    assert shown.status == 302
    assert "/auth/log" in shown.response["Location"]
