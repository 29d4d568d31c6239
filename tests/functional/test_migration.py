# SPDX-License-Identifier: Apache-2.0
"""Bringing a database with Blazar's tables to ours, on real databases."""

from __future__ import annotations

import datetime
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa
from alembic import autogenerate
from alembic.runtime.migration import MigrationContext

from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db import blazar_indexes, migration, models
from blazar_vmexpire.db.engine import Database
from tests import databases

pytestmark = pytest.mark.every_database

Make = Callable[[databases.Contents], Database]


@pytest.fixture
def make(backend: databases.Backend) -> Iterator[Make]:
    """Make fresh databases and connect to them."""
    made: list[tuple[str, Database]] = []

    def connected(contents: databases.Contents) -> Database:
        url = backend.create(contents)
        made.append((url, databases.connect(url)))
        return made[-1][1]

    yield connected
    for url, database in made:
        database.engine.dispose()
        backend.drop(url)


def tables(database: Database) -> set[str]:
    with database.begin() as connection:
        return set(sa.inspect(connection).get_table_names())


def indexes(database: Database, table: str) -> dict[str, list[str]]:
    with database.begin() as connection:
        return {
            str(index["name"]): [str(column) for column in index["column_names"]]
            for index in sa.inspect(connection).get_indexes(table)
        }


def blazar_version(database: Database) -> list[str]:
    with database.begin() as connection:
        return list(connection.scalars(sa.text("SELECT version_num FROM alembic_version")))


