# SPDX-License-Identifier: Apache-2.0
"""The form of a notification. Who changes it changes its version, and the sample in the docs."""

from __future__ import annotations

import datetime
import re
import uuid
from collections.abc import Mapping
from typing import Any

from blazar_vmexpire import words
from blazar_vmexpire.db import log_lines
from blazar_vmexpire.db.journal import PRIVATE, Happening
from blazar_vmexpire.db.outbox import Entry
from blazar_vmexpire.notifiers.base import Notification

#: The first number is raised when something is taken away or means something else, the second when
#: something is added.
VERSION = "1.0"

#: Ids are derived from what does not change: the entry, which exists once in one database.
_IDS = uuid.UUID("5b0dd2a1-9a3f-4b1c-8f37-6f4f9b1f0c52")

#: A date in the details of a history, which are JSON: naive UTC.
_DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?")


def make(entry: Entry) -> Notification:
    """Make the notification of an entry in a VM's history.

    Mail addresses are left out: who was written to stands in the history.
    """
    notification_id = str(uuid.uuid5(_IDS, f"{entry.server_id}/{entry.id}/{entry.at.isoformat()}"))
    details = {name: value for name, value in entry.details.items() if name not in PRIVATE}
    payload = {
        "version": VERSION,
        "id": notification_id,
        "event": entry.event,
        "at": _date(entry.at),
        "server_id": entry.server_id,
        "server_name": entry.server_name,
        "project_id": entry.project_id,
        "user_id": entry.user_id,
        "generation": entry.generation,
        "actor": entry.actor,
        "request_id": entry.request_id,
        "details": _told(details),
        "now": {
            "state": entry.state,
            "lease_id": entry.lease_id,
            "ends_at": _date(entry.ends_at),
        },
    }
    return Notification(
        id=notification_id,
        event_type=f"vmexpire.{entry.event}",
        payload=payload,
        text=_text(entry, details),
    )


def _text(entry: Entry, details: Mapping[str, Any]) -> str:
    name = words.one_line(entry.server_name or "")
    shown = {
        key: datetime.datetime.fromisoformat(value)
        if isinstance(value, str) and _DATE.fullmatch(value)
        else value
        for key, value in details.items()
    }
    happening = Happening(entry.server_id, entry.event, shown, entry.actor, entry.request_id)
    return f"Server {f'{name} ({entry.server_id})' if name else entry.server_id}: " + (
        log_lines.sentence(happening)
    )


def _date(moment: datetime.datetime | None) -> str | None:
    return None if moment is None else f"{moment.isoformat(timespec='seconds')}Z"


def _told(value: Any) -> Any:
    """Make what the history has fit to be told: no addresses, dates with their zone."""
    if isinstance(value, str):
        return f"{value}Z" if _DATE.fullmatch(value) else words.without_addresses(value)
    if isinstance(value, Mapping):
        return {key: _told(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_told(item) for item in value]
    return value
