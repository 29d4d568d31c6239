# SPDX-License-Identifier: Apache-2.0
"""What our API shows. All dates are ISO 8601 in UTC, with a Z."""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from blazar_vmexpire import choice, extension, lifecycle
from blazar_vmexpire.brake import Brake, what_would_go
from blazar_vmexpire.db.api import Expiration, NoticeRow
from blazar_vmexpire.db.holds import Hold
from blazar_vmexpire.db.listing import Entry, Group
from blazar_vmexpire.exclusions import Exclusion
from blazar_vmexpire.lifecycle import State, Terms
from blazar_vmexpire.terms import Verdict


def vm_expiration(row: Expiration, verdict: Verdict, now: datetime.datetime) -> dict[str, Any]:
    """Show one VM's expiration.

    ``latest_allowed_end`` is where its owner could move the end at this moment: to the end that it
    has, if they may not extend now, be it that they have done so as often as they may, be it that
    ``extendable_from`` is yet to come. Both are None for a VM that has no end. ``quarantine_at``
    and ``next_notice_at`` are what is yet to come of them.
    """
    terms = verdict.terms
    most = terms.max_extensions
    room = None if row.ends_at is None else extension.room(row, terms, now)
    return {
        "server_id": row.server_id,
        "server_name": row.server_name,
        "project_id": row.project_id,
        "user_id": row.user_id,
        "lease_id": row.lease_id,
        "state": row.state,
        "rule": row.rule,
        "before_end_action": terms.before_end_action,
        "on_end_action": terms.on_end_action,
        "ends_at": date(row.ends_at),
        **_yet_to_come(row, terms, now),
        "latest_allowed_end": date(room.latest if room else None),
        "extendable_from": date(room.opens_at if room else None),
        "waiting_since": date(row.waiting_since),
        "extensions": row.extensions,
        "extensions_left": max(most - row.extensions, 0) if most else None,
        "generation": row.generation,
    }


def _yet_to_come(row: Expiration, terms: Terms, now: datetime.datetime) -> dict[str, str | None]:
    quarantine_at = next_notice_at = None
    if row.ends_at is not None and row.state in lifecycle.LIVE:
        plan = lifecycle.agenda(row.ends_at, terms)
        coming = [reminder.at for reminder in plan.reminders if reminder.at > now]
        next_notice_at = coming[0] if coming else None
        quarantine_at = None if row.state == State.QUARANTINED else plan.quarantine_at
    return {"quarantine_at": date(quarantine_at), "next_notice_at": date(next_notice_at)}


def details(
    row: Expiration, verdict: Verdict, hold: Hold | None, notices: Sequence[NoticeRow]
) -> dict[str, Any]:
    """Show what is shown of one VM alone, beside :func:`vm_expiration`.

    ``chosen_actions`` are those that its owner chose in an explicit lease, and
    ``imposed_on_end_action`` the one that an administrator has set for it; which of them count is
    said by ``before_end_action`` and ``on_end_action``. ``contacts`` are who is told, in their
    order: the first who can be reached.

    :param hold: that is not over.
    """
    return {
        "hold": None if hold is None else _hold(hold),
        "exemption": None
        if row.state != State.EXEMPT
        else {"reason": verdict.why, "until": date(verdict.until)},
        "notices": [
            _notice(notice)
            for notice in notices
            # Some stand for what needed no telling.
            if notice.accepted_at is not None and notice.recipient is not None
        ],
        "contacts": list(_contacts(row, verdict)),
        "chosen_actions": {name: row.chosen.get(name) for name in choice.KEYS},
        "imposed_on_end_action": row.chosen.get(lifecycle.IMPOSED, {}).get("on_end_action"),
        "last_error": row.last_error,
    }


def _hold(hold: Hold) -> dict[str, Any]:
    return {
        "until": date(hold.until),
        "reason": hold.reason,
        "ticket": hold.ticket,
        "author": hold.author,
        "created_at": date(hold.created_at),
        "end_without_it": date(hold.ends_at),
    }


def _contacts(row: Expiration, verdict: Verdict) -> Iterator[dict[str, Any]]:
    """Show in which order it is tried to reach somebody; the operators' own address is theirs."""
    if not verdict.dry_run:
        yield {"kind": "owner", "value": row.user_id}
        for contact in verdict.mailing.contacts:
            yield {"kind": contact.way.value, "value": contact.value}
    yield {"kind": "undeliverable_contact", "value": None}


def _notice(notice: NoticeRow) -> dict[str, Any]:
    return {
        "kind": notice.kind,
        "generation": notice.generation,
        "accepted_at": date(notice.accepted_at),
        "recipient": notice.recipient,
        "message_id": notice.message_id,
        "told_end": date(notice.told_end),
    }


def history(entry: Entry) -> dict[str, Any]:
    """Show one thing that happened to a VM."""
    return {
        "id": entry.id,
        "at": date(entry.at),
        "event": entry.event,
        "generation": entry.generation,
        "actor": entry.actor,
        "request_id": entry.request_id,
        "details": {name: _detail(value) for name, value in json.loads(entry.details).items()},
    }


#: How dates stand in details: naive UTC.
_DATE = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})(\.[0-9]+)?")


def _detail(value: Any) -> Any:
    found = _DATE.fullmatch(value) if isinstance(value, str) else None
    return value if found is None else f"{found[1]}Z"


def group(found: Group) -> dict[str, Any]:
    """Show how much of a project ends on one day by one rule."""
    return {
        "day": None if found.day is None else found.day.isoformat(),
        "project_id": found.project_id,
        "rule": found.rule,
        "servers": found.servers,
        "vcpus": found.vcpus,
        "ram_mb": found.ram_mb,
    }


def exclusion(found: Exclusion) -> dict[str, Any]:
    """Show who is left out."""
    return {
        "id": found.id,
        "kind": found.kind.value,
        "value": found.value,
        "reason": found.reason,
        "author": found.author,
        "created_at": date(found.created_at),
        "expires_at": date(found.expires_at),
    }


def brake(control: Brake, connection: sa.Connection, now: datetime.datetime) -> dict[str, Any]:
    """Show how the brake stands, and what would go if it were released, or had not tripped."""
    status = dataclasses.asdict(control.status(connection, now))
    going = {"at_trip": status.pop("details"), "now": what_would_go(connection, now)}
    shown = {
        name: date(value) if isinstance(value, datetime.datetime) else value
        for name, value in status.items()
    }
    return shown | {name: _going(groups) for name, groups in going.items()}


def _going(groups: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("server_id", "server_name", "project_id")
    none: dict[str, Any] = {"count": 0, "servers": []}
    found = {name: groups.get(name, none) for name in ("ending", "vanished")}
    return {
        name: {
            "count": group["count"],
            "servers": [dict(zip(keys, server, strict=True)) for server in group["servers"]],
        }
        for name, group in found.items()
    }


def date(moment: datetime.datetime | None) -> str | None:
    """Show a moment, naive UTC."""
    return None if moment is None else f"{moment:%Y-%m-%dT%H:%M:%SZ}"
