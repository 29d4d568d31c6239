# SPDX-License-Identifier: Apache-2.0
"""The indexes that Blazar's own tables lack.

Blazar asks for due events every ten seconds, and for a lease's events and reservations all the
time. Stock Blazar has no index for that beyond primary keys (and, on MySQL, those of the foreign
keys): with a lease for each VM every such question reads the whole table. An index changes no
answer, and Blazar's own migrations do not notice it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import sqlalchemy as sa

from blazar_vmexpire.db.engine import Database


class BlazarIndex(NamedTuple):
    """An index on one of Blazar's tables."""

    table: str
    columns: tuple[str, ...]

    @property
    def name(self) -> str:
        """What it is called in the database, for example ``ix_vmexpire_events_status_time``."""
        return f"ix_vmexpire_{self.table}_{'_'.join(self.columns)}"


WANTED = (
    BlazarIndex("events", ("status", "time")),
    BlazarIndex("events", ("lease_id",)),
    BlazarIndex("reservations", ("lease_id",)),
    BlazarIndex("reservations", ("resource_type", "resource_id")),
)


def missing(connection: sa.Connection) -> list[BlazarIndex]:
    """List which of :data:`WANTED` no existing index makes up for.

    An existing index makes up for one if it leads with the same columns in the same order,
    whoever made it and whatever it is called.
    """
    inspector = sa.inspect(connection)
    return [
        wanted
        for wanted in WANTED
        if not any(
            tuple(there[: len(wanted.columns)]) == wanted.columns
            for there in _leading_columns(inspector, wanted.table)
        )
    ]


def add_missing(database: Database, report: Callable[[str], None]) -> None:
    """Add those of :data:`WANTED` that are missing, one by one, without stopping Blazar.

    :param report: told in one line what is being done, before each.
    """
    with database.begin() as connection:
        if database.dialect == "postgresql":
            _drop_half_built(connection)
        wanted = missing(connection)
        if database.dialect == "sqlite":
            for index in wanted:
                report(_announcement(index))
                connection.execute(sa.text(_create(connection, index)))
    if database.dialect == "sqlite":
        return
    # Online building is no part of a transaction, neither for MySQL nor for PostgreSQL.
    with database.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        for index in wanted:
            report(_announcement(index))
            # MySQL lets reading and writing go on by itself wherever the table's engine can.
            how = " CONCURRENTLY" if database.dialect == "postgresql" else ""
            connection.execute(sa.text(_create(connection, index, how)))


def _announcement(index: BlazarIndex) -> str:
    return (
        f"adding an index on {', '.join(index.columns)} to Blazar's table {index.table}"
        " (minutes on a table of some million rows; Blazar can go on)"
    )


def _create(connection: sa.Connection, index: BlazarIndex, how: str = "") -> str:
    quote = connection.dialect.identifier_preparer.quote
    columns = ", ".join(quote(column) for column in index.columns)
    return f"CREATE INDEX{how} {index.name} ON {quote(index.table)} ({columns})"


def _leading_columns(inspector: sa.Inspector, table: str) -> Iterator[list[str]]:
    yield inspector.get_pk_constraint(table)["constrained_columns"]
    for unique in inspector.get_unique_constraints(table):
        yield unique["column_names"]
    for index in inspector.get_indexes(table):
        # An index over some of the rows does not serve for all questions. None: an expression.
        if not any(option.endswith("_where") for option in index.get("dialect_options", {})):
            yield [str(column) for column in index["column_names"]]


def _drop_half_built(connection: sa.Connection) -> None:
    """Drop what an interrupted CREATE INDEX CONCURRENTLY of ours left: invalid, yet kept up."""
    names = connection.scalars(
        sa.text(
            "SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
            " WHERE NOT i.indisvalid AND c.relname LIKE 'ix\\_vmexpire\\_%'"
        )
    ).all()
    for name in names:
        connection.execute(sa.text(f"DROP INDEX {name}"))
