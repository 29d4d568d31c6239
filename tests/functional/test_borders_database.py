# SPDX-License-Identifier: Apache-2.0
"""The connection to the database breaks: at any statement, at random, for days."""

from __future__ import annotations

import time

import oslo_db.api
import pytest

from tests.fault_proxy import CUT, LOST, RESET, Fault
from tests.functional.borders import Borders, Ways
from tests.functional.broken_ends import OPTIONS, break_each
from tests.functional.world import World

pytestmark = [
    pytest.mark.options(OPTIONS),
    # SQLite has no connection that could break.
    pytest.mark.databases("mariadb", "postgresql"),
]

#: What is of interest: not what a connection is tried and prepared with, each time it is used.
STATEMENT = rb"^.{4,5}(?!SELECT 1\0)(SELECT|INSERT|UPDATE|DELETE|COMMIT)"
COMMIT = rb"^.{4,5}COMMIT"


@pytest.fixture
def ways(borders: Borders) -> Ways:
    """Our plug-in goes through the proxies."""
    return borders.ways


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let oslo.db wait for 5 ms before it tries again, instead of seconds of real time."""

    class Shortly:
        @staticmethod
        def sleep(seconds: float) -> None:
            time.sleep(min(seconds, 0.005))

    monkeypatch.setattr(oslo_db.api, "time", Shortly)


def test_the_answer_to_each_commit_of_an_end_is_lost(world: World, borders: Borders) -> None:
    """What was to be committed is, but the worker is told that it is not."""
    assert break_each(world, borders["database"], LOST, COMMIT, 60) > 20


@pytest.mark.long
@pytest.mark.parametrize("fault", [RESET, CUT, LOST], ids=lambda fault: fault.name)
def test_the_connection_breaks_at_each_statement_of_an_end(
    world: World, borders: Borders, fault: Fault
) -> None:
    """Before it, in the middle of it, and when it has been executed."""
    assert break_each(world, borders["database"], fault, STATEMENT, 200) > 80
