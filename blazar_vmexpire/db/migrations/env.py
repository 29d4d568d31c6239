# SPDX-License-Identifier: Apache-2.0
"""Alembic's environment: runs on the connection that ``blazar_vmexpire.db.migration`` hands over.

The revision that the tables are at is kept in a version table of our own, so that Blazar's
``alembic_version`` in the same database is neither read nor written.
"""

from __future__ import annotations

from alembic import context

from blazar_vmexpire.db import models

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=models.metadata,
    version_table=context.config.attributes["version_table"],
    # SQLite changes no column in place; a revision that needs it copies the table instead.
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
