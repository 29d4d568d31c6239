# SPDX-License-Identifier: Apache-2.0
"""A queue of rows with two workers before it, a chore, and the time that is theirs."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db.api import Expiration
from blazar_vmexpire.db.engine import Database
from blazar_vmexpire.db.models import expirations
from blazar_vmexpire.worker.claims import Chore, Claims

NOW = datetime.datetime(2026, 3, 2, 10, 0)
DURATION = timedelta(minutes=2)
INSTANT = timedelta(microseconds=1)
#: Between two runs of the chore.
INTERVAL = timedelta(minutes=15)

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


@pytest.fixture
def make_chore(database: Database, clock: Clock) -> Callable[[], Chore]:
    """Return a function that makes the same chore for one more worker."""
    return lambda: Chore(database, clock, "sweeping", interval=INTERVAL, duration=DURATION)


@pytest.fixture
def chore(make_chore: Callable[[], Chore]) -> Chore:
    """A chore."""
    return make_chore()
