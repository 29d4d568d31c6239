# SPDX-License-Identifier: Apache-2.0
"""The database connection: Blazar's own database, as ``[database]`` names it."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import sqlalchemy as sa
from oslo_config import cfg
from oslo_db import api as oslo_db_api
from oslo_db import options as db_options
from oslo_db.sqlalchemy import enginefacade

from blazar_vmexpire.db import journal, log_lines
from blazar_vmexpire.db.journal import Journal

_F = TypeVar("_F", bound=Callable[..., Any])


def retried(function: _F) -> _F:
    """Run a whole transaction again after a deadlock or a lost connection.

    What is decorated with it has no other effects than those in the database.
    """
    wrapped: _F = _RETRY(function)
    return wrapped


def _not_connected(error: Exception) -> bool:
    """Say whether the database could not be reached, where oslo.db does not know the words.

    It knows a lost or refused connection by what the driver says, which differs by its version:
    PostgreSQL's "connection to server … failed" is left as it is. Without a statement nothing was
    asked yet.
    """
    return isinstance(error, sa.exc.OperationalError) and error.statement is None


_RETRY = oslo_db_api.wrap_db_retry(
    max_retries=10,
    retry_on_deadlock=True,
    retry_on_disconnect=True,
    exception_checker=_not_connected,
    retry_interval=0.1,
    inc_retry_interval=True,
    max_retry_interval=2,
)


class Database:
    """Transactions on Blazar's database.

    :param engine: an engine made by oslo.db, so that errors arrive as ``oslo_db.exception`` and
        connections that a restarted server has closed are replaced.

    :ivar listeners: each is given the journal of every transaction that did something to VMs, once
        it is committed, in the thread that did it: it has to be quick, and must not raise.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self.listeners: list[Callable[[Journal], None]] = [log_lines.write]
        # Its errors are logged, and what is written has people's addresses in it.
        engine.hide_parameters = True
        if engine.dialect.name == "sqlite":
            # A transaction that begins by reading cannot turn to writing while another writes:
            # SQLite then refuses at once instead of waiting. So each takes its turn from the start.
            sa.event.listen(engine, "before_cursor_execute", _begin_immediate, retval=True)
            sa.event.listen(engine, "connect", _wait_for_the_others)
        else:
            sa.event.listen(engine, "connect", _read_committed(engine.dialect))
        # oslo.db has tried one connection already, which would be used as it is.
        engine.dispose()
        self.engine = engine

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts, *, max_retries: int | None = None) -> Database:
        """Connect as Blazar does: the options of ``[database]``.

        :param max_retries: how often it is tried again to connect for the first time, every
            ``retry_interval``; None: as often as ``[database] max_retries`` says.
        :raises ValueError: when ``[database] connection`` is not set.
        """
        db_options.set_defaults(conf)
        if not conf.database.connection:
            raise ValueError(
                "[database] connection is not set: it must name Blazar's database,"
                " for example mysql+pymysql://blazar:…@db/blazar?charset=utf8"
            )
        context = enginefacade.transaction_context()
        context.configure(
            connection=_with_all_characters(conf.database.connection),
            max_pool_size=conf.database.max_pool_size,
            max_overflow=conf.database.max_overflow,
            pool_timeout=conf.database.pool_timeout,
            connection_recycle_time=conf.database.connection_recycle_time,
            max_retries=conf.database.max_retries if max_retries is None else max_retries,
            retry_interval=conf.database.retry_interval,
            mysql_sql_mode=conf.database.mysql_sql_mode,
            sqlite_synchronous=conf.database.sqlite_synchronous,
            # Its sleep(0) after each use is for green threads; ours are the system's.
            thread_checkin=False,
        )
        return cls(context.writer.get_engine())

    @property
    def dialect(self) -> str:
        """``mysql`` (also for MariaDB), ``postgresql`` or ``sqlite``."""
        name: str = self.engine.dialect.name
        return "mysql" if name == "mariadb" else name

    @contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        """A transaction: committed at the end of the block, rolled back when it raises."""
        with self.engine.begin() as connection:
            told = journal.begin(connection)
            yield connection
        if told:
            for listener in self.listeners:
                listener(told)

    def dispose(self) -> None:
        """Close all connections; the next transaction opens new ones. Needed after a fork."""
        self.engine.dispose(close=False)


def _read_committed(dialect: sa.Dialect) -> Callable[..., None]:
    """Say what to do with each new connection.

    Claims skip what others hold, so nothing is gained by locking the gaps between rows. It is not
    an execution option of the engine: that would be set anew for each transaction, and where the
    connection breaks just then, the error would be the driver's own, which nobody knows to retry.
    """

    def prepare(connection: Any, _: Any) -> None:
        dialect.set_isolation_level(connection, "READ COMMITTED")
        # What a connection goes back to that had another for a while.
        dialect.default_isolation_level = "READ COMMITTED"
        encoders = getattr(connection, "encoders", None)
        if encoders is not None:
            # PyMySQL's own writes a date part by part, in Python, which is a twelfth of the time
            # that it takes to take a VM in. What comes out is the same. In a page of a thousand
            # rows most dates are there many times.
            encoders[datetime.datetime] = _encode_date

    return prepare


def _encode_date(moment: datetime.datetime, _: Any = None) -> str:
    return _quoted(moment)


@functools.lru_cache(maxsize=4096)
def _quoted(moment: datetime.datetime) -> str:
    return f"'{moment}'"


def _begin_immediate(
    connection: sa.Connection, cursor: Any, statement: str, parameters: Any, *_: Any
) -> tuple[str, Any]:
    # oslo.db's own listener, which comes before any of ours, emits the BEGIN.
    return "BEGIN IMMEDIATE" if statement == "BEGIN" else statement, parameters


def _wait_for_the_others(connection: Any, _: Any) -> None:
    # Its own five seconds are few for a turn where the machine has other things to do.
    connection.execute("PRAGMA busy_timeout = 60000")


def _with_all_characters(url: str) -> str:
    """Let a MySQL connection carry every character: with ``charset=utf8`` it has no emoji."""
    parsed = sa.make_url(url)
    if parsed.get_backend_name() in ("mysql", "mariadb"):
        parsed = parsed.update_query_dict({"charset": "utf8mb4"})
    return parsed.render_as_string(hide_password=False)
