# SPDX-License-Identifier: Apache-2.0
"""What the owner of a VM chooses within its terms: the actions before its end and at its end."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Collection, Mapping
from typing import Any

import sqlalchemy as sa

from blazar_vmexpire import adoption, extension, lifecycle
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db.api import Expiration
from blazar_vmexpire.db.models import expirations
from blazar_vmexpire.extension import Caller, Conflict, NotAllowed
from blazar_vmexpire.lifecycle import Event, State, Terms
from blazar_vmexpire.terms import TermsBook, Verdict

#: What can be chosen, by the names that the terms have for it.
KEYS = ("before_end_action", "on_end_action")


def parse(
    values: Mapping[str, Any], terms: Terms, possible: Mapping[str, Collection[str]]
) -> dict[str, str]:
    """Read which actions somebody chooses.

    :param values: what they say of a reservation; whatever else is in it.
    :param terms: of the VM, as they are where its owner has chosen nothing.
    :param possible: names of the actions that there are for each of :data:`KEYS`.
    :returns: what they chose, by key; none or both of them.
    :raises NotAllowed: it is neither the terms' own nor among their ``allowed_actions``.
    """
    chosen = {}
    for key in KEYS:
        if key not in values:
            continue
        own: str = getattr(terms, key)
        allowed = [own, *(a for a in terms.allowed_actions if a in possible[key] and a != own)]
        if values[key] not in allowed:
            raise NotAllowed(
                f"{key} {str(values[key])[:100]!r} cannot be chosen for this server: it can be"
                f" {' or '.join(allowed)}"
            )
        chosen[key] = values[key]
    return chosen


def own_verdict(
    book: TermsBook, connection: sa.Connection, row: Expiration, now: datetime.datetime
) -> Verdict:
    """Judge a VM as if its owner had chosen nothing."""
    return book.verdict(connection, dataclasses.replace(row, chosen={}), now)


def check(
    row: Expiration,
    actions: Mapping[str, Any],
    terms: Terms,
    now: datetime.datetime,
    new_end: datetime.datetime | None = None,
) -> None:
    """See that an owner may choose these actions now.

    :param actions: as :func:`parse` returns them, or an administrator's.
    :param terms: of the VM, as they are where its owner has chosen nothing.
    :param new_end: the end it is going to have, if that is another one: then what was begun before
        the one it has is undone, and its owner is told anew.
    :raises Conflict: they may not, now: something of it is under way, or its owner could not be
        told in time that less will be left.
    """
    before, after = _before_and_after(row, actions, terms)
    if before == after:
        return
    if row.state not in lifecycle.LEASED:
        raise Conflict(
            f"the actions of server {row.server_id} cannot be changed while it is {row.state}"
        )
    if new_end is None and _under_way(row):
        raise Conflict(
            f"the before_end_action {before.before_end_action!r} of server {row.server_id} is under"
            " way: its actions cannot be changed until that is over"
        )
    assert row.ends_at is not None  # noqa: S101 - every live row has it
    if (
        not lifecycle.as_gentle(after.on_end_action, before.on_end_action)
        and new_end is None
        and row.ends_at < lifecycle.told_in_time(now, after)
    ):
        raise Conflict(
            f"server {row.server_id} ends at {row.ends_at:%Y-%m-%d %H:%M} UTC: that is too soon to"
            f" tell of {after.on_end_action!r} instead of {before.on_end_action!r}; move its end"
            " first"
        )


def change(
    connection: sa.Connection,
    row: Expiration,
    actions: Mapping[str, Any],
    *,
    caller: Caller,
    verdict: Verdict,
    now: datetime.datetime,
    next_at: datetime.datetime,
) -> Expiration:
    """Write the actions that an owner chose, and that were checked, to a row that is held.

    The ``generation`` is raised, so that no step that was begun with the old actions can be
    finished with them. Where at least as much is left of the VM as its owner was told, what they
    were told still holds; else they are told anew. An image that was begun for the old actions is
    removed.

    :param verdict: as :func:`own_verdict` gives it.
    :param next_at: when the VM is looked at.
    :returns: the row as it is now; as it was, where that changes nothing.
    """
    before, after = _before_and_after(row, actions, verdict.terms)
    chosen = {**row.chosen, **actions}
    if chosen == row.chosen:
        return row
    changed = dataclasses.replace(row, chosen=chosen)
    if before != after:
        still_told = lifecycle.as_gentle(after.on_end_action, before.on_end_action)
        changed = dataclasses.replace(
            changed,
            generation=row.generation + 1,
            next_at=next_at,
            progress=_progress(row, before, after),
            state=_state(row, still_told=still_told),
        )
        if still_told:
            db_api.carry_notices(connection, row, changed.generation)
        db_api.record(
            connection,
            changed,
            "actions_chosen",
            now,
            actor=caller.user_id,
            request_id=caller.request_id,
            **{key: getattr(after, key) for key in KEYS},
            instead_of={key: getattr(before, key) for key in KEYS},
            **caller.why,
        )
    columns: dict[str, Any] = {}
    if row.terms_digest == dataclasses.replace(verdict, terms=before).digest:
        # What follows from it is done here; whatever else has changed is still to be followed.
        columns = adoption.judged(dataclasses.replace(verdict, terms=after))
        changed = dataclasses.replace(changed, **columns)
    connection.execute(
        sa.update(expirations)
        .where(expirations.c.server_id == row.server_id)
        .values(
            **columns,
            chosen=db_api.as_json(chosen),
            progress=db_api.as_json(changed.progress),
            generation=changed.generation,
            next_at=changed.next_at,
            state=changed.state,
        )
    )
    return changed


def _before_and_after(
    row: Expiration, actions: Mapping[str, Any], terms: Terms
) -> tuple[Terms, Terms]:
    return (
        lifecycle.with_choice(terms, row.chosen),
        lifecycle.with_choice(terms, {**row.chosen, **actions}),
    )


def _state(row: Expiration, *, still_told: bool) -> str:
    if extension.images_begun(row):
        return lifecycle.after(row.state, Event.UNDO).value
    if row.state == State.NOTICED and not still_told:
        return lifecycle.after(row.state, Event.EXTEND).value
    return row.state


def _under_way(row: Expiration) -> bool:
    """Say whether the action before this end was begun and is not over."""
    notes = row.progress.get("before_end", {})
    return notes.get("generation") == row.generation and "done" not in notes


def _progress(row: Expiration, before: Terms, after: Terms) -> Mapping[str, Any]:
    """Say what the row's progress is in the next generation: what was done before the end stays."""
    done = row.progress.get("before_end", {}).get("done") == row.generation
    if not done or before.before_end_action != after.before_end_action:
        return row.progress
    following = row.generation + 1
    return {**row.progress, "before_end": {"generation": following, "done": following}}
