# SPDX-License-Identifier: Apache-2.0
"""What all workers share of the brake: on each database, by two that do not know of each other."""

from __future__ import annotations

import concurrent.futures
import contextlib
import datetime
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from oslo_config import cfg

from blazar_vmexpire import brake
from blazar_vmexpire.brake import Brake, Kind
from blazar_vmexpire.conf import opts
from blazar_vmexpire.db.engine import Database, retried
from blazar_vmexpire.db.models import brake as brakes
from blazar_vmexpire.db.models import expirations, passes
from blazar_vmexpire.exceptions import Braked
from blazar_vmexpire.lifecycle import State
from tests import databases

pytestmark = pytest.mark.every_database

NOW = datetime.datetime(2026, 3, 2, 10, 0)
HOUR = timedelta(hours=1)
PACE = 7


@pytest.fixture
def conf() -> cfg.ConfigOpts:
    """Options under which seven may go in an hour."""
    made = cfg.ConfigOpts()
    opts.register_opts(made)
    made([], default_config_files=[], default_config_dirs=[])
    made.set_override("deletions_per_hour", PACE, group="vmexpire_brake")
    made.set_override("deletions_share", 0.0, group="vmexpire_brake")
    return made


@pytest.fixture
def control(conf: cfg.ConfigOpts) -> Brake:
    """The brake under these options."""
    return Brake(conf)


@pytest.fixture
def workers(database_url: str) -> Iterator[list[Database]]:
    """The connections of two workers."""
    made = [databases.connect(database_url) for _ in range(2)]
    yield made
    for each in made:
        each.engine.dispose()


def add(database: Database, count: int, state: State, **columns: Any) -> list[str]:
    """Add VMs whose end has come."""
    server_ids = [str(uuid.uuid4()) for _ in range(count)]
    with database.begin() as connection:
        connection.execute(
            expirations.insert(),
            [
                {"server_id": server_id, "state": state.value, "ends_at": NOW, **columns}
                for server_id in server_ids
            ],
        )
    return server_ids


def counted(database: Database, kind: Kind) -> list[datetime.datetime]:
    """Return when what is counted was done."""
    with database.begin() as connection:
        return list(
            connection.scalars(
                sa.select(passes.c.at).where(passes.c.kind == kind).order_by(passes.c.at)
            )
        )


def most_in_an_hour(moments: Sequence[datetime.datetime]) -> int:
    """Say how many came within the hour in which most did."""
    return max(sum(1 for m in moments if begin <= m < begin + HOUR) for begin in moments)


def at_once(workers: Sequence[Database], work: Callable[[Database, str], None]) -> None:
    """Have two workers try many times each, as fast as they can."""
    ready = threading.Barrier(len(workers))

    def run(database: Database) -> None:
        ready.wait(10)
        for _ in range(PACE * 2):
            work(database, str(uuid.uuid4()))

    with concurrent.futures.ThreadPoolExecutor(len(workers)) as pool:
        for done in [pool.submit(run, database) for database in workers]:
            done.result()


def test_two_workers_never_begin_more_ends_than_may_in_any_hour(
    database: Database, workers: list[Database], control: Brake
) -> None:
    now = NOW

    @retried
    def begin(mine: Database, server_id: str) -> None:
        with mine.begin() as connection:
            if control.slots(connection, now).free:
                control.begin_ends(connection, [server_id], now)

    for minutes in range(0, 181, 30):
        now = NOW + timedelta(minutes=minutes)
        at_once(workers, begin)
    moments = counted(database, Kind.END)
    assert most_in_an_hour(moments) == PACE
    # All of it was used, too: at the beginning and after each whole hour.
    assert len(moments) == 4 * PACE


def test_two_workers_never_ask_for_more_deletions_than_may_be_in_any_hour(
    database: Database, workers: list[Database], control: Brake
) -> None:
    now = NOW

    @retried
    def delete(mine: Database, server_id: str) -> None:
        with contextlib.suppress(Braked), mine.begin() as connection:
            control.begin_deletion(connection, server_id, now, repeated=False)

    for minutes in range(0, 181, 30):
        now = NOW + timedelta(minutes=minutes)
        at_once(workers, delete)
    moments = counted(database, Kind.DELETION)
    assert most_in_an_hour(moments) == PACE
    assert len(moments) == 4 * PACE


def test_what_was_rolled_back_does_not_count(database: Database, control: Brake) -> None:
    with database.engine.connect() as connection:
        control.begin_deletion(connection, "x", NOW, repeated=False)
        connection.rollback()
    assert counted(database, Kind.DELETION) == []


def test_a_deletion_that_is_asked_again_counts_once_and_finds_room(
    database: Database, control: Brake
) -> None:
    with database.begin() as connection:
        for number in range(PACE):
            control.begin_deletion(connection, str(number), NOW, repeated=False)
        control.begin_deletion(connection, "0", NOW, repeated=True)
        with pytest.raises(Braked, match="7 were deleted in the last hour") as braked:
            control.begin_deletion(connection, "one more", NOW, repeated=False)
    assert braked.value.until == NOW + HOUR
    assert len(counted(database, Kind.DELETION)) == PACE


