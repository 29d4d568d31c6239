# SPDX-License-Identifier: Apache-2.0
"""Bringing the database to the tables this version needs, and saying where it is.

Our revisions are a line of their own with a version table of their own
(:data:`VERSION_TABLE`); Blazar's tables must be there already, made by ``blazar-db-manage``.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import sqlalchemy as sa
from alembic import command, config, script
from alembic import util as alembic_util
from alembic.runtime import migration
from oslo_log import log as logging

from blazar_vmexpire.db import blazar_indexes as indexes
from blazar_vmexpire.db.engine import Database

LOG = logging.getLogger(__name__)

#: Holds the revision that our tables are at. Blazar's is ``alembic_version``.
VERSION_TABLE = "vmexpire_alembic_version"

#: Of Blazar's tables, those that we work on.
BLAZAR_TABLES = ("leases", "reservations", "events")

#: How long a second upgrade waits for a first one that is at work, in seconds. Adding an index to
#: a table of some million rows takes minutes.
LOCK_TIMEOUT = 3600


class MigrationError(Exception):
    """The database cannot be brought to the wanted revision; the message says what would help."""


class BlazarTablesMissing(MigrationError):
    """Blazar's own tables are not in the database that ``[database] connection`` names."""


class UnknownRevision(MigrationError):
    """No revision of this version has the name that was given, or found in the database."""


class NotUpgraded(MigrationError):
    """Our tables are missing or older than this version needs."""


class UpgradeLocked(MigrationError):
    """Another upgrade of the same database has not come to its end in :data:`LOCK_TIMEOUT`."""


class Revision(NamedTuple):
    """One step in the life of our tables."""

    name: str
    title: str


def upgrade(
    database: Database,
    revision: str = "head",
    *,
    blazar_indexes: bool = True,
    report: Callable[[str], None] = LOG.info,
) -> None:
    """Bring our tables to a revision, and add the indexes that Blazar's tables lack.

    Nothing is done that has been done already, so it can run again at any time; of two that run at
    once the second waits for the first. Tables are never taken back to an older revision.

    :param revision: ``head`` (the newest) or the name of a revision, see :func:`history`.
    :param blazar_indexes: whether indexes are added to Blazar's own tables, see
        :mod:`blazar_vmexpire.db.blazar_indexes`. On big tables this takes minutes; Blazar goes on
        working meanwhile, except on SQLite.
    :param report: told in one line what is being done, before each part that can take long.
    :raises BlazarTablesMissing: nothing was changed.
    :raises UnknownRevision: nothing was changed.
    :raises UpgradeLocked: nothing was changed.
    """
    _check_revision(revision)
    with _one_at_a_time(database):
        with database.begin() as connection:
            _check_blazar(connection)
            before = _current(connection)
            _check_known(before)
            _run(connection, revision)
            after = _current(connection)
        report(
            f"tables of blazar-vmexpire: at revision {after}"
            + (" already" if before == after else f", were at {before or 'none'}")
        )
        if blazar_indexes:
            indexes.add_missing(database, report)


def require_current(database: Database) -> None:
    """Refuse to go on with tables that this version cannot work with.

    :raises NotUpgraded: the tables are missing or older; ``db upgrade`` helps.
    :raises UnknownRevision: they are those of a newer version.
    """
    found = version(database)
    _check_known(found)
    if found != head():
        raise NotUpgraded(
            f"the tables of blazar-vmexpire are {f'at revision {found}' if found else 'not there'},"
            f" this version needs {head()}: run blazar-vmexpire-manage db upgrade"
        )


def version(database: Database) -> str | None:
    """Name the revision that our tables are at; ``None`` when they have not been made yet."""
    with database.begin() as connection:
        return _current(connection)


def history() -> list[Revision]:
    """List the revisions that this version knows, oldest first."""
    found = script.ScriptDirectory.from_config(_config()).walk_revisions()
    return [Revision(item.revision, item.doc) for item in reversed(list(found))]


def head() -> str:
    """Name the newest revision, the one that this version of the code works with."""
    return history()[-1].name


