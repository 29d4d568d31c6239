# SPDX-License-Identifier: Apache-2.0
"""How long each step took, and how it ended."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

DONE = "ok"
FAILED = "FAILED"
INTERRUPTED = "interrupted"


@dataclass
class Step:
    """One line of the summary. seconds: of the wall clock."""

    title: str
    seconds: float
    outcome: str


class Timings:
    """The steps so far, in their order."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.steps: list[Step] = []
        self._clock = clock
        self._started = clock()

    @property
    def total(self) -> float:
        """Seconds since the beginning."""
        return self._clock() - self._started

    @property
    def all_held(self) -> bool:
        """Whether every step came to its end."""
        return all(step.outcome == DONE for step in self.steps)

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Time what is done inside; what it raises is noted and goes on its way."""
        started = self._clock()
        outcome = FAILED
        try:
            yield
            outcome = DONE
        except KeyboardInterrupt:
            outcome = INTERRUPTED
            raise
        finally:
            self.steps.append(Step(title, self._clock() - started, outcome))


def spoken(seconds: float) -> str:
    """`0.4 s`, `31 s` or `4 min 05 s`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60:02d} s"
