# SPDX-License-Identifier: Apache-2.0
"""Terms by VM: what they depend on, who is left out, who is held, and what Nova shows of an end."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_MOMENT = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
_COUNTER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_EXPIRATIONS = "vm_expirations"
_PROJECTS = "vm_expiration_projects"
_EXCLUSIONS = "vm_expiration_exclusions"
_HOLDS = "vm_expiration_holds"
_MYSQL: dict[str, Any] = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4"}

_COLUMNS: dict[str, Any] = {
    "facts": sa.Text,
    "facts_digest": sa.String(32),
    "rule": sa.String(255),
    "terms_digest": sa.String(32),
    "on_end_action": sa.String(64),
    "term_seconds": sa.Integer,
    "chosen": sa.Text,
    "shown_end": _MOMENT,
    "shown_state": sa.String(16),
    "show_after": _MOMENT,
}


def upgrade() -> None:
    """Add columns to the VMs' table, and three tables."""
    # MySQL commits each change by itself: what an interrupted run left behind is gone on with.
    inspector = sa.inspect(op.get_bind())
    there = {column["name"] for column in inspector.get_columns(_EXPIRATIONS)}
    for name, kind in _COLUMNS.items():
        if name not in there:
            op.add_column(_EXPIRATIONS, sa.Column(name, kind))

    if not inspector.has_table(_PROJECTS):
        op.create_table(
            _PROJECTS,
            sa.Column("project_id", sa.String(255), nullable=False),
            sa.Column("domain_id", sa.String(255), nullable=False),
            sa.Column("name", sa.String(255), nullable=False),
            sa.Column("enabled", sa.Boolean, nullable=False),
            sa.Column("properties", sa.Text, nullable=False),
            sa.Column("tags", sa.Text, nullable=False),
            sa.Column("seen_at", _MOMENT, nullable=False),
            sa.PrimaryKeyConstraint("project_id", name="pk_vm_expiration_projects"),
            **_MYSQL,
        )
    if not inspector.has_table(_EXCLUSIONS):
        op.create_table(
            _EXCLUSIONS,
            sa.Column("id", _COUNTER, nullable=False, autoincrement=True),
            sa.Column("kind", sa.String(16), nullable=False),
            sa.Column("value", sa.String(255), nullable=False),
            sa.Column("reason", sa.Text, nullable=False),
            sa.Column("author", sa.String(255), nullable=False),
            sa.Column("created_at", _MOMENT, nullable=False),
            sa.Column("expires_at", _MOMENT),
            sa.PrimaryKeyConstraint("id", name="pk_vm_expiration_exclusions"),
            sa.UniqueConstraint("kind", "value", name="uq_vm_expiration_exclusions_kind_value"),
            **_MYSQL,
        )
    if not inspector.has_table(_HOLDS):
        op.create_table(
            _HOLDS,
            sa.Column("server_id", sa.String(36), nullable=False),
            sa.Column("reason", sa.Text, nullable=False),
            sa.Column("ticket", sa.String(255)),
            sa.Column("author", sa.String(255), nullable=False),
            sa.Column("created_at", _MOMENT, nullable=False),
            sa.Column("until", _MOMENT, nullable=False),
            sa.Column("ends_at", _MOMENT, nullable=False),
            sa.PrimaryKeyConstraint("server_id", name="pk_vm_expiration_holds"),
            **_MYSQL,
        )