def _config(connection: sa.Connection | None = None) -> config.Config:
    made = config.Config()
    made.set_main_option("script_location", "blazar_vmexpire.db:migrations")
    made.set_main_option("path_separator", "os")
    made.attributes["connection"] = connection
    made.attributes["version_table"] = VERSION_TABLE
    return made


def _run(connection: sa.Connection, revision: str) -> None:
    try:
        command.upgrade(_config(connection), revision)
    except alembic_util.CommandError as error:
        raise MigrationError(str(error)) from error


def _current(connection: sa.Connection) -> str | None:
    context = migration.MigrationContext.configure(
        connection, opts={"version_table": VERSION_TABLE}
    )
    found: str | None = context.get_current_revision()
    return found


def _check_revision(revision: str) -> None:
    names = [item.name for item in history()]
    if revision not in ["head", *names]:
        raise UnknownRevision(
            f"there is no revision {revision!r}: it is head or one of {', '.join(names)}"
        )


def _check_known(current: str | None) -> None:
    if current is not None and current not in [item.name for item in history()]:
        raise UnknownRevision(
            f"the database is at revision {current!r}, which this version of blazar-vmexpire does"
            " not know: a newer version has upgraded it"
        )


def _check_blazar(connection: sa.Connection) -> None:
    there = sa.inspect(connection).get_table_names()
    missing = [name for name in BLAZAR_TABLES if name not in there]
    if missing:
        where = connection.engine.url.render_as_string(hide_password=True)
        raise BlazarTablesMissing(
            f"Blazar's tables are not there ({', '.join(missing)} missing in {where}):"
            " run blazar-db-manage --config-file /etc/blazar/blazar.conf upgrade head first"
        )


@contextmanager
def _one_at_a_time(database: Database) -> Iterator[None]:
    """Hold a lock that belongs to this database, on a connection of its own.

    On SQLite there is none: there the upgrade is one transaction, begun with BEGIN IMMEDIATE.
    """
    if database.dialect == "sqlite":
        yield
        return
    with database.engine.connect() as connection:
        # No transaction stays open: one could keep PostgreSQL from building indexes online.
        connection.execution_options(isolation_level="AUTOCOMMIT")
        if not _take_lock(connection, database.dialect):
            raise UpgradeLocked(
                f"another upgrade of this database has been at work for {LOCK_TIMEOUT} s:"
                " look whether it is alive; its lock goes with its connection"
            )
        try:
            yield
        finally:
            _give_lock_back(connection, database.dialect)


def _take_lock(connection: sa.Connection, dialect: str) -> bool:
    if dialect == "mysql":
        # MySQL's locks are the server's, not the database's, and have short names.
        return bool(
            connection.scalar(
                sa.text("SELECT GET_LOCK(:name, :timeout)"),
                {"name": _mysql_lock(connection), "timeout": LOCK_TIMEOUT},
            )
        )
    # Asked for again and again: whoever waits inside one statement holds a snapshot, and
    # PostgreSQL's CREATE INDEX CONCURRENTLY waits for all snapshots to go: a deadlock.
    deadline = time.monotonic() + LOCK_TIMEOUT
    while not connection.scalar(sa.text("SELECT pg_try_advisory_lock(:key)"), {"key": _PG_LOCK}):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _give_lock_back(connection: sa.Connection, dialect: str) -> None:
    if dialect == "mysql":
        connection.execute(sa.text("SELECT RELEASE_LOCK(:name)"), {"name": _mysql_lock(connection)})
    else:
        connection.execute(sa.text("SELECT pg_advisory_unlock(:key)"), {"key": _PG_LOCK})


def _mysql_lock(connection: sa.Connection) -> str:
    name = connection.scalar(sa.text("SELECT DATABASE()"))
    return "blazar-vmexpire:" + hashlib.sha256(str(name).encode()).hexdigest()[:32]


#: PostgreSQL's advisory locks are the database's own; the number says "vmexpire".
_PG_LOCK = int.from_bytes(b"vmexpire", "big")
