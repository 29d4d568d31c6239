# SPDX-License-Identifier: Apache-2.0
"""Exclusions in a real Blazar: who has a lease is let go, in each state, and taken in again."""

from __future__ import annotations

import datetime
from datetime import timedelta

import pytest

from blazar_vmexpire import exclusions
from blazar_vmexpire.exclusions import Exclusion, Kind
from tests.functional.manage import Manage
from tests.functional.world import World

pytestmark = pytest.mark.databases("sqlite")

QUARANTINE = pytest.mark.options({"virtual:vm": {"quarantine": "7d"}})
TERM = timedelta(days=60)


def exclude(
    world: World, kind: Kind, value: str, until: datetime.datetime | None = None
) -> Exclusion:
    """Have an administrator leave somebody out, and let what is due happen."""
    with world.harness.database.begin() as connection:
        added = exclusions.add(
            connection,
            kind=kind,
            value=value,
            reason="a demonstration",
            author="root",
            expires_at=until,
            now=world.clock.now(),
        )
    world.settle()
    return added


def remove(world: World, exclusion: Exclusion) -> None:
    """Have an administrator take that back, and let what is due happen."""
    with world.harness.database.begin() as connection:
        assert exclusions.remove(
            connection, exclusion, author="root", reason="it is over", now=world.clock.now()
        )
    world.settle()


def reconcile(world: World) -> None:
    """Let the time of the next reconciliation come."""
    world.clock.advance(minutes=16)
    world.harness.work()
    world.settle()


def is_left_alone(world: World, server_id: str) -> None:
    """Check that a VM is its owner's, runs, and has no lease."""
    vm = world.cloud.compute.vms[server_id]
    assert (world.state(server_id), world.all_leases()) == ("exempt", [])
    assert (vm.vm_state, vm.locked, vm.task_state) == ("active", False, None)


def why(world: World, server_id: str) -> str:
    """Say why it was let go, as its history has it."""
    return str(dict(world.history(server_id))["exempt"]["reason"])


def begins_anew(world: World, server_id: str) -> None:
    """Check that a VM has begun a full first term just now."""
    row = world.row(server_id)
    assert row.state == "active"
    assert row.ends_at is not None
    left = row.ends_at - world.clock.now()
    assert TERM - timedelta(minutes=1) <= left <= TERM + timedelta(minutes=1)
    assert world.lease(server_id).end_date == row.ends_at
    assert world.lease(server_id).status == "ACTIVE"


@pytest.mark.parametrize("kind", list(Kind))
def test_takes_effect_on_a_vm_that_has_a_lease_and_on_no_other(world: World, kind: Kind) -> None:
    server_id = world.adopt(flavor="gpu.large")
    other = world.boot("other", project_id=world.beta, user_id=world.bob)
    value = {
        Kind.DOMAIN: "default",
        Kind.PROJECT: world.alpha,
        Kind.USER: world.alice,
        Kind.FLAVOR: "gpu.large",
        Kind.SERVER: server_id,
    }[kind]
    if kind != Kind.DOMAIN:
        world.see(other)
    exclusion = exclude(world, kind, value)
    assert world.state(server_id) == "exempt"
    assert why(world, server_id) == f"{kind} {value} is excluded by root: a demonstration"
    if kind != Kind.DOMAIN:
        assert world.state(other) == "active"

    # A new one of theirs is left out from the beginning, by either leg of intake.
    if kind != Kind.SERVER:
        new = world.boot("new", flavor="gpu.large")
        world.see(new)
        reconcile(world)
        assert world.row_or_none(new) is None

    world.live(world.clock.now() + timedelta(days=100))
    remove(world, exclusion)
    begins_anew(world, server_id)
    reconcile(world)
    assert len(world.rows()) == (2 if kind == Kind.SERVER else 3)


