# SPDX-License-Identifier: Apache-2.0
"""How often, and how early, an owner may extend: on every way, and in what they are told."""

from __future__ import annotations

import datetime
import re
from datetime import timedelta
from typing import Any

import pytest

from tests.blazar_harness import Api
from tests.functional.world import World

pytestmark = pytest.mark.databases("sqlite")

#: Of the first term of a VM that is taken in when a test begins.
END = datetime.datetime(2026, 5, 1, 10)

THRICE = pytest.mark.options({"virtual:vm": {"max_extensions": 3}})
LATE = pytest.mark.options({"virtual:vm": {"extension_window": "5d"}})


def update(world: World, server_id: str, end: datetime.datetime, api: Api | None = None) -> Any:
    """Ask Blazar's own API for another end."""
    return world.update(server_id, api, end_date=end)


def extend(world: World, server_id: str, end: datetime.datetime, api: Api | None = None) -> Any:
    """Ask our own route for another end."""
    return (api or world.as_alice).post(
        f"/v1/vm-expirations/{server_id}/extend", json={"end_date": f"{end:%Y-%m-%d %H:%M}"}
    )


EVERY_WAY = pytest.mark.parametrize("ask", [update, extend])


def sentence(answer: Any) -> str:
    """Return the sentence of an error."""
    return str(answer.json["error_message"])


def command(text: str) -> str | None:
    """Return the new end in a mail's command, if it has one."""
    found = re.search(r'lease set --end-date "([^"]+)"', text)
    return found[1] if found else None


# How often


@pytest.mark.sampled(2)
@THRICE
@EVERY_WAY
@pytest.mark.databases("sqlite", "mariadb", "postgresql")
def test_an_owner_extends_so_often_and_no_more(world: World, ask: Any) -> None:
    server_id = world.adopt()
    world.live(END - timedelta(days=1))
    for days in (5, 6, 7):
        assert ask(world, server_id, END + timedelta(days=days)).status_code == 200
        world.settle()
    answer = ask(world, server_id, END + timedelta(days=8))
    assert answer.status_code == 409
    assert sentence(answer).endswith(
        f"server {server_id} has been extended 3 times, as often as max_extensions (3) allows:"
        " only an administrator can extend it further"
    )
    world.settle()
    assert world.row(server_id).extensions == 3
    assert world.row(server_id).ends_at == END + timedelta(days=7)
    assert world.lease(server_id).status == "ACTIVE"
    # A shorter life stays possible, and makes no room for another extension.
    assert ask(world, server_id, END + timedelta(days=6)).status_code == 200
    world.settle()
    assert ask(world, server_id, END + timedelta(days=7)).status_code == 409


@THRICE
@EVERY_WAY
def test_what_an_administrator_does_is_neither_bound_nor_counted(world: World, ask: Any) -> None:
    server_id = world.adopt()
    for days in range(1, 6):
        end = END + timedelta(days=days)
        assert ask(world, server_id, end, world.as_admin).status_code == 200
        world.settle()
    assert world.row(server_id).extensions == 0
    world.live(END + timedelta(days=2))
    for days in (6, 7, 8):
        assert ask(world, server_id, END + timedelta(days=days)).status_code == 200
    assert ask(world, server_id, END + timedelta(days=9)).status_code == 409
    assert ask(world, server_id, END + timedelta(days=9), world.as_admin).status_code == 200


@pytest.mark.options({"virtual:vm": {"max_extensions": 1}})
def test_without_a_date_the_same_is_said(world: World) -> None:
    server_id = world.adopt()
    (listed,) = world.as_alice.get("/v1/vm-expirations").json["vm_expirations"]
    assert listed["extensions_left"] == 1
    world.live(END - timedelta(days=1))
    url = f"/v1/vm-expirations/{server_id}/extend"
    shown = world.as_alice.post(url, json={}).json["vm_expiration"]
    assert (shown["extensions"], shown["latest_allowed_end"]) == (1, shown["ends_at"])
    assert shown["extensions_left"] == 0
    world.clock.advance(days=1)
    answer = world.as_alice.post(url, json={})
    assert answer.status_code == 409
    assert "has been extended once, as often as max_extensions (1) allows" in sentence(answer)


@pytest.mark.options({"virtual:vm": {"max_extensions": 1, "quarantine": "3d"}})
def test_within_the_count_a_quarantined_vm_comes_back_and_then_not_again(world: World) -> None:
    server_id = world.adopt()
    world.live(END - timedelta(days=1))
    assert world.state(server_id) == "quarantined"
    end = END + timedelta(days=20)
    assert update(world, server_id, end).status_code == 200
    world.settle()
    assert world.state(server_id) == "active"
    assert not world.cloud.compute.vms[server_id].locked
    world.live(end - timedelta(days=1))
    assert world.state(server_id) == "quarantined"
    for ask in (update, extend):
        assert ask(world, server_id, end + timedelta(days=20)).status_code == 409
    assert world.state(server_id) == "quarantined"
    world.live(end + timedelta(minutes=10))
    assert world.state(server_id) == "deleted"


