# SPDX-License-Identifier: Apache-2.0
"""Terms that have changed since a VM was last looked at: what follows for its end.

A first term follows the terms: a longer one applies at once, a shorter one never cuts below what
its owner needs to be told in time. An end that somebody has moved stays where it is. Whoever was
told that something else would be done to their VM is told anew.
"""

from __future__ import annotations

import datetime
from typing import Any

from blazar_vmexpire import adoption, extension, lifecycle
from blazar_vmexpire.conf.types import format_duration
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.lifecycle import Event, State
from blazar_vmexpire.notices import Saying
from blazar_vmexpire.worker import claims
from blazar_vmexpire.worker.case import Case
from blazar_vmexpire.worker.keeping import Keeping
from blazar_vmexpire.worker.tools import Tools


class ChangedTerms:
    """The part of tending a VM that sees to it that its end follows its terms."""

    def __init__(self, tools: Tools, keeping: Keeping) -> None:
        self._tools = tools
        self._keeping = keeping

    def follow(self, case: Case) -> bool:
        """Do what follows from changed terms; True when that was all for this pass.

        :raises blazar_vmexpire.exceptions.ClaimLost: somebody else changed the row meanwhile.
        :raises blazar_vmexpire.exceptions.LeaseBusy: Blazar has begun to change the lease.
        """
        row, verdict = case.row, case.verdict
        if verdict.digest == row.terms_digest:
            return False
        new_end = self._new_end(case)
        if new_end is not None and new_end != row.ends_at:
            self._move(case, new_end)
            return True
        with self._tools.database.begin() as connection:
            claims.finish(connection, row, case.now, **self._judged(case), **self._told_anew(case))
            if row.terms_digest is not None:
                db_api.record(
                    connection,
                    row,
                    "terms_changed",
                    case.now,
                    rule=verdict.rule,
                    old_rule=row.rule,
                    on_end_action=verdict.terms.on_end_action,
                )
        return True

    def _judged(self, case: Case) -> dict[str, Any]:
        columns: dict[str, Any] = adoption.judged(case.verdict)
        if case.row.term_seconds is not None:
            columns["term_seconds"] = _seconds(case.terms.lease_duration)
        return columns

    @staticmethod
    def _new_end(case: Case) -> datetime.datetime | None:
        """Say where the end of a first term goes; None where it is not one."""
        row = case.row
        if row.term_seconds is None or row.ends_at is None:
            return None
        return lifecycle.followed_end(
            row.ends_at,
            datetime.timedelta(seconds=row.term_seconds),
            case.now,
            case.terms,
            quarantined=row.state == State.QUARANTINED,
        )

    def _move(self, case: Case, new_end: datetime.datetime) -> None:
        row, terms = case.row, case.terms
        assert row.ends_at is not None  # noqa: S101 - every live row has it
        earlier = new_end < row.ends_at
        duration = format_duration(terms.lease_duration)
        if case.verdict.rule is None:
            reason = Saying(
                "the terms have changed: a first term is %(term)s now", {"term": duration}
            )
        else:
            reason = Saying(
                "the terms have changed: a first term is %(term)s now (rule '%(rule)s')",
                {"term": duration, "rule": case.verdict.rule},
            )
        # What was told of the old end counts for nothing; what was begun is undone.
        begun = extension.begun(row)
        state = lifecycle.after(row.state, Event.UNDO if begun else Event.EXTEND)
        told_of_the_old = row.state != State.ACTIVE
        self._keeping.postpone(
            case,
            new_end,
            reason,
            notice="earlier" if earlier else "moved" if told_of_the_old else None,
            **self._judged(case),
            state=state.value,
            generation=row.generation + 1,
        )

    @staticmethod
    def _told_anew(case: Case) -> dict[str, Any]:
        """Say what is written so that an owner is told anew of what will be done, if need be."""
        if not case.told_otherwise:
            return {}
        row = case.row
        columns: dict[str, Any] = {"generation": row.generation + 1}
        if row.state == State.NOTICED:
            columns["state"] = lifecycle.after(row.state, Event.EXTEND).value
        return columns


def _seconds(duration: datetime.timedelta) -> int:
    return round(duration.total_seconds())
