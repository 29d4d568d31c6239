# SPDX-License-Identifier: Apache-2.0
"""Auditing Blazar's tables: a live lease that is not right is made due, what is left over removed.

What a live lease has to be is decided VM by VM, by the worker's steps. What no step will ever look
at again is put right here: leases that no VM has, and those that are over.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence

import sqlalchemy as sa
from oslo_log import log as logging

from blazar_vmexpire import explicit, lease_audit, lease_sets, leases
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db.engine import retried
from blazar_vmexpire.db.models import expirations
from blazar_vmexpire.lease_audit import Stray
from blazar_vmexpire.lifecycle import State
from blazar_vmexpire.worker.tools import Tools

LOG = logging.getLogger(__name__)

_PAGE = 1000


def audit(tools: Tools, *, thorough: bool = False) -> int:
    """Look for leases that are not what they have to be, and see to them.

    :param thorough: look at reservations and events, too, and for leases that should not be there.
    :returns: how many leases and events were found.
    """
    found = _wake(tools, thorough=thorough)
    if thorough:
        found += _remove_strays(tools) + _close(tools) + _settle_events(tools)
    return found


@retried
def _wake(tools: Tools, *, thorough: bool) -> int:
    """Make every VM due whose live lease is not what it has to be."""
    now = tools.clock()
    questions = lease_audit.unsound(now)
    if thorough:
        questions += lease_audit.unsound_parts(now)
    with tools.database.begin() as connection:
        found = sorted({i for question in questions for i in connection.scalars(question)})
        for some in _pages(found):
            # Those that failed a moment ago keep their back-off.
            connection.execute(
                sa.update(expirations)
                .where(expirations.c.server_id.in_(some), expirations.c.attempts == 0)
                .values(next_at=now)
            )
    if found:
        LOG.info("%d leases are not what they have to be: each is looked at", len(found))
    return len(found)


def _remove_strays(tools: Tools) -> int:
    """Remove leases that no VM has, and our reservations from those of another resource type."""
    done, last = _remove_page(tools, "")
    while last:
        removed, last = _remove_page(tools, last)
        done += removed
    while removed := _remove_misplaced(tools):
        done += removed
    return done


@retried
def _remove_page(tools: Tools, after: str) -> tuple[int, str]:
    now, grace = tools.clock(), tools.conf.vmexpire_worker.blazar_grace
    with tools.database.begin() as connection:
        page = lease_audit.strays(connection, now, grace, after, _PAGE)
        removed = _remove(connection, page, now)
    return removed, page[-1].reservation_id if len(page) == _PAGE else ""


@retried
def _remove_misplaced(tools: Tools) -> int:
    now, grace = tools.clock(), tools.conf.vmexpire_worker.blazar_grace
    with tools.database.begin() as connection:
        return _remove(connection, lease_audit.misplaced(connection, now, grace, _PAGE), now)


def _remove(connection: sa.Connection, strays: Sequence[Stray], now: datetime.datetime) -> int:
    awaited = explicit.awaited(connection, {s.server_id for s in strays if s.server_id})
    strays = [stray for stray in strays if stray.reservation_id not in awaited]
    if not strays:
        return 0
    held = set(lease_sets.unchanged(connection, {s.lease_id: s.lease_status for s in strays}))
    removed = [stray for stray in strays if stray.lease_id in held]
    leases.leave(connection, {s.lease_id for s in removed if s.another_types})
    leases.destroy(connection, {s.lease_id for s in removed if not s.another_types})
    _record(connection, removed, now)
    return len(removed)


def _record(connection: sa.Connection, strays: Sequence[Stray], now: datetime.datetime) -> None:
    x = expirations.c
    known = {
        row.server_id: row
        for row in connection.execute(
            sa.select(x.server_id, x.project_id, x.generation, x.lease_id, x.state).where(
                x.server_id.in_([s.server_id for s in strays if s.server_id is not None])
            )
        )
    }
    for stray in strays:
        row = known.get(stray.server_id or "")
        if stray.another_types:
            reason = "it is another resource type's: only our reservation was removed"
        elif row is None:
            reason = "no such server is known"
        elif row.state == State.EXEMPT or row.lease_id is None:
            reason = "the server is to have no lease"
        else:
            reason = f"the server has lease {row.lease_id}"
        if stray.server_id is None:
            LOG.warning("Lease %s of no server was removed: %s", stray.lease_id, reason)
            continue
        db_api.write_history(
            connection,
            [
                {
                    "server_id": stray.server_id,
                    "project_id": None if row is None else row.project_id,
                    "at": now,
                    "event": "lease_removed",
                    "generation": 0 if row is None else row.generation,
                    "details": {"lease_id": stray.lease_id, "reason": reason},
                }
            ],
        )


def _close(tools: Tools) -> int:
    """Close leases that are over, and that a manager has written to since."""
    done = 0
    while closed := _close_page(tools):
        done += closed
    return done


@retried
def _close_page(tools: Tools) -> int:
    now, grace = tools.clock(), tools.conf.vmexpire_worker.blazar_grace
    x = expirations.c
    with tools.database.begin() as connection:
        page = lease_audit.unclosed(connection, now, grace, _PAGE)
        if not page:
            return 0
        # Their owner may have them back at this moment: then they are to be live.
        still = set(
            connection.scalars(
                sa.select(x.server_id)
                .where(x.server_id.in_([row.server_id for row in page]), lease_audit.over(now))
                .with_for_update()
            )
        )
        held = lease_sets.unchanged(
            connection, {row.lease_id: row.status for row in page if row.server_id in still}
        )
        lease_sets.close(connection, held, now)
    for lease_id in held:
        LOG.info("Lease %s is over, and was closed again", lease_id)
    return len(held)


def _settle_events(tools: Tools) -> int:
    """Let events rest that no manager will come back to."""
    done = 0
    while settled := _settle_page(tools):
        done += settled
    return done


@retried
def _settle_page(tools: Tools) -> int:
    now, grace = tools.clock(), tools.conf.vmexpire_worker.blazar_grace
    with tools.database.begin() as connection:
        done = lease_sets.remove_detached_events(connection)
        for status, ids in lease_audit.restless_events(connection, now, grace, _PAGE).items():
            for some in _pages(ids):
                lease_sets.set_events(connection, some, status, now)
            done += len(ids)
    return done


def _pages(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for begin in range(0, len(ids), _PAGE):
        yield ids[begin : begin + _PAGE]
