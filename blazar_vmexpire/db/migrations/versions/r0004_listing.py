# SPDX-License-Identifier: Apache-2.0
"""Listing VMs page by page: indexes in the orders in which our API lists them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_EXPIRATIONS = "vm_expirations"

_WANTED = {
    "ix_vm_expirations_ends_at": ["ends_at", "server_id"],
    "ix_vm_expirations_server_name": ["server_name", "server_id"],
    "ix_vm_expirations_project_id_ends_at": ["project_id", "ends_at", "server_id"],
}
#: The last of those begins with its column.
_NEEDLESS = "ix_vm_expirations_project_id"


def upgrade() -> None:
    """Add three indexes, and remove the one that is not needed any more."""
    # MySQL commits each change by itself: what an interrupted run left behind is gone on with.
    there = {index["name"] for index in sa.inspect(op.get_bind()).get_indexes(_EXPIRATIONS)}
    for name, columns in _WANTED.items():
        if name not in there:
            op.create_index(name, _EXPIRATIONS, columns)
    if _NEEDLESS in there:
        op.drop_index(_NEEDLESS, table_name=_EXPIRATIONS)
