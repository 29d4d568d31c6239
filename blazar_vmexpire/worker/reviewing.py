# SPDX-License-Identifier: Apache-2.0
"""Finding the VMs whose terms are others than when they were last looked at.

Rules, options, projects, exclusions and the VMs themselves change, and a VM that rests until its
first notice would learn of it weeks later. So all are judged anew now and then, from what is known
of them; those for which something follows are made due.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable

from oslo_log import log as logging

from blazar_vmexpire import lifecycle
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db.api import Expiration
from blazar_vmexpire.db.engine import retried
from blazar_vmexpire.db.models import expirations
from blazar_vmexpire.lifecycle import State
from blazar_vmexpire.terms import Verdict
from blazar_vmexpire.worker.exempting import CAN_BE_LET_GO
from blazar_vmexpire.worker.tools import Tools

LOG = logging.getLogger(__name__)

_REVIEWED = (*sorted(CAN_BE_LET_GO), State.EXEMPT.value)


def review(tools: Tools, keep: Callable[[], None] = lambda: None) -> int:
    """Judge all VMs anew, and make those due for which something follows.

    :param keep: called after each page; may raise to give up (the chore was taken over).
    :returns: how many.
    """
    with tools.database.begin() as connection:
        session = tools.book.session(connection, tools.clock())
    found = 0
    for page in db_api.pages(tools.database, expirations.c.state.in_(_REVIEWED)):
        found += _poke(
            tools, [row for row in page if _something_follows(row, session.judge_row(row))]
        )
        keep()
    if found:
        LOG.info("%d servers have other terms than before: each is looked at", found)
    return found


def _something_follows(row: Expiration, verdict: Verdict) -> bool:
    if not row.facts and verdict.rule is not None:
        # Rules are asked only when it is known what they are asked about.
        return False
    if row.state == State.EXEMPT:
        return verdict.expires
    if not verdict.expires:
        return not row.progress.get("irreversible")
    return row.state in lifecycle.LIVE and verdict.digest != row.terms_digest


def _poke(tools: Tools, rows: list[Expiration]) -> int:
    if not rows:
        return 0

    @retried
    def poke(now: datetime.datetime) -> int:
        with tools.database.begin() as connection:
            return db_api.poke(connection, [row.server_id for row in rows], now)

    changed: int = poke(tools.clock())
    return changed