class TestUpgrade:
    """``migration.upgrade``."""

    def test_makes_our_tables_beside_blazars(self, make: Make) -> None:
        database = make("blazar")
        before = tables(database)

        migration.upgrade(database)

        ours = {*models.metadata.tables, migration.VERSION_TABLE}
        assert tables(database) - before == ours
        assert migration.version(database) == migration.head()

    def test_leaves_blazars_version_alone(self, make: Make) -> None:
        database = make("blazar")

        migration.upgrade(database)

        assert blazar_version(database) == [databases.blazar_head()]

    def test_makes_what_the_models_say(self, make: Make) -> None:
        database = make("ours")

        with database.begin() as connection:
            context = MigrationContext.configure(
                connection,
                opts={
                    "version_table": migration.VERSION_TABLE,
                    "compare_type": True,
                    "include_name": lambda name, kind, _: (
                        kind != "table" or name in models.metadata.tables
                    ),
                },
            )
            differences = autogenerate.compare_metadata(context, models.metadata)

        assert differences == []

    def test_takes_every_character_and_every_microsecond(self, database: Database) -> None:
        name = "Ünïcode \N{PILE OF POO} 名前"
        moment = sa.literal("2026-11-20 10:11:12.987654")
        with database.begin() as connection:
            connection.execute(
                sa.insert(models.expirations).values(
                    server_id=str(uuid.uuid4()),
                    server_name=name,
                    state="active",
                    next_at=sa.cast(moment, models.Moment)
                    if database.dialect == "postgresql"
                    else moment,
                )
            )
            row = connection.execute(sa.select(models.expirations)).one()

        assert row.server_name == name
        assert row.next_at.microsecond == 987654

    def test_numbers_the_history_by_itself(self, database: Database) -> None:
        with database.begin() as connection:
            for event in ("adopted", "extended"):
                connection.execute(
                    sa.insert(models.history).values(
                        server_id="x", at=sa.func.current_timestamp(), event=event
                    )
                )
            found = connection.execute(
                sa.select(models.history.c.id, models.history.c.event).order_by("id")
            ).all()

        assert [row.event for row in found] == ["adopted", "extended"]
        assert found[0].id < found[1].id

    def test_does_nothing_the_second_time(self, make: Make) -> None:
        database = make("blazar")
        migration.upgrade(database)
        said: list[str] = []

        migration.upgrade(database, report=said.append)

        assert said == [f"tables of blazar-vmexpire: at revision {migration.head()} already"]

    def test_goes_on_where_it_was_interrupted(self, make: Make) -> None:
        """On MySQL every table is committed by itself: a killed upgrade leaves some of them."""
        database = make("ours")
        with database.begin() as connection:
            for table in ("vm_expiration_chores", "vm_expiration_notices"):
                connection.execute(sa.text(f"DROP TABLE {table}"))
            at = next(i for i in models.history.indexes if i.columns.keys() == ["at"])
            at.drop(connection)
            connection.execute(sa.text(f"DELETE FROM {migration.VERSION_TABLE}"))

        migration.upgrade(database)

        assert set(models.metadata.tables) <= tables(database)
        assert at.name in indexes(database, "vm_expiration_history")

    def test_adds_the_brake_to_what_is_there(self, make: Make) -> None:
        moment = datetime.datetime(2026, 3, 2, 10, 0, 0, 123456)
        database = make("blazar")
        migration.upgrade(database, "0001")
        with database.begin() as connection:
            connection.execute(
                sa.text(
                    "INSERT INTO vm_expirations (server_id, server_name, state, generation,"
                    " extensions, attempts, questions, answered, progress)"
                    " VALUES ('one', 'web1', 'noticed', 3, 2, 0, 1, 1, '{}')"
                )
            )

        migration.upgrade(database)

        with database.begin() as connection:
            row = db_api.get(connection, "one")
            brakes = connection.execute(sa.select(models.brake)).all()
            for _ in range(2):
                connection.execute(
                    models.passes.insert(), [{"kind": "end", "server_id": "one", "at": moment}]
                )
            counted = connection.execute(sa.select(models.passes.c.id, models.passes.c.at)).all()
        assert row is not None
        assert (row.state, row.generation, row.extensions) == ("noticed", 3, 2)
        assert (row.waiting_since, row.deletion_told_at, row.unexplained_at) == (None, None, None)
        assert [(b.name, b.tripped_at, b.tolerated_waiting) for b in brakes] == [("brake", None, 0)]
        assert len({pass_.id for pass_ in counted}) == 2
        assert {pass_.at for pass_ in counted} == {moment}

    def test_goes_on_where_the_brake_was_interrupted(self, make: Make) -> None:
        database = make("ours")
        with database.begin() as connection:
            connection.execute(sa.text("DELETE FROM vm_expiration_brake"))
            connection.execute(sa.text("DROP TABLE vm_expiration_passes"))
            connection.execute(sa.text(f"UPDATE {migration.VERSION_TABLE} SET version_num='0001'"))

        migration.upgrade(database)

        assert migration.version(database) == migration.head()
        assert "vm_expiration_passes" in tables(database)
        with database.begin() as connection:
            assert len(connection.execute(sa.select(models.brake)).all()) == 1

    def test_goes_on_where_the_indexes_for_lists_were_interrupted(self, make: Make) -> None:
        database = make("blazar")
        migration.upgrade(database, "0003")
        before = indexes(database, "vm_expirations")
        assert before["ix_vm_expirations_project_id"] == ["project_id"]
        with database.begin() as connection:
            for name, columns in (
                ("ix_vm_expirations_ends_at", "ends_at, server_id"),
                ("ix_vm_expirations_rule_ends_at", "rule, ends_at, server_id"),
            ):
                connection.execute(sa.text(f"CREATE INDEX {name} ON vm_expirations ({columns})"))

        migration.upgrade(database)

        assert indexes(database, "vm_expirations") == {
            **{name: on for name, on in before.items() if name != "ix_vm_expirations_project_id"},
            "ix_vm_expirations_ends_at": ["ends_at", "server_id"],
            "ix_vm_expirations_server_name": ["server_name", "server_id"],
            "ix_vm_expirations_project_id_ends_at": ["project_id", "ends_at", "server_id"],
            "ix_vm_expirations_rule_ends_at": ["rule", "ends_at", "server_id"],
            "ix_vm_expirations_user_id_ends_at": ["user_id", "ends_at", "server_id"],
        }

    def test_goes_on_where_the_column_for_digests_was_interrupted(self, make: Make) -> None:
        database = make("blazar")
        migration.upgrade(database, "0006")
        with database.begin() as connection:
            connection.execute(
                sa.text("ALTER TABLE vm_expiration_notices ADD COLUMN digest VARCHAR(64)")
            )

        migration.upgrade(database)

        assert migration.version(database) == migration.head()
        found = indexes(database, "vm_expiration_notices")
        assert found["ix_vm_expiration_notices_due_at"] == ["due_at"]

    @pytest.mark.parametrize("interrupted", [False, True])
    def test_carries_over_who_was_refused(self, make: Make, interrupted: bool) -> None:
        database = make("blazar")
        migration.upgrade(database, "0007")
        due_at = datetime.datetime(2026, 3, 2, 10)
        rows = [("waits", due_at, 2), ("new", due_at, 0), ("rests", None, 3)]
        with database.begin() as connection:
            if interrupted:
                connection.execute(sa.text("ALTER TABLE vm_expiration_notices ADD refused TEXT"))
            for server_id, due, refusals in rows:
                connection.execute(
                    sa.text(
                        "INSERT INTO vm_expiration_notices (server_id, kind, generation,"
                        " created_at, due_at, attempts, refusals, recipient, message_id, details)"
                        " VALUES (:id, 'reminder/2d', 0, :at, :due, 4, :refusals,"
                        " 'Alice@example.org', '<x>', '{}')"
                    ),
                    {"id": server_id, "at": due_at, "due": due, "refusals": refusals},
                )

        migration.upgrade(database)

        with database.begin() as connection:
            refused = {
                server_id: [n.refused for n in db_api.notices_of(connection, server_id)]
                for server_id, _, _ in rows
            }
        assert refused == {"waits": [{"alice@example.org": 2}], "new": [{}], "rests": [{}]}

    def test_may_run_twice_at_once(self, make: Make, backend: databases.Backend) -> None:
        database = make("blazar")
        url = database.engine.url.render_as_string(hide_password=False)
        program = (
            "import sys; from tests import databases; from blazar_vmexpire.db import migration;"
            " database = databases.connect(sys.argv[1]); print('ready', flush=True);"
            " sys.stdin.readline(); migration.upgrade(database, report=print)"
        )
        running = [
            subprocess.Popen(
                [sys.executable, "-W", "ignore", "-c", program, url],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(2)
        ]
        for process in running:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in running:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        results = [process.communicate(timeout=60) for process in running]

        assert [process.returncode for process in running] == [0, 0], results
        said = sorted(line for out, _ in results for line in out.splitlines())
        assert sum("were at none" in line for line in said) == 1
        assert sum("already" in line for line in said) == 1
        assert set(models.metadata.tables) <= tables(database)
        assert list(blazar_indexes_missing(database)) == []

    def test_wants_blazars_tables_first(self, make: Make) -> None:
        database = make("empty")

        with pytest.raises(migration.BlazarTablesMissing, match="run blazar-db-manage"):
            migration.upgrade(database)

        assert tables(database) == set()

    def test_refuses_a_revision_that_does_not_exist(self, make: Make) -> None:
        database = make("blazar")

        with pytest.raises(migration.UnknownRevision, match=r"'9999': it is head or one of 0001"):
            migration.upgrade(database, "9999")

    def test_refuses_a_database_of_a_newer_version(self, make: Make) -> None:
        database = make("ours")
        with database.begin() as connection:
            connection.execute(
                sa.text(f"UPDATE {migration.VERSION_TABLE} SET version_num = '9999'")
            )

        with pytest.raises(migration.UnknownRevision, match="a newer version has upgraded it"):
            migration.upgrade(database)


class TestRequireCurrent:
    """``migration.require_current``, which a service asks before it starts."""

    def test_is_content_with_the_newest(self, database: Database) -> None:
        migration.require_current(database)

    @pytest.mark.databases("sqlite")
    def test_names_the_command_that_makes_the_tables(self, make: Make) -> None:
        with pytest.raises(
            migration.NotUpgraded, match=r"not there.* run blazar-vmexpire-manage db upgrade"
        ):
            migration.require_current(make("blazar"))


class TestOnMariaDB:
    """What only MySQL and MariaDB have: engines, character sets, collations."""

    pytestmark = pytest.mark.databases("mariadb")

    def test_tables_are_transactional_and_take_four_byte_characters(
        self, database: Database
    ) -> None:
        with database.begin() as connection:
            found = connection.execute(
                sa.text(
                    "SELECT engine, table_collation FROM information_schema.tables"
                    " WHERE table_schema = DATABASE() AND table_name LIKE 'vm\\_%'"
                )
            ).all()

        assert len(found) == len(models.metadata.tables)
        assert {row[0] for row in found} == {"InnoDB"}
        assert {row[1].split("_")[0] for row in found} == {"utf8mb4"}

    def test_ids_join_with_blazars_by_index(self, database: Database) -> None:
        """Blazar's tables are in three-byte utf8 here, as with most installations."""
        with database.begin() as connection:
            fill(connection, 300)
            reservations = sa.table("reservations", sa.column("resource_id"), sa.column("lease_id"))
            connection.execute(
                sa.insert(models.expirations).from_select(
                    ["server_id", "lease_id", "state"],
                    sa.select(
                        reservations.c.resource_id, reservations.c.lease_id, sa.literal("active")
                    ),
                )
            )
            connection.execute(sa.text("ANALYZE TABLE vm_expirations, leases, reservations"))
            few = "(SELECT * FROM vm_expirations ORDER BY server_id LIMIT 5) AS e"
            by_lease = explain(connection, f"{few} JOIN leases AS b ON b.id = e.lease_id")
            by_server = explain(
                connection,
                f"{few} JOIN reservations AS b"
                " ON b.resource_type = 'virtual:vm' AND b.resource_id = e.server_id",
            )

        assert by_lease["b"].key == "PRIMARY"
        assert by_server["b"].key == "ix_vmexpire_reservations_resource_type_resource_id"

    def test_the_engine_finds_due_events_by_index(self, database: Database) -> None:
        with database.begin() as connection:
            fill(connection, 3000)
            connection.execute(sa.text("ANALYZE TABLE events"))
            plan = explain(
                connection,
                "events WHERE status = 'UNDONE' AND time <= '2026-01-01 00:00:10' ORDER BY time",
            )

        assert plan["events"].key == "ix_vmexpire_events_status_time"
        assert int(plan["events"].rows) < 30


class TestBlazarsIndexes:
    """The indexes that ``upgrade`` adds to Blazar's own tables."""

    def test_are_all_there_afterwards(self, make: Make) -> None:
        database = make("blazar")
        assert list(blazar_indexes_missing(database)) != []
        said: list[str] = []

        migration.upgrade(database, report=said.append)

        assert list(blazar_indexes_missing(database)) == []
        for wanted in blazar_indexes.WANTED:
            leading = [
                columns[: len(wanted.columns)]
                for columns in indexes(database, wanted.table).values()
            ]
            assert leading.count(list(wanted.columns)) == 1
        assert any("adding an index on status, time to Blazar's table events" in s for s in said)

    def test_are_left_out_on_request(self, make: Make) -> None:
        database = make("blazar")
        before = {table: indexes(database, table) for table in migration.BLAZAR_TABLES}

        migration.upgrade(database, blazar_indexes=False)

        assert {table: indexes(database, table) for table in migration.BLAZAR_TABLES} == before

    def test_are_not_doubled(self, make: Make) -> None:
        """An operator's own index of another name, and longer than ours, will do."""
        database = make("blazar")
        with database.begin() as connection:
            connection.execute(
                sa.text("CREATE INDEX by_operator ON events (status, time, lease_id)")
            )
            connection.execute(sa.text("CREATE UNIQUE INDEX too ON reservations (lease_id, id)"))

        migration.upgrade(database)

        assert "ix_vmexpire_events_status_time" not in indexes(database, "events")
        assert "ix_vmexpire_reservations_lease_id" not in indexes(database, "reservations")
        assert list(blazar_indexes_missing(database)) == []

    @pytest.mark.databases("postgresql")
    def test_half_built_ones_are_built_again(self, make: Make) -> None:
        """CREATE INDEX CONCURRENTLY that was interrupted leaves an invalid index."""
        database = make("ours")
        name = "ix_vmexpire_events_status_time"
        with database.begin() as connection:
            connection.execute(
                sa.text(
                    f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{name}'::regclass"
                )
            )

        migration.upgrade(database)

        with database.begin() as connection:
            valid = connection.scalar(
                sa.text(f"SELECT indisvalid FROM pg_index WHERE indexrelid = '{name}'::regclass")
            )
        assert valid is True


def test_history_begins_with_the_first_tables() -> None:
    first = migration.history()[0]

    assert first.name == "0001"
    assert first.title.startswith("First tables")


def blazar_indexes_missing(database: Database) -> list[blazar_indexes.BlazarIndex]:
    with database.begin() as connection:
        return blazar_indexes.missing(connection)


def fill(connection: sa.Connection, count: int) -> None:
    """Give MariaDB that many leases with a reservation each, and an event a second."""
    connection.execute(
        sa.text(
            "INSERT INTO leases (id, name, start_date, end_date)"
            f" SELECT UUID(), '', '2026-01-01', '2026-02-01' FROM seq_1_to_{count}"
        )
    )
    connection.execute(
        sa.text(
            "INSERT INTO reservations (id, lease_id, resource_type, resource_id)"
            " SELECT UUID(), id, 'virtual:vm', UUID() FROM leases"
        )
    )
    connection.execute(
        sa.text(
            "INSERT INTO events (id, lease_id, event_type, status, time)"
            " SELECT UUID(), (SELECT MIN(id) FROM leases), 'end_lease', 'UNDONE',"
            f" '2026-01-01' + INTERVAL seq SECOND FROM seq_1_to_{count}"
        )
    )


def explain(connection: sa.Connection, query: str) -> dict[str, sa.Row[tuple[object, ...]]]:
    """Ask MariaDB for its plan, by table."""
    rows = connection.execute(sa.text(f"EXPLAIN SELECT * FROM {query}")).all()
    return {row.table: row for row in rows}
