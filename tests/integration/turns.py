# SPDX-License-Identifier: Apache-2.0
"""Taking turns: what breaks what others rely on is done by one scenario at a time."""

from __future__ import annotations

import collections
import datetime
import threading

from tests.integration.waiting import utcnow

#: How long a turn takes that is taken as it comes: it begins only where so much is left until one
#: that somebody has booked.
_LENGTH = datetime.timedelta(seconds=75)


class Turns:
    """A lock that is given to those who wait for it in the order in which they came.

    It can be booked for a certain moment: by then nobody else has it.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._taken = False
        self._waiting: collections.deque[object] = collections.deque()
        self._booked: list[datetime.datetime] = []

    def book(self, moment: datetime.datetime) -> None:
        """Have it free for :meth:`take_booked` at a moment, if that is not too soon."""
        with self._changed:
            self._booked.append(moment)

    def take_booked(self, moment: datetime.datetime, within: float) -> bool:
        """Take the turn that was booked for a moment, which is over then, one way or the other.

        :returns: False if somebody else had theirs for so many seconds all the same.
        """
        with self._changed:
            free = self._changed.wait_for(lambda: not self._taken, within)
            self._booked.remove(moment)
            self._taken = self._taken or free
            self._changed.notify_all()
            return free

    def give_back(self) -> None:
        """Let the next one have theirs."""
        with self._changed:
            self._taken = False
            self._changed.notify_all()

    def __enter__(self) -> None:
        me = object()
        with self._changed:
            self._waiting.append(me)
            got = self._changed.wait_for(lambda: self._may_begin(me), 600)
            self._waiting.remove(me)
            assert got, "it never was this scenario's turn"
            self._taken = True

    def __exit__(self, *exception: object) -> None:
        self.give_back()

    def _may_begin(self, me: object) -> bool:
        done_by = utcnow() + _LENGTH
        return (
            not self._taken
            and self._waiting[0] is me
            and all(done_by <= moment for moment in self._booked)
        )
