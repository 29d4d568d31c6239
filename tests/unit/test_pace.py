# SPDX-License-Identifier: Apache-2.0
"""At most so many turns in a minute, and no turn is lost by waiting for it."""

from __future__ import annotations

import datetime

from hypothesis import given
from hypothesis import strategies as st

from blazar_vmexpire.notices.pace import Pace

START = datetime.datetime(2026, 12, 11, 4, 50)
NONE = datetime.timedelta(0)
MINUTE = datetime.timedelta(minutes=1)


def seconds(count: float) -> datetime.timedelta:
    return datetime.timedelta(seconds=count)


def test_the_first_go_at_once_and_the_others_a_minute_after_them() -> None:
    pace = Pace(2)
    waits = [pace.wait(n, START + seconds(n)) for n in range(5)]
    assert waits == [NONE, NONE, seconds(58), seconds(58), seconds(116)]


def test_a_turn_is_kept_for_whom_it_was_promised() -> None:
    pace = Pace(1)
    assert pace.wait("a", START) == NONE
    assert pace.wait("b", START) == MINUTE
    assert pace.wait("c", START) == 2 * MINUTE
    assert pace.wait("b", START + seconds(20)) == seconds(40)
    later = START + MINUTE
    assert pace.wait("d", later) == 2 * MINUTE
    assert pace.wait("b", later) == NONE
    assert pace.wait("c", later) == MINUTE


def test_a_turn_that_nobody_comes_for_is_dropped() -> None:
    pace = Pace(1)
    pace.wait("a", START)
    pace.wait("b", START)
    later = START + 10 * MINUTE
    assert pace.wait("c", later) == NONE
    assert pace.wait("b", later) == MINUTE


def test_an_idle_time_is_not_made_up_for() -> None:
    pace = Pace(3)
    waits = [pace.wait(n, START + 60 * MINUTE) for n in range(4)]
    assert waits == [NONE, NONE, NONE, MINUTE]


@given(st.integers(1, 5), st.lists(st.integers(0, 90), max_size=60))
def test_never_more_in_any_minute(per_minute: int, pauses: list[int]) -> None:
    pace = Pace(per_minute)
    now, sent = START, []
    waiting: dict[int, datetime.datetime] = {}
    for number, pause in enumerate(pauses):
        now += seconds(pause)
        # Who waits comes back to the second.
        for one, turn in sorted(waiting.items(), key=lambda item: item[1]):
            if turn <= now:
                assert pace.wait(one, turn) == NONE
                sent.append(turn)
                del waiting[one]
        wait = pace.wait(number, now)
        if wait:
            waiting[number] = now + wait
        else:
            sent.append(now)
    sent += waiting.values()
    sent.sort()
    for first, last in zip(sent, sent[per_minute:], strict=False):
        assert last - first >= MINUTE
