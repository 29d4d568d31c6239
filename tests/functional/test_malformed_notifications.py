# SPDX-License-Identifier: Apache-2.0
"""Notifications that make no sense: each is told in one line, and none stops those that do."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from blazar_vmexpire.intake import notifications
from tests.functional.intake import (
    Bus,
    at_work,
    one_bus,
    unversioned,
    versioned,
    wait_for_state,
    wait_until,
)

__all__ = ["at_work", "one_bus"]


def _nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = [{"nova_object.data": {"uuid": value}}]
    return value


MALFORMED: dict[str, Any] = {
    "no payload": None,
    "an empty payload": {},
    "a list": [],
    "a text": "instance_id",
    "a number": 7,
    "no id": {"state": "active"},
    "null for an id": unversioned(None),
    "a number for an id": unversioned(17),
    "true for an id": unversioned(True),
    "an empty id": unversioned(""),
    "no UUID": unversioned("web1"),
    "a list of ids": unversioned([str(uuid.uuid4())]),
    "an object for an id": unversioned({"uuid": str(uuid.uuid4())}),
    "a path": unversioned(f"../{uuid.uuid4()}"),
    "a line break": unversioned(f"{uuid.uuid4()}\nCRITICAL all is lost"),
    "SQL": unversioned("'; DROP TABLE leases; --"),
    "NUL": unversioned("\0"),
    "half a character": unversioned("\ud83d"),
    "two ids": unversioned(f"{uuid.uuid4()},{uuid.uuid4()}"),
    "a megabyte": unversioned("x" * 2**20),
    "a megabyte of objects": unversioned([{"x": n} for n in range(2**16)]),
    "no data": {"nova_object.data": None},
    "data that is a list": {"nova_object.data": [{"uuid": str(uuid.uuid4())}]},
    "a versioned id of an unversioned key": {"nova_object.data": {"instance_id": "x"}},
    "a versioned object for an id": versioned({"nova_object.data": {"uuid": "x"}}),
    "nested": _nested(5),
    "nested deeply": unversioned(_nested(100)),
}


@pytest.mark.parametrize("event", ["compute.instance.create.end", "instance.delete.end"])
@pytest.mark.parametrize("payload", MALFORMED.values(), ids=MALFORMED)
def test_what_makes_no_sense_is_told_in_one_line(
    payload: Any, event: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert notifications.server_of(event, payload) is None
    (record,) = caplog.records
    line = record.getMessage()
    assert record.levelno == logging.WARNING
    assert line.startswith(f"Notification {event} names no server: ")
    assert len(line) < 300
    assert "\n" not in line


@pytest.mark.parametrize("event", [None, 7, ["compute.instance.create.end"], "", "x" * 2**20, {}])
def test_an_event_that_is_none_is_none_of_ours(
    event: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert notifications.server_of(event, unversioned(str(uuid.uuid4()))) is None
    assert caplog.records == []


@pytest.mark.parametrize(
    "spell", [str.upper, lambda s: s.replace("-", ""), lambda s: f"{{{s}}}", "urn:uuid:{}".format]
)
def test_a_uuid_is_one_however_it_is_spelled(spell: Callable[[str], str]) -> None:
    """As a key it has 36 characters, and one VM has one key."""
    server_id = str(uuid.uuid4())
    named = notifications.server_of("instance.create.end", versioned(spell(server_id)))
    assert named == server_id


def test_nothing_is_lost_among_messages_that_make_no_sense(
    one_bus: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    """All of them through the real listener; those that could become rows do not."""
    world = one_bus.world
    good = [world.boot() for _ in range(3)]
    one_bus.say("create.end", good[0])
    for payload in MALFORMED.values():
        world.harness.notify("compute.instance.create.end", payload)
        world.harness.notify("instance.create.end", payload, "versioned_notifications")
    one_bus.say("create.end", f"urn:uuid:{good[1]}")
    one_bus.say("create.end", good[2])
    for server_id in good:
        wait_for_state(world, server_id, "active")

    def told() -> int:
        return sum("names no server" in record.message for record in caplog.records)

    wait_until(lambda: told() == 2 * len(MALFORMED), "each is told of")
    assert {row.server_id for row in world.rows()} == set(good)
    assert len(world.all_leases()) == len(good)
