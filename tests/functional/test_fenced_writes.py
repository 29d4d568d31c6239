# SPDX-License-Identifier: Apache-2.0
"""What a worker writes of a row that is its own, and cannot write of one that no longer is."""

from __future__ import annotations

import concurrent.futures
import datetime
import threading
from collections.abc import Callable
from datetime import timedelta

import pytest
import sqlalchemy as sa

from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db.api import Expiration
from blazar_vmexpire.db.engine import Database
from blazar_vmexpire.db.models import expirations
from blazar_vmexpire.exceptions import ClaimLost
from blazar_vmexpire.worker import claims
from blazar_vmexpire.worker.claims import Claims
from tests.functional.claiming import (
    DURATION,
    INSTANT,
    NOW,
    SERVERS,
    Clock,
    add,
    clock,
    mine,
    read,
    theirs,
)

__all__ = ["clock", "mine", "theirs"]

pytestmark = pytest.mark.every_database


def extend(database: Database, key: str) -> None:
    """Raise a row's generation, as an extension does."""
    with database.begin() as connection:
        connection.execute(
            sa.update(expirations)
            .where(expirations.c.server_id == key)
            .values(generation=expirations.c.generation + 1, next_at=NOW + timedelta(days=1))
        )


def test_a_finish_writes_the_outcome_and_gives_the_row_back(
    database: Database, mine: Claims, theirs: Claims
) -> None:
    (key,) = add(database, NOW)
    (row,) = mine.claim(1)
    later = NOW + timedelta(days=1)
    with database.begin() as connection:
        claims.finish(connection, row, later, state="noticed", progress={"at": NOW})
    after = read(database, key)
    assert (after.state, after.next_at) == ("noticed", later)
    assert after.progress == {"at": NOW.isoformat()}
    assert (after.claimed_by, after.claimed_until) == (None, None)
    assert theirs.claim(1) == []


def test_a_write_keeps_the_claim(database: Database, mine: Claims) -> None:
    add(database, NOW)
    (row,) = mine.claim(1)
    with database.begin() as connection:
        claims.hold(connection, row)
        claims.write(connection, row, progress={"begun": True})
    after = read(database, row.server_id)
    assert after.progress == {"begun": True}
    assert after.claimed_by == row.claimed_by


FENCED: dict[str, Callable[[sa.Connection, Expiration], None]] = {
    "hold": claims.hold,
    "write": lambda connection, row: claims.write(connection, row, progress={"x": 1}),
    "finish": lambda connection, row: claims.finish(connection, row, None, state="noticed"),
    "drop": claims.drop,
}


@pytest.mark.parametrize("call", FENCED)
@pytest.mark.parametrize("how", ["taken over", "extended", "released", "finished", "removed"])
def test_what_is_no_longer_ours_cannot_be_written(
    database: Database, clock: Clock, mine: Claims, theirs: Claims, how: str, call: str
) -> None:
    (key,) = add(database, NOW, server_name="before")
    (other,) = add(database, NOW + timedelta(days=1), server_name="before")
    (row,) = mine.claim(1)
    if how == "taken over":
        clock.advance(DURATION + INSTANT)
        theirs.claim(1)
    elif how == "extended":
        extend(database, key)
    elif how == "released":
        mine.release(row, clock.now)
    else:
        with database.begin() as connection:
            if how == "removed":
                claims.drop(connection, row)
            else:
                claims.finish(connection, row, clock.now)
    with database.begin() as connection:
        before = db_api.get(connection, key)
    with (  # noqa: PT012 - the transaction is part of what is tested
        pytest.raises(ClaimLost, match=f"server {key} was changed by somebody else"),
        database.begin() as connection,
    ):
        connection.execute(
            sa.update(expirations)
            .where(expirations.c.server_id == other)
            .values(server_name="with it")
        )
        FENCED[call](connection, row)
    with database.begin() as connection:
        assert db_api.get(connection, key) == before
    assert read(database, other).server_name == "before"


