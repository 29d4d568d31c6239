# SPDX-License-Identifier: Apache-2.0
"""Databases for tests: real MariaDB and PostgreSQL servers of our own, and SQLite files.

A server is started when the first test asks for it, in a directory of its own, reached by a unix
socket only, and stopped at the end of the session. Each test gets a database of its own, copied
from a template: some 20 ms on the servers, 2 ms on SQLite.

What a fresh database holds:

``empty``
    nothing.
``blazar``
    Blazar's schema, by ``blazar-db-manage upgrade head`` on MariaDB. On the others, where that
    does not run, from Blazar's models, stamped with its newest revision.
``ours``
    Blazar's schema and ours, as ``blazar-vmexpire-manage db upgrade`` leaves them.
"""

from __future__ import annotations

import collections
import contextlib
import importlib.resources
import itertools
import os
import pathlib
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, Literal

import psycopg2
import pymysql
import sqlalchemy as sa
from alembic import script
from alembic.config import Config
from blazar.db.sqlalchemy import model_base, models  # noqa: F401  (fills the metadata)
from oslo_config import cfg
from oslo_db import options as db_options
from pymysql.constants import CLIENT
from sqlalchemy.dialects import plugins

from blazar_vmexpire.db import migration
from blazar_vmexpire.db.engine import Database

Contents = Literal["empty", "blazar", "ours"]

#: The names that ``--databases`` takes.
NAMES = ("sqlite", "mariadb", "postgresql")


def connect(url: str) -> Database:
    """Connect our own database layer to a database made here. The caller disposes of it."""
    conf = cfg.ConfigOpts()
    db_options.set_defaults(conf)
    conf([], default_config_files=[], default_config_dirs=[])
    conf.set_override("connection", url, group="database")
    return Database.from_conf(conf)


class Backend:
    """A source of fresh databases of one kind. Its ``name`` is one of :data:`NAMES`."""

    name: str

    def __init__(self) -> None:
        _remove_leftovers()
        prefix = f"vmx-{os.getpid()}-"
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix=prefix, dir=_short_tmp()))
        self.directory.chmod(0o755)
        self._numbers = itertools.count(1)
        self._templates: dict[str, object] = {}
        try:
            self.start()
        except BaseException:
            self.stop()
            raise

    def create(self, contents: Contents = "ours") -> str:
        """Make a fresh database and return its SQLAlchemy URL."""
        if contents not in self._templates:
            self._templates[contents] = self._make_template(contents)
        return self._copy(self._templates[contents], f"test_{next(self._numbers)}")

    def _make_template(self, contents: Contents) -> object:
        name = f"template_{contents}"
        if contents == "empty":
            self._create(name)
        elif contents == "blazar":
            self._create(name)
            self._create_blazar(self._url(name))
        else:
            if "blazar" not in self._templates:
                self._templates["blazar"] = self._make_template("blazar")
            database = connect(self._copy(self._templates["blazar"], name))
            migration.upgrade(database)
            database.engine.dispose()
        return self._keep(name)

    def _create_blazar(self, url: str) -> None:
        engine = sa.create_engine(url)
        model_base.BlazarBase.metadata.create_all(engine)
        with engine.begin() as connection:
            connection.execute(sa.text("CREATE TABLE alembic_version (version_num VARCHAR(32))"))
            connection.execute(
                sa.text("INSERT INTO alembic_version VALUES (:head)"), {"head": blazar_head()}
            )
        engine.dispose()

    # What each kind of database does in its own way.

    def start(self) -> None:
        """Start the server, if there is one."""

    def stop(self) -> None:
        """Stop the server and remove its directory."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def drop(self, url: str) -> None:
        """Remove a database, whoever is still connected to it."""
        raise NotImplementedError

    def _url(self, name: str) -> str:
        raise NotImplementedError

    def _create(self, name: str) -> None:
        """Make an empty database."""
        raise NotImplementedError

    def _keep(self, name: str) -> object:
        """Turn a database into a template; the result goes to :meth:`_copy`."""
        return name

    def _copy(self, template: object, name: str) -> str:
        raise NotImplementedError


def blazar_head() -> str:
    """Name the newest revision of Blazar's own schema."""
    where = importlib.resources.files("blazar.db.migration") / "alembic_migrations"
    config = Config()
    config.set_main_option("script_location", str(where))
    config.set_main_option("path_separator", "os")
    head = script.ScriptDirectory.from_config(config).get_current_head()
    assert head is not None
    return head


class _Compiled(collections.UserDict[Any, Any]):
    """Statements that were compiled for one engine, for all engines of the same kind."""

    def get(self, key: Any, default: Any = None) -> Any:
        """Find a statement."""
        return super().get(self._of_any_engine(key), default)

    def __setitem__(self, key: Any, compiled: Any) -> None:
        super().__setitem__(self._of_any_engine(key), compiled)

    @staticmethod
    def _of_any_engine(key: Any) -> Any:
        dialect, *statement = key
        return (dialect.name, *statement)


