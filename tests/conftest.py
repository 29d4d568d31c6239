# SPDX-License-Identifier: Apache-2.0
"""Fixtures for all tests: databases. ``tests/README.rst`` says how to use them."""

from __future__ import annotations

import collections
import signal
import zlib
from collections.abc import Iterator

import hypothesis
import pytest

from blazar_vmexpire.db.engine import Database
from tests import databases

# What tests share says what it compared, as tests do.
pytest.register_assert_rewrite("tests.functional")

_SERVERS = ("mariadb", "postgresql")

# The machine is shared: what takes long is not wrong.
hypothesis.settings.register_profile("shared", deadline=None)
hypothesis.settings.load_profile("shared")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--databases``."""
    parser.addoption(
        "--databases",
        default=",".join(databases.NAMES),
        help="Run tests that need a database on these only: a comma list of"
        f" {', '.join(databases.NAMES)}. The tests for the others are deselected.",
    )

    parser.addoption(
        "--pictures",
        action="store_true",
        help="Write the pictures of the documentation anew, from the pages that tests look at.",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Check the options; make ``kill`` end a session as Ctrl-C does: with its servers stopped."""
    unknown = set(_chosen(config)) - set(databases.NAMES)
    if unknown:
        raise pytest.UsageError(
            f"--databases: {', '.join(sorted(unknown))} is none of {', '.join(databases.NAMES)}"
        )
    config.addinivalue_line(
        "markers",
        "databases(*names): run this test on these databases only, instead of on all three",
    )
    config.addinivalue_line(
        "markers",
        "sampled(n): of the cases of this test every nth is in `make test`, the rest is long",
    )
    config.addinivalue_line(
        "markers",
        "every_database: the SQL is what is tested: `make test`, too, runs it on all three",
    )
    config.addinivalue_line(
        "markers",
        "one_server: on a server it takes long: `make test` runs it on one of the two",
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_report_header(config: pytest.Config) -> str:
    """Name the databases, and those that were left out."""
    left_out = [name for name in databases.NAMES if name not in _chosen(config)]
    return f"databases: {', '.join(_chosen(config))}" + (
        f" (left out by --databases: {', '.join(left_out)})" if left_out else ""
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what uses a database on each kind that it is marked for: by default on all three."""
    if "backend" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("databases")
        names = marker.args if marker else databases.NAMES
        metafunc.parametrize("backend", names, indirect=True, scope="session")


@pytest.hookimpl(tryfirst=True)  # -m, which pytest itself looks at here, is to see our marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark as long what samples leave out; deselect what ``--databases`` leaves out. Visibly."""
    _mark_what_samples_leave_out(items)
    chosen = _chosen(config)
    left_out = [item for item in items if _database_of(item) not in (None, *chosen)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def _mark_what_samples_leave_out(items: list[pytest.Item]) -> None:
    numbers: collections.Counter[tuple[str, str | None]] = collections.Counter()
    cases = collections.Counter(_test_of(item) for item in items)
    for item in items:
        test, database = _test_of(item)
        number = numbers[test, database]
        numbers[test, database] += 1
        sampled = item.get_closest_marker("sampled")
        # Whoever says nothing of it has a third of the cases, where there are many.
        every = sampled.args[0] if sampled else 3 if database and cases[test, database] > 3 else 1
        if number % every or not _has_turn(item, test, database):
            item.add_marker("long")


def _has_turn(item: pytest.Item, test: str, database: str | None) -> bool:
    """Say whether a test runs on this database in `make test`; that depends on its name alone."""
    if database not in _SERVERS or item.get_closest_marker("every_database"):
        return True
    if item.get_closest_marker("one_server"):
        shares = len(_SERVERS)
    elif item.get_closest_marker("databases"):
        return True
    else:
        # A test that says nothing of databases runs on SQLite; one in 32 on each of the servers.
        shares = 32
    return zlib.crc32(test.encode()) % shares == _SERVERS.index(database)


def _test_of(item: pytest.Item) -> tuple[str, str | None]:
    """Name a test, whatever its cases, and the database that it runs on."""
    return item.nodeid.partition("[")[0], _database_of(item)


def _chosen(config: pytest.Config) -> list[str]:
    return [name.strip() for name in str(config.getoption("--databases")).split(",")]


def _database_of(item: pytest.Item) -> str | None:
    callspec = getattr(item, "callspec", None)
    return callspec.params.get("backend") if callspec else None


@pytest.fixture(scope="session")
def _backends() -> Iterator[dict[str, databases.Backend]]:
    """The servers that run, by name; stopped at the end of the session."""
    running: dict[str, databases.Backend] = {}
    try:
        yield running
    finally:
        for server in running.values():
            server.stop()


@pytest.fixture(scope="session")
def backend(
    request: pytest.FixtureRequest, _backends: dict[str, databases.Backend]
) -> databases.Backend:
    """A source of fresh databases of the kind that this test runs on."""
    if request.param not in _backends:
        _backends[request.param] = databases.KINDS[request.param]()
    return _backends[request.param]


@pytest.fixture
def database_url(backend: databases.Backend) -> Iterator[str]:
    """A fresh database with Blazar's tables and ours: its SQLAlchemy URL."""
    url = backend.create("ours")
    yield url
    backend.drop(url)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """Our database layer, connected to a fresh database with Blazar's tables and ours."""
    connected = databases.connect(database_url)
    yield connected
    connected.engine.dispose()
