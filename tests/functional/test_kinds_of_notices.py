# SPDX-License-Identifier: Apache-2.0
"""What people are told beside plain reminders, and when: each kind of mail in its story."""

from __future__ import annotations

import datetime
from datetime import timedelta

import pytest

from tests import databases
from tests.functional.world import World

CONTACT = "operators@example.org"

pytestmark = pytest.mark.databases("sqlite")

TELL_ADOPTIONS = pytest.mark.options({"vmexpire_mail": {"tell_adoptions": "true"}})


def end_of(world: World, server_id: str) -> datetime.datetime:
    """Return when a VM's lease ends."""
    found = world.row(server_id).ends_at
    assert found is not None
    return found


def subjects(world: World) -> list[str]:
    """Return the subjects of the mails, in their order."""
    return [str(mail["Subject"]) for mail in world.mails]


def first_lines(world: World) -> list[str]:
    """Return the first paragraph of each mail, in their order."""
    return [" ".join(mail.get_content().partition("\n\n")[0].split()) for mail in world.mails]


# Taken in ----------------------------------------------------------------------------------------


@TELL_ADOPTIONS
@pytest.mark.parametrize("leg", ["notification", "reconciliation"])
def test_the_owner_of_a_new_vm_is_told_at_once(world: World, leg: str) -> None:
    server_id = world.boot("web1")
    if leg == "notification":
        world.see(server_id)
    else:
        world.watch(hours=2)
    world.settle()
    (subject,) = subjects(world)
    assert subject.startswith('VM "web1" (alpha) has a lease: it will be')
    assert world.recipients() == ["alice@example.org"]
    # It is no notice: those come in their time, and the VM has its whole term.
    assert world.state(server_id) == "active"
    world.live(end_of(world, server_id) - timedelta(days=1))
    assert [notice.kind for notice in world.notices(server_id)] == [
        "adopted",
        "reminder/10d",
        "reminder/2d",
    ]


@TELL_ADOPTIONS
def test_nobody_is_flooded_when_a_whole_cloud_is_taken_in(world: World) -> None:
    old = world.clock.now() - timedelta(days=2)
    there = [world.boot(f"old{number}", created_at=old) for number in range(5)]
    world.watch(hours=2)
    assert {world.state(server_id) for server_id in there} == {"active"}
    world.see(world.boot("old6", created_at=old))
    world.settle()
    assert world.mails == []
    world.adopt("new")
    world.settle()
    assert ['"new"' in subject for subject in subjects(world)] == [True]


def test_nobody_is_told_of_an_adoption_by_default(world: World) -> None:
    world.adopt()
    world.settle()
    assert world.mails == []


@TELL_ADOPTIONS
def test_who_extends_before_that_mail_arrives_is_told_once(world: World) -> None:
    world.mail.answers["DATA"] = "451 later"
    server_id = world.adopt()
    until = end_of(world, server_id) - timedelta(days=1)
    assert world.update(server_id, world.as_admin, end_date=until).status_code == 200
    world.settle()
    world.mail.answers.clear()
    world.live(world.clock.now() + timedelta(hours=6))
    (mail,) = world.mails
    assert f"{until:%Y-%m-%d %H:%M} UTC" in " ".join(mail.get_content().split())


# The last reminder -------------------------------------------------------------------------------


@pytest.mark.options({"virtual:vm": {"reminders": "5d, 2d"}})
def test_the_last_reminder_says_that_it_is_the_last(world: World) -> None:
    server_id = world.adopt()
    world.live(end_of(world, server_id) - timedelta(minutes=1))
    assert [line.startswith("This is the last reminder.") for line in first_lines(world)] == [
        False,
        False,
        True,
    ]
    assert [subject.startswith("Last reminder: VM ") for subject in subjects(world)] == [
        False,
        False,
        True,
    ]
    assert [notice.kind for notice in world.notices(server_id)] == [
        "reminder/10d",
        "reminder/5d",
        "reminder/2d",
    ]


@pytest.mark.options({"virtual:vm": {"quarantine": "3d", "reminders": "6d, 1d"}})
def test_the_last_one_before_a_quarantine_says_so_too(world: World) -> None:
    server_id = world.adopt()
    world.live(end_of(world, server_id) - timedelta(minutes=1))
    assert [subject.startswith("Last reminder: VM ") for subject in subjects(world)] == [
        False,
        True,
        False,  # of the quarantine itself
        True,
    ]
    assert "will be stopped" in subjects(world)[1]


