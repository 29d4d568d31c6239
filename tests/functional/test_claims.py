# SPDX-License-Identifier: Apache-2.0
"""The queue: a row is one worker's own, for as long as it holds on to it."""

from __future__ import annotations

import concurrent.futures
import threading
from collections import Counter
from datetime import timedelta

import pytest
import sqlalchemy as sa

from blazar_vmexpire.db.api import Expiration
from blazar_vmexpire.db.engine import Database, retried
from blazar_vmexpire.db.models import expirations
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


# Claiming


def test_what_is_due_is_claimed_longest_due_first(database: Database, mine: Claims) -> None:
    due = [NOW - timedelta(minutes=n) for n in (0, 3, 1, 2)]
    zero, three, one, two = add(database, *due)
    add(database, NOW + INSTANT, None)
    assert [row.server_id for row in mine.claim(3)] == [three, two, one]
    assert [row.server_id for row in mine.claim(3)] == [zero]
    assert mine.claim(3) == []


def test_a_claim_says_whose_it_is_and_how_long_it_holds(database: Database, mine: Claims) -> None:
    (key,) = add(database, NOW)
    (row,) = mine.claim(1)
    assert row == read(database, key)
    assert row.claimed_until == NOW + DURATION
    assert row.claimed_by is not None
    assert len(row.claimed_by) <= 64


def test_each_claim_has_a_token_of_its_own(database: Database, mine: Claims) -> None:
    add(database, NOW, NOW)
    (first,), (second,) = mine.claim(1), mine.claim(1)
    assert first.claimed_by != second.claimed_by


def test_what_is_claimed_is_nobody_elses(database: Database, mine: Claims, theirs: Claims) -> None:
    add(database, NOW, NOW)
    assert len(mine.claim(1)) == 1
    assert len(theirs.claim(10)) == 1
    assert mine.claim(10) == theirs.claim(10) == []


@SERVERS
def test_what_another_is_claiming_at_this_moment_is_skipped(
    database: Database, mine: Claims
) -> None:
    first, second = add(database, NOW - timedelta(hours=1), NOW)
    with database.begin() as other:
        other.execute(
            sa.select(expirations).where(expirations.c.server_id == first).with_for_update()
        )
        assert [row.server_id for row in mine.claim(10)] == [second]
    assert [row.server_id for row in mine.claim(10)] == [first]


def test_two_workers_never_get_the_same_row(
    database: Database, mine: Claims, theirs: Claims
) -> None:
    keys = add(database, *[NOW] * 200)
    start = threading.Barrier(2)
    left = threading.Semaphore(len(keys))

    def claim_all(claims: Claims) -> list[str]:
        got: list[str] = []
        start.wait()
        # An empty answer may mean that the other holds the rest at this moment.
        while left.acquire(blocking=False):
            left.release()
            for row in claims.claim(7):
                left.acquire()
                got.append(row.server_id)
        return got

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        one, two = pool.map(claim_all, [mine, theirs])
    assert Counter(one + two) == Counter(keys)


def test_two_thousand_rows_each_exactly_once(database: Database, clock: Clock) -> None:
    """By four threads, or by one on SQLite, where one writes at a time."""
    workers = 1 if database.dialect == "sqlite" else 4
    keys = add(database, *[NOW] * 2000)
    done: list[str] = []

    def work(_: int) -> None:
        claims_ = Claims(database, clock, DURATION)
        while len(done) < len(keys):
            finish(claims_.claim(20))

    @retried
    def finish(rows: list[Expiration]) -> None:
        with database.begin() as connection:
            for row in rows:
                claims.finish(connection, row, None, attempts=row.attempts + 1)
        done.extend(row.server_id for row in rows)

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, range(workers)))
    assert Counter(done) == Counter(keys)
    with database.begin() as connection:
        left = connection.execute(
            sa.select(
                expirations.c.attempts, expirations.c.claimed_by, expirations.c.next_at
            ).distinct()
        ).all()
    assert left == [(1, None, None)]


# Holding on


def test_the_claim_of_a_dead_worker_is_taken_over(
    database: Database, clock: Clock, mine: Claims, theirs: Claims
) -> None:
    add(database, NOW)
    (dead,) = mine.claim(1)
    clock.advance(DURATION)
    assert theirs.claim(1) == []
    clock.advance(INSTANT)
    (taken,) = theirs.claim(1)
    assert taken.server_id == dead.server_id
    assert taken.claimed_by != dead.claimed_by
    assert taken.claimed_until == clock.now + DURATION


def test_a_live_worker_keeps_its_claims(
    database: Database, clock: Clock, mine: Claims, theirs: Claims
) -> None:
    add(database, NOW, NOW)
    add(database, NOW + timedelta(days=1))
    rows = [*mine.claim(1), *mine.claim(1)]
    for _ in range(5):
        clock.advance(DURATION / 2)
        mine.renew()
        assert theirs.claim(10) == []
    assert {read(database, row.server_id).claimed_until for row in rows} == {clock.now + DURATION}


def test_what_is_over_is_not_held_any_longer(
    database: Database, clock: Clock, mine: Claims, theirs: Claims
) -> None:
    add(database, NOW, NOW)
    (over,), (pending,) = mine.claim(1), mine.claim(1)
    mine.forget(over)
    mine.forget(over)
    clock.advance(DURATION)
    mine.renew()
    clock.advance(INSTANT)
    assert [row.server_id for row in theirs.claim(10)] == [over.server_id]
    assert read(database, pending.server_id).claimed_by == pending.claimed_by


def test_renewing_nothing_and_what_was_taken_over(
    database: Database, clock: Clock, mine: Claims, theirs: Claims
) -> None:
    mine.renew()
    add(database, NOW)
    mine.claim(1)
    clock.advance(DURATION + INSTANT)
    (taken,) = theirs.claim(1)
    clock.advance(timedelta(seconds=1))
    mine.renew()
    assert read(database, taken.server_id) == taken
