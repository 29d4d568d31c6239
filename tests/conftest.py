# SPDX-License-Identifier: Apache-2.0
"""Fixtures for all tests: databases. ``tests/README.rst`` says how to use them."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import hypothesis
import pytest

from blazar_vmexpire.db.engine import Database
from tests import databases

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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect, visibly, what needs a database that ``--databases`` leaves out."""
    chosen = _chosen(config)
    left_out = [item for item in items if _database_of(item) not in (None, *chosen)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


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
