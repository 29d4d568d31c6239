# SPDX-License-Identifier: Apache-2.0
"""The turns that scenarios take which break what others rely on."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.integration.turns import Turns
from tests.integration.waiting import utcnow

LONG = datetime.timedelta(minutes=10)


@pytest.fixture
def turns() -> Turns:
    return Turns()


class Player:
    """Takes a turn as it comes, and has it until it is told to go."""

    def __init__(self, turns: Turns) -> None:
        self.has_it = threading.Event()
        self._go = threading.Event()
        self._thread = threading.Thread(target=self._play, args=(turns,), daemon=True)
        self._thread.start()

    def _play(self, turns: Turns) -> None:
        with turns:
            self.has_it.set()
            self._go.wait(60)

    def go(self) -> None:
        self._go.set()
        self._thread.join(60)


@pytest.fixture
def enters(turns: Turns) -> Iterator[Callable[[], Player]]:
    """Let somebody come who wants a turn."""
    there: list[Player] = []

    def enter() -> Player:
        there.append(Player(turns))
        return there[-1]

    yield enter
    for player in there:
        player.go()


def test_one_at_a_time(turns: Turns, enters: Callable[[], Player]) -> None:
    first = enters()
    assert first.has_it.wait(10)
    second = enters()
    assert not second.has_it.wait(0.2)
    first.go()
    assert second.has_it.wait(10)


def test_nobody_begins_who_would_not_be_done_in_time(
    turns: Turns, enters: Callable[[], Player]
) -> None:
    soon = utcnow() + datetime.timedelta(seconds=30)
    turns.book(soon)
    other = enters()
    assert not other.has_it.wait(0.2)
    assert turns.take_booked(soon, within=10)
    assert not other.has_it.wait(0.2)
    turns.give_back()
    assert other.has_it.wait(10)


def test_what_is_booked_for_later_keeps_nobody_waiting(
    turns: Turns, enters: Callable[[], Player]
) -> None:
    later = utcnow() + LONG
    turns.book(later)
    other = enters()
    assert other.has_it.wait(10)
    # Who takes too long has it all the same, and what was booked is over.
    assert not turns.take_booked(later, within=0.1)
    other.go()
    assert enters().has_it.wait(10)
