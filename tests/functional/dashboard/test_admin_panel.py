# SPDX-License-Identifier: Apache-2.0
"""Admin > Reservations > Instance Expirations: the table, acts, exclusions, the brake."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from tests.fault_proxy import REFUSE, FaultProxy, page
from tests.functional.dashboard.pages import ADMIN_INSTANCES, ADMIN_PANEL, Pages
from tests.functional.dashboard.present import days, written
from tests.functional.world import World

pytestmark = [
    pytest.mark.databases("sqlite"),
    pytest.mark.options({"virtual:vm": {"lease_duration": "5d", "on_end_action": "snapshot"}}),
]

WHY = "an audit"
EXCLUSIONS, BRAKE = f"{ADMIN_PANEL}exclusions/", f"{ADMIN_PANEL}brake/"


@pytest.fixture
def admin(world: World, border: FaultProxy) -> Iterator[Pages]:
    """Horizon's pages as an administrator sees them."""
    with Pages.of(world, "admin") as pages:
        yield pages


def steer(pages: Pages, server_id: str, act: str, **data: Any) -> Any:
    """Send the form of an act."""
    return pages.post(f"{ADMIN_PANEL}{server_id}/{act}", {"reason": WHY, **data})


def local(moment: Any) -> str:
    """Write a date as a browser's field does."""
    return f"{moment:%Y-%m-%dT%H:%M}"


def test_instances_of_all_projects_are_listed_with_the_names_of_these(
    world: World, admin: Pages
) -> None:
    hers = world.adopt("hers")
    world.adopt("his", project_id=world.beta, user_id=world.bob)
    shown = admin.get(ADMIN_PANEL)
    assert (shown.status, shown.told) == (200, [])
    assert {row[0]: row[1] for row in shown.rows().values()} == {"alpha": "hers", "beta": "his"}
    assert shown.find(f'//a[@href="{ADMIN_INSTANCES}{hers}/detail"]')
    q = "vm_expirations__filter_admin__q"
    admin.post(ADMIN_PANEL, {q: world.beta, f"{q}_field": "project_id"})
    assert list(admin.get(ADMIN_PANEL).rows()) == ["beta"]


def test_one_is_held_and_released(world: World, admin: Pages) -> None:
    server_id = world.adopt("web-1")
    until = days(world, 20)
    done = steer(admin, server_id, "hold", until=local(until), ticket="OPS-17")
    assert (done.status, done.response["Location"]) == (302, ADMIN_PANEL)
    world.settle()
    assert world.state(server_id) == "held"
    (details,) = [details for event, details in world.history(server_id) if event == "held"]
    assert (details["reason"], details["ticket"]) == (WHY, "OPS-17")
    actions = admin.get(ADMIN_PANEL).row_actions(server_id)
    assert "Release" in actions
    assert steer(admin, server_id, "release").status == 302
    world.settle()
    assert world.state(server_id) != "held"


def test_one_is_exempted_and_taken_in_again(world: World, admin: Pages) -> None:
    server_id = world.adopt("web-1")
    assert steer(admin, server_id, "exempt", until="").status == 302
    world.settle()
    assert world.state(server_id) == "exempt"
    shown = admin.get(ADMIN_PANEL)
    assert list(shown.row_actions(server_id)) == ["End Exemption"]
    assert steer(admin, server_id, "include").status == 302
    world.settle()
    assert world.state(server_id) != "exempt"


def test_the_end_of_one_is_moved_anywhere(world: World, admin: Pages) -> None:
    server_id = world.adopt("web-1")
    end = days(world, 300)
    assert steer(admin, server_id, "move", ends_at=local(end)).status == 302
    assert world.row(server_id).ends_at == end


def test_one_expires_when_that_is_confirmed(world: World, admin: Pages) -> None:
    server_id = world.adopt("web-1")
    before = world.row(server_id).ends_at
    refused = steer(admin, server_id, "expire")
    assert refused.status == 200
    assert "This field is required." in refused.text("//form")[-1]
    assert world.row(server_id).ends_at == before
    assert steer(admin, server_id, "expire", confirmed="on").status == 302
    after = world.row(server_id).ends_at
    assert after is not None
    assert before is not None
    assert after < before


