# SPDX-License-Identifier: Apache-2.0
"""Connections to the database: each is prepared, the first one like all others."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from tests import databases


@pytest.fixture
def connections(backend: databases.Backend) -> Iterator[list[sa.Connection]]:
    """Three of a new process, open at the same time."""
    with contextlib.ExitStack() as closing:
        database = databases.connect(backend.create("ours"))
        closing.callback(database.engine.dispose)
        yield [closing.enter_context(database.engine.connect()) for _ in range(3)]


@pytest.mark.databases("mariadb", "postgresql")
def test_each_reads_what_is_committed(connections: list[sa.Connection]) -> None:
    levels = [connection.get_isolation_level() for connection in connections]
    assert levels == ["READ COMMITTED"] * 3


@pytest.mark.databases("sqlite")
def test_each_waits_for_its_turn(connections: list[sa.Connection]) -> None:
    waits = [c.connection.execute("PRAGMA busy_timeout").fetchone()[0] for c in connections]  # type: ignore[attr-defined]
    assert waits == [60_000] * 3
