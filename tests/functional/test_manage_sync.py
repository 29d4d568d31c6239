# SPDX-License-Identifier: Apache-2.0
"""``blazar-vmexpire-manage sync``: a reconciliation at once, and once in the whole cloud."""

from __future__ import annotations

import json
import os
import pathlib
import pty
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from blazar_vmexpire import RESOURCE_TYPE, service
from blazar_vmexpire.db.models import chores
from tests import databases
from tests.functional.manage import Done, Manage, settings
from tests.functional.world import World

pytestmark = pytest.mark.databases("sqlite")

Sync = Callable[..., Done]


@pytest.fixture
def options(world: World) -> dict[str, dict[str, Any]]:
    """What the command is configured with."""
    return {
        **world.cloud.conf_overrides(),
        RESOURCE_TYPE: {"undeliverable_contact": "operators@example.org"},
        "vmexpire_intake": {"notifications": "false"},
    }


@pytest.fixture
def sync(manage: Manage, database_url: str, options: dict[str, dict[str, Any]]) -> Sync:
    """Run the command."""

    def run(*arguments: str) -> Done:
        return manage(database_url, "sync", *arguments, options=options)

    return run


def chore(world: World) -> Any:
    """Return the row of the reconciliation."""
    with world.harness.database.begin() as connection:
        return connection.execute(
            sa.select(chores).where(chores.c.name == service.RECONCILIATION)
        ).one()


def pages(world: World) -> int:
    """Say how many pages of servers Nova was asked for."""
    return len(world.cloud.requests("/servers/detail"))


def counts(done: Done) -> dict[str, int]:
    """Read the result."""
    assert done.returncode == 0, done.stderr
    found: dict[str, int] = json.loads(done.stdout)
    return found


def test_what_nova_lists_is_taken_in_at_once_and_due_again_an_interval_later(
    world: World, sync: Sync
) -> None:
    world.harness.work()
    gone = world.adopt("gone")
    world.clock.advance(minutes=1)
    new = world.boot("new")
    world.cloud.compute.vanish(gone)
    done = sync()
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:2] == ["       1  listed by Nova", "       1  taken in"]
    assert done.stdout.splitlines()[-1].startswith("       1  have a lease and were not listed")
    assert world.state(new) == "active"
    row = chore(world)
    assert (row.claimed_by, row.last_finished_at, row.last_error) == (
        None,
        world.clock.now(),
        None,
    )
    assert row.next_at == world.clock.now() + timedelta(minutes=15)
    again = counts(sync("--format", "json"))
    assert (again["listed"], again["adopted"]) == (1, 0)


def test_it_is_the_first_one_if_none_was_before(world: World, sync: Sync) -> None:
    servers = [world.boot() for _ in range(8)]
    assert counts(sync("--format", "json"))["adopted"] == 8
    # First ends are spread, as by the service's own.
    assert len({world.row(server_id).ends_at for server_id in servers}) > 1


def test_nobody_else_reconciles_meanwhile(world: World, sync: Sync) -> None:
    server_id = world.boot()
    tries: list[bool] = []

    def meanwhile(body: Any) -> Any:
        other = service.reconciliation_chore(world.harness.plugin.tools)
        tries.append(other.claim() or other.claim(early=True))
        return body

    world.cloud.fault("/servers/detail", rewrite=meanwhile, times=1)
    assert counts(sync("--format", "json"))["adopted"] == 1
    assert tries == [False]
    assert world.state(server_id) == "active"


def test_it_waits_until_the_one_that_is_under_way_has_come_to_its_end(
    world: World, sync: Sync
) -> None:
    world.boot()
    other = service.reconciliation_chore(world.harness.plugin.tools)
    assert other.claim()
    refused = sync("--wait", "0")
    assert refused.returncode == 1
    assert f":{os.getpid()} is reconciling, and has not come to its end" in refused.stderr
    assert pages(world) == 0
    timer = threading.Timer(0.3, other.finish)
    timer.start()
    done = counts(sync("--format", "json"))
    timer.join()
    assert done["adopted"] == 1


def test_one_that_breaks_off_is_told_and_lets_others_try(world: World, sync: Sync) -> None:
    world.boot()
    world.cloud.fault("/servers/detail", status=503)
    done = sync()
    assert done.returncode == 1
    assert "could not be compared to its end" in done.stderr
    assert done.stdout == ""
    row = chore(world)
    assert row.claimed_by is None
    assert "503" in row.last_error
    assert row.last_finished_at is None


def test_options_that_the_service_would_not_start_with_are_refused(
    world: World, sync: Sync, options: dict[str, dict[str, Any]]
) -> None:
    del options[RESOURCE_TYPE]["undeliverable_contact"]
    done = sync()
    assert done.returncode == 1
    assert "undeliverable_contact is not set" in done.stderr
    assert pages(world) == 0


def test_on_a_terminal_there_is_a_bar(
    world: World, options: dict[str, dict[str, Any]], database_url: str, tmp_path: pathlib.Path
) -> None:
    for _ in range(3):
        world.boot()
    master, slave = pty.openpty()
    command = pathlib.Path(sys.executable).with_name("blazar-vmexpire-manage")
    with subprocess.Popen(
        [
            str(command),
            *settings(tmp_path, databases.elsewhere(database_url), options),
            "sync",
        ],
        stdout=subprocess.PIPE,
        stderr=slave,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "80"},
        text=True,
    ) as process:
        os.close(slave)
        out, _ = process.communicate(timeout=60)
    shown = b""
    while True:
        try:
            read = os.read(master, 65536)
        except OSError:  # its other end is closed
            break
        if not read:
            break
        shown += read
    os.close(master)
    assert process.returncode == 0, shown
    assert b"3/3" in shown
    assert out.splitlines()[1] == "       3  taken in"
