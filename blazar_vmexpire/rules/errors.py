# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a rules file, and where."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from blazar_vmexpire.exceptions import ConfigError


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong."""

    sentence: str
    """What is wrong, with the value, and what would be right."""
    line: int | None = None
    """Counted from 1; None: it is about the file as a whole."""
    rule: str | None = None
    """The rule's name, if it is about a rule that has one."""


class RulesError(ConfigError):
    """A rules file cannot be used.

    :param source: the file's path.
    :param problems: all that was found, not only the first.
    """

    def __init__(self, source: str, problems: Iterable[Problem]) -> None:
        self.source = source
        self.problems = tuple(sorted(problems, key=lambda problem: problem.line or 0))
        super().__init__("\n".join(self._written(problem) for problem in self.problems))

    def _written(self, problem: Problem) -> str:
        where = self.source
        if problem.line is not None:
            where += f", line {problem.line}"
        if problem.rule is not None:
            where += f", rule {problem.rule!r}"
        return f"{where}: {problem.sentence}"
