# SPDX-License-Identifier: Apache-2.0
"""Chores: each is done by one worker at a time, an interval after it was begun."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from blazar_vmexpire.db.engine import Database
from blazar_vmexpire.db.models import chores
from blazar_vmexpire.exceptions import ClaimLost
from blazar_vmexpire.worker.claims import Chore
from tests.functional.claiming import (
    DURATION,
    INSTANT,
    INTERVAL,
    NOW,
    Clock,
    chore,
    clock,
    make_chore,
)

__all__ = ["chore", "clock", "make_chore"]

pytestmark = pytest.mark.every_database


def chore_row(database: Database) -> Any:
    """Read the only chore's row."""
    with database.begin() as connection:
        return connection.execute(sa.select(chores)).one()


def test_a_chore_is_due_at_once_the_first_time(database: Database, chore: Chore) -> None:
    assert not chore.finished_before()
    assert chore.claim()
    row = chore_row(database)
    assert (row.name, row.last_started_at, row.last_finished_at) == ("sweeping", NOW, None)
    assert row.claimed_until == NOW + DURATION
    assert not chore.finished_before()


def test_a_chore_is_done_by_one_at_a_time(
    chore: Chore, make_chore: Callable[[], Chore], clock: Clock
) -> None:
    other = make_chore()
    assert chore.claim()
    assert not other.claim()
    assert not chore.claim()
    clock.advance(DURATION)
    chore.renew()
    clock.advance(DURATION)
    assert not other.claim()
    for act in (other.renew, other.finish):
        with pytest.raises(ClaimLost, match="sweeping was taken over by another worker"):
            act()


def test_of_many_that_come_at_once_the_first_time_one_gets_it(
    database: Database, make_chore: Callable[[], Chore]
) -> None:
    start = threading.Barrier(4)

    def claim(own: Chore) -> bool:
        start.wait()
        return own.claim()

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        got = list(pool.map(claim, [make_chore() for _ in range(4)]))
    assert sorted(got) == [False, False, False, True]
    assert chore_row(database).name == "sweeping"


def test_the_chore_of_a_dead_worker_is_taken_over(
    database: Database, chore: Chore, make_chore: Callable[[], Chore], clock: Clock
) -> None:
    other = make_chore()
    assert chore.claim()
    clock.advance(DURATION + INSTANT)
    assert other.claim()
    before = chore_row(database)
    for act in (chore.renew, chore.finish, lambda: chore.finish("broken")):
        with pytest.raises(ClaimLost, match="sweeping was taken over by another worker"):
            act()
    assert chore_row(database) == before
    other.finish()
    assert other.finished_before()


def test_a_chore_at_work_is_held_by_somebody_else_for_the_worker(
    database: Database, chore: Chore, make_chore: Callable[[], Chore], clock: Clock
) -> None:
    """However long a step of it takes: so a short claim is enough, and a dead worker's is short."""
    other = make_chore()
    chore.keep()
    assert other.claim()
    other.finish()
    clock.advance(INTERVAL)
    assert chore.claim()
    for _ in range(3):
        clock.advance(DURATION)
        chore.keep()
        other.keep()
        assert not other.claim()
    chore.finish()
    before = chore_row(database)
    chore.keep()
    assert chore_row(database) == before


def test_a_chore_that_was_taken_over_is_held_no_more(
    database: Database, chore: Chore, make_chore: Callable[[], Chore], clock: Clock
) -> None:
    other = make_chore()
    assert chore.claim()
    clock.advance(DURATION + INSTANT)
    assert other.claim()
    before = chore_row(database)
    clock.advance(INSTANT)
    chore.keep()
    assert chore_row(database) == before


def test_a_chore_is_due_again_an_interval_after_its_start(
    database: Database, chore: Chore, make_chore: Callable[[], Chore], clock: Clock
) -> None:
    chore.claim()
    clock.advance(timedelta(minutes=1))
    chore.finish()
    row = chore_row(database)
    assert (row.claimed_by, row.claimed_until, row.last_error) == (None, None, None)
    assert row.next_at == NOW + INTERVAL
    assert row.last_finished_at == clock.now
    clock.now = NOW + INTERVAL - INSTANT
    assert not make_chore().claim()
    clock.now = NOW + INTERVAL
    assert make_chore().claim()


def test_a_chore_that_takes_longer_than_its_interval_is_due_at_once(
    database: Database, chore: Chore, clock: Clock
) -> None:
    chore.claim()
    clock.advance(2 * INTERVAL)
    chore.finish()
    assert chore_row(database).next_at == clock.now


def test_a_chore_that_went_wrong_is_not_finished(
    database: Database, chore: Chore, clock: Clock
) -> None:
    chore.claim()
    chore.finish("Nova is down")
    assert not chore.finished_before()
    row = chore_row(database)
    assert (row.last_error, row.last_finished_at) == ("Nova is down", None)
    assert row.next_at == NOW + INTERVAL
    clock.advance(INTERVAL)
    assert chore.claim()
    chore.finish()
    assert chore.finished_before()
    assert chore_row(database).last_error is None
    clock.advance(INTERVAL)
    chore.claim()
    chore.finish("Nova is down")
    assert chore.finished_before()


def test_chores_do_not_get_in_each_others_way(
    database: Database, chore: Chore, clock: Clock
) -> None:
    dusting = Chore(database, clock, "dusting", interval=INTERVAL, duration=DURATION)
    assert chore.claim()
    assert dusting.claim()
    dusting.finish()
    assert dusting.finished_before()
    assert not chore.finished_before()
