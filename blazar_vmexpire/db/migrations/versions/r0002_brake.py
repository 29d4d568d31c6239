# SPDX-License-Identifier: Apache-2.0
"""The brake: what is counted, what waits for its turn, and what vanished unexplained."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_MOMENT = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
_COUNTER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_EXPIRATIONS = "vm_expirations"
_PASSES = "vm_expiration_passes"
_BRAKE = "vm_expiration_brake"


def upgrade() -> None:
    """Add three columns and two tables, the second with its one row."""
    # MySQL commits each change by itself: what an interrupted run left behind is gone on with.
    inspector = sa.inspect(op.get_bind())
    there = {column["name"] for column in inspector.get_columns(_EXPIRATIONS)}
    for name in ("waiting_since", "deletion_told_at", "unexplained_at"):
        if name not in there:
            op.add_column(_EXPIRATIONS, sa.Column(name, _MOMENT))

    if not inspector.has_table(_PASSES):
        op.create_table(
            _PASSES,
            sa.Column("id", _COUNTER, nullable=False, autoincrement=True),
            sa.Column("kind", sa.String(16), nullable=False),
            sa.Column("server_id", sa.String(36), nullable=False),
            sa.Column("at", _MOMENT, nullable=False),
            sa.PrimaryKeyConstraint("id", name="pk_vm_expiration_passes"),
            sa.Index("ix_vm_expiration_passes_kind_at", "kind", "at"),
            mysql_engine="InnoDB",
            mysql_charset="utf8mb4",
        )
    if not inspector.has_table(_BRAKE):
        op.create_table(
            _BRAKE,
            sa.Column("name", sa.String(16), nullable=False),
            sa.Column("tripped_at", _MOMENT),
            sa.Column("tripped_by", sa.String(255)),
            sa.Column("reason", sa.Text),
            sa.Column("details", sa.Text, nullable=False),
            sa.Column("told_at", _MOMENT),
            sa.Column("released_at", _MOMENT),
            sa.Column("released_by", sa.String(255)),
            sa.Column("release_reason", sa.Text),
            sa.Column("tolerated_waiting", sa.Integer, nullable=False),
            sa.Column("tolerated_vanished", sa.Integer, nullable=False),
            sa.PrimaryKeyConstraint("name", name="pk_vm_expiration_brake"),
            mysql_engine="InnoDB",
            mysql_charset="utf8mb4",
        )
    table = sa.table(
        _BRAKE,
        *(sa.column(n) for n in ("name", "details", "tolerated_waiting", "tolerated_vanished")),
    )
    if not op.get_bind().scalar(sa.select(sa.func.count()).select_from(table)):
        op.bulk_insert(
            table,
            [
                {
                    "name": "brake",
                    "details": "{}",
                    "tolerated_waiting": 0,
                    "tolerated_vanished": 0,
                }
            ],
        )
