# SPDX-License-Identifier: Apache-2.0
"""How far something is: a bar on a terminal, else a line on stderr now and then."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from blazar_vmexpire.cmd import manage_base


@contextmanager
def bar(what: str, expected: int) -> Iterator[Callable[[int], None]]:
    """Show in the block how far it is.

    :param what: is counted, such as ``servers``.
    :param expected: how many there may be: the bar grows with what turns out to be more.
    :returns: to be called with how many are done.
    """
    if not sys.stderr.isatty():
        lines = manage_base.Progress()
        yield lambda done: lines.show(f"{done} {what}")
        return
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(file=sys.stderr)) as progress:
        task = progress.add_task(what, total=expected or None)
        done = 0

        def show(now: int) -> None:
            nonlocal done
            done = now
            progress.update(task, completed=now, total=max(expected, now))

        yield show
        progress.update(task, completed=done, total=done)
