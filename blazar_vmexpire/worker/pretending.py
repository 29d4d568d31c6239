# SPDX-License-Identifier: Apache-2.0
"""A dry run: saying what would be done to a VM, and letting it live on.

Whatever slips through is stopped at the border: the session to the cloud sends no request that
could change something (:mod:`blazar_vmexpire.cloud.session`).
"""

from __future__ import annotations

import logging as python_logging

from blazar_vmexpire import lifecycle
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.lifecycle import Event, State
from blazar_vmexpire.worker.case import Case
from blazar_vmexpire.worker.keeping import Keeping
from blazar_vmexpire.worker.tools import Tools

_OURS = "blazar_vmexpire"
_MARK = "[dry run] "


class Pretending:
    """What is said instead of what would be done."""

    def __init__(self, tools: Tools, keeping: Keeping) -> None:
        self._tools = tools
        self._keeping = keeping

    def quarantine(self, case: Case) -> None:
        """Say, once an end, that the VM would be locked and stopped."""
        self._say(case, "quarantine")

    def before_end(self, case: Case) -> None:
        """Say, once an end, that the before-end action would run."""
        self._say(case, case.terms.before_end_action)

    def end(self, case: Case) -> None:
        """Say that the VM would be ended, and let its lease go on for another first term.

        :raises blazar_vmexpire.exceptions.ClaimLost: somebody else changed the row meanwhile.
        """
        row, action = case.row, case.terms.on_end_action
        state = row.state
        if state == State.NOTICED:
            state = lifecycle.after(state, Event.EXTEND).value
        self._keeping.postpone(
            case,
            lifecycle.first_end(case.now, case.terms),
            f"dry run: its end has come, and {action} would have begun",
            state=state,
            generation=row.generation + 1,
        )

    def _say(self, case: Case, what: str) -> None:
        with self._tools.database.begin() as connection:
            db_api.record_once(
                connection, case.row, "dry_run", case.now, would=what, ends_at=case.row.ends_at
            )


class _Mark(python_logging.Filter):
    """Marks our lines."""

    def filter(self, record: python_logging.LogRecord) -> bool:
        """Mark a line, once whatever handlers it passes; let all lines through."""
        if record.name.startswith(_OURS) and not str(record.msg).startswith(_MARK):
            record.msg = f"{_MARK}{record.msg}"
        return True


def mark_log_lines() -> None:
    """Have every line that we log say that it is a dry run."""
    for handler in python_logging.getLogger().handlers:
        handler.addFilter(_Mark())
