# SPDX-License-Identifier: Apache-2.0
"""Figures, what they should be, and how they are shown."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True)
class Figure:
    """Something that was measured.

    :ivar what: in words, with the size of it.
    :ivar value: in ``unit``; the median where it was measured several times.
    :ivar at_least: the target, if there is one: not less than this.
    :ivar at_most: the target, if there is one: not more than this.
    :ivar raw: what it was reckoned from.
    """

    what: str
    value: float
    unit: str
    at_least: float | None = None
    at_most: float | None = None
    raw: Any = None

    @property
    def held(self) -> bool | None:
        """Whether it is what it should be; None when nothing was said."""
        if self.at_least is not None:
            return self.value >= self.at_least
        if self.at_most is not None:
            return self.value <= self.at_most
        return None

    def cells(self) -> tuple[str, str, str, str]:
        """Say what, figure, target, held."""
        target = ""
        if self.at_least is not None:
            target = f"at least {_number(self.at_least)}"
        elif self.at_most is not None:
            target = f"at most {_number(self.at_most)}"
        held = {True: "held", False: "MISSED", None: ""}[self.held]
        return self.what, f"{_number(self.value)} {self.unit}", target, held


class Progress:
    """Says what is being done, and since when. Other processes take it along.

    :param began: ``time.monotonic()`` when it all began.
    """

    def __init__(self, began: float) -> None:
        self._began = began

    def __call__(self, line: str) -> None:
        """Say it, on a line of standard error."""
        sys.stderr.write(f"[{time.monotonic() - self._began:4.0f} s] {line}\n")
        sys.stderr.flush()


_HEAD = ("what", "figure", "target", "held?")


def table(figures: Sequence[Figure]) -> str:
    """Lay the figures out; what was missed is said once more below."""
    rows = [_HEAD, *(figure.cells() for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    lines = [
        f"{what:<{widths[0]}}  {figure:>{widths[1]}}  {target:>{widths[2]}}  {held}".rstrip()
        for what, figure, target, held in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    missed = [figure for figure in figures if figure.held is False]
    if missed:
        lines += ["", *(f"MISSED: {_sentence(figure)}" for figure in missed)]
    elif any(figure.held for figure in figures):
        lines += ["", "All targets held."]
    return "\n".join(lines) + "\n"


def write_json(path: pathlib.Path, figures: Sequence[Figure], about: dict[str, Any]) -> None:
    """Write the figures with all they were reckoned from.

    :param about: what was measured on, and when.
    """
    content = {
        **about,
        "figures": [{**dataclasses.asdict(figure), "held": figure.held} for figure in figures],
    }
    path.write_text(json.dumps(content, indent=2) + "\n")


def _sentence(figure: Figure) -> str:
    what, value, target, _ = figure.cells()
    return f"{what} is {value}, should be {target}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 20 else f"{value:.2f}".rstrip("0").rstrip(".")