@pytest.mark.options({"virtual:vm": {"max_extensions": 1}})
def test_a_vm_that_comes_back_into_scope_begins_anew(world: World) -> None:
    server_id = world.adopt()
    world.live(END - timedelta(days=1))
    assert update(world, server_id, END + timedelta(days=10)).status_code == 200
    world.settle()
    for scope, state in (("none", "exempt"), ("all", "active")):
        world.harness.conf.set_override("scope", scope, group="virtual:vm")
        world.see(server_id)
        assert world.state(server_id) == state
    assert world.row(server_id).extensions == 0


@pytest.mark.options({"virtual:vm": {"max_extensions": 1}})
def test_a_mail_says_that_there_is_no_more(world: World) -> None:
    server_id = world.adopt()
    world.live(END - timedelta(days=9))
    assert command(world.mails[-1].get_content()) is not None
    assert update(world, server_id, END + timedelta(days=10)).status_code == 200
    world.live(END + timedelta(days=1))
    text = " ".join(world.mails[-1].get_content().split())
    assert "Its lease has been extended once, which is as often as you can." in text
    assert "please ask the administrators" in text
    assert command(text) is None


# How early


@LATE
@EVERY_WAY
@pytest.mark.databases("sqlite", "mariadb", "postgresql")
def test_an_owner_extends_only_so_long_before_the_end(world: World, ask: Any) -> None:
    server_id = world.adopt()
    opens = END - timedelta(days=5)
    new_end = END + timedelta(days=20)
    world.live(opens - timedelta(days=1, hours=3))
    answer = ask(world, server_id, END + timedelta(days=1))
    assert answer.status_code == 409
    assert sentence(answer).endswith(
        f"server {server_id} cannot be extended before 2026-04-26 10:00 UTC, in 1 day and 3 hours:"
        " that is extension_window 5d before its end"
    )
    assert world.row(server_id).ends_at == END
    assert world.lease(server_id).status == "ACTIVE"
    world.clock.set(opens)
    assert ask(world, server_id, new_end).status_code == 200
    world.settle()
    # For the new end it is too early again; not for a shorter life, nor for an administrator.
    assert ask(world, server_id, new_end + timedelta(days=1)).status_code == 409
    assert ask(world, server_id, new_end - timedelta(days=1)).status_code == 200
    assert ask(world, server_id, new_end, world.as_admin).status_code == 200


@LATE
@pytest.mark.options({"virtual:vm": {"quarantine": "2d"}})
def test_what_was_stopped_is_always_given_back(world: World) -> None:
    server_id = world.adopt()
    world.live(END - timedelta(days=1))
    assert world.state(server_id) == "quarantined"
    # However short the window has become meanwhile.
    world.harness.conf.set_override("extension_window", timedelta(hours=1), group="virtual:vm")
    assert extend(world, server_id, END + timedelta(days=20)).status_code == 200
    world.settle()
    assert world.state(server_id) == "active"


@LATE
def test_the_api_says_from_when_on(world: World) -> None:
    server_id = world.adopt()
    world.live(END - timedelta(days=5))
    url = f"/v1/vm-expirations/{server_id}/extend"
    shown = world.as_alice.post(url, json={}).json["vm_expiration"]
    end = END - timedelta(days=5) + timedelta(days=30)
    assert shown["ends_at"] == shown["latest_allowed_end"] == f"{end:%Y-%m-%dT%H:%M:%SZ}"
    assert shown["extendable_from"] == f"{end - timedelta(days=5):%Y-%m-%dT%H:%M:%SZ}"
    world.clock.advance(minutes=1)
    assert world.as_alice.post(url, json={}).status_code == 409


@pytest.mark.parametrize(
    ("reminders", "mails"), [(["2d"], [10, 2]), (["6d"], [10, 6, 5]), ([], [10, 5])]
)
@LATE
def test_a_mail_has_a_command_when_it_works_and_else_says_from_when_on(
    world: World, reminders: list[str], mails: list[int]
) -> None:
    """Where no notice comes while its reader can extend, one more does."""
    world.harness.conf.set_override("reminders", reminders, group="virtual:vm")
    server_id = world.adopt()
    for number, days in enumerate(mails, 1):
        world.live(END - timedelta(days=days) + timedelta(seconds=1))
        assert len(world.mails) == number
        text = " ".join(world.mails[-1].get_content().split())
        if days > 5:
            assert "its lease can be extended from 2026-04-26 10:00 UTC on, in" in text
            assert command(text) is None
            continue
        new_end = command(text)
        assert new_end is not None
        assert update(world, server_id, datetime.datetime.fromisoformat(new_end)).status_code == 200
