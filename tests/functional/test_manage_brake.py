# SPDX-License-Identifier: Apache-2.0
"""``blazar-vmexpire-manage brake``: what an operator sees of the brake, and does to it."""

from __future__ import annotations

import getpass
import json
from datetime import timedelta
from typing import Any

import pytest

from tests.functional.manage import Manage
from tests.functional.world import World

pytestmark = pytest.mark.databases("sqlite")

OPTIONS = {"vmexpire_brake": {"deletions_per_hour": 1, "deletions_share": 0, "trip_hours": 1}}


def brake(manage: Manage, url: str, *arguments: str, returncode: int = 0) -> str:
    """Run the command; return what it printed: on stdout, or why it could not."""
    done = manage(url, "brake", *arguments, options=OPTIONS)
    assert done.returncode == returncode, done.stderr
    return done.stderr if returncode else done.stdout


def as_json(manage: Manage, url: str) -> dict[str, Any]:
    """Return how the brake stands, as programs read it."""
    found: dict[str, Any] = json.loads(brake(manage, url, "show", "--format", "json"))
    return found


def test_before_anything_happened(manage: Manage, database_url: str) -> None:
    shown = brake(manage, database_url, "show")
    assert shown.startswith("The brake has not tripped.\n")
    assert "May end in an hour:" in shown
    found = as_json(manage, database_url)
    assert (found["tripped_at"], found["pace"], found["waiting"]) == (None, 1, 0)
    assert found["now"] == {
        "ending": {"count": 0, "servers": []},
        "vanished": {"count": 0, "servers": []},
    }
    refused = brake(manage, database_url, "release", "--yes", returncode=1)
    assert "it has not tripped: there is nothing to release" in refused


@pytest.mark.options(OPTIONS)
def test_an_operator_looks_and_lets_it_go_on(
    world: World, manage: Manage, database_url: str
) -> None:
    server_ids = [world.adopt(f"vm\x1b[2J{number}") for number in range(4)]
    end = world.row(server_ids[0]).ends_at
    assert end is not None
    world.live(end + timedelta(minutes=1))
    stays = [server_id for server_id in server_ids if server_id in world.cloud.compute.vms]
    assert len(stays) >= 3

    shown = brake(manage, database_url, "show")
    assert "The brake tripped on 2026-" in shown
    assert "servers wait for their end, more than 1 (the pace is 1 an hour)" in shown
    assert all(server_id in shown for server_id in stays)
    assert "\x1b" not in shown
    found = as_json(manage, database_url)
    assert found["tripped_by"] is None
    assert found["tripped_at"].endswith("Z")
    assert {server["server_id"] for server in found["now"]["ending"]["servers"]} == set(stays)
    assert found["at_trip"]["ending"]["count"] >= 3

    preview = brake(manage, database_url, "release", "--reason", "the course is over")
    assert "Nothing was changed. With --yes they go on, at most 1 an hour" in preview
    assert all(server_id in preview for server_id in stays)
    assert as_json(manage, database_url)["tripped_at"] is not None

    done = brake(manage, database_url, "release", "--reason", "the course is over", "--yes")
    assert done.endswith("The brake is released.\n")
    found = as_json(manage, database_url)
    assert found["tripped_at"] is None
    assert found["released_by"] == getpass.getuser()
    assert found["release_reason"] == "the course is over"
    assert "Last released on" in brake(manage, database_url, "show")
    world.live(world.clock.now() + timedelta(hours=5))
    assert not [server_id for server_id in stays if server_id in world.cloud.compute.vms]


@pytest.mark.options(OPTIONS)
def test_an_operator_stops_everything(world: World, manage: Manage, database_url: str) -> None:
    server_id = world.adopt()
    end = world.row(server_id).ends_at
    assert end is not None
    world.live(end - timedelta(hours=1))
    done = brake(manage, database_url, "trip", "--reason", "a storage move")
    assert done.startswith("The brake has tripped")
    again = brake(manage, database_url, "trip", "--reason", "another", returncode=1)
    assert "it has tripped before" in again
    assert f"by {getpass.getuser()}: a storage move" in brake(manage, database_url, "show")
    world.live(end + timedelta(hours=3))
    assert server_id in world.cloud.compute.vms
    (mail,) = [mail for mail in world.mails if "brake" in mail["Subject"]]
    assert f"applied by {getpass.getuser()}" in mail.get_content()
    assert "The operator was told by mail: on 2026-" in brake(manage, database_url, "show")


def test_a_reason_is_wanted_and_a_switch_that_would_do_nothing_refused(
    manage: Manage, database_url: str
) -> None:
    assert "--reason" in brake(manage, database_url, "trip", returncode=2)
    off = {"vmexpire_brake": {"enabled": "false"}}
    done = manage(database_url, "brake", "trip", "--reason", "x", options=off)
    assert done.returncode == 1
    assert "[vmexpire_brake] enabled is false" in done.stderr
    shown = manage(database_url, "brake", "show", options=off).stdout
    assert "nothing is limited" in shown
