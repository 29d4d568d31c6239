# SPDX-License-Identifier: Apache-2.0
"""First tables: expirations, their history, notices and chores."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql
from sqlalchemy.types import TypeEngine

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_MOMENT = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
_COUNTER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create the four tables."""
    uuid = _like_blazar(36)
    owner = _like_blazar(255)
    _create(
        "vm_expirations",
        sa.Column("server_id", uuid, nullable=False),
        sa.Column("server_name", sa.String(255), nullable=False),
        sa.Column("project_id", owner),
        sa.Column("user_id", owner),
        sa.Column("lease_id", uuid),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("server_created_at", _MOMENT),
        sa.Column("adopted_at", _MOMENT),
        sa.Column("ends_at", _MOMENT),
        sa.Column("extensions", sa.Integer, nullable=False),
        sa.Column("next_at", _MOMENT),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("questions", sa.Integer, nullable=False),
        sa.Column("answered", sa.Integer, nullable=False),
        sa.Column("claimed_by", sa.String(64)),
        sa.Column("claimed_until", _MOMENT),
        sa.Column("progress", sa.Text, nullable=False),
        sa.Column("last_error", sa.Text),
        sa.PrimaryKeyConstraint("server_id", name="pk_vm_expirations"),
    )
    _index("ix_vm_expirations_next_at", "vm_expirations", "next_at")
    _index("ix_vm_expirations_claimed_by", "vm_expirations", "claimed_by")
    _index("ix_vm_expirations_state", "vm_expirations", "state", "server_id")
    _index("ix_vm_expirations_project_id", "vm_expirations", "project_id")
    _index("ix_vm_expirations_lease_id", "vm_expirations", "lease_id")

    _create(
        "vm_expiration_history",
        sa.Column("id", _COUNTER, nullable=False, autoincrement=True),
        sa.Column("server_id", uuid, nullable=False),
        sa.Column("project_id", sa.String(255)),
        sa.Column("at", _MOMENT, nullable=False),
        sa.Column("event", sa.String(64), nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("actor", sa.String(255)),
        sa.Column("request_id", sa.String(255)),
        sa.Column("details", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_vm_expiration_history"),
    )
    _index("ix_vm_expiration_history_server_id", "vm_expiration_history", "server_id", "id")
    _index("ix_vm_expiration_history_at", "vm_expiration_history", "at")

    _create(
        "vm_expiration_notices",
        sa.Column("id", _COUNTER, nullable=False, autoincrement=True),
        sa.Column("server_id", uuid, nullable=False),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("due_at", _MOMENT),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("refusals", sa.Integer, nullable=False),
        sa.Column("recipient", sa.String(320)),
        sa.Column("message_id", sa.String(255), nullable=False),
        sa.Column("accepted_at", _MOMENT),
        sa.Column("told_end", _MOMENT),
        sa.Column("details", sa.Text, nullable=False),
        sa.Column("last_error", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_vm_expiration_notices"),
        sa.UniqueConstraint(
            "server_id",
            "kind",
            "generation",
            name="uq_vm_expiration_notices_server_id_kind_generation",
        ),
    )

    _create(
        "vm_expiration_chores",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("next_at", _MOMENT, nullable=False),
        sa.Column("claimed_by", sa.String(64)),
        sa.Column("claimed_until", _MOMENT),
        sa.Column("last_started_at", _MOMENT),
        sa.Column("last_finished_at", _MOMENT),
        sa.Column("last_error", sa.Text),
        sa.PrimaryKeyConstraint("name", name="pk_vm_expiration_chores"),
    )


def _like_blazar(length: int) -> TypeEngine[str]:
    """Give the ids of servers, leases and their owners the collation that Blazar's have.

    Most installations have Blazar's tables in MySQL's three-byte ``utf8``. A join between columns
    of different character sets reads a whole table where it should use an index, and one between
    different collations of the same character set is refused.
    """
    connection = op.get_bind()
    if connection.dialect.name not in ("mysql", "mariadb"):
        return sa.String(length)
    collation = connection.scalar(
        sa.text(
            "SELECT COLLATION_NAME FROM information_schema.COLUMNS"
            " WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = 'leases' AND COLUMN_NAME = 'id'"
        )
    )
    return sa.String(length, collation=collation)


# MySQL commits each table by itself: what an interrupted run left behind is gone on with.


def _create(name: str, *parts: sa.Column[Any] | sa.Constraint) -> None:
    if not sa.inspect(op.get_bind()).has_table(name):
        op.create_table(name, *parts, mysql_engine="InnoDB", mysql_charset="utf8mb4")


def _index(name: str, table: str, *columns: str) -> None:
    if name not in {index["name"] for index in sa.inspect(op.get_bind()).get_indexes(table)}:
        op.create_index(name, table, list(columns))
