# SPDX-License-Identifier: Apache-2.0
"""The queue: a row is one worker's own, and what is no longer its own it cannot write."""

from __future__ import annotations

import concurrent.futures
import datetime
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from oslo_db import exception as oslo_db_exception

from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db.api import Expiration
from blazar_vmexpire.db.engine import Database, retried
from blazar_vmexpire.db.models import chores, expirations
from blazar_vmexpire.exceptions import ClaimLost
from blazar_vmexpire.worker import claims
from blazar_vmexpire.worker.claims import Chore, Claims

pytestmark = pytest.mark.every_database

NOW = datetime.datetime(2026, 3, 2, 10, 0)
DURATION = timedelta(minutes=2)
INSTANT = timedelta(microseconds=1)

#: Where two can write at one moment.
SERVERS = pytest.mark.databases("mariadb", "postgresql")


class Clock:
    """A time that stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime.datetime:
        """Say what time it is."""
        return self.now

    def advance(self, duration: timedelta) -> None:
        """Move on."""
        self.now += duration


@pytest.fixture
def clock() -> Clock:
    """The time of all workers."""
    return Clock()


@pytest.fixture
def mine(database: Database, clock: Clock) -> Claims:
    """A worker's claims."""
    return Claims(database, clock, DURATION)


@pytest.fixture
def theirs(database: Database, clock: Clock) -> Claims:
    """Another worker's claims."""
    return Claims(database, clock, DURATION)


def add(database: Database, *due: datetime.datetime | None, **columns: Any) -> list[str]:
    """Add a row for each date, and return their keys."""
    keys = [str(uuid.uuid4()) for _ in due]
    with database.begin() as connection:
        connection.execute(
            expirations.insert(),
            [
                {"server_id": key, "state": "active", "next_at": next_at, **columns}
                for key, next_at in zip(keys, due, strict=True)
            ],
        )
    return keys


def read(database: Database, key: str) -> Expiration:
    """Read a row."""
    with database.begin() as connection:
        found = db_api.get(connection, key)
    assert found is not None
    return found


def extend(database: Database, key: str) -> None:
    """Raise a row's generation, as an extension does."""
    with database.begin() as connection:
        connection.execute(
            sa.update(expirations)
            .where(expirations.c.server_id == key)
            .values(generation=expirations.c.generation + 1, next_at=NOW + timedelta(days=1))
        )


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


# Finishing


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


# Deadlocks


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


# Chores

INTERVAL = timedelta(minutes=15)


@pytest.fixture
def make_chore(database: Database, clock: Clock) -> Callable[[], Chore]:
    """Return a function that makes the same chore for one more worker."""
    return lambda: Chore(database, clock, "sweeping", interval=INTERVAL, duration=DURATION)


@pytest.fixture
def chore(make_chore: Callable[[], Chore]) -> Chore:
    """A chore."""
    return make_chore()


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