def test_of_a_big_cloud_a_share_may_go(
    database: Database, conf: cfg.ConfigOpts, control: Brake
) -> None:
    conf.set_override("deletions_share", 2.5, group="vmexpire_brake")
    add(database, 390, State.ACTIVE)
    add(database, 10, State.VANISHED)
    add(database, 100, State.DELETED)
    add(database, 100, State.EXEMPT)
    with database.begin() as connection:
        status = control.status(connection, NOW)
        assert (status.known, status.pace) == (400, 10)
        assert control.slots(connection, NOW).free == 10


def test_a_trip_stops_both_and_a_release_lets_them_go_on(
    workers: list[Database], control: Brake
) -> None:
    one, other = workers
    with one.begin() as connection:
        assert control.trip(connection, reason="a test", by="root", now=NOW)
        assert not control.trip(connection, reason="another", by="root", now=NOW)
    with other.begin() as connection:
        assert control.tripped(connection)
        assert control.slots(connection, NOW).free == 0
        for repeated in (False, True):
            with pytest.raises(Braked, match="has tripped"):
                control.begin_deletion(connection, "x", NOW, repeated=repeated)
        assert control.release(connection, reason="done", by="root", now=NOW + HOUR)
        assert not control.release(connection, reason="done", by="root", now=NOW + HOUR)
    with one.begin() as connection:
        status = control.status(connection, NOW + HOUR)
        assert (status.tripped_at, status.released_by) == (None, "root")
        assert control.slots(connection, NOW + HOUR).free == PACE
        control.begin_deletion(connection, "x", NOW + HOUR, repeated=False)


def test_of_two_that_watch_one_trips_it(
    database: Database, workers: list[Database], control: Brake
) -> None:
    add(database, PACE * 8, State.NOTICED)
    tripped: list[str] = []

    @retried
    def watch(mine: Database, name: str) -> None:
        with mine.begin() as connection:
            if control.watch(connection, NOW) is not None:
                tripped.append(name)

    at_once(workers, watch)
    assert len(tripped) == 1
    with database.begin() as connection:
        row = connection.execute(sa.select(brakes)).one()
    assert row.reason == "49 servers wait for their end, more than 42 (the pace is 7 an hour)"
    assert '"count": 56' in row.details


def test_vanished_ones_are_counted_once_they_are_unexplained(
    database: Database, control: Brake
) -> None:
    add(database, 50, State.VANISHED)
    add(database, PACE, State.VANISHED, unexplained_at=NOW)
    with database.begin() as connection:
        assert control.watch(connection, NOW) is None
        assert not control.holds_vanished(connection, NOW)
    add(database, 1, State.VANISHED, unexplained_at=NOW)
    with database.begin() as connection:
        assert control.holds_vanished(connection, NOW)
        status = control.watch(connection, NOW)
        assert status is not None
        assert status.vanished == PACE + 1
        assert control.holds_vanished(connection, NOW)


def test_what_was_accepted_is_accepted_until_it_has_become_less(
    database: Database, control: Brake
) -> None:
    def waits(count: int) -> None:
        with database.begin() as connection:
            connection.execute(sa.delete(expirations))
        add(database, count, State.NOTICED, waiting_since=NOW)
        with database.begin() as connection:
            connection.execute(sa.update(expirations).values(ends_at=NOW + 9 * HOUR))

    def trips() -> bool:
        with database.begin() as connection:
            return control.watch(connection, NOW) is not None

    waits(100)
    assert trips()
    with database.begin() as connection:
        control.release(connection, reason=None, by="root", now=NOW)
    assert not trips()
    waits(100 + 6 * PACE)
    assert not trips()
    waits(50)
    assert not trips()
    waits(50 + 6 * PACE)
    assert not trips()
    waits(50 + 6 * PACE + 1)
    assert trips()


def test_that_it_was_told_of_an_older_trip_is_not_told_of_this_one(
    database: Database, control: Brake
) -> None:
    with database.begin() as connection:
        control.trip(connection, reason="first", by=None, now=NOW)
        control.release(connection, reason=None, by="root", now=NOW + HOUR)
        control.trip(connection, reason="second", by=None, now=NOW + 2 * HOUR)
        control.told(connection, NOW, NOW + 2 * HOUR)
        assert control.status(connection, NOW).told_at is None
        control.told(connection, NOW + 2 * HOUR, NOW + 3 * HOUR)
        assert control.status(connection, NOW).told_at == NOW + 3 * HOUR


def test_only_what_is_old_is_forgotten(database: Database, control: Brake) -> None:
    with database.begin() as connection:
        control.begin_ends(connection, ["a", "b"], NOW)
        control.begin_ends(connection, ["c"], NOW + HOUR)
        brake.forget_passes(connection, NOW + timedelta(minutes=1))
    assert counted(database, Kind.END) == [NOW + HOUR]
