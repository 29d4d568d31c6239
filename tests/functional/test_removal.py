# SPDX-License-Identifier: Apache-2.0
"""The installation guide's way to remove all leases of VMs."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

import sqlalchemy as sa

from blazar_vmexpire import leases
from blazar_vmexpire.db.engine import Database
from blazar_vmexpire.db.models import expirations

GUIDE = Path(__file__).resolve().parents[2] / "doc" / "source" / "install" / "index.rst"
NOW = datetime.datetime(2026, 3, 2, 10, 0)
VM = "11111111-1111-4111-8111-111111111111"
HOST_LEASE = "22222222-2222-4222-8222-222222222222"


def statements_of_the_guide() -> list[str]:
    """Read the SQL that the guide calls ``removal``."""
    found = re.search(r":name: removal\n\n((?: {6}.*\n)+)", GUIDE.read_text())
    assert found is not None
    return [statement.strip() for statement in found[1].split(";") if statement.strip()]


def add_lease(connection: sa.Connection, lease_id: str, resource_id: str) -> None:
    """Write a lease of ours into Blazar's tables."""
    wanted = leases.Wanted(
        lease_id=lease_id,
        server_id=resource_id,
        server_name="web-1",
        project_id="project",
        user_id="user",
        start_date=NOW,
        end_date=NOW + datetime.timedelta(days=60),
        before_end_at=NOW + datetime.timedelta(days=50),
    )
    leases.create(connection, [wanted], NOW)


def rows(connection: sa.Connection, table: sa.Table) -> int:
    """Count."""
    return int(connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0)


def test_removal_takes_the_leases_of_vms_and_no_others(database: Database) -> None:
    with database.begin() as connection:
        lease_id = leases.new_lease_id()
        add_lease(connection, lease_id, VM)
        connection.execute(
            expirations.insert(), [{"server_id": VM, "state": "active", "lease_id": lease_id}]
        )
        add_lease(connection, HOST_LEASE, "1")
        connection.execute(
            sa.update(leases.RESERVATIONS)
            .where(leases.RESERVATIONS.c.lease_id == HOST_LEASE)
            .values(resource_type="physical:host")
        )

    with database.begin() as connection:
        for statement in statements_of_the_guide():
            connection.execute(sa.text(statement))

    with database.begin() as connection:
        assert rows(connection, expirations) == 0
        assert connection.scalars(sa.select(leases.LEASES.c.id)).all() == [HOST_LEASE]
        assert connection.scalars(sa.select(leases.RESERVATIONS.c.lease_id)).all() == [HOST_LEASE]
        assert set(connection.scalars(sa.select(leases.EVENTS.c.lease_id))) == {HOST_LEASE}
        assert rows(connection, leases.EVENTS) == 3