_COMPILED = _Compiled()


class SharedStatements(sa.CreateEnginePlugin):
    """What ``plugin=shared`` in a URL does: what was compiled for one engine is for all.

    SQLAlchemy would compile each statement anew for each engine, of which a test makes four.
    """

    def update_url(self, url: sa.URL) -> sa.URL:
        """Take our word out of the URL again."""
        return url.difference_update_query(["plugin"])

    def engine_created(self, engine: sa.Engine) -> None:
        """Have it look there."""
        engine.update_execution_options(compiled_cache=_COMPILED)


class KeptConnections(SharedStatements):
    """What ``plugin=kept`` does: besides, connections are kept, not made for each transaction.

    oslo.db makes them anew on SQLite, where each has to read the whole schema first: half of the
    time of a test.
    """

    def __init__(self, url: sa.URL, kwargs: dict[str, Any]) -> None:
        kwargs["poolclass"] = sa.QueuePool


def elsewhere(url: str) -> str:
    """Return the URL for another program, which does not know of our plug-ins."""
    return re.sub(r"[?&]plugin=\w+$", "", url)


plugins.register("kept", __name__, KeptConnections.__name__)
plugins.register("shared", __name__, SharedStatements.__name__)


class SQLite(Backend):
    """Files."""

    name = "sqlite"

    def drop(self, url: str) -> None:
        pathlib.Path(str(sa.make_url(url).database)).unlink(missing_ok=True)

    def _path(self, name: str) -> pathlib.Path:
        return self.directory / f"{name}.sqlite"

    def _url(self, name: str) -> str:
        return f"sqlite:///{self._path(name)}?plugin=kept"

    def _create(self, name: str) -> None:
        self._path(name).touch()

    def _copy(self, template: object, name: str) -> str:
        shutil.copyfile(self._path(str(template)), self._path(name))
        return self._url(name)


class _Server(Backend):
    """A server process: ends with this session, even if this session is killed."""

    _process: subprocess.Popen[bytes] | None = None

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        super().stop()

    def _launch(self, command: list[str], stop_signal: str) -> None:
        log = (self.directory / "log").open("ab")
        with log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", stop_signal, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C in the terminal is for pytest, which stops the servers in its turn.
                start_new_session=True,
            )

    def _run(self, command: list[str]) -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")

    def _wait_until(self, answers: Callable[[], object], errors: type[Exception]) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                answers()
                return
            except errors:
                assert self._process is not None
                if self._process.poll() is not None or time.monotonic() > deadline:
                    log = (self.directory / "log").read_text(errors="replace")
                    raise RuntimeError(f"the {self.name} server does not start:\n{log}") from None
                time.sleep(0.02)


class MariaDB(_Server):
    """Databases in MySQL's three-byte utf8, as most installations of Blazar have them."""

    name = "mariadb"

    def start(self) -> None:
        server = _find("mariadbd", "/usr/sbin", package="mariadb-server")
        install = _find("mariadb-install-db", package="mariadb-server")
        common = [
            "--no-defaults",
            f"--datadir={self.directory / 'data'}",
            # A server that starts removes the temporary tables it finds, whosever they are.
            f"--tmpdir={self.directory}",
        ]
        if os.geteuid() == 0:
            common.append("--user=root")
        self._run([install, *common, "--auth-root-authentication-method=normal", "--skip-test-db"])
        self._launch(
            [
                server,
                *common,
                f"--socket={self._socket}",
                f"--pid-file={self.directory / 'pid'}",
                "--skip-networking",
                "--skip-log-bin",
                "--debug-no-sync",
                "--innodb-flush-method=nosync",
                "--innodb-flush-log-at-trx-commit=0",
                "--innodb-fast-shutdown=2",
                "--innodb-log-file-size=32M",
                "--innodb-buffer-pool-size=128M",
                "--performance-schema=OFF",
                "--character-set-server=utf8mb3",
            ],
            "TERM",
        )
        self._wait_until(lambda: self._connect().close(), pymysql.err.OperationalError)

    def drop(self, url: str) -> None:
        name = sa.make_url(url).database
        with self._connect() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT id FROM information_schema.processlist WHERE db = %s", (name,))
            for (thread,) in cursor.fetchall():
                with contextlib.suppress(pymysql.err.OperationalError):
                    cursor.execute(f"KILL {thread}")
            cursor.execute(f"DROP DATABASE IF EXISTS {name}")

    @property
    def _socket(self) -> pathlib.Path:
        return self.directory / "socket"

    def _connect(self) -> pymysql.Connection:
        return pymysql.connect(
            unix_socket=str(self._socket),
            user="root",
            autocommit=True,
            client_flag=CLIENT.MULTI_STATEMENTS,
        )

    def _url(self, name: str) -> str:
        socket = f"unix_socket={self._socket}&charset=utf8"
        return f"mysql+pymysql://root@localhost/{name}?{socket}&plugin=shared"

    def _create(self, name: str) -> None:
        with self._connect() as connection, connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {name}")

    def _create_blazar(self, url: str) -> None:
        settings = self.directory / "blazar.conf"
        settings.write_text(f"[database]\nconnection = {elsewhere(url)}\n")
        command = pathlib.Path(sys.executable).with_name("blazar-db-manage")
        self._run([str(command), "--config-file", str(settings), "upgrade", "head"])

    def _keep(self, name: str) -> object:
        """Dump a database as one string of statements."""
        statements = ["SET foreign_key_checks = 0"]
        with self._connect() as connection, connection.cursor() as cursor:
            cursor.execute(f"USE {name}")
            cursor.execute("SHOW TABLES")
            for (table,) in cursor.fetchall():
                cursor.execute(f"SHOW CREATE TABLE {table}")
                statements.append(cursor.fetchone()[1])
                cursor.execute(f"SELECT * FROM {table}")
                values = f"({', '.join(['%s'] * len(cursor.description))})"
                statements += [
                    cursor.mogrify(f"INSERT INTO {table} VALUES {values}", row)
                    for row in cursor.fetchall()
                ]
        return ";\n".join(statements)

    def _copy(self, template: object, name: str) -> str:
        with self._connect() as connection, connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {name}; USE {name}; {template}")
            while cursor.nextset():
                pass
        return self._url(name)


