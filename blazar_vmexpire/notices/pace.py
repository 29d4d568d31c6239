# SPDX-License-Identifier: Apache-2.0
"""At most so many in any minute: whose turn it is, and when it will be. No clock, no I/O."""

from __future__ import annotations

import collections
import datetime
import itertools
import threading

_MINUTE = datetime.timedelta(minutes=1)
_NOW = datetime.timedelta(0)


class Pace:
    """Gives out turns, each of which is kept for whoever has to wait for it.

    So nobody sleeps on a turn, and nobody who comes back for theirs is put behind those who came
    later. Safe to share between threads.

    :param per_minute: how many turns there are in any minute, at least 1.
    """

    def __init__(self, per_minute: int) -> None:
        self._turns: collections.deque[datetime.datetime] = collections.deque(maxlen=per_minute)
        self._kept: dict[object, datetime.datetime] = {}
        self._guard = threading.Lock()

    def wait(self, what: object, now: datetime.datetime) -> datetime.timedelta:
        """Say how long something has to wait, none meaning that it is its turn now.

        :param what: names it; while it has to wait, its turn is kept.
        :param now: of a clock that goes up.
        """
        with self._guard:
            self._forget(now)
            turn = self._kept.get(what)
            if turn is None:
                turn = self._next(now)
                self._turns.append(turn)
            if turn <= now:
                self._kept.pop(what, None)
                return _NOW
            self._kept[what] = turn
            return turn - now

    def _next(self, now: datetime.datetime) -> datetime.datetime:
        if len(self._turns) < (self._turns.maxlen or 0):
            return max([now, *list(self._turns)[-1:]])
        return max(now, self._turns[0] + _MINUTE)

    def _forget(self, now: datetime.datetime) -> None:
        """Drop turns that nobody came for: another worker may have done it."""
        # They were given out in the order of their time.
        for what in list(itertools.takewhile(lambda w: self._kept[w] < now - _MINUTE, self._kept)):
            del self._kept[what]
