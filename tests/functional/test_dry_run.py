# SPDX-License-Identifier: Apache-2.0
"""``dry_run``: the whole service, and not one change in Nova or Glance."""

from __future__ import annotations

import logging
from datetime import timedelta

import pytest

from blazar_vmexpire import RESOURCE_TYPE
from blazar_vmexpire.cloud import errors
from blazar_vmexpire.worker import pretending
from tests.functional.world import World

#: Slow; what it asks of a database, others ask of each kind.
pytestmark = pytest.mark.databases("sqlite")

CONTACT = "operators@example.org"
TERMS = {"undeliverable_contact": CONTACT, "quarantine": "5d", "on_end_action": "snapshot"}
DRY = pytest.mark.options({RESOURCE_TYPE: {**TERMS, "dry_run": "true"}})
WET = pytest.mark.options({RESOURCE_TYPE: TERMS})


def changes(world: World) -> list[str]:
    """List what was asked of Nova and Glance that changes something."""
    return [
        f"{request.method} {request.path}"
        for request in world.cloud.log
        if request.method not in ("GET", "HEAD") and request.path.startswith(("/compute", "/image"))
    ]


def switch(world: World, *, dry_run: bool) -> None:
    """Restart the manager with the option changed."""
    world.harness.plugin.tools.conf.set_override("dry_run", dry_run, RESOURCE_TYPE)
    world.harness.restart()


@DRY
@pytest.mark.options({RESOURCE_TYPE: {"before_end_action": "snapshot"}})
def test_a_whole_life_changes_nothing(world: World) -> None:
    server_id = world.adopt()
    first_end = world.row(server_id).ends_at
    assert first_end is not None
    world.live(first_end + timedelta(hours=1))
    assert changes(world) == []
    assert world.cloud.compute.vms[server_id].vm_state == "active"
    # Its lease goes on, and its life begins anew.
    assert world.lease(server_id).status == "ACTIVE"
    assert world.row(server_id).ends_at == first_end + timedelta(days=60)
    would = [details["would"] for event, details in world.history(server_id) if event == "dry_run"]
    assert sorted(would) == ["quarantine", "snapshot"]
    (moved,) = [details for event, details in world.history(server_id) if event == "moved"]
    assert moved["reason"] == "dry run: its end has come, and snapshot would have begun"
    world.live(first_end + timedelta(days=61))
    assert changes(world) == []


@DRY
def test_only_the_operator_gets_mails_and_they_say_so(world: World) -> None:
    server_id = world.adopt()
    ends_at = world.row(server_id).ends_at
    assert ends_at is not None
    world.live(ends_at + timedelta(hours=1))
    assert world.mails
    assert set(world.recipients()) == {CONTACT}
    for mail in world.mails:
        assert mail["Subject"].startswith("[dry run] ")
        assert mail.get_content().startswith("This is a dry run: nothing is done to any VM")


@DRY
def test_what_was_told_in_a_dry_run_counts_for_nothing_afterwards(world: World) -> None:
    server_id = world.adopt()
    ends_at = world.row(server_id).ends_at
    assert ends_at is not None
    world.live(ends_at - timedelta(days=6))
    assert world.state(server_id) == "noticed"
    switch(world, dry_run=False)
    world.mail.forget()
    begun = world.clock.now()
    world.clock.advance(minutes=16)
    world.settle()
    assert world.recipients() == ["alice@example.org"]
    assert not world.mails[0]["Subject"].startswith("[dry run]")
    world.live(begun + timedelta(hours=47))
    assert world.cloud.compute.vms[server_id].vm_state == "active"
    assert changes(world) == []
    world.live(begun + timedelta(days=10))
    assert server_id not in world.cloud.compute.vms


@WET
def test_what_is_under_way_when_it_is_switched_on_waits(world: World) -> None:
    server_id = world.adopt()
    ends_at = world.row(server_id).ends_at
    assert ends_at is not None
    world.live(ends_at - timedelta(days=4))
    assert world.state(server_id) == "quarantined"
    switch(world, dry_run=True)
    before = changes(world)
    world.live(ends_at + timedelta(days=1))
    assert changes(world) == before
    assert world.state(server_id) == "quarantined"
    assert world.lease(server_id).status == "ACTIVE"
    # Undoing would be a change, too: it is done when the dry run is over.
    asked = world.as_alice.post(f"/v1/vm-expirations/{server_id}/extend", json={})
    assert asked.status_code == 200, asked.json
    world.live(world.clock.now() + timedelta(hours=1))
    assert world.state(server_id) == "reviving"
    assert changes(world) == before
    switch(world, dry_run=False)
    world.live(world.clock.now() + timedelta(hours=1))
    assert world.state(server_id) == "active"
    vm = world.cloud.compute.vms[server_id]
    assert (vm.vm_state, vm.locked) == ("active", False)


@DRY
def test_the_border_lets_no_change_through(world: World) -> None:
    server_id = world.boot()
    cloud = world.harness.plugin.tools.cloud
    for change in (
        lambda: cloud.nova.stop(server_id),
        lambda: cloud.nova.delete(server_id),
        lambda: cloud.nova.lock(server_id, "no"),
        lambda: cloud.nova.create_image(server_id, "no", {}),
        lambda: cloud.glance.delete(server_id),
    ):
        with pytest.raises(errors.Unavailable, match="this is a dry run"):
            change()
    assert cloud.nova.get(server_id).status == "ACTIVE"
    assert changes(world) == []


def test_every_line_of_the_log_says_so() -> None:
    root = logging.getLogger()
    lines: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    handler = Kept()
    root.addHandler(handler)
    others = {id(other): list(other.filters) for other in root.handlers}
    try:
        pretending.mark_log_lines()
        logging.getLogger("blazar_vmexpire.worker.steps").warning("Server %s waits", "x")
        logging.getLogger("blazar.manager").warning("something else")
    finally:
        root.removeHandler(handler)
        for other in root.handlers:
            other.filters[:] = others[id(other)]
    assert lines == ["[dry run] Server x waits", "something else"]