class PostgreSQL(_Server):
    """Databases in UTF-8."""

    name = "postgresql"

    def start(self) -> None:
        initdb, postgres = _find_postgresql()
        # PostgreSQL refuses to run as root; it owns its directory.
        as_user: list[str] = []
        if os.geteuid() == 0:
            user = pwd.getpwnam("nobody")
            os.chown(self.directory, user.pw_uid, user.pw_gid)
            as_user = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        data = self.directory / "data"
        how = ["--auth=trust", "--username=blazar", "--encoding=UTF8", "--no-locale", "--no-sync"]
        self._run(["setpriv", *as_user, initdb, *how, f"--pgdata={data}"])
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.directory),
            "fsync": "off",
            "full_page_writes": "off",
            "synchronous_commit": "off",
            "wal_level": "minimal",
            "max_wal_senders": "0",
            "autovacuum": "off",
        }
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        # INT is PostgreSQL's fast shutdown: it does not wait for clients to leave.
        self._launch([*as_user, postgres, "-D", str(data), *options], "INT")
        self._wait_until(lambda: self._connect().close(), psycopg2.OperationalError)

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(2)
        super().stop()

    def drop(self, url: str) -> None:
        self._execute(f"DROP DATABASE IF EXISTS {sa.make_url(url).database} WITH (FORCE)")

    def _connect(self) -> psycopg2.extensions.connection:
        connection = psycopg2.connect(host=str(self.directory), user="blazar", dbname="postgres")
        connection.autocommit = True
        return connection

    def _execute(self, statement: str) -> None:
        with contextlib.closing(self._connect()) as connection, connection.cursor() as cursor:
            cursor.execute(statement)

    def _url(self, name: str) -> str:
        return f"postgresql+psycopg2://blazar@/{name}?host={self.directory}&plugin=shared"

    def _create(self, name: str) -> None:
        self._execute(f"CREATE DATABASE {name}")

    def _copy(self, template: object, name: str) -> str:
        self._execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        return self._url(name)


KINDS: dict[str, type[Backend]] = {kind.name: kind for kind in (SQLite, MariaDB, PostgreSQL)}


def _find(program: str, *elsewhere: str, package: str) -> str:
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *elsewhere])
    found = shutil.which(program, path=path)
    if found is None:
        raise RuntimeError(
            f"{program} is not installed (Debian: {package}); install it, or leave this database"
            " out with --databases=sqlite"
        )
    return found


def _find_postgresql() -> tuple[str, str]:
    """Find initdb and postgres of one version: that on the PATH, or else the newest."""
    versions = sorted(
        pathlib.Path("/usr/lib/postgresql").glob("*/bin"),
        key=lambda where: float(where.parent.name),
        reverse=True,
    )
    found = _find("postgres", *(str(where) for where in versions), package="postgresql")
    postgres = pathlib.Path(found).resolve()
    return str(postgres.with_name("initdb")), str(postgres)


def _remove_leftovers() -> None:
    """Remove the directories of sessions that were killed; their servers went with them."""
    for directory in pathlib.Path(_short_tmp()).glob("vmx-*-*"):
        owner = directory.name.split("-")[1]
        if owner.isdecimal() and not pathlib.Path("/proc", owner).exists():
            shutil.rmtree(directory, ignore_errors=True)


def _short_tmp() -> str:
    """Where directories for sockets can be: a socket's path has 107 characters at most."""
    where = tempfile.gettempdir()
    return where if len(where) < 60 else "/tmp"