@QUARANTINE
def test_a_quarantined_vm_is_given_back_first(world: World) -> None:
    world.cloud.compute.reads = 2
    server_id = world.adopt()
    ends_at = world.row(server_id).ends_at
    assert ends_at is not None
    world.live(ends_at - timedelta(days=6))
    assert world.cloud.compute.vms[server_id].locked
    exclude(world, Kind.SERVER, server_id)
    world.live(world.clock.now() + timedelta(minutes=5))
    is_left_alone(world, server_id)
    names = world.events(server_id)
    assert [n for n in names if n in ("excluded", "out_of_scope", "unlocked", "exempt")] == [
        "excluded",
        "out_of_scope",
        "unlocked",
        "exempt",
    ]
    world.live(ends_at + timedelta(days=1))
    is_left_alone(world, server_id)


@pytest.mark.options({"virtual:vm": {"on_end_action": "snapshot"}})
def test_an_end_that_was_begun_is_undone(world: World) -> None:
    world.cloud.image.reads = None
    server_id = world.adopt()
    ends_at = world.row(server_id).ends_at
    assert ends_at is not None
    world.live(ends_at + timedelta(minutes=5))
    assert world.state(server_id) == "ending"
    exclude(world, Kind.PROJECT, world.alpha)
    world.cloud.compute.vms[server_id].task_state = None
    world.live(world.clock.now() + timedelta(minutes=5))
    is_left_alone(world, server_id)
    assert world.cloud.image.images == {}


def test_of_a_noticed_vm_is_told_that_its_end_is_off_and_no_more(world: World) -> None:
    server_id = world.adopt()
    ends_at = world.row(server_id).ends_at
    assert ends_at is not None
    world.live(ends_at - timedelta(days=5))
    mails = len(world.mails)
    exclude(world, Kind.USER, world.alice)
    world.live(ends_at + timedelta(days=30))
    is_left_alone(world, server_id)
    assert len(world.mails) == mails + 1


def test_one_that_ends_by_itself_begins_a_full_first_term(world: World) -> None:
    """Then, not with the next reconciliation."""
    server_id = world.adopt()
    until = world.clock.now() + timedelta(days=100)
    exclude(world, Kind.PROJECT, world.alpha, until)
    world.live(until - timedelta(minutes=1))
    is_left_alone(world, server_id)
    world.clock.set(until)
    world.settle()
    begins_anew(world, server_id)
    assert world.row(server_id).generation > 0


def test_one_that_is_over_does_not_end_another(world: World) -> None:
    server_id = world.adopt()
    until = world.clock.now() + timedelta(days=10)
    exclude(world, Kind.SERVER, server_id, until)
    exclude(world, Kind.PROJECT, world.alpha)
    world.live(until + timedelta(days=1))
    is_left_alone(world, server_id)


def test_a_vm_that_goes_while_it_is_excluded_is_let_go(world: World) -> None:
    server_id = world.adopt()
    exclude(world, Kind.SERVER, server_id)
    world.cloud.compute.vanish(server_id)
    world.see(server_id)
    world.live(world.clock.now() + timedelta(minutes=1))
    assert world.state(server_id) == "deleted"


def test_an_owner_cannot_extend_what_has_no_end(world: World) -> None:
    server_id = world.adopt()
    exclude(world, Kind.SERVER, server_id)
    answer = world.as_alice.post(f"/v1/vm-expirations/{server_id}/extend", json={})
    assert answer.status_code == 409


def test_a_deletion_that_was_asked_for_goes_on_and_the_command_says_so(
    world: World, manage: Manage, database_url: str
) -> None:
    world.cloud.compute.reads = None
    server_id = world.adopt()
    ends_at = world.row(server_id).ends_at
    assert ends_at is not None
    world.live(ends_at + timedelta(minutes=1))
    assert world.row(server_id).progress["irreversible"]
    done = manage(database_url, "exclusion", "add", "--server", server_id, "--reason", "too late")
    assert done.stdout.splitlines()[1:] == [
        "VMs that are known and that it concerns: 1",
        "It is being deleted already: that cannot be taken back.",
    ]
    world.cloud.compute.settle(server_id)
    world.live(world.clock.now() + timedelta(minutes=10))
    assert world.state(server_id) == "deleted"
