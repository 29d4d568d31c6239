# SPDX-License-Identifier: Apache-2.0
"""What the log says of a VM's life: a line for each step, and nothing that is private."""

from __future__ import annotations

import logging
import re
from datetime import timedelta

import pytest

from tests.functional.world import World

pytestmark = pytest.mark.databases("sqlite")

_REQUEST = re.compile(r"request (req-[0-9a-f-]{36})$")
_TERMS = {
    "lease_duration": "12d",
    "hours_before_end_lease": 240.0,
    "reminders": "2d",
    "quarantine": "5d",
    "on_end_action": "snapshot",
}


def ours(caplog: pytest.LogCaptureFixture, least: int = logging.INFO) -> list[str]:
    """Return what our own modules logged, at this level and above it."""
    return [
        record.getMessage() + (record.exc_text or "")
        for record in caplog.records
        if record.name.startswith("blazar_vmexpire") and record.levelno >= least
    ]


def about(caplog: pytest.LogCaptureFixture, server_id: str) -> list[str]:
    """Return what was logged of a VM, at INFO and above it."""
    return [line for line in ours(caplog) if server_id in line]


@pytest.mark.options({"virtual:vm": _TERMS})
def test_a_life_is_in_the_log_step_by_step(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    server_id = world.adopt()
    end = world.lease(server_id).end_date
    world.live(end - timedelta(days=1))
    assert world.extend(server_id).status_code == 200
    world.live(world.lease(server_id).end_date + timedelta(hours=1))
    assert world.state(server_id) == "deleted"

    lines = about(caplog, server_id)
    assert all(line.startswith(f"Server {server_id}: ") for line in lines)
    said = "\n".join(lines)
    # Nothing is in its history that is not in the log, in the same order.
    events = [event.replace("_", " ") for event in world.events(server_id)]
    at = 0
    for event in events:
        at = said.index(event, at)
    # Which state it is in then, and what comes next.
    assert re.search(r": adopted \(.*; active, next at 2026-03-04 10:00:00 UTC; request", said)
    assert re.search(r": deleted \(by the end of its lease.*; deleted, next at", said)
    # Each line can be found in the logs of the services that were asked, too.
    assert all(_REQUEST.search(line) for line in lines), said
    asked = {
        request.headers.get("x-openstack-request-id")
        for request in world.cloud.requests("/servers/")
        if request.method != "GET"
    }
    assert asked <= {match[1] for match in map(_REQUEST.search, lines) if match}
    assert None not in asked


@pytest.mark.options({"virtual:vm": _TERMS})
def test_who_extended_it_by_which_request_is_in_the_log(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server_id = world.adopt()
    world.clock.advance(days=3)
    answer = world.extend(server_id)
    (line,) = [line for line in about(caplog, server_id) if ": extended" in line]
    assert f" by {world.alice}; " in line
    assert line.endswith(f"request {answer.headers['X-Openstack-Request-Id']}")


@pytest.mark.options(
    {
        "virtual:vm": _TERMS,
        "vmexpire_mail": {"username": "blazar", "password": "a-mail-password"},
        # Weeks pass.
        "vmexpire_worker": {"retry_interval": "1d", "retry_max_interval": "1d"},
    }
)
def test_no_address_and_no_secret_is_logged_beyond_debug(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither where mails are accepted, nor where they are refused, put off, or cannot be sent."""
    caplog.set_level(logging.DEBUG)
    server_id = world.adopt()
    end = world.lease(server_id).end_date
    # The mail server offers no login: nothing can be sent.
    world.live(end - timedelta(days=9))
    world.harness.plugin.tools.mailer._username = None
    world.mail.refused["alice@example.org"] = "550 5.1.1 <alice@example.org>: no such mailbox"
    world.mail.refused["operators@example.org"] = "450 4.2.0 operators@example.org: greylisted"
    world.live(end - timedelta(hours=1))
    stranger = world.adopt("web2", user_id="nobody")
    world.mail.forget()
    world.live(world.lease(stranger).end_date + timedelta(hours=1))
    assert {world.state(server_id), world.state(stranger)} == {"deleted"}

    events = [*world.events(server_id), *world.events(stranger)]
    assert {"notice_refused", "notice_accepted", "moved", "orphaned"} <= set(events)
    debugged = "\n".join(ours(caplog, logging.DEBUG))
    assert "alice@example.org" in debugged
    said = "\n".join(ours(caplog))
    assert "could not be sent" in said
    assert "notice refused" in said
    for private in ("@example.org", "a-mail-password"):
        assert private not in said
    assert "a-mail-password" not in debugged


def test_who_left_a_project_out_and_took_that_back_is_in_the_log(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    of = f"project {world.alpha}"
    body = {"kind": "project", "value": world.alpha, "reason": "ask ops@example.org"}
    added = world.as_admin.post("/v1/vm-expiration-exclusions", json=body)
    exclusion_id = added.json["vm_expiration_exclusion"]["id"]
    path = f"/v1/vm-expiration-exclusions/{exclusion_id}?reason=over"
    assert world.as_admin.delete(path).status_code == 204
    excluded, removed = [line for line in ours(caplog) if line.lower().startswith(f"{of}: ")]
    assert re.search(
        rf": excluded \(exclusion {exclusion_id}\) by \S+: ask .*; request req-", excluded
    )
    assert re.search(
        rf": exclusion removed \(exclusion {exclusion_id}\) by \S+: over; request req-", removed
    )
    assert "ops@example.org" not in excluded


def test_a_database_error_does_not_show_what_was_to_be_written(world: World) -> None:
    assert world.harness.plugin.tools.database.engine.hide_parameters