# Given back --------------------------------------------------------------------------------------


@pytest.mark.options({"virtual:vm": {"quarantine": "3d"}})
def test_who_has_a_vm_back_is_told_what_was_undone_and_the_new_end(world: World) -> None:
    server_id = world.adopt()
    world.live(end_of(world, server_id) - timedelta(days=2))
    assert world.state(server_id) == "quarantined"
    before = len(world.mails)
    assert world.extend(server_id).status_code == 200
    world.settle()
    world.live(world.clock.now() + timedelta(minutes=5))
    assert world.state(server_id) == "active"
    # One mail, and not another one that it was extended.
    (mail,) = world.mails[before:]
    text = " ".join(mail.get_content().split())
    end = f"{end_of(world, server_id):%Y-%m-%d %H:%M} UTC"
    assert f"is back, and has been extended until {end}" in text
    assert "It has been unlocked. It has been started again." in text
    assert 'Who extended it: user "alice"' in text
    # The new end is told of in its time, as any other.
    world.live(end_of(world, server_id) - timedelta(days=9))
    assert len(world.mails) == before + 2


@pytest.mark.options({"virtual:vm": {"quarantine": "3d"}})
def test_what_had_been_stopped_by_its_owner_is_not_said_to_run(world: World) -> None:
    server_id = world.adopt()
    world.cloud.compute.vms[server_id].vm_state = "stopped"
    world.live(end_of(world, server_id) - timedelta(days=2))
    assert world.extend(server_id).status_code == 200
    world.settle()
    text = " ".join(world.mails[-1].get_content().split())
    assert "It has been unlocked." in text
    assert "started" not in text


# Failed ------------------------------------------------------------------------------------------


def fail(world: World, *names: str) -> list[str]:
    """Let the ends of VMs fail that cannot be snapshotted and have nothing else to be kept."""
    servers = [world.adopt(name, image_id=None) for name in names]
    world.live(max(end_of(world, server_id) for server_id in servers) + timedelta(minutes=2))
    assert {world.state(server_id) for server_id in servers} == {"failed"}
    return servers


def told_of_failures(world: World) -> list[str]:
    """Return the texts of the operators' mails."""
    return [mail.get_content() for mail in world.mails if "has failed" in mail["Subject"]]


@pytest.mark.databases(*databases.NAMES)
@pytest.mark.one_server
@pytest.mark.options({"virtual:vm": {"on_end_action": "snapshot"}})
def test_operators_get_one_list_of_what_has_failed(world: World) -> None:
    first, second = fail(world, "web1", "web2")
    world.watch(minutes=20)
    (text,) = told_of_failures(world)
    assert str(world.mails[-1]["To"]) == CONTACT
    assert "The expiration of 2 VMs has failed" in str(world.mails[-1]["Subject"])
    assert all(f"    UUID     {server_id}" in text for server_id in (first, second))
    assert str(world.history(first)[-1][1]["remedy"]) in text
    # It is told once; what fails later comes with the next mail.
    world.watch(minutes=20)
    assert len(told_of_failures(world)) == 1
    (third,) = fail(world, "web3")
    world.watch(minutes=20)
    _, text = told_of_failures(world)
    assert third in text
    assert first not in text


@pytest.mark.options({"virtual:vm": {"on_end_action": "snapshot"}})
@pytest.mark.options({"vmexpire_brake": {"contact": "brake@example.org"}})
def test_what_the_mail_server_refuses_is_told_later(world: World) -> None:
    world.mail.refused["brake@example.org"] = "550 no such user"
    (server_id,) = fail(world, "web1")
    world.watch(minutes=20)
    assert told_of_failures(world) == []
    world.mail.refused.clear()
    world.watch(minutes=20)
    (text,) = told_of_failures(world)
    assert server_id in text
    assert world.recipients()[-1] == "brake@example.org"


@pytest.mark.options({"virtual:vm": {"on_end_action": "snapshot"}})
@pytest.mark.options({"vmexpire_mail": {"failures_interval": "0"}})
def test_operators_need_not_be_told(world: World) -> None:
    fail(world, "web1")
    world.watch(minutes=20)
    assert told_of_failures(world) == []
