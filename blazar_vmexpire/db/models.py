# SPDX-License-Identifier: Apache-2.0
"""Our tables, beside Blazar's own in the same database.

All dates are naive UTC, as in Blazar's tables. The tables are SQLAlchemy Core: every statement that
touches them is written out where it is used, because the statements are the protocol that keeps
several workers apart (see ``blazar_vmexpire.worker.claims``).
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

#: Names, addresses and reasons can hold any character, whatever the database's default is.
_MYSQL: dict[str, Any] = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4"}

#: MySQL's DATETIME has no fraction and rounds up: a moment could be due later than it was set.
Moment = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")

#: SQLite counts up by itself in a column of exactly this type only.
Counter = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

#: One row a VM: the clock and the queue. ``next_at`` is when it next needs attention.
expirations = sa.Table(
    "vm_expirations",
    metadata,
    sa.Column("server_id", sa.String(36), primary_key=True),
    sa.Column("server_name", sa.String(255), nullable=False, default=""),
    sa.Column("project_id", sa.String(255)),
    sa.Column("user_id", sa.String(255)),
    sa.Column("lease_id", sa.String(36)),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("generation", sa.Integer, nullable=False, default=0),
    # When Nova made the VM, for the cap on its whole life.
    sa.Column("server_created_at", Moment),
    sa.Column("adopted_at", Moment),
    sa.Column("ends_at", Moment),
    sa.Column("extensions", sa.Integer, nullable=False, default=0),
    sa.Column("next_at", Moment),
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    # How often something said "look at this VM in Nova", and up to which of these that was done.
    # Counts, not dates: one that comes while the VM is being looked at must not be lost.
    sa.Column("questions", sa.Integer, nullable=False, default=0),
    sa.Column("answered", sa.Integer, nullable=False, default=0),
    sa.Column("claimed_by", sa.String(64)),
    sa.Column("claimed_until", Moment),
    # What the current step has begun and found, as JSON; see blazar_vmexpire.worker.progress.
    sa.Column("progress", sa.Text, nullable=False, default="{}"),
    sa.Column("last_error", sa.Text),
    # The end it had when it first had to wait for its turn, because more ended than the brake's
    # pace allows; NULL: it does not wait.
    sa.Column("waiting_since", Moment),
    # When Nova notified that it was deleted: then nobody wonders that it is gone.
    sa.Column("deletion_told_at", Moment),
    # When it was found gone with nothing to explain it, until that is settled.
    sa.Column("unexplained_at", Moment),
    # What Nova showed of it that terms depend on, as JSON, and its digest; NULL: not seen yet.
    sa.Column("facts", sa.Text),
    sa.Column("facts_digest", sa.String(32)),
    # The terms that it was last looked at with: the rule that they come from (NULL: the options
    # alone), their digest, and what they do at its end.
    sa.Column("rule", sa.String(255)),
    sa.Column("terms_digest", sa.String(32)),
    sa.Column("on_end_action", sa.String(64)),
    # The lease_duration that its end follows from; NULL once somebody has moved the end.
    sa.Column("term_seconds", sa.Integer),
    # What its owner has chosen within the terms, as JSON: actions, and an explicit lease.
    sa.Column("chosen", sa.Text),
    # What its metadata in Nova tell of its end, and when they may be written next.
    sa.Column("shown_end", Moment),
    sa.Column("shown_state", sa.String(16)),
    sa.Column("show_after", Moment),
    sa.Index("ix_vm_expirations_next_at", "next_at"),
    sa.Index("ix_vm_expirations_claimed_by", "claimed_by"),
    sa.Index("ix_vm_expirations_state", "state", "server_id"),
    # In the orders in which VMs are listed, and by what few of them can have in common.
    sa.Index("ix_vm_expirations_ends_at", "ends_at", "server_id"),
    sa.Index("ix_vm_expirations_server_name", "server_name", "server_id"),
    sa.Index("ix_vm_expirations_project_id_ends_at", "project_id", "ends_at", "server_id"),
    sa.Index("ix_vm_expirations_rule_ends_at", "rule", "ends_at", "server_id"),
    sa.Index("ix_vm_expirations_user_id_ends_at", "user_id", "ends_at", "server_id"),
    sa.Index("ix_vm_expirations_lease_id", "lease_id"),
    **_MYSQL,
)

#: What happened to a VM, by whom and why. Only ever added to; outlives the VM.
history = sa.Table(
    "vm_expiration_history",
    metadata,
    sa.Column("id", Counter, primary_key=True, autoincrement=True),
    sa.Column("server_id", sa.String(36), nullable=False),
    sa.Column("project_id", sa.String(255)),
    sa.Column("at", Moment, nullable=False),
    sa.Column("event", sa.String(64), nullable=False),
    sa.Column("generation", sa.Integer, nullable=False, default=0),
    # The user who caused it; NULL for what the service did by itself.
    sa.Column("actor", sa.String(255)),
    sa.Column("request_id", sa.String(255)),
    sa.Column("details", sa.Text, nullable=False, default="{}"),
    sa.Index("ix_vm_expiration_history_server_id", "server_id", "id"),
    sa.Index("ix_vm_expiration_history_at", "at"),
    **_MYSQL,
)

#: One row for each thing said: one a VM, kind and generation.
notices = sa.Table(
    "vm_expiration_notices",
    metadata,
    sa.Column("id", Counter, primary_key=True, autoincrement=True),
    sa.Column("server_id", sa.String(36), nullable=False),
    sa.Column("kind", sa.String(64), nullable=False),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("created_at", Moment, nullable=False),
    # When it is tried next; NULL once it has come to rest (accepted, or given up).
    sa.Column("due_at", Moment),
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    # Who it went to, or was last tried for; of many addresses the first.
    sa.Column("recipient", sa.String(320)),
    sa.Column("message_id", sa.String(255), nullable=False),
    # The digest that it goes with: empty until that is put together. NULL: a mail of its own.
    sa.Column("digest", sa.String(64)),
    sa.Column("accepted_at", Moment),
    # The end that the accepted mail told.
    sa.Column("told_end", Moment),
    # What the template needs beside the VM's own row, as JSON (image, reason).
    sa.Column("details", sa.Text, nullable=False, default="{}"),
    sa.Column("last_error", sa.Text),
    # How often each address, in small letters, was refused for good, as JSON; NULL: none was.
    sa.Column("refused", sa.Text),
    sa.UniqueConstraint("server_id", "kind", "generation"),
    # Few are due at a time, out of all that were ever sent.
    sa.Index("ix_vm_expiration_notices_due_at", "due_at"),
    **_MYSQL,
)

#: Work that runs once at a time in the whole cloud, each a claimed row of its own.
chores = sa.Table(
    "vm_expiration_chores",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("next_at", Moment, nullable=False),
    sa.Column("claimed_by", sa.String(64)),
    sa.Column("claimed_until", Moment),
    sa.Column("last_started_at", Moment),
    # When it last came to its end without an error; NULL: never.
    sa.Column("last_finished_at", Moment),
    sa.Column("last_error", sa.Text),
    **_MYSQL,
)

#: How far each notifier has got in the histories, which are one stream by their ids.
cursors = sa.Table(
    "vm_expiration_cursors",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    # The id of the last entry that it has taken, or that is not for it.
    sa.Column("position", sa.BigInteger, nullable=False),
    # How often the next one was tried in vain, when it is tried again, and why.
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column("retry_at", Moment),
    sa.Column("last_error", sa.Text),
    **_MYSQL,
)

#: One row for each end that was begun, and for each call that cannot be undone: what the brake
#: counts. Only the last hour matters.
passes = sa.Table(
    "vm_expiration_passes",
    metadata,
    sa.Column("id", Counter, primary_key=True, autoincrement=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("server_id", sa.String(36), nullable=False),
    sa.Column("at", Moment, nullable=False),
    sa.Index("ix_vm_expiration_passes_kind_at", "kind", "at"),
    **_MYSQL,
)

#: What Keystone was seen to say of a project: terms depend on it, and hooks must not ask.
projects = sa.Table(
    "vm_expiration_projects",
    metadata,
    sa.Column("project_id", sa.String(255), primary_key=True),
    sa.Column("domain_id", sa.String(255), nullable=False),
    sa.Column("name", sa.String(255), nullable=False),
    sa.Column("enabled", sa.Boolean, nullable=False),
    # JSON: an object of texts, and a list of texts.
    sa.Column("properties", sa.Text, nullable=False),
    sa.Column("tags", sa.Text, nullable=False),
    sa.Column("seen_at", Moment, nullable=False),
    **_MYSQL,
)

#: Who is left out by an administrator's act: a domain, a project, a user, a flavor, or one VM.
exclusions = sa.Table(
    "vm_expiration_exclusions",
    metadata,
    sa.Column("id", Counter, primary_key=True, autoincrement=True),
    # domain, project, user, flavor or server; the value is an id, of a flavor its name.
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("value", sa.String(255), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("author", sa.String(255), nullable=False),
    sa.Column("created_at", Moment, nullable=False),
    # NULL: until it is taken back.
    sa.Column("expires_at", Moment),
    sa.UniqueConstraint("kind", "value"),
    **_MYSQL,
)

#: VMs whose clock an administrator has stopped for a while.
holds = sa.Table(
    "vm_expiration_holds",
    metadata,
    sa.Column("server_id", sa.String(36), primary_key=True),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("ticket", sa.String(255)),
    sa.Column("author", sa.String(255), nullable=False),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("until", Moment, nullable=False),
    # The end that the VM has without it.
    sa.Column("ends_at", Moment, nullable=False),
    **_MYSQL,
)

#: The brake, one row: who holds it decides alone how many may go.
brake = sa.Table(
    "vm_expiration_brake",
    metadata,
    sa.Column("name", sa.String(16), primary_key=True),
    # NULL: not tripped.
    sa.Column("tripped_at", Moment),
    sa.Column("tripped_by", sa.String(255)),
    sa.Column("reason", sa.Text),
    # What would have gone, as JSON.
    sa.Column("details", sa.Text, nullable=False, default="{}"),
    # When the mail server took the operator's mail about it.
    sa.Column("told_at", Moment),
    sa.Column("released_at", Moment),
    sa.Column("released_by", sa.String(255)),
    sa.Column("release_reason", sa.Text),
    # What the administrator who released it has accepted: it trips again beyond that only.
    sa.Column("tolerated_waiting", sa.Integer, nullable=False, default=0),
    sa.Column("tolerated_vanished", sa.Integer, nullable=False, default=0),
    **_MYSQL,
)
