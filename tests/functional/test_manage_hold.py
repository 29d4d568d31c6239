# SPDX-License-Identifier: Apache-2.0
"""``blazar-vmexpire-manage hold``: what an administrator sees, writes, and is refused."""

from __future__ import annotations

import getpass
import json
from datetime import timedelta

import pytest

from tests.functional.manage import Manage
from tests.functional.world import World

pytestmark = pytest.mark.databases("sqlite")


@pytest.fixture(autouse=True)
def _real_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUDO_USER", raising=False)


def test_add_list_and_release(world: World, manage: Manage, database_url: str) -> None:
    server_id = world.adopt()
    world.adopt("not-held")
    old_end = world.row(server_id).ends_at
    until = world.clock.now() + timedelta(days=90)

    added = manage(
        database_url, "hold", "add", server_id.upper(), "--until", f"{until:%Y-%m-%dT%H:%M}",
        "--reason", "it is looked into", "--ticket", "INC-7",
    )  # fmt: skip
    assert added.returncode == 0, added.stderr
    assert added.stdout == (
        f"server {server_id} is held until {until:%Y-%m-%d %H:%M:%S} UTC;"
        f" its lease ends {world.row(server_id).ends_at} UTC\n"
    )
    (found,) = json.loads(manage(database_url, "hold", "list", "--format", "json").stdout)
    table = manage(database_url, "hold", "list").stdout.splitlines()
    assert found == {
        "server_id": server_id,
        "server_name": "web1",
        "state": "held",
        "until": until.isoformat() + "Z",
        "end_without_it": f"{old_end:%Y-%m-%dT%H:%M:%S}Z",
        "ticket": "INC-7",
        "author": getpass.getuser(),
        "created_at": world.clock.now().isoformat() + "Z",
        "reason": "it is looked into",
    }
    assert len(table) == 2
    assert table[1].endswith("it is looked into")

    released = manage(database_url, "hold", "release", server_id, "--reason", "all is well")
    assert released.stdout == (
        f"server {server_id} is held no longer: its lease ends {old_end} UTC\n"
    )
    assert json.loads(manage(database_url, "hold", "list", "--format", "json").stdout) == []
    past = json.loads(manage(database_url, "history", server_id, "--format", "json").stdout)
    assert [
        (entry["event"], entry["actor"], entry["details"]["reason"])
        for entry in past
        if entry["event"] in ("held", "released")
    ] == [
        ("held", getpass.getuser(), "it is looked into"),
        ("released", getpass.getuser(), "all is well"),
    ]


@pytest.mark.options({"virtual:vm": {"quarantine": "7d"}})
def test_says_that_something_has_to_be_undone(
    world: World, manage: Manage, database_url: str
) -> None:
    server_id = world.adopt()
    ends_at = world.row(server_id).ends_at
    assert ends_at is not None
    world.live(ends_at - timedelta(days=6))
    until = f"{ends_at:%Y-%m-%dT%H:%M}"
    done = manage(database_url, "hold", "add", server_id, "--until", until, "--reason", "x")
    assert done.stdout.splitlines()[1] == ("It is reviving: what was begun is being undone first.")


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("add", "SERVER", "--reason", "x"), 2, "required: --until"),
        (("add", "SERVER", "--until", "2027-01-10T10:00"), 2, "required: --reason"),
        (("add", "SERVER", "--reason", "x", "--until", "next week"), 2, "is no date"),
        (("add", "SERVER", "--reason", "x", "--until", "2026-01-10T10:00"), 1, "has passed"),
        (("add", "SERVER", "--reason", " ", "--until", "2027-01-10T10:00"), 1, "needs a reason"),
        (("release", "SERVER"), 1, "is not held: see hold list"),
        (("release", "web1"), 2, "'web1' is not a server's UUID"),
    ],
)
def test_what_makes_no_sense_is_refused(
    world: World,
    manage: Manage,
    database_url: str,
    arguments: tuple[str, ...],
    status: int,
    words: str,
) -> None:
    server_id = world.adopt()
    before = world.row(server_id)
    done = manage(database_url, "hold", *(server_id if a == "SERVER" else a for a in arguments))
    assert done.returncode == status
    assert words in " ".join(done.stderr.split())
    assert world.row(server_id) == before
