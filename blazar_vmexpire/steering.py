# SPDX-License-Identifier: Apache-2.0
"""What an administrator does to the end of one VM, beside holding it and leaving it out.

All of it goes the way that an owner's act goes: the row is held, its generation raised, the history
says who did it and why. All dates are naive UTC, all functions work in the caller's transaction.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Collection

import sqlalchemy as sa

from blazar_vmexpire import choice, extension, lifecycle, sense
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db.api import Expiration
from blazar_vmexpire.extension import Caller, Conflict, NotAllowed
from blazar_vmexpire.terms import TermsBook


def set_end(
    connection: sa.Connection,
    server_id: str,
    end_date: datetime.datetime,
    *,
    caller: Caller,
    book: TermsBook,
    now: datetime.datetime,
) -> Expiration:
    """Move a VM's end, wherever to: no limit of an owner's counts. What was begun is undone.

    Its owner is told as of any end: if that comes too soon for it, the worker moves it on.

    :returns: the row as it is now.
    :raises extension.Refused: it cannot be moved, or not there.
    """
    row = extension.movable(connection, server_id)
    return extension.extend(
        connection,
        server_id,
        end_date=end_date,
        caller=dataclasses.replace(caller, is_admin=True),
        terms=book.verdict(connection, row, now).terms,
        now=now,
    )


def expire_now(
    connection: sa.Connection,
    server_id: str,
    *,
    force: bool,
    caller: Caller,
    book: TermsBook,
    now: datetime.datetime,
) -> Expiration:
    """Have a VM end as soon as its owner has had the notice that is promised to them.

    :param force: it ends at once instead. Its quarantine, the brake, and the days on which nothing
        is done count all the same.
    :returns: the row as it is now. One that ends sooner anyway is left as it is.
    :raises extension.Refused: it has no end that could come sooner.
    """
    row = extension.movable(connection, server_id)
    if row.state not in lifecycle.LEASED:
        raise Conflict(f"server {server_id} is {row.state}: it has no end that could come sooner")
    terms = book.verdict(connection, row, now).terms
    at_once = lifecycle.floor_minute(now) + datetime.timedelta(minutes=1)
    soonest = at_once if force else lifecycle.told_in_time(now, terms)
    assert row.ends_at is not None  # noqa: S101 - every row that is movable has it
    if row.ends_at > soonest:
        row = set_end(connection, server_id, soonest, caller=caller, book=book, now=now)
    if force:
        db_api.add_notice(
            connection,
            row,
            db_api.FORCED,
            now,
            message_id="-",
            details={"by": caller.user_id, **caller.why},
            accepted_at=now,
        )
        db_api.record(
            connection,
            row,
            "end_forced",
            now,
            actor=caller.user_id,
            request_id=caller.request_id,
            ends_at=row.ends_at,
            **caller.why,
        )
        db_api.poke(connection, [server_id], now)
    return row


def set_on_end_action(
    connection: sa.Connection,
    server_id: str,
    action: str | None,
    *,
    before_end: Collection[str],
    on_end: Collection[str],
    caller: Caller,
    book: TermsBook,
    now: datetime.datetime,
) -> Expiration:
    """Set what is done to a VM at its end, whatever its terms say, and its owner has chosen.

    :param action: None: what the terms say counts again.
    :param before_end: names of the actions that can run before the end.
    :param on_end: names of the actions that can run at the end.
    :returns: the row as it is now.
    :raises extension.NotAllowed: there is no such action, or it does not go with the terms.
    :raises extension.Conflict: it cannot be changed now; the message says why.
    """
    row = extension.movable(connection, server_id)
    own = choice.own_verdict(book, connection, row, now)
    imposed = {} if action is None else {"on_end_action": action}
    actions = {lifecycle.IMPOSED: imposed}
    terms = lifecycle.with_choice(own.terms, {**row.chosen, **actions})
    for misfit in sense.misfits(terms, before_end, on_end):
        raise NotAllowed(misfit.sentence)
    choice.check(row, actions, own.terms, now)
    return choice.change(connection, row, actions, caller=caller, verdict=own, now=now, next_at=now)
