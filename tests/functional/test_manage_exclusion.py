# SPDX-License-Identifier: Apache-2.0
"""``blazar-vmexpire-manage exclusion``: what an administrator sees, writes, and is refused."""

from __future__ import annotations

import getpass
import json
import uuid
from datetime import timedelta

import pytest
from oslo_utils import timeutils

from tests.functional.manage import Manage

pytestmark = pytest.mark.databases("sqlite")

SERVER = str(uuid.uuid4())


@pytest.fixture(autouse=True)
def _real_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUDO_USER", raising=False)


def in_days(days: float) -> str:
    """Write a date."""
    return f"{timeutils.utcnow() + timedelta(days=days):%Y-%m-%dT%H:%M}"


def test_add_list_and_remove(manage: Manage, database_url: str) -> None:
    until = in_days(3)
    for arguments in (
        ("--project", "alpha", "--reason", "the payroll", "--until", until),
        ("--server", SERVER.upper(), "--reason", "a demonstration"),
        ("--flavor", "gpu.large", "--reason", "bought by the physicists"),
    ):
        done = manage(database_url, "exclusion", "add", *arguments)
        assert done.returncode == 0, done.stderr

    found = json.loads(manage(database_url, "exclusion", "list", "--format", "json").stdout)
    table = manage(database_url, "exclusion", "list").stdout.splitlines()

    assert [(x["kind"], x["value"]) for x in found] == [
        ("project", "alpha"),
        ("server", SERVER),
        ("flavor", "gpu.large"),
    ]
    assert (found[0]["expires_at"], found[1]["expires_at"]) == (f"{until}:00Z", None)
    assert {x["author"] for x in found} == {getpass.getuser()}
    assert table[0].split() == [
        "id", "kind", "value", "expires_at", "created_at", "author", "reason",
    ]  # fmt: skip
    assert table[1].endswith("the payroll")

    by_id = manage(database_url, "exclusion", "remove", str(found[0]["id"]))
    by_name = manage(database_url, "exclusion", "remove", "--server", SERVER, "--reason", "over")
    assert by_id.stdout.splitlines()[0] == "project alpha is not left out any more."
    assert by_name.stdout.splitlines()[0] == f"server {SERVER} is not left out any more."
    left = json.loads(manage(database_url, "exclusion", "list", "--format", "json").stdout)
    assert [x["value"] for x in left] == ["gpu.large"]
    past = json.loads(manage(database_url, "history", SERVER, "--format", "json").stdout)
    assert [(entry["event"], entry["actor"], entry["details"]["reason"]) for entry in past] == [
        ("excluded", getpass.getuser(), "a demonstration"),
        ("exclusion_removed", getpass.getuser(), "over"),
    ]


def test_says_how_many_vms_it_concerns(manage: Manage, database_url: str) -> None:
    """So that a mistyped id is seen."""
    done = manage(database_url, "exclusion", "add", "--project", "alhpa", "--reason", "x")
    assert done.stdout.splitlines()[1] == "VMs that are known and that it concerns: 0"


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("add", "--project", "alpha"), 2, "required: --reason"),
        (("add", "--reason", "x"), 2, "one of the arguments --domain --project"),
        (("add", "--user", "a", "--project", "b", "--reason", "x"), 2, "not allowed with"),
        (("add", "--server", "web1", "--reason", "x"), 2, "'web1' is not a server's UUID"),
        (("add", "--user", "a", "--reason", " "), 1, "an exclusion needs a reason"),
        (("add", "--user", "a", "--reason", "x", "--until", "soon"), 2, "'soon' is no date"),
        (("add", "--user", "a", "--reason", "x", "--until", "2027-01-10"), 2, "T04:50, in UTC"),
        (("add", "--user", "a", "--reason", "x", "--until", "2026-01-10T10:00"), 1, "has passed"),
        (("add", "--project", "alpha", "--reason", "again"), 1, "is excluded already, for good"),
        (("remove", "--project", "beta"), 1, "project beta is not excluded: see exclusion list"),
        (("remove", "77"), 1, "there is no exclusion 77"),
        (("remove",), 2, "one of the arguments"),
    ],
)
def test_what_makes_no_sense_is_refused(
    manage: Manage, database_url: str, arguments: tuple[str, ...], status: int, words: str
) -> None:
    manage(database_url, "exclusion", "add", "--project", "alpha", "--reason", "the first")
    before = manage(database_url, "exclusion", "list", "--all").stdout
    done = manage(database_url, "exclusion", *arguments)
    assert done.returncode == status
    assert words in " ".join(done.stderr.split())
    assert manage(database_url, "exclusion", "list", "--all").stdout == before
