# SPDX-License-Identifier: Apache-2.0
"""``blazar-vmexpire-manage mail recipients``: whom a mail about a VM would go to, and why."""

from __future__ import annotations

import json
import pathlib
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from blazar_vmexpire import RESOURCE_TYPE
from tests.functional.manage import Done, Manage
from tests.functional.world import World

pytestmark = pytest.mark.databases("sqlite")

RULES = """
contacts: [{project_property: owner_email}, {role: manager}]
cc: [{address: hpc@example.org, kinds: [ended]}]
bcc: [{address: archive@example.org}]
rules: []
"""

Ask = Callable[..., Done]


@pytest.fixture
def ask(manage: Manage, world: World, database_url: str, tmp_path: pathlib.Path) -> Ask:
    """Run the command on the world's database and cloud, with rules."""
    (tmp_path / "rules.yaml").write_text(RULES)

    def run(*arguments: str, **options: str) -> Done:
        groups: dict[str, dict[str, Any]] = {
            **world.cloud.conf_overrides(),
            RESOURCE_TYPE: {
                "undeliverable_contact": "operators@example.org",
                "rules_file": str(tmp_path / "rules.yaml"),
                **options,
            },
        }
        return manage(database_url, "mail", "recipients", *arguments, options=groups)

    return run


def test_the_owner_with_copies_by_kind(world: World, ask: Ask) -> None:
    server_id = world.adopt()
    done = ask(server_id)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "To:   alice@example.org (its owner)",
        "Bcc:  archive@example.org",
    ]
    found = json.loads(ask(server_id, "--kind", "ended", "--format", "json").stdout)
    assert (found["to"], found["cc"], found["is_owner"]) == (
        ["alice@example.org"],
        ["hpc@example.org"],
        True,
    )


def test_whoever_stands_in_for_the_owner_and_why(world: World, ask: Ask) -> None:
    server_id = world.adopt()
    del world.cloud.identity.users[world.alice]
    project = world.cloud.identity.projects[world.alpha]
    project["owner_email"] = "boss@example.org"
    assert ask(server_id).stdout.splitlines() == [
        "To:   boss@example.org (project property owner_email)",
        "Bcc:  archive@example.org",
        f"Why:  user {world.alice} does not exist any more",
    ]
    del project["owner_email"]
    last = ask(server_id).stdout
    assert last.startswith("To:   operators@example.org (undeliverable_contact)\n")
    assert "project property owner_email is not set; role manager: no user has it" in last
    # Who looks writes nothing.
    assert world.events(server_id) == ["adopted"]


def test_an_address_that_was_refused_for_the_mail_that_waits_is_left_out(
    world: World, ask: Ask
) -> None:
    world.mail.refused["alice@example.org"] = "550 5.1.1 no such user"
    world.mail.refused["operators@example.org"] = "450 4.2.0 greylisted"
    server_id = world.adopt()
    end = world.row(server_id).ends_at
    assert end is not None
    world.clock.set(end)
    world.settle()
    world.live(world.clock.now() + world.harness.conf.vmexpire_worker.retry_max_interval)
    done = ask(server_id)
    assert done.stdout.startswith("To:   operators@example.org (undeliverable_contact)\n")
    assert "alice@example.org was refused" in done.stdout


def test_what_cannot_be_said(world: World, ask: Ask) -> None:
    unknown = str(uuid.uuid4())
    done = ask(unknown)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"server {unknown} is not known" in done.stderr
    assert ask("web-1").returncode == 2
    server_id = world.adopt()
    world.cloud.fault(r"^/identity/v3/users", status=503)
    done = ask(server_id)
    assert (done.returncode, done.stdout) == (1, "")
    assert "nobody can be named: keystone" in done.stderr
