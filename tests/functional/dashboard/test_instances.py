# SPDX-License-Identifier: Apache-2.0
"""Horizon's own tables of instances: our column, our actions, and never less than they were."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.test import RequestFactory
from openstack_dashboard.dashboards.admin.instances import views as admin_views
from openstack_dashboard.dashboards.project.instances import tables as project_tables
from openstack_dashboard.dashboards.project.instances import views as project_views

from blazar_vmexpire.dashboard import api
from blazar_vmexpire.dashboard import stock as ours
from tests.fault_proxy import HANG, REFUSE, FaultProxy, page, truncate
from tests.functional.dashboard.pages import ADMIN_INSTANCES, INSTANCES, Page, Pages, extend_url
from tests.functional.dashboard.present import written
from tests.functional.dashboard.stock import Stock
from tests.functional.world import World

pytestmark = [
    pytest.mark.databases("sqlite"),
    pytest.mark.options({"virtual:vm": {"lease_duration": "5d", "on_end_action": "snapshot"}}),
]

NOT_KNOWN = "\N{EN DASH} not known at the moment"


@pytest.fixture
def stock(world: World, pages: Pages) -> Stock:
    """Alice's pages of instances."""
    return Stock(world, pages, INSTANCES)


def expires(shown: Page, name: str) -> str:
    """Return what the column says of an instance."""
    heads = shown.text('//table[@id="instances"]//th[not(contains(@class, "multi_select"))]')
    return shown.rows("instances")[name][heads.index("Expires")]


