# SPDX-License-Identifier: Apache-2.0
"""Which VMs an administrator holds: rows of ``vm_expiration_holds``.

All functions work in the caller's transaction. Who writes here keeps the VM's own row meanwhile.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Collection

import sqlalchemy as sa

from blazar_vmexpire.db.models import holds


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """A row of the table. Dates are naive UTC."""

    server_id: str
    reason: str
    ticket: str | None
    author: str
    created_at: datetime.datetime
    until: datetime.datetime
    ends_at: datetime.datetime
    """The end that the VM has without it."""


def current(connection: sa.Connection, server_id: str, now: datetime.datetime) -> Hold | None:
    """Return the hold on a VM, unless it is over."""
    found = get(connection, server_id)
    return found if found is not None and found.until > now else None


def get(connection: sa.Connection, server_id: str) -> Hold | None:
    """Return the hold on a VM, even if it is over."""
    row = connection.execute(sa.select(holds).where(holds.c.server_id == server_id)).one_or_none()
    return None if row is None else Hold(**row._mapping)


def put(connection: sa.Connection, hold: Hold) -> None:
    """Write a hold, in place of the one that the VM may have."""
    drop(connection, [hold.server_id])
    connection.execute(holds.insert(), [dataclasses.asdict(hold)])


def drop(connection: sa.Connection, server_ids: Collection[str]) -> None:
    """Remove the holds on some VMs."""
    connection.execute(sa.delete(holds).where(holds.c.server_id.in_(server_ids)))
