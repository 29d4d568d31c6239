# SPDX-License-Identifier: Apache-2.0
"""What people do in Horizon, done by a real browser on a real cloud."""

from __future__ import annotations

import datetime
import re

import pytest
from playwright.sync_api import expect

from tests.integration.cloudlib import MINUTE, Cloud, Vm
from tests.integration.dashboard import INSTANCES, PANEL, logged_in
from tests.integration.waiting import utcnow

pytestmark = pytest.mark.horizon

#: Of VMs whose names begin with ``web``, see ``rules.yaml``.
TERM = datetime.timedelta(days=20)
EXTENSION = datetime.timedelta(days=30)


def shown_end(vm: Vm) -> str:
    """Write when a VM ends as the pages do."""
    return f"{vm.ends_at:%Y-%m-%d %H:%M} UTC"


def test_alice_sees_when_an_instance_ends_and_extends_it_there(calm: Cloud) -> None:
    vm = calm.boot("web front")
    before = vm.ends_at
    assert before - utcnow() >= TERM - MINUTE
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
        assert EXTENSION - 2 * MINUTE <= after - utcnow() <= EXTENSION
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
            assert EXTENSION - 2 * MINUTE <= vm.ends_at - utcnow() <= EXTENSION
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