@pytest.mark.parametrize("call", [db_api.ask, db_api.poke])
@pytest.mark.parametrize("wanted", [None, NOW + timedelta(days=1)])
def test_who_wakes_a_row_while_it_is_worked_on_is_heard_afterwards(
    database: Database,
    clock: Clock,
    mine: Claims,
    call: Callable[..., int],
    wanted: datetime.datetime | None,
) -> None:
    """A notification may come between the look at Nova and the finish that says what was seen."""
    (key,) = add(database, NOW)
    (row,) = mine.claim(1)
    clock.advance(timedelta(seconds=1))
    with database.begin() as connection:
        call(connection, [key], clock.now)
    clock.advance(timedelta(seconds=1))
    with database.begin() as connection:
        claims.finish(connection, row, wanted, state="noticed", answered=row.questions)
    (again,) = mine.claim(1)
    assert (again.server_id, again.state) == (key, "noticed")
    with database.begin() as connection:
        claims.finish(connection, again, wanted, answered=again.questions)
    assert read(database, key).next_at == wanted


def test_a_question_of_the_very_moment_of_the_claim_is_heard(
    database: Database, mine: Claims
) -> None:
    (key,) = add(database, NOW)
    (row,) = mine.claim(1)
    with database.begin() as connection:
        db_api.ask(connection, [key], NOW)
    with database.begin() as connection:
        claims.finish(connection, row, None)
    assert [row.server_id for row in mine.claim(1)] == [key]


def test_a_row_that_somebody_asked_about_meanwhile_is_not_dropped(
    database: Database, mine: Claims
) -> None:
    (key,) = add(database, NOW, state="seen")
    (row,) = mine.claim(1)
    with database.begin() as connection:
        db_api.see(connection, key, NOW)
    with pytest.raises(ClaimLost), database.begin() as connection:
        claims.drop(connection, row)
    mine.release(row)
    (again,) = mine.claim(1)
    with database.begin() as connection:
        claims.drop(connection, again)
    assert mine.claim(1) == []


@SERVERS
def test_nobody_changes_a_row_that_is_held(database: Database, mine: Claims) -> None:
    (key,) = add(database, NOW)
    (row,) = mine.claim(1)
    order: list[str] = []
    asked = threading.Event()

    def change() -> None:
        asked.set()
        extend(database, key)
        order.append("extended")

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with database.begin() as connection:
            claims.hold(connection, row)
            change_ = pool.submit(change)
            asked.wait()
            with pytest.raises(TimeoutError):
                change_.result(0.05)
            order.append("written")
            claims.write(connection, row, attempts=1)
        change_.result(5)
    assert order == ["written", "extended"]
    assert (read(database, key).attempts, read(database, key).generation) == (1, 1)


def test_a_row_that_is_dropped_is_gone(database: Database, mine: Claims) -> None:
    (key,) = add(database, NOW)
    (row,) = mine.claim(1)
    with database.begin() as connection:
        claims.drop(connection, row)
        assert db_api.get(connection, key) is None


def test_a_released_row_is_due_when_it_was_or_when_it_is_said(
    database: Database, mine: Claims, theirs: Claims
) -> None:
    add(database, NOW)
    (row,) = mine.claim(1)
    mine.release(row)
    (row,) = theirs.claim(1)
    later = NOW + timedelta(seconds=2)
    theirs.release(row, later)
    after = read(database, row.server_id)
    assert (after.next_at, after.claimed_by, after.claimed_until) == (later, None, None)


def test_a_row_that_was_extended_meanwhile_is_released_to_its_new_date(
    database: Database, mine: Claims
) -> None:
    (key,) = add(database, NOW)
    (row,) = mine.claim(1)
    extend(database, key)
    mine.release(row)
    after = read(database, key)
    assert (after.claimed_by, after.generation) == (None, 1)
    assert after.next_at == NOW + timedelta(days=1)


def test_releasing_what_was_taken_over_takes_it_from_nobody(
    database: Database, clock: Clock, mine: Claims, theirs: Claims
) -> None:
    add(database, NOW)
    (lost,) = mine.claim(1)
    clock.advance(DURATION + INSTANT)
    (taken,) = theirs.claim(1)
    mine.release(lost, NOW)
    assert read(database, taken.server_id) == taken
