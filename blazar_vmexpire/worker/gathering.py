# SPDX-License-Identifier: Apache-2.0
"""Which notices wait to be told in a digest, and until when."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence

from oslo_log import log as logging

from blazar_vmexpire import lifecycle
from blazar_vmexpire.daily import Daily
from blazar_vmexpire.db import digests
from blazar_vmexpire.db.api import Expiration, NoticeRow
from blazar_vmexpire.lifecycle import Agenda, Terms
from blazar_vmexpire.notices import DIGESTED, Kind
from blazar_vmexpire.worker.case import Case
from blazar_vmexpire.worker.tools import Tools

LOG = logging.getLogger(__name__)

#: Where the next digest would be too late: how long notices are gathered for one that comes early.
#: VMs that were made together do not end in the same minute.
_EARLY = datetime.timedelta(minutes=10)
#: However late it is: those that become due together shall be told together.
_AT_LEAST = datetime.timedelta(seconds=30)


class Gathering:
    """Has notices wait for a digest, as long as they are of use then."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    def gather(self, case: Case) -> None:
        """Have those of a VM's notices wait that would be sent now, and can wait."""
        daily = self._tools.conf.vmexpire_mail.digest
        now = case.now
        new = [notice for notice in case.notices if _is_new(notice, now)]
        if daily is None or not new or not self._has_company(case.row, new):
            return
        for notice in new:
            until = told_at(daily, case.plan, now, case.accepted_at, case.terms)
            with self._tools.database.begin() as connection:
                digests.let_wait(connection, notice.id, until)
            LOG.debug(
                "Server %s: notice %s waits for the digest of %s UTC",
                case.row.server_id,
                notice.kind,
                until,
            )
            put_off = dataclasses.replace(notice, digest=digests.WAITING, due_at=until)
            case.notices[case.notices.index(notice)] = put_off

    def _has_company(self, row: Expiration, new: Sequence[NoticeRow]) -> bool:
        """Say whether its owner has other VMs: one alone is told of at its own time.

        The first of many that are made together is alone for a moment.
        """
        if row.user_id is None:
            return False
        if any(notice.kind == Kind.ADOPTED for notice in new):
            return True
        with self._tools.database.begin() as connection:
            return digests.has_several(connection, row.user_id)


def told_at(
    daily: Daily,
    plan: Agenda,
    now: datetime.datetime,
    accepted_at: datetime.datetime | None,
    terms: Terms,
) -> datetime.datetime:
    """Say when a notice that is due now is told in a digest.

    :param accepted_at: when the first notice of this end was accepted by the mail server.
    """
    at = daily.next_after(now)
    latest = lifecycle.useful_until(plan, now, accepted_at, terms)
    return at if at <= latest else min(now + _EARLY, max(latest, now + _AT_LEAST))


def _is_new(notice: NoticeRow, now: datetime.datetime) -> bool:
    """Say whether a notice is due, can be told in a digest, and was not tried as a mail before."""
    return (
        notice.digest is None
        and notice.due_at is not None
        and notice.due_at <= now
        and notice.attempts == 0
        and notice.kind.partition("/")[0] in DIGESTED
    )
