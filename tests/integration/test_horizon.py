# SPDX-License-Identifier: Apache-2.0
"""What people do in Horizon, done by a real browser on a real cloud."""

from __future__ import annotations

import datetime
import re

import pytest
from playwright.sync_api import expect

from tests.integration.cloudlib import MINUTE, Cloud, Vm, in_minutes
from tests.integration.dashboard import ADMIN_PANEL, INSTANCES, PANEL, logged_in
from tests.integration.waiting import utcnow, wait_for

pytestmark = pytest.mark.horizon

#: Of VMs whose names begin with ``web``, see ``rules.yaml``.
TERM = datetime.timedelta(days=20)
EXTENSION = datetime.timedelta(days=30)
#: How long a browser may take for what it does, beside eight others.
SLOW = 10 * MINUTE


def shown_end(vm: Vm) -> str:
    """Write when a VM ends as the pages do."""
    return f"{vm.ends_at:%Y-%m-%d %H:%M} UTC"


def test_alice_sees_when_an_instance_ends_and_extends_it_there(calm: Cloud) -> None:
    vm = calm.boot("web front")
    before = vm.ends_at
    assert before - utcnow() >= TERM - SLOW
    with logged_in(calm, "alice") as horizon:
        horizon.go(INSTANCES)
        expect(horizon.row(vm)).to_contain_text(shown_end(vm))
        expect(horizon.row(vm)).to_contain_text(re.compile("in (19|20) days"))
        horizon.act(vm, "Extend")
        dialog = horizon.dialog("Extend Instance")
        expect(dialog).to_contain_text(shown_end(vm))
        dialog.get_by_role("button", name="Extend Instance").click()

        horizon.told("web front ends on")
        expect(horizon.page).to_have_url(calm.sandbox.url("horizon", INSTANCES))
        after = vm.ends_at
        assert EXTENSION - SLOW <= after - utcnow() <= EXTENSION
        expect(horizon.row(vm)).to_contain_text(shown_end(vm))
        expect(horizon.row(vm)).to_contain_text(re.compile("in (29|30) days"))
    vm.delete()


def test_alice_extends_two_instances_in_the_panel(calm: Cloud) -> None:
    vms = [calm.boot(f"web back {number}") for number in (1, 2)]
    other = calm.boot("web back 3")
    before = other.ends_at
    with logged_in(calm, "alice") as horizon:
        horizon.go(PANEL)
        for vm in vms:
            expect(horizon.row(vm)).to_contain_text(shown_end(vm))
            horizon.row(vm).locator(".themable-checkbox label").click()
        horizon.page.get_by_role("button", name="Extend Instances").click()
        horizon.told("2 instances have been extended.")
        for vm in vms:
            assert EXTENSION - SLOW <= vm.ends_at - utcnow() <= EXTENSION
            expect(horizon.row(vm)).to_contain_text(shown_end(vm))
    assert other.ends_at == before
    for vm in (*vms, other):
        vm.delete()


def test_nobody_extends_beyond_the_cap(calm: Cloud) -> None:
    """Neither where the browser knows of the cap, nor where only the service does."""
    vm = calm.boot("web cap")
    before = vm.ends_at
    too_far = f"{utcnow() + EXTENSION + 60 * 24 * MINUTE:%Y-%m-%dT%H:%M}"
    with logged_in(calm, "alice") as horizon:
        horizon.go(INSTANCES)
        horizon.act(vm, "Extend")
        dialog = horizon.dialog("Extend Instance")
        new_end = dialog.get_by_label("New end")
        new_end.fill(too_far)
        assert new_end.evaluate("field => field.validity.rangeOverflow")
        dialog.get_by_role("button", name="Extend Instance").click()
        expect(dialog).to_be_visible()
        assert vm.ends_at == before

        new_end.evaluate("field => field.removeAttribute('max')")
        dialog.get_by_role("button", name="Extend Instance").click()
        refused = horizon.dialog("is past the latest allowed")
        expect(refused.get_by_label("New end")).to_have_value(too_far)
        assert vm.ends_at == before
    vm.delete()


