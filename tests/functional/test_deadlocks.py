# SPDX-License-Identifier: Apache-2.0
"""What a deadlock or a lost connection has broken off is done again."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from oslo_db import exception as oslo_db_exception

from blazar_vmexpire.db.engine import Database, retried
from blazar_vmexpire.db.models import expirations
from blazar_vmexpire.worker.claims import Chore, Claims
from tests.functional.claiming import (
    DURATION,
    NOW,
    SERVERS,
    Clock,
    add,
    chore,
    clock,
    make_chore,
    mine,
    read,
)

__all__ = ["chore", "clock", "make_chore", "mine"]

pytestmark = pytest.mark.every_database


@pytest.fixture
def deadlock_once(database: Database) -> Iterator[Callable[[str], list[str]]]:
    """Return a function that has the database refuse the next such statement, once."""
    hits: list[str] = []
    wanted: list[str] = []

    def refuse(_: Any, __: Any, statement: str, *___: Any) -> None:
        if wanted and statement.startswith(wanted[0]):
            wanted.clear()
            hits.append(statement)
            raise oslo_db_exception.DBDeadlock()

    def arm(verb: str) -> list[str]:
        wanted.append(verb)
        return hits

    sa.event.listen(database.engine, "before_cursor_execute", refuse)
    yield arm
    sa.event.remove(database.engine, "before_cursor_execute", refuse)


def test_a_claim_is_tried_again_after_a_deadlock(
    database: Database, mine: Claims, deadlock_once: Callable[[str], list[str]]
) -> None:
    (key,) = add(database, NOW)
    hits = deadlock_once("UPDATE")
    (row,) = mine.claim(1)
    assert hits
    assert row == read(database, key)


def test_renewing_and_releasing_are_tried_again_after_a_deadlock(
    database: Database,
    clock: Clock,
    mine: Claims,
    deadlock_once: Callable[[str], list[str]],
) -> None:
    add(database, NOW)
    (row,) = mine.claim(1)
    clock.advance(timedelta(seconds=1))
    deadlock_once("UPDATE")
    mine.renew()
    assert read(database, row.server_id).claimed_until == clock.now + DURATION
    hits = deadlock_once("UPDATE")
    mine.release(row)
    assert len(hits) == 2
    assert read(database, row.server_id).claimed_by is None


def test_a_chore_is_tried_again_after_a_deadlock(
    chore: Chore, deadlock_once: Callable[[str], list[str]]
) -> None:
    for call in (chore.claim, chore.renew, chore.finish):
        hits = deadlock_once("UPDATE")
        call()
    assert len(hits) == 3
    assert chore.finished_before()


def increase(connection: sa.Connection, key: str) -> None:
    """Count a row's attempts up."""
    connection.execute(
        sa.update(expirations)
        .where(expirations.c.server_id == key)
        .values(attempts=expirations.c.attempts + 1)
    )


@SERVERS
def test_of_two_that_wait_for_each_other_both_come_to_their_end(database: Database) -> None:
    one, two = add(database, None, None)
    both = threading.Barrier(2)
    met: set[str] = set()

    @retried
    def touch(first: str, second: str) -> None:
        with database.begin() as connection:
            increase(connection, first)
            if first not in met:
                met.add(first)
                both.wait()
            increase(connection, second)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(touch, [one, two], [two, one]))
    assert [read(database, key).attempts for key in (one, two)] == [2, 2]


@SERVERS
def test_a_transaction_whose_connection_is_lost_is_done_again(database: Database) -> None:
    (key,) = add(database, None)
    tries: list[int] = []

    @retried
    def touch() -> None:
        tries.append(len(tries))
        with database.begin() as connection:
            increase(connection, key)
            if len(tries) == 1:
                cut(database, connection)
            increase(connection, key)

    touch()
    assert tries == [0, 1]
    assert read(database, key).attempts == 2


def cut(database: Database, connection: sa.Connection) -> None:
    """Have the database server close a connection."""
    own, close = {
        "mysql": ("SELECT CONNECTION_ID()", "KILL {}"),
        "postgresql": ("SELECT pg_backend_pid()", "SELECT pg_terminate_backend({})"),
    }[database.dialect]
    number = connection.scalar(sa.text(own))
    with database.begin() as other:
        other.execute(sa.text(close.format(number)))
