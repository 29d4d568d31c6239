# SPDX-License-Identifier: Apache-2.0
"""The samples in the API's documentation are what the API answers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from blazar_vmexpire.api import v1
from tests.blazar_harness import START, Api
from tests.functional.world import World

pytestmark = [
    pytest.mark.databases("sqlite"),
    pytest.mark.options({"virtual:vm": {"on_end_action": "snapshot", "quarantine": "3d"}}),
]

SAMPLES = Path(__file__).parents[2] / "doc" / "source" / "user" / "samples"


class Samples:
    """Collects what was asked and answered, with ids that stay the same from run to run."""

    def __init__(self, world: World) -> None:
        self.found: dict[str, str] = {}
        self._world = world
        self._names: dict[str, str] = {}

    def name(self, actual: str | None, shown: str) -> None:
        """Have an id shown as another one."""
        self._names[str(actual)] = shown

    def take(
        self, name: str, api: Api, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> None:
        """Ask, and keep what was said, as the sample of a route."""
        answer = api.request(method, path, **({} if body is None else {"json": body}))
        assert answer.status_code < 300, answer.json
        asked = f"{method} {path}"
        sample = {"request": asked} | ({} if body is None else {"body": body})
        text = json.dumps({**sample, "answer": answer.json}, indent=2, ensure_ascii=False)
        for actual, shown in self._names.items():
            text = text.replace(actual, shown)
        text = re.sub(r'"req-[0-9a-f-]{36}"', '"req-0f5e3c1a-9d1b-4a3e-8f63-2b8e6f0a7c11"', text)
        self.found[name] = text + "\n"


def take(world: World) -> dict[str, str]:
    """Live through a story in which every route is asked."""
    samples = Samples(world)
    server_id = world.adopt("web-1")
    world.clock.advance(hours=1)
    other = world.adopt("web-2")
    admin, alice = world.as_admin, world.as_alice
    for actual, shown in (
        (server_id, "7d2c1f0e-58a4-4b6e-9a3f-0c1d2e3f4a5b"),
        (other, "b1c9e2d4-7f36-4e0a-8a55-6d7e8f901a2b"),
        (world.row(server_id).lease_id, "c0ffee00-1234-4567-89ab-0123456789ab"),
        (world.row(other).lease_id, "c0ffee01-1234-4567-89ab-0123456789ab"),
        (world.alpha, "3a5f0c9e8d7b4c61a2e4f6081b3d5f70"),
        (world.alice, "9b1e4d7c2f5a4830b6d8e0f21a3c5e79"),
    ):
        samples.name(actual, shown)
    root = "/v1/vm-expirations"
    end = world.row(server_id).ends_at
    assert end is not None
    world.live(end - timedelta(days=9))
    (by,) = {u for u, found in world.cloud.identity.users.items() if found["name"] == "the-admin"}
    samples.name(by, "5c7e9a1b3d5f40718293a4b5c6d7e8f9")

    samples.take("list_vm_expirations", alice, "GET", f"{root}?limit=1")
    samples.take("summarize_vm_expirations", alice, "GET", f"{root}/summary")
    until = "2026-05-20T10:00Z"
    samples.take("extend_vm_expiration", alice, "POST", f"{root}/{server_id}/extend", {})
    ids = [other, "11111111-1111-4111-8111-111111111111"]
    many = {"server_ids": ids, "until": until}
    samples.take("extend_vm_expirations", alice, "POST", f"{root}/extend", many)
    hold = {"reason": "an audit", "hold": {"until": "2026-06-01T10:00Z", "ticket": "OPS-17"}}
    samples.take("update_vm_expiration", admin, "PATCH", f"{root}/{server_id}", hold)
    samples.take("show_vm_expiration", alice, "GET", f"{root}/{server_id}")
    samples.take("show_vm_expiration_history", alice, "GET", f"{root}/{server_id}/history")
    why = {"reason": "it sends spam"}
    samples.take("expire_vm_now", admin, "POST", f"{root}/{other}/expire-now", why)
    samples.take("adopt_vm", admin, "POST", root, {"server_id": other})
    left_out = {"kind": "flavor", "value": "gpu.large", "reason": "paid for until 2027"}
    exclusions = "/v1/vm-expiration-exclusions"
    samples.take("create_exclusion", admin, "POST", exclusions, left_out)
    samples.take("list_exclusions", admin, "GET", exclusions)
    samples.take("delete_exclusion", admin, "DELETE", f"{exclusions}/1")
    brake = "/v1/vm-expiration-brake"
    trip = {"action": "trip", "reason": "the wrong rules file"}
    samples.take("change_brake", admin, "POST", brake, trip)
    samples.take("show_brake", admin, "GET", brake)
    return samples.found


def test_every_sample_is_what_the_api_answers(world: World) -> None:
    """Renew them: write what this finds to the files."""
    found = take(world)
    assert world.clock.now() > START
    assert set(found) == {route.name for route in v1.declared()}
    written = {path.stem: path.read_text() for path in SAMPLES.glob("*.json")}
    for name in sorted(found):
        assert written.get(name) == found[name], name
    assert set(written) == set(found)