def test_bob_sees_nothing_of_an_instance_of_alices(calm: Cloud) -> None:
    vm, own = calm.boot("web hidden"), calm.boot("web of bob", calm.bob)
    before = vm.ends_at
    with logged_in(calm, "bob") as horizon:
        for path in (INSTANCES, PANEL):
            horizon.go(path)
            expect(horizon.row(own)).to_contain_text(shown_end(own))
            expect(horizon.row(vm)).to_have_count(0)
            expect(horizon.page.get_by_text(vm.name)).to_have_count(0)
        horizon.go(f"{PANEL}{vm.id}/extend")
        expect(horizon.page).to_have_url(calm.sandbox.url("horizon", PANEL))
        horizon.told(vm.id, "danger")
        expect(horizon.page.get_by_text(vm.name)).to_have_count(0)
    assert vm.ends_at == before
    for mine in (vm, own):
        mine.delete()


@pytest.mark.long
def test_an_instance_that_was_stopped_is_restored(calm: Cloud) -> None:
    vm = calm.boot("soon stopped")
    vm.wait_for_event("quarantined", 60, after=vm.ends_at - 3 * MINUTE)
    vm.wait_for_status("SHUTOFF")
    with logged_in(calm, "alice") as horizon:
        horizon.go(PANEL)
        expect(horizon.row(vm)).to_contain_text("Stopped and locked")
        horizon.act(vm, "Restore")
        dialog = horizon.dialog("Restore Instance")
        dialog.get_by_role("button", name="Restore Instance").click()
        horizon.told("soon stopped ends on")
        vm.wait_for_event("revived", 30)
        vm.wait_for_status("ACTIVE")
        horizon.go(PANEL)
        expect(horizon.row(vm)).to_contain_text(shown_end(vm))
        expect(horizon.row(vm).get_by_text("Restore", exact=True)).to_have_count(0)
    vm.delete()


@pytest.mark.long
def test_instances_are_shown_while_blazar_is_stopped(rough: Cloud) -> None:
    with rough.turns:
        vm = rough.boot("seen without Blazar")
        with logged_in(rough, "alice") as horizon:
            horizon.go(INSTANCES)
            expect(horizon.row(vm)).to_contain_text(f"{vm.ends_at:%Y-%m-%d}")
            rough.stop("blazar-api")
            try:
                horizon.go(INSTANCES)
                expect(horizon.row(vm)).to_contain_text("not known at the moment")
                expect(horizon.row(vm)).not_to_contain_text(f"{vm.ends_at:%Y-%m-%d}")
                expect(horizon.row(vm).get_by_text("Extend", exact=True)).to_have_count(0)
                horizon.go(PANEL)
                horizon.told("The service that ends instances does not answer", "danger")
            finally:
                rough.start("blazar-api")
            horizon.go(INSTANCES)
            expect(horizon.row(vm)).to_contain_text(f"{vm.ends_at:%Y-%m-%d}")
        vm.delete()


@pytest.mark.long
def test_an_administrator_holds_and_exempts_an_instance(calm: Cloud) -> None:
    vm = calm.boot("web steered")
    until = utcnow() + 60 * MINUTE
    with logged_in(calm, "admin") as horizon:
        horizon.go(ADMIN_PANEL)
        horizon.act(vm, "Hold")
        horizon.submit("Hold Instance", Until=f"{until:%Y-%m-%dT%H:%M}", Reason="audit")
        horizon.told("The instance is held.")
        expect(horizon.row(vm)).to_contain_text("Held")
        assert vm.row().state == "held"
        horizon.act(vm, "Release")
        horizon.submit("Release Instance", Reason="audited")
        horizon.told("The instance is held no longer.")
        wait_for("its clock to go on", lambda: vm.row().state == "active", 30)
        horizon.go(ADMIN_PANEL)
        horizon.act(vm, "Exempt")
        horizon.submit("Exempt Instance", Reason="runs the lifts")
        horizon.told("The instance is left out.")
        wait_for("it to be left out", lambda: vm.row().state == "exempt", 30)
        horizon.go(ADMIN_PANEL)
        expect(horizon.row(vm)).to_contain_text("Does not expire")
    assert vm.lease_in_list() is None
    vm.delete()