@pytest.mark.sampled(3)
@pytest.mark.parametrize("act", ["hold", "release", "move", "exempt", "include", "expire"])
def test_each_act_wants_a_reason(world: World, admin: Pages, act: str) -> None:
    server_id = world.adopt("web-1")
    form = admin.get(f"{ADMIN_PANEL}{server_id}/{act}")
    assert form.status == 200
    assert "web-1" in form.text("//form")[-1]
    before = world.row(server_id).generation
    refused = admin.post(
        f"{ADMIN_PANEL}{server_id}/{act}",
        {"until": "2099-01-01T00:00", "ends_at": "2099-01-01T00:00", "confirmed": "on"},
    )
    assert refused.status == 200
    assert world.row(server_id).generation == before


def test_what_the_api_refuses_is_said_in_the_form(world: World, admin: Pages) -> None:
    server_id = world.adopt("web-1")
    refused = steer(admin, server_id, "hold", until="2020-01-01T00:00")
    assert refused.status == 200
    (error,) = refused.text('//form[@id="reason_form"]//div[contains(@class, "alert-danger")]')
    assert "2020-01-01" in error
    assert admin.get(f"{ADMIN_PANEL}{server_id}/explode").status == 404


def test_exclusions_are_added_listed_and_removed(world: World, admin: Pages) -> None:
    assert "Nobody is left out." in admin.get(EXCLUSIONS).tree.text_content()
    form = {"kind": "flavor", "value": "gpu<b>", "reason": WHY, "until": ""}
    done = admin.post(f"{EXCLUSIONS}add", form)
    assert (done.status, done.response["Location"]) == (302, EXCLUSIONS)
    ((kind, value, reason, *_rest),) = admin.get(EXCLUSIONS).rows("vm_exclusions").values()
    assert (kind, value, reason) == ("Flavor (name)", "gpu<b>", WHY)
    twice = admin.post(f"{EXCLUSIONS}add", {**form, "value": ""})
    assert twice.status == 200
    removed = admin.post(EXCLUSIONS, {"action": "vm_exclusions__delete__1"})
    assert removed.status == 302
    assert admin.get(EXCLUSIONS).rows("vm_exclusions") == {}


def test_the_brake_is_tripped_and_released(world: World, admin: Pages) -> None:
    shown = admin.get(BRAKE)
    assert "The brake is not tripped" in shown.text('//div[@id="brake"]')[0]
    assert admin.post(f"{BRAKE}trip", {"reason": "<i>wrong rules"}).status == 302
    shown = admin.get(BRAKE)
    (told,) = shown.text('//div[@id="brake"]//p[contains(@class, "alert")]')
    assert f"Tripped since {written(world.clock.now())}." in told
    assert "<i>wrong rules" in told
    assert admin.post(f"{BRAKE}release", {"reason": "all is well"}).status == 302
    assert "The brake is not tripped" in admin.get(BRAKE).text('//div[@id="brake"]')[0]
    assert admin.get(f"{BRAKE}explode").status == 404


def test_what_would_go_if_the_brake_were_released_is_listed(world: World, admin: Pages) -> None:
    world.adopt("web-1")
    admin.post(f"{BRAKE}trip", {"reason": WHY})
    world.live(world.clock.now() + timedelta(days=6))
    rows = admin.get(BRAKE).text('//div[@id="brake"]//tbody/tr')
    assert rows == ["web-1alpha"]


PAGES = ["", "exclusions/", "brake/", "forecast"]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("fault", [REFUSE, page(500)], ids=lambda f: f.name)
def test_a_service_that_gives_no_answer_is_said_to(
    border: FaultProxy, admin: Pages, path: str, fault: Any
) -> None:
    with border.broken(fault):
        shown = admin.get(ADMIN_PANEL + path)
        assert shown.status == 200
        assert "does not answer" in shown.tree.text_content()


@pytest.mark.sampled(2)
@pytest.mark.parametrize("path", PAGES)
def test_no_page_is_for_members(world: World, pages: Pages, path: str) -> None:
    world.adopt("web-1")
    shown = pages.get(ADMIN_PANEL + path)
    assert shown.status in (302, 403)
    assert "web-1" not in shown.tree.text_content()


@pytest.mark.options({"virtual:vm": {"lease_duration": "5d"}})
def test_what_the_policy_forbids_an_administrator_is_said_to(world: World, admin: Pages) -> None:
    """Horizon takes them for one; the API decides."""
    identity = world.cloud.identity
    server_id = world.adopt("web-1")
    for token in identity.tokens.values():
        token["roles"] = [{"id": "1", "name": "reader"}]
    for path in PAGES:
        shown = admin.get(ADMIN_PANEL + path)
        assert shown.status == 200, path
        assert "You are not allowed to do this" in shown.tree.text_content(), path
    assert steer(admin, server_id, "exempt").status in (200, 302)
    assert world.state(server_id) != "exempt"
