# SPDX-License-Identifier: Apache-2.0
"""Listing the few VMs of a rule or of a user out of a whole cloud: indexes for both."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_EXPIRATIONS = "vm_expirations"

_WANTED = {
    "ix_vm_expirations_rule_ends_at": ["rule", "ends_at", "server_id"],
    "ix_vm_expirations_user_id_ends_at": ["user_id", "ends_at", "server_id"],
}


def upgrade() -> None:
    """Add both indexes."""
    # MySQL commits each change by itself: what an interrupted run left behind is gone on with.
    there = {index["name"] for index in sa.inspect(op.get_bind()).get_indexes(_EXPIRATIONS)}
    for name, columns in _WANTED.items():
        if name not in there:
            op.create_index(name, _EXPIRATIONS, columns)
