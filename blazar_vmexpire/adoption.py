# SPDX-License-Identifier: Apache-2.0
"""Taking VMs in: which ones, and what is written for them.

Both legs of intake end here, one VM at a time or a page of a thousand, with the same result.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Collection, Sequence
from typing import Any

import sqlalchemy as sa

from blazar_vmexpire import leases, lifecycle, subjects
from blazar_vmexpire.cloud.servers import Server
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db.api import Expiration
from blazar_vmexpire.db.models import expirations
from blazar_vmexpire.lifecycle import State, Terms
from blazar_vmexpire.subjects import Facts, Whose
from blazar_vmexpire.terms import Verdict

#: Nova statuses in which a VM rests: it can be taken in, and its time can come.
SETTLED = frozenset(
    {
        "ACTIVE",
        "PAUSED",
        "RESCUE",
        "SHELVED",
        "SHELVED_OFFLOADED",
        "SHUTOFF",
        "SUSPENDED",
        "VERIFY_RESIZE",
    }
)


def settled(server: Server) -> bool:
    """Say whether a VM rests: neither building nor broken, and nothing is being done to it.

    All other VMs are left alone until that is over.
    """
    return server.status in SETTLED and server.task_state is None


def wanted_lease(
    row: Expiration, terms: Terms, before_end_at: datetime.datetime | None = None
) -> leases.Wanted:
    """Say what the lease of a VM has to be.

    :param before_end_at: when its before_end event fires, if its owner moved that.
    """
    # A row has them from its adoption on.
    assert row.lease_id is not None  # noqa: S101
    assert row.adopted_at is not None  # noqa: S101
    assert row.ends_at is not None  # noqa: S101
    return leases.Wanted(
        lease_id=row.lease_id,
        server_id=row.server_id,
        server_name=row.server_name,
        project_id=row.project_id or "",
        user_id=row.user_id or "",
        start_date=lifecycle.floor_minute(row.adopted_at),
        end_date=row.ends_at,
        before_end_at=before_end_at or lifecycle.agenda(row.ends_at, terms).before_end_at,
    )


def moved_lease(row: Expiration, facts: leases.Facts, terms: Terms) -> leases.Wanted:
    """Say what the lease of a VM has to be whose end was moved.

    Its before_end event keeps its distance to the end, as it does when Blazar moves the end.

    :param facts: the lease as it is, with the end that it has.
    """
    before_end_at = facts.before_end_at
    if before_end_at is None or not facts.start_date <= before_end_at <= facts.end_date:
        return wanted_lease(row, terms)
    assert row.ends_at is not None  # noqa: S101 - from its adoption on
    return wanted_lease(row, terms, before_end_at + (row.ends_at - facts.end_date))


def whose(server: Server) -> Whose:
    """Say whose a VM is."""
    return Whose(server_id=server.id, project_id=server.project_id, user_id=server.user_id)


@dataclasses.dataclass(frozen=True, slots=True)
class Newcomer:
    """A VM that is taken in."""

    server: Server
    facts: Facts
    """What terms depend on."""
    verdict: Verdict
    """What follows from them."""

    @classmethod
    def of(
        cls,
        server: Server,
        own_metadata: Collection[str],
        judge: Callable[[Whose, Facts], Verdict],
    ) -> Newcomer:
        """Look at a VM, and judge it.

        :param own_metadata: keys of its metadata that we write: no terms depend on them.
        """
        facts = subjects.facts_of_server(server, own_metadata)
        return cls(server, facts, judge(whose(server), facts))


def seen(facts: Facts) -> dict[str, Any]:
    """Say what the row of a VM holds of what Nova showed of it."""
    text = subjects.as_text(facts)
    return {"facts": text, "facts_digest": subjects.digest_of_text(text)}


def judged(verdict: Verdict) -> dict[str, Any]:
    """Say what the row of a VM holds of the terms that it was looked at with."""
    return {
        "rule": verdict.rule,
        "terms_digest": verdict.digest,
        "on_end_action": verdict.terms.on_end_action,
    }


#: A VM that is older when it is taken in is none of those that people make now.
_NEW_FOR = datetime.timedelta(days=1)


def new_at(adopted_at: datetime.datetime | None, created_at: datetime.datetime | None) -> bool:
    """Say whether a VM was new when it was taken in: only of those are owners told at once."""
    return adopted_at is not None and created_at is not None and adopted_at - created_at <= _NEW_FOR


def columns(
    newcomer: Newcomer, now: datetime.datetime, spread: datetime.timedelta, *, tell: bool
) -> dict[str, Any]:
    """Say what the row of a VM holds from the moment it is taken in.

    :param spread: how far the first ends are spread; zero for a VM that is new.
    :param tell: whether owners of new VMs are told at once.
    """
    server, terms = newcomer.server, newcomer.verdict.terms
    ends_at = lifecycle.first_end(now, terms, spread * lifecycle.share(server.id))
    first_look = min(now + (ends_at - now) / 2, lifecycle.agenda(ends_at, terms).reminders[0].at)
    return {
        "server_name": db_api.storable(server.name, 255),
        "project_id": server.project_id,
        "user_id": server.user_id,
        "lease_id": leases.new_lease_id(),
        "state": State.ACTIVE.value,
        "server_created_at": server.created_at,
        "adopted_at": now,
        "ends_at": ends_at,
        "term_seconds": round(terms.lease_duration.total_seconds()),
        **seen(newcomer.facts),
        **judged(newcomer.verdict),
        # The first look plans the notices; at the latest it is due at the end itself.
        "next_at": now if tell and new_at(now, server.created_at) else first_look,
    }


def adopted(ends_at: datetime.datetime, lease_id: str, verdict: Verdict) -> dict[str, Any]:
    """Say what the history tells of a VM that is taken in."""
    details: dict[str, Any] = {"ends_at": ends_at, "lease_id": lease_id}
    if verdict.rule is not None:
        details["rule"] = verdict.rule
    return details


#: The defaults of a row, spelled out: filling them in row by row costs more than all else.
_NEW = {
    "generation": 0,
    "extensions": 0,
    "attempts": 0,
    "questions": 0,
    "answered": 0,
    "progress": "{}",
}


def adopt_page(
    connection: sa.Connection,
    newcomers: Sequence[Newcomer],
    now: datetime.datetime,
    spread: datetime.timedelta,
    *,
    tell: bool,
) -> None:
    """Take in VMs that have no row yet: rows, leases and history in one transaction.

    :param tell: whether owners of new VMs are told at once.

    :raises oslo_db.exception.DBDuplicateEntry: one of them got a row meanwhile; nothing is done.
    """
    if not newcomers:
        return
    rows = [
        {"server_id": newcomer.server.id, **_NEW, **columns(newcomer, now, spread, tell=tell)}
        for newcomer in newcomers
    ]
    connection.execute(expirations.insert(), rows)
    leases.create(
        connection,
        [
            leases.Wanted(
                lease_id=row["lease_id"],
                server_id=row["server_id"],
                server_name=row["server_name"],
                project_id=row["project_id"],
                user_id=row["user_id"],
                start_date=lifecycle.floor_minute(now),
                end_date=row["ends_at"],
                before_end_at=row["ends_at"] - newcomer.verdict.terms.first_notice,
            )
            for row, newcomer in zip(rows, newcomers, strict=True)
        ],
        now,
    )
    db_api.write_history(
        connection,
        [
            {
                "server_id": row["server_id"],
                "project_id": row["project_id"],
                "at": now,
                "event": "adopted",
                "generation": 0,
                "details": adopted(row["ends_at"], row["lease_id"], newcomer.verdict),
            }
            for row, newcomer in zip(rows, newcomers, strict=True)
        ],
    )
