# SPDX-License-Identifier: Apache-2.0
"""The stories of the promises: what else happens, to Nova, Blazar and our workers, and in time."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from hypothesis import strategies as st
from hypothesis.stateful import rule

from blazar_vmexpire import leases
from blazar_vmexpire.db.models import chores
from tests.functional.story_people import DAY, EXTENSION, People

#: What a manager leaves behind when it is killed over a lease.
LEFT_BEHIND = ["UPDATING", "DELETING", "TERMINATING", "STARTING", "CREATING", "ERROR"]

#: What can be away, by the requests that it answers.
SERVICES = {
    "nova": r"^/compute/",
    "glance": r"^/image/",
    "keystone": r"^/identity/v3/(users|projects)",
}

FAULTS: list[dict[str, Any]] = [
    {"status": 503},
    {"status": 500},
    {"close": True},
    {"close": True, "after": True},
    {"truncate": True},
    {"html": True, "status": 404},
]


class Happenings(People):
    """All that can go wrong there, and the time that passes."""

    vms = People.vms

    # Nova, Glance, mail ---------------------------------------------------------------------------

    @rule(
        server_id=vms | st.just(str(uuid.UUID(int=99, version=4))),
        event=st.sampled_from(["create.end", "delete.end", "rebuild.end"]),
        times=st.integers(1, 2),
    )
    def a_notification_comes(self, server_id: str, event: str, times: int) -> None:
        """A late one, or a forged one, or one of a VM that never was; once or twice."""
        for _ in range(times):
            self._notify(server_id, f"compute.instance.{event}")

    @rule(name=st.sampled_from(sorted(SERVICES)), fault=st.sampled_from(FAULTS))
    def a_service_goes_away(self, name: str, fault: dict[str, Any]) -> None:
        """And answers as broken services do."""
        if name not in self.outages:
            self.outages[name] = self.cloud.fault(SERVICES[name], **fault)

    @rule(answer=st.sampled_from(["451 later", "550 never"]))
    def the_mail_server_refuses(self, answer: str) -> None:
        """For now, or for good."""
        self.mail.answers["RCPT"] = answer

    @rule()
    def all_services_are_back(self) -> None:
        """Until the next time."""
        for fault in self.outages.values():
            fault.remove()
        self.outages.clear()
        self.mail.answers.clear()

    @rule()
    def glance_loses_images_in_the_making(self) -> None:
        """Its store is full."""
        for image_id, image in list(self.cloud.image.images.items()):
            if image["status"] != "active":
                self.cloud.image.fail(image_id)

    # Blazar ---------------------------------------------------------------------------------------

    @rule()
    def blazars_engine_runs(self) -> None:
        """One round of its events."""
        self.harness.tick()

    @rule(server_id=vms, status=st.sampled_from(LEFT_BEHIND), in_hand=st.booleans())
    def a_manager_is_killed_over_a_lease(self, server_id: str, status: str, in_hand: bool) -> None:
        """With an event of it in hand, perhaps."""
        row = self.world.row_or_none(server_id)
        if row is None:
            return
        lease, event = leases.LEASES.c, leases.EVENTS.c
        live = (lease.id == row.lease_id) & (lease.status == "ACTIVE")
        if self.world.wreck(leases.LEASES, live, status=status) and in_hand:
            self.world.wreck(
                leases.EVENTS,
                (event.lease_id == row.lease_id) & (event.status == "UNDONE"),
                status="IN_PROGRESS",
            )
        self.harness.restart()

    # Our workers ----------------------------------------------------------------------------------

    @rule(which=st.integers(0, 1), limit=st.integers(1, 3))
    def a_worker_steps(self, which: int, limit: int) -> None:
        """One step for each VM that it gets hold of."""
        self.workers[which].work(limit)

    @rule(which=st.integers(0, 1))
    def a_worker_is_held_up(self, which: int) -> None:
        """It has claimed what is due, and gets no further."""
        self.workers[which].claim(3)

    @rule(which=st.integers(0, 1))
    def a_worker_goes_on(self, which: int) -> None:
        """As if no time had passed."""
        self.repeats += 3
        self.workers[which].go_on()

    @rule(which=st.integers(0, 1), border=st.integers(1, 12))
    def a_worker_is_killed(self, which: int, border: int) -> None:
        """In the middle of a step: at a request or a commit."""
        self.repeats += 1
        with self.workers[which].killed_at(border):
            self.workers[which].work(3)

    @rule(which=st.integers(0, 1), border=st.integers(1, 12))
    def a_worker_is_killed_over_its_chores(self, which: int, border: int) -> None:
        """Reconciliation, audits and digests."""
        self.repeats += 1
        self._make_chores_due()
        with self.workers[which].killed_at(border):
            self.workers[which].do_chores()

    @rule(
        server_id=vms,
        border=st.integers(1, 6),
        what=st.sampled_from(["extend", "delete lease", "tick", "notification", "worker"]),
    )
    def something_comes_between(self, server_id: str, border: int, what: str) -> None:
        """While a worker waits for Nova, Glance or Keystone."""
        happening: dict[str, Callable[[], None]] = {
            "extend": lambda: self._move_end(server_id, EXTENSION),
            "delete lease": lambda: self.the_owner_deletes_the_lease(server_id),
            "tick": self.harness.tick,
            "notification": lambda: self._notify(server_id, "compute.instance.delete.end"),
            "worker": lambda: self.a_worker_steps(1, 3),
        }
        with self.workers[0].interrupted_at(border, happening[what]):
            self.workers[0].work(3)

    @rule()
    def chores_are_done(self) -> None:
        """Reconciliation and audits, now."""
        self._make_chores_due()
        self.workers[0].do_chores()

    def _nova_gets_on(self) -> None:
        """What it was asked for it finishes, whether anybody looks or not."""
        for server_id in list(self.cloud.compute.vms):
            self.cloud.compute.settle(server_id)

    def _make_chores_due(self) -> None:
        self.world.wreck(chores, sa.true(), next_at=self.clock.now())

    # Time -----------------------------------------------------------------------------------------

    @rule(minutes=st.sampled_from([1, 3, 10, 60, 24 * 60, 3 * 24 * 60]))
    def nothing_runs_for(self, minutes: int) -> None:
        """A downtime of ours, or a jump of the clock."""
        self._nova_gets_on()
        self.clock.advance(minutes=minutes)

    @rule(hours=st.sampled_from([0, 1, 12, 48]))
    def all_goes_its_way_for(self, hours: int) -> None:
        """Workers, chores and Blazar's engine run as they should."""
        self._nova_gets_on()
        self.world.live(self.clock.now() + timedelta(hours=hours))
        self.world.settle()

    @rule(server_id=vms, before=st.sampled_from([5 * DAY, DAY, timedelta(hours=1), timedelta(0)]))
    def all_goes_its_way_until_shortly_before_the_end(
        self, server_id: str, before: timedelta
    ) -> None:
        """Of a VM."""
        row = self.world.row_or_none(server_id)
        if row is not None and row.ends_at is not None:
            self.world.live(row.ends_at - before)
