# SPDX-License-Identifier: Apache-2.0
"""``blazar-vmexpire-manage``, run as an administrator runs it."""

from __future__ import annotations

import datetime
import json
import pathlib
import subprocess
import sys

import pytest
import sqlalchemy as sa

from blazar_vmexpire.db import migration, models
from blazar_vmexpire.db.engine import Database
from tests import databases
from tests.functional.manage import Done, Manage, settings

COMMAND = pathlib.Path(sys.executable).with_name("blazar-vmexpire-manage")
SERVER = "9e9d9321-8be9-453c-99c8-b8fe0bb76058"
MOMENT = datetime.datetime(2026, 3, 2, 10, 0, 1, 500000)

pytestmark = pytest.mark.databases("sqlite")


@pytest.fixture
def command(tmp_path: pathlib.Path) -> Manage:
    """Run the installed command."""

    def run(url: str | None, *arguments: str) -> Done:
        done = subprocess.run(
            [str(COMMAND), *settings(tmp_path, url), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert not (tmp_path / "blazar.log").exists()
        return Done(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def row(database: Database) -> None:
    """Put one VM with a past into the database."""
    with database.begin() as connection:
        connection.execute(
            sa.insert(models.expirations).values(
                server_id=SERVER,
                server_name="web\n\x1b[31m1",
                project_id="p1",
                state="active",
                ends_at=datetime.datetime(2026, 5, 1, 10, 0),
                next_at=MOMENT,
            )
        )
        for event, actor in (("adopted", None), ("extended", "u1")):
            connection.execute(
                sa.insert(models.history).values(
                    server_id=SERVER,
                    at=MOMENT,
                    event=event,
                    actor=actor,
                    generation=1,
                    details=json.dumps({"why": event}),
                )
            )


class TestDb:
    """``db upgrade``, ``db version``, ``db history``."""

    @pytest.mark.databases("sqlite", "mariadb")
    def test_upgrade_makes_the_tables_and_says_so(
        self, command: Manage, manage: Manage, backend: databases.Backend
    ) -> None:
        url = backend.create("blazar")

        before = manage(url, "db", "version")
        first = command(url, "db", "upgrade")
        second = manage(url, "db", "upgrade")
        after = manage(url, "db", "version")
        backend.drop(url)

        head = migration.head()
        assert before.stdout == f"none (head is {head})\n"
        assert (first.returncode, first.stderr) == (0, "")
        assert f"tables of blazar-vmexpire: at revision {head}, were at none" in first.stdout
        assert "adding an index on status, time to Blazar's table events" in first.stdout
        assert second.stdout == f"tables of blazar-vmexpire: at revision {head} already\n"
        assert after.stdout == f"{head} (head)\n"

    def test_upgrade_leaves_blazars_tables_alone_on_request(
        self, manage: Manage, backend: databases.Backend
    ) -> None:
        url = backend.create("blazar")

        done = manage(url, "db", "upgrade", "--no-blazar-indexes", "0001")
        backend.drop(url)

        assert done.returncode == 0
        assert "index" not in done.stdout

    def test_history_lists_the_revisions(self, manage: Manage) -> None:
        done = manage(None, "db", "history")

        assert done.stdout.startswith("0001  First tables")


class TestErrors:
    """What goes wrong is told in one sentence, without a traceback."""

    @pytest.mark.parametrize(
        ("url", "sentence"),
        [
            (None, "[database] connection is not set"),
            ("nonsense", "[database] connection cannot be used: Could not parse"),
            ("sqlite:////nowhere/blazar", "unable to open database file"),
            ("mysql+pymysql://u:secret@127.0.0.1:1/b", "Can't connect to MySQL server"),
            ("postgresql+psycopg2://u:secret@127.0.0.1:1/b", "Connection refused"),
        ],
    )
    def test_of_the_connection(self, manage: Manage, url: str | None, sentence: str) -> None:
        done = manage(url, "db", "version")

        assert done.returncode == 1
        assert done.stdout == ""
        assert len(done.stderr.splitlines()) == 1
        assert sentence in done.stderr
        assert "secret" not in done.stderr

    def test_of_missing_tables(self, manage: Manage, backend: databases.Backend) -> None:
        empty, blazar = backend.create("empty"), backend.create("blazar")

        upgrade = manage(empty, "db", "upgrade")
        show = manage(blazar, "show", SERVER)

        assert "run blazar-db-manage" in upgrade.stderr
        assert "run blazar-vmexpire-manage db upgrade" in show.stderr
        assert (upgrade.returncode, show.returncode) == (1, 1)

    def test_of_a_revision_that_does_not_exist(self, manage: Manage, database_url: str) -> None:
        done = manage(database_url, "db", "upgrade", "77")

        assert done.returncode == 1
        assert "there is no revision '77': it is head or one of 0001" in done.stderr

    def test_are_shown_in_full_with_debug(self, manage: Manage) -> None:
        done = manage(None, "--debug", "db", "version")

        assert done.returncode == 1
        assert "Traceback" in done.stderr

    def test_reach_the_shell(self, command: Manage) -> None:
        done = command(None, "--config-file", "/nowhere/blazar.conf", "db", "version")

        assert done.returncode == 1
        assert done.stderr.startswith("blazar-vmexpire-manage: ")
        assert "/nowhere/blazar.conf" in done.stderr
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.usefixtures("row")
class TestShow:
    """``list``, ``show``, ``history``."""

    def test_list(self, manage: Manage, database_url: str) -> None:
        table = manage(database_url, "list").stdout.splitlines()
        listed = json.loads(manage(database_url, "list", "--format", "json").stdout)
        none = manage(database_url, "list", "--state", "failed", "--format", "json")

        assert len(table) == 2
        assert table[1].split()[:3] == [SERVER, "active", "2026-05-01"]
        assert [entry["server_id"] for entry in listed] == [SERVER]
        assert listed[0]["ends_at"] == "2026-05-01T10:00:00Z"
        assert json.loads(none.stdout) == []

    def test_names_cannot_command_the_terminal(self, manage: Manage, database_url: str) -> None:
        for arguments in (["list"], ["show", SERVER]):
            shown = manage(database_url, *arguments).stdout

            assert "web\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}[31m1" in shown
            assert "\x1b" not in shown

    def test_show(self, manage: Manage, database_url: str) -> None:
        shown = manage(database_url, "show", SERVER.upper().replace("-", ""))
        found = json.loads(manage(database_url, "show", SERVER, "--format", "json").stdout)

        assert "state              active" in shown.stdout
        assert found["server_id"] == SERVER
        assert found["next_at"] == "2026-03-02T10:00:01.500000Z"
        assert found["progress"] == {}

    def test_history(self, manage: Manage, database_url: str) -> None:
        table = manage(database_url, "history", SERVER).stdout.splitlines()
        found = json.loads(manage(database_url, "history", SERVER, "--format", "json").stdout)

        assert table[0].split() == ["id", "at", "event", "actor", "generation", "details"]
        assert [line.split()[3] for line in table[1:]] == ["adopted", "extended"]
        assert [entry["actor"] for entry in found] == [None, "u1"]
        assert found[0]["details"] == {"why": "adopted"}
        assert found[0]["at"] == "2026-03-02T10:00:01.500000Z"

    @pytest.mark.parametrize("command", ["show", "history"])
    def test_of_a_server_that_is_not_known(
        self, manage: Manage, database_url: str, command: str
    ) -> None:
        other = "00000000-8be9-453c-99c8-b8fe0bb76058"
        unknown = manage(database_url, command, other)
        no_uuid = manage(database_url, command, "web1")

        assert unknown.returncode == 1
        assert unknown.stderr.endswith(f"of server {other}\n")
        assert no_uuid.returncode == 2
        assert "'web1' is not a server's UUID" in no_uuid.stderr
