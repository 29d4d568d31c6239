# SPDX-License-Identifier: Apache-2.0
"""Telling other programs what happens to VMs: how far each of them has been told."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_CURSORS = "vm_expiration_cursors"
_MOMENT = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")


def upgrade() -> None:
    """Add the table."""
    # MySQL commits each change by itself: what an interrupted run left behind is gone on with.
    if sa.inspect(op.get_bind()).has_table(_CURSORS):
        return
    op.create_table(
        _CURSORS,
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("retry_at", _MOMENT),
        sa.Column("last_error", sa.Text),
        sa.PrimaryKeyConstraint("name", name="pk_vm_expiration_cursors"),
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
    )
