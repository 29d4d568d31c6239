# SPDX-License-Identifier: Apache-2.0
"""The form of a notification: as the documentation shows it, and not changed unawares."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

from blazar_vmexpire import notifiers
from blazar_vmexpire.db.outbox import Entry
from blazar_vmexpire.notifiers import payload

SAMPLE = Path(__file__).resolve().parents[2] / "doc/source/admin/samples/notification.json"

ENTRY = Entry(
    id=4711,
    server_id="6f2a9a52-0c5e-4f0b-9a3e-0d5a7f1c2b88",
    project_id="4f1d0c6a2b7e4d3f9a8b5c6d7e8f9a0b",
    at=datetime.datetime(2026, 3, 20, 14, 7, 31),
    event="extended",
    generation=2,
    actor="199db226625b49ea8245c28e10cf2b20",
    request_id="req-08de374c-f752-4906-aa12-a138132d719a",
    details={
        "old_end": "2026-04-01T10:00:00",
        "new_end": "2026-04-30T10:00:00",
        "by_admin": False,
    },
    server_name="web1",
    user_id="199db226625b49ea8245c28e10cf2b20",
    lease_id="3bd85a40-9ca6-402f-8a55-690426c9ebec",
    state="active",
    ends_at=datetime.datetime(2026, 4, 30, 10, 0),
)


def test_the_documentation_shows_what_is_sent() -> None:
    made = notifiers.make(ENTRY)
    shown = json.loads(SAMPLE.read_text())
    assert shown == {"event_type": made.event_type, "payload": made.payload}
    assert shown["event_type"] == "vmexpire.extended"


def test_a_change_of_the_form_needs_another_version() -> None:
    """Whoever changes the names changes the number, here and there."""

    def names(value: object, path: str = "") -> list[str]:
        if not isinstance(value, dict):
            return [f"{path}: {type(value).__name__}"]
        return [line for key in sorted(value) for line in names(value[key], f"{path}/{key}")]

    made = notifiers.make(ENTRY)
    assert (payload.VERSION, names({**made.payload, "details": "free"})) == (
        "1.0",
        [
            "/actor: str",
            "/at: str",
            "/details: str",
            "/event: str",
            "/generation: int",
            "/id: str",
            "/now/ends_at: str",
            "/now/lease_id: str",
            "/now/state: str",
            "/project_id: str",
            "/request_id: str",
            "/server_id: str",
            "/server_name: str",
            "/user_id: str",
            "/version: str",
        ],
    )


def test_the_text_is_one_line_for_people() -> None:
    assert notifiers.make(ENTRY).text == (
        f"Server web1 ({ENTRY.server_id}): extended (old end 2026-04-01 10:00 UTC,"
        " new end 2026-04-30 10:00 UTC) by 199db226625b49ea8245c28e10cf2b20"
    )
