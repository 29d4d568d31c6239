# SPDX-License-Identifier: Apache-2.0
"""What is still to be said of a VM whose lease is over, or that is to have none."""

from __future__ import annotations

import datetime

from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db.api import Expiration, NoticeRow
from blazar_vmexpire.worker import claims
from blazar_vmexpire.worker.telling import Telling
from blazar_vmexpire.worker.tools import Tools


class LastWords:
    """Sends the notice of what was done; those of an end to come have been overtaken by it.

    :param kinds: of that notice.
    """

    def __init__(self, tools: Tools, telling: Telling, *kinds: str) -> None:
        self._tools = tools
        self._telling = telling
        self._kinds = kinds

    def say(self, row: Expiration, why_no_others: str) -> bool:
        """Try to send what is due; True when the pass is over with that.

        :param why_no_others: why other notices that wait need not be sent any more.
        """
        waiting = self._waiting(row)
        overtaken = [notice for notice in waiting if notice.kind not in self._kinds]
        if overtaken:
            self._telling.give_up(overtaken, why_no_others)
        now = self._tools.clock()
        for notice in waiting:
            if notice.kind in self._kinds and notice.due_at and notice.due_at <= now:
                self._telling.deliver(row, notice)
                with self._tools.database.begin() as connection:
                    claims.finish(connection, row, now)
                return True
        return False

    def due_at(self, row: Expiration) -> datetime.datetime | None:
        """Say when there is something to say again; None: never."""
        dates = [n.due_at for n in self._waiting(row) if n.due_at and n.kind in self._kinds]
        return min(dates, default=None)

    def _waiting(self, row: Expiration) -> list[NoticeRow]:
        with self._tools.database.begin() as connection:
            return [n for n in db_api.notices_of(connection, row.server_id) if n.due_at]
