# SPDX-License-Identifier: Apache-2.0
"""Telling others in an owner's place: how often each address was refused, not only the owner's."""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_NOTICES = "vm_expiration_notices"


def upgrade() -> None:
    """Add a column, fill it from the one that it takes the place of, and remove that."""
    # MySQL commits each change by itself: what an interrupted run left behind is gone on with.
    there = {column["name"] for column in sa.inspect(op.get_bind()).get_columns(_NOTICES)}
    if "refused" not in there:
        op.add_column(_NOTICES, sa.Column("refused", sa.Text))
    if "refusals" in there:
        _carry_over(op.get_bind())
        op.drop_column(_NOTICES, "refusals")


def _carry_over(connection: sa.Connection) -> None:
    """Write down of notices that are still to be sent whose address was refused."""
    notices = sa.table(
        _NOTICES,
        sa.column("id"),
        sa.column("due_at"),
        sa.column("recipient"),
        sa.column("refusals"),
        sa.column("refused"),
    )
    waiting = connection.execute(
        sa.select(notices.c.id, notices.c.recipient, notices.c.refusals).where(
            notices.c.due_at.is_not(None), notices.c.refusals > 0
        )
    ).all()
    for row in waiting:
        connection.execute(
            sa.update(notices)
            .where(notices.c.id == row.id)
            .values(refused=json.dumps({str(row.recipient).lower(): row.refusals}))
        )
