# SPDX-License-Identifier: Apache-2.0
"""Notices that are told together: which digest each goes with, and an index for those due."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_NOTICES = "vm_expiration_notices"
_INDEX = "ix_vm_expiration_notices_due_at"


def upgrade() -> None:
    """Add the column and the index."""
    # MySQL commits each change by itself: what an interrupted run left behind is gone on with.
    there = sa.inspect(op.get_bind())
    if "digest" not in {column["name"] for column in there.get_columns(_NOTICES)}:
        op.add_column(_NOTICES, sa.Column("digest", sa.String(64)))
    if _INDEX not in {index["name"] for index in there.get_indexes(_NOTICES)}:
        op.create_index(_INDEX, _NOTICES, ["due_at"])
