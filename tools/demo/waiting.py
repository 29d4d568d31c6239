# SPDX-License-Identifier: Apache-2.0
"""Waiting that the reader can see."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TypeVar

from tools.demo import terms
from tools.demo.checks import NotSo
from tools.demo.narrator import Narrator

Found = TypeVar("Found")

#: How often a line is written where it cannot be written over.
_EVERY = timedelta(seconds=15)


def countdown(what: str, now: datetime, due: datetime | None) -> str:
    """A line on what is waited for, and the time left."""
    if due is None:
        return f"... waiting for {what}"
    left = round((due - now).total_seconds())
    if left <= 0:
        return f"... waiting for {what}: at any moment"
    return f"... waiting for {what}: due {due:%H:%M:%S} UTC, {left // 60}:{left % 60:02d} left"


def wait_for(
    narrator: Narrator,
    what: str,
    look: Callable[[], Found | None],
    patience: timedelta,
    due: datetime | None = None,
    clock: Callable[[], datetime] = terms.now,
    sleep: Callable[[float], None] = time.sleep,
    every: float = 0.5,
) -> Found:
    """Look until something is found.

    look: returns None as long as there is nothing
    patience: how long to wait after `due` (from now, if there is no `due`) before NotSo is raised
    """
    started = shown = clock()
    end = max(due or started, started) + patience
    first = True
    while (found := look()) is None:
        now = clock()
        if now > end:
            raise NotSo(f"{what} comes", f"nothing by {now:%H:%M:%S} UTC")
        # What is there within a moment needs no line.
        if (
            narrator.terminal
            or (first and now - started > timedelta(seconds=2))
            or (now - shown >= _EVERY)
        ):
            narrator.waiting(countdown(what, now, due))
            shown, first = now, False
        sleep(every)
    return found
