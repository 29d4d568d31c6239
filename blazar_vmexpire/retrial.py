# SPDX-License-Identifier: Apache-2.0
"""Trying again what failed for good, as an administrator asks."""

from __future__ import annotations

import dataclasses
import datetime

import sqlalchemy as sa

from blazar_vmexpire import lifecycle
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db.api import Expiration
from blazar_vmexpire.db.models import expirations
from blazar_vmexpire.lifecycle import Event
from blazar_vmexpire.terms import TermsBook


def retry(
    connection: sa.Connection,
    server_id: str,
    *,
    actor: str,
    reason: str | None,
    book: TermsBook,
    now: datetime.datetime,
) -> Expiration | None:
    """Give a VM whose expiration failed a fresh end: it is tried again from the beginning.

    What was begun is undone first, and the lease is made live under its id, by the step of state
    ``reviving``. The generation is raised: it may have failed months ago, so what its owner was
    told then counts for nothing, and they are told anew before anything is done.

    :param actor: who asks, for the history.
    :param book: says the VM's terms.
    :param now: naive UTC.
    :returns: the row as it is now; None when its expiration has not failed.
    """
    row = db_api.get(connection, server_id, for_update=True)
    if row is None or not lifecycle.possible(row.state, Event.RETRY):
        return None
    terms = book.verdict(connection, row, now).terms
    told_in_time = lifecycle.told_in_time(now, terms)
    retried = dataclasses.replace(
        row,
        state=lifecycle.after(row.state, Event.RETRY).value,
        generation=row.generation + 1,
        ends_at=max(row.ends_at or told_in_time, told_in_time),
        attempts=0,
        last_error=None,
        next_at=now,
    )
    columns = ("state", "generation", "ends_at", "attempts", "last_error", "next_at")
    connection.execute(
        sa.update(expirations)
        .where(expirations.c.server_id == server_id)
        .values(**{name: getattr(retried, name) for name in columns})
    )
    db_api.record(
        connection,
        retried,
        "retried",
        now,
        actor=actor,
        reason=reason,
        error=row.last_error,
        old_end=row.ends_at,
        new_end=retried.ends_at,
    )
    return retried
