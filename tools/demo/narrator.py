# SPDX-License-Identifier: Apache-2.0
"""What the reader sees: narration, commands, their output, mails, waits, the summary.

Colour and lines that are written over appear on a terminal only; NO_COLOR is honoured.
"""

from __future__ import annotations

import os
import re
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from typing import TextIO

from tools.demo.mailbox import Mail
from tools.demo.timing import DONE, Timings, spoken

WIDTH = 88
INDENT = "    "
_COLOURS = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
_ERASE_LINE = "\r\033[K"


class Narrator:
    """Writes to one stream.

    terminal, colour: None to find out
    """

    def __init__(
        self,
        stream: TextIO,
        terminal: bool | None = None,
        colour: bool | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._stream = stream
        dumb = environ.get("TERM", "dumb") == "dumb"
        self.terminal = stream.isatty() and not dumb if terminal is None else terminal
        self._colour = self.terminal and not environ.get("NO_COLOR") if colour is None else colour
        self._passing = False

    # --- the pieces ---

    def heading(self, text: str) -> None:
        self._lines("", self._painted(text, "bold"), self._painted("-" * len(text), "bold"))

    def say(self, text: str) -> None:
        """A paragraph of narration."""
        self._lines(*textwrap.wrap(" ".join(text.split()), WIDTH))

    def detail(self, text: str) -> None:
        """A line that only some readers need."""
        self._lines(self._painted(f"{INDENT}{text}", "dim"))

    def command(self, who: str, argv: Sequence[str]) -> None:
        """A command, as `who` types it."""
        self._lines(self._painted(f"{INDENT}{who}$ {shlex.join(argv)}", "cyan"))

    def output(self, text: str) -> None:
        """What a command said."""
        self._lines(*(f"{INDENT}{line}".rstrip() for line in text.strip("\n").splitlines()))

    def mail(self, mail: Mail) -> None:
        """A mail as it arrived: the headers that people look at, and the whole text."""
        edge = self._painted("|", "yellow")
        lines = [f"{name}: {value}" for name, value in mail.headers] + ["", *mail.text.splitlines()]
        self._lines(*(f"{INDENT}{edge} {line}".rstrip() for line in lines))

    def held(self, claim: str) -> None:
        """Something that was checked, and was so."""
        self._lines(f"{self._painted('[ok]', 'green')} {claim}")

    def failed(self, text: str) -> None:
        """Something that was not so."""
        first, *rest = text.splitlines() or [""]
        self._lines(
            f"{self._painted('[FAILED]', 'red')} {first}", *(INDENT + line for line in rest)
        )

    def waiting(self, text: str) -> None:
        """A line on what is waited for; on a terminal the next line takes its place."""
        if self.terminal:
            line = self._painted(text[:WIDTH], "dim")
            self._stream.write(f"{_ERASE_LINE}{line}")
            self._stream.flush()
            self._passing = True
        else:
            self._lines(text)

    def summary(self, timings: Timings) -> None:
        """The table of all steps."""
        self.heading("Summary")
        width = max(len(step.title) for step in timings.steps)
        for step in timings.steps:
            outcome = self._painted(step.outcome, "green" if step.outcome == DONE else "red")
            self._lines(f"{INDENT}{step.title:<{width}}  {spoken(step.seconds):>12}  {outcome}")
        self._lines(f"{INDENT}{'in all':<{width}}  {spoken(timings.total):>12}")

    # --- writing ---

    def _painted(self, text: str, colour: str) -> str:
        return f"\033[{_COLOURS[colour]}m{text}\033[0m" if self._colour else text

    def _lines(self, *lines: str) -> None:
        if self._passing:
            self._stream.write(_ERASE_LINE)
            self._passing = False
        self._stream.write("".join(f"{line}\n" for line in lines))
        self._stream.flush()


def columns(table: str, names: Sequence[str], width: int = 150) -> str:
    """Some columns of a table whose header stands over them; lines past `width` are cut.

    A table that lacks one of the columns is left whole, but for the cut.
    """
    lines = table.rstrip("\n").splitlines()
    starts = {match[0]: match.start() for match in re.finditer(r"\S+", lines[0])} if lines else {}
    if set(names) <= set(starts):
        ends = dict(zip(starts, [*list(starts.values())[1:], None], strict=True))
        lines = ["".join(line[starts[name] : ends[name]] for name in names) for line in lines]
    return "\n".join(line if len(line) <= width else line[: width - 3] + "..." for line in lines)
