# SPDX-License-Identifier: Apache-2.0
"""Waiting for a condition, with a deadline and a message that says what was not so."""

from __future__ import annotations

import contextvars
import datetime
import threading
import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")

#: A machine with two cores that runs two clouds is slow at times: deadlines are for the hopeless.
SLOWNESS = 3

#: Set when nobody is interested any more: the session was interrupted, or a sandbox is going down.
cancelled: contextvars.ContextVar[threading.Event | None] = contextvars.ContextVar(
    "cancelled", default=None
)


class NotInTime(AssertionError):
    """What was waited for did not come."""


def utcnow() -> datetime.datetime:
    """Say what time it is: naive UTC, as all dates here."""
    return datetime.datetime.now(datetime.UTC).replace(tzinfo=None)


def wait_for(
    what: str,
    look: Callable[[], Found | None],
    within: float,
    *,
    after: datetime.datetime | None = None,
    every: float = 0.5,
    shown: Callable[[], object] = lambda: "",
) -> Found:
    """Look until there is something, and return it.

    :param what: what is waited for, to be followed by "did not come".
    :param look: returns None, or False, as long as there is nothing.
    :param within: how long that may take on a quiet machine, in seconds.
    :param after: when it is due; ``within`` counts from then on.
    :param every: seconds between two looks.
    :param shown: what to say of the state of things if it does not come.
    :raises NotInTime: it did not come.
    """
    now = utcnow()
    deadline = max(after or now, now) + datetime.timedelta(seconds=within * SLOWNESS)
    stop = cancelled.get() or threading.Event()
    while True:
        found = look()
        if found is not None and found is not False:
            return found
        if utcnow() > deadline:
            raise NotInTime(
                f"{what} did not come within {within:g} s (waited {SLOWNESS} times as long"
                f"{f', from {after:%H:%M:%S} on' if after else ''}). {shown()}"
            )
        if stop.wait(every):
            raise NotInTime(f"{what}: the session is over")


def wait_until(moment: datetime.datetime) -> None:
    """Let time pass, because it is time that something depends on."""
    stop = cancelled.get() or threading.Event()
    if stop.wait(max(0.0, (moment - utcnow()).total_seconds())):
        raise NotInTime("the session is over")


class Stopwatch:
    """How long something takes, in seconds."""

    def __init__(self) -> None:
        self._begun = time.monotonic()

    def read(self) -> float:
        """Return the seconds since it was made."""
        return time.monotonic() - self._begun