def asked(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what the API was asked since the last time."""
    found = [r.getMessage() for r in caplog.records if r.name == "blazar.api.v1.request_log"]
    caplog.clear()
    return found


def test_the_end_is_shown_and_the_action_leads_back_to_the_page(world: World, stock: Stock) -> None:
    server_id = world.adopt("web-1")
    shown = stock.list(server_id, query_params={"marker": "x"})
    assert shown.status == 200
    ends = world.row(server_id).ends_at
    assert ends is not None
    assert expires(shown, "web-1") == f"{written(ends)} in 4 days"
    actions = shown.row_actions(server_id)
    assert actions["Extend"] == extend_url(server_id, f"{INSTANCES}?marker=x")
    assert "Restore" not in actions
    # Horizon's own are all there, and the first of them is still the button.
    assert {"Create Snapshot", "Edit Instance"} <= set(actions)
    assert next(iter(actions)) == "Create Snapshot"


def test_a_page_asks_once_and_only_for_what_it_shows(
    world: World, stock: Stock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    ids = [world.adopt(f"web-{n}") for n in range(3)]
    world.adopt("on no page")
    caplog.clear()
    shown = stock.list(*ids)
    assert all("in 4 days" in expires(shown, f"web-{n}") for n in range(3))
    (question,) = asked(caplog)
    assert "GET /v1/vm-expirations?server_ids=" in question
    assert all(i in question for i in ids)
    stock.list()
    assert asked(caplog) == []
    stock.details(ids[0])
    assert len(asked(caplog)) == 1


def test_more_than_a_hundred_on_a_page_are_asked_for_by_the_hundred(
    world: World, pages: Pages, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    ids = [world.adopt("web-0"), *(str(uuid.uuid4()) for _ in range(100))]
    request = RequestFactory().get(INSTANCES)
    request.user = pages.case.user
    known = api.known(request, reversed(ids))
    assert known is not None
    assert [vm.name for vm in known.values()] == ["web-0"]
    assert len(asked(caplog)) == 2


def test_a_row_that_is_updated_keeps_its_end(world: World, stock: Stock) -> None:
    server_id = world.adopt("web-1")
    row = stock.row(server_id)
    assert row.status == 200
    assert "in 4 days" in row.tree.text_content()
    assert row.row_actions(server_id)["Extend"] == extend_url(server_id, INSTANCES)


def test_what_does_not_expire_has_no_end(world: World, stock: Stock) -> None:
    exempt = world.adopt("exempt")
    world.as_admin.patch(
        f"/v1/vm-expirations/{exempt}", json={"reason": "asked for", "exempt": True}
    )
    world.settle()
    unknown = world.boot("unknown")
    shown = stock.list(unknown, exempt)
    assert expires(shown, "unknown") == "\N{EN DASH}"
    assert expires(shown, "exempt") == "Does not expire"
    assert {"Extend", "Restore"} & {
        *shown.row_actions(unknown),
        *shown.row_actions(exempt),
    } == set()


@pytest.mark.options({"virtual:vm": {"quarantine": "3d", "minimum_notice": "1d"}})
def test_one_that_was_stopped_offers_to_be_restored(world: World, stock: Stock) -> None:
    server_id = world.adopt("web-1")
    world.live(world.clock.now() + timedelta(days=2, hours=1))
    shown = stock.list(server_id)
    assert shown.row_actions(server_id)["Restore"] == extend_url(server_id, INSTANCES)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "fault", [REFUSE, HANG, page(200), page(500), page(403), truncate(300)], ids=lambda f: f.name
)
def test_horizons_pages_are_there_whatever_becomes_of_ours(
    world: World, border: FaultProxy, stock: Stock, settings: dict[str, Any], fault: Any
) -> None:
    settings["instances_timeout"] = 0.3
    server_id = world.adopt("web-1")
    with border.broken(fault):
        shown = stock.list(server_id)
        assert (shown.status, shown.told) == (200, [])
        assert expires(shown, "web-1") == NOT_KNOWN
        assert "Extend" not in shown.row_actions(server_id)
        assert "Create Snapshot" in shown.row_actions(server_id)
        row = stock.row(server_id)
        assert row.status == 200
        assert NOT_KNOWN in " ".join(row.tree.text_content().split())
        assert stock.details(server_id).status == 200
    assert "in 4 days" in expires(stock.list(server_id), "web-1")


def test_a_service_that_is_away_is_asked_once_a_page(
    world: World, border: FaultProxy, stock: Stock
) -> None:
    ids = [world.adopt(f"web-{n}") for n in range(3)]
    with border.broken(page(503)):
        stock.list(*ids)
    assert border.done["page 503"] == 1


def test_a_token_that_only_ours_refuses_breaks_nothing(world: World, stock: Stock) -> None:
    server_id = world.adopt("web-1")
    world.cloud.identity.revoke_tokens()
    shown = stock.list(server_id)
    assert shown.status == 200
    assert expires(shown, "web-1") == NOT_KNOWN


def test_a_cloud_without_the_service_shows_its_instances(world: World) -> None:
    with Pages.of(world) as pages:
        server_id = world.boot("web-1", created_at=world.clock.now())
        shown = Stock(world, pages, INSTANCES).list(server_id)
        assert shown.status == 200
        assert expires(shown, "web-1") == NOT_KNOWN


def test_an_administrator_sees_the_ends_of_all_projects(world: World, border: FaultProxy) -> None:
    ids = [
        world.adopt("hers"),
        world.adopt("his", project_id=world.beta, user_id=world.bob),
    ]
    with Pages.of(world, "admin") as pages:
        shown = Stock(world, pages, ADMIN_INSTANCES).list(*ids)
        assert shown.status == 200
        for name in ("hers", "his"):
            (row,) = shown.text(f'//tr[@data-display="{name}"]')
            assert "in 4 days" in row
        assert shown.row_actions(ids[1])["Extend"] == extend_url(ids[1], ADMIN_INSTANCES)


@pytest.fixture
def as_it_was() -> Iterator[None]:
    """Have Horizon's tables afterwards as they were before."""
    before = project_tables.InstancesTable, project_views.IndexView.table_class
    admin_before = admin_views.AdminIndexView.table_class
    yield
    project_tables.InstancesTable, project_views.IndexView.table_class = before
    admin_views.AdminIndexView.table_class = admin_before


@pytest.mark.usefixtures("as_it_was")
def test_a_table_that_is_not_known_stays_as_it_is(
    world: World, pages: Pages, caplog: pytest.LogCaptureFixture
) -> None:
    """As in some later version of Horizon."""

    class Other(project_views.IndexView.table_class.__base__):  # type: ignore[name-defined,misc]
        class Meta(project_views.IndexView.table_class.__base__.Meta):  # type: ignore[name-defined,misc]
            pass

    project_views.IndexView.table_class = Other
    ours.extend_pages()
    assert project_views.IndexView.table_class is Other
    assert "Horizon's InstancesTable stays as it is, without the expiration" in caplog.text
    server_id = world.adopt("web-1")
    shown = Stock(world, pages, INSTANCES).list(server_id)
    assert shown.status == 200
    assert "Expires" not in shown.text("//th")
