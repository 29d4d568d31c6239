# SPDX-License-Identifier: Apache-2.0
"""Taking VMs in: which ones, and what is written for them.

Both legs of intake end here, one VM at a time or a page of a thousand, with the same result.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from blazar_vmexpire import leases, lifecycle
from blazar_vmexpire.cloud.nova import Server
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db.api import Expiration
from blazar_vmexpire.db.models import expirations, history
from blazar_vmexpire.lifecycle import State, Terms

#: Nova statuses in which a VM rests: it can be taken in, and its time can come.
SETTLED = frozenset(
    {
        "ACTIVE",
        "PAUSED",
        "RESCUE",
        "SHELVED",
        "SHELVED_OFFLOADED",
        "SHUTOFF",
        "SUSPENDED",
        "VERIFY_RESIZE",
    }
)


def settled(server: Server) -> bool:
    """Say whether a VM rests: neither building nor broken, and nothing is being done to it.

    All other VMs are left alone until that is over.
    """
    return server.status in SETTLED and server.task_state is None


def wanted_lease(
    row: Expiration, terms: Terms, before_end_at: datetime.datetime | None = None
) -> leases.Wanted:
    """Say what the lease of a VM has to be.

    :param before_end_at: when its before_end event fires, if its owner moved that.
    """
    # A row has them from its adoption on.
    assert row.lease_id is not None  # noqa: S101
    assert row.adopted_at is not None  # noqa: S101
    assert row.ends_at is not None  # noqa: S101
    return leases.Wanted(
        lease_id=row.lease_id,
        server_id=row.server_id,
        server_name=row.server_name,
        project_id=row.project_id or "",
        user_id=row.user_id or "",
        start_date=lifecycle.floor_minute(row.adopted_at),
        end_date=row.ends_at,
        before_end_at=before_end_at or lifecycle.agenda(row.ends_at, terms).before_end_at,
    )


def moved_lease(row: Expiration, facts: leases.Facts, terms: Terms) -> leases.Wanted:
    """Say what the lease of a VM has to be whose end was moved.

    Its before_end event keeps its distance to the end, as it does when Blazar moves the end.

    :param facts: the lease as it is, with the end that it has.
    """
    before_end_at = facts.before_end_at
    if before_end_at is None or not facts.start_date <= before_end_at <= facts.end_date:
        return wanted_lease(row, terms)
    assert row.ends_at is not None  # noqa: S101 - from its adoption on
    return wanted_lease(row, terms, before_end_at + (row.ends_at - facts.end_date))


def columns(
    server: Server, now: datetime.datetime, terms: Terms, spread: datetime.timedelta
) -> dict[str, Any]:
    """Say what the row of a VM holds from the moment it is taken in.

    :param spread: how far the first ends are spread; zero for a VM that is new.
    """
    ends_at = lifecycle.first_end(now, terms, spread * lifecycle.share(server.id))
    return {
        "server_name": db_api.storable(server.name, 255),
        "project_id": server.project_id,
        "user_id": server.user_id,
        "lease_id": leases.new_lease_id(),
        "state": State.ACTIVE.value,
        "server_created_at": server.created_at,
        "adopted_at": now,
        "ends_at": ends_at,
        # The first look plans the notices; at the latest it is due at the end itself.
        "next_at": min(now + (ends_at - now) / 2, lifecycle.agenda(ends_at, terms).reminders[0].at),
    }


#: The defaults of a row, spelled out: filling them in row by row costs more than all else.
_NEW = {
    "generation": 0,
    "extensions": 0,
    "attempts": 0,
    "questions": 0,
    "answered": 0,
    "progress": "{}",
}


def adopt_page(
    connection: sa.Connection,
    servers: Sequence[Server],
    now: datetime.datetime,
    terms: Terms,
    spread: datetime.timedelta,
) -> None:
    """Take in VMs that have no row yet: rows, leases and history in one transaction.

    :raises oslo_db.exception.DBDuplicateEntry: one of them got a row meanwhile; nothing is done.
    """
    if not servers:
        return
    rows = [
        {"server_id": server.id, **_NEW, **columns(server, now, terms, spread)}
        for server in servers
    ]
    connection.execute(expirations.insert(), rows)
    first_notice = terms.first_notice
    leases.create(
        connection,
        [
            leases.Wanted(
                lease_id=row["lease_id"],
                server_id=row["server_id"],
                server_name=row["server_name"],
                project_id=row["project_id"],
                user_id=row["user_id"],
                start_date=lifecycle.floor_minute(now),
                end_date=row["ends_at"],
                before_end_at=row["ends_at"] - first_notice,
            )
            for row in rows
        ],
        now,
    )
    connection.execute(
        history.insert(),
        [
            {
                "server_id": row["server_id"],
                "project_id": row["project_id"],
                "at": now,
                "event": "adopted",
                "generation": 0,
                "details": db_api.as_json({"ends_at": row["ends_at"], "lease_id": row["lease_id"]}),
            }
            for row in rows
        ],
    )