@pytest.mark.long
def test_an_administrator_releases_the_brake(rough: Cloud) -> None:
    def tripped() -> bool:
        brake = rough.admin.get("reservation", "/vm-expiration-brake")["vm_expiration_brake"]
        return brake["tripped_at"] is not None

    with rough.turns, logged_in(rough, "admin") as horizon:
        horizon.go(f"{ADMIN_PANEL}brake/")
        horizon.page.get_by_role("link", name="Trip Brake").click()
        horizon.submit("Trip Brake", Reason="somebody deletes too much")
        horizon.told("The brake has been tripped.")
        assert tripped()
        expect(horizon.page.locator("#brake")).to_contain_text("somebody deletes too much")
        horizon.page.get_by_role("link", name="Release Brake").click()
        horizon.submit("Release Brake", Reason="it was a test")
        horizon.told("The brake has been released.")
        assert not tripped()


@pytest.mark.long
def test_our_pages_are_for_everybody(calm: Cloud) -> None:
    """axe-core finds nothing serious in what is ours of them, in either of Horizon's themes.

    They become the pictures of the documentation, if that is wanted.
    """
    olivia = calm.add_member("olivia", "olivia@example.org", calm.add_project("physics"))
    vms = [calm.boot(f"web {name}", olivia) for name in ("shop", "wiki", "mail")]
    for vm, days in zip(vms, (1.5, 9, 20), strict=True):
        vm.move_end(in_minutes(days * 24 * 60), calm.admin)
    with logged_in(calm, "olivia") as horizon:
        for theme in ("material", "default"):
            horizon.choose_theme(theme)
            horizon.go(PANEL)
            expect(horizon.row(vms[0])).to_contain_text("in 1 day")
            assert horizon.faults("#vm_expirations tbody") == []
            horizon.save_picture("panel")
            horizon.go(INSTANCES)
            assert horizon.faults("#instances tbody") == []
            horizon.save_picture("instances")
            horizon.act(vms[0], "Extend")
            dialog = horizon.dialog("Extend Instance")
            assert horizon.faults(".modal-dialog") == []
            horizon.save_picture("extend", dialog)
            horizon.go(f"{INSTANCES}{vms[0].id}/?tab=instance_details__expiration")
            tab = "#instance_details__expiration"
            expect(horizon.page.locator(tab)).to_contain_text("What will happen")
            assert horizon.faults(tab) == []
            horizon.save_picture("instance")
            horizon.go(f"{INSTANCES}{vms[0].id}/")
            expect(horizon.page.locator("#expiration_banner")).to_be_visible()
            assert horizon.faults("#expiration_banner") == []
    with logged_in(calm, "admin") as horizon:
        for theme in ("material", "default"):
            horizon.choose_theme(theme)
            horizon.go(ADMIN_PANEL)
            expect(horizon.row(vms[0])).to_be_visible()
            assert horizon.faults("#vm_expirations tbody") == []
            horizon.act(vms[0], "Hold")
            horizon.dialog("Hold Instance")
            assert horizon.faults(".modal-dialog") == []
            for page, part in (
                ("forecast", "#forecast_form, #forecast_chart, #forecast_table"),
                ("brake/", "#brake"),
                ("exclusions/", "#vm_exclusions"),
            ):
                horizon.go(f"{ADMIN_PANEL}{page}")
                for selector in part.split(", "):
                    expect(horizon.page.locator(selector).first).to_be_attached()
                    assert horizon.faults(selector) == []
                if page == "forecast":
                    horizon.save_picture("forecast")
    for vm in vms:
        vm.delete()
