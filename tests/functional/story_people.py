# SPDX-License-Identifier: Apache-2.0
"""The stories of the promises: how each begins, and what the people in it do."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    precondition,
    rule,
)

from blazar_vmexpire import exclusions, holds, lifecycle, retrial
from blazar_vmexpire.exclusions import AlreadyExcluded, Kind
from blazar_vmexpire.intake.notifications import Endpoint
from tests.blazar_harness import Harness
from tests.databases import Backend
from tests.functional.journal import Journal
from tests.functional.processes import WorkerProcess
from tests.functional.witness import Changed, Held, Mail, Story, WatchedCloud, WatchedMail
from tests.functional.world import World

DAY = timedelta(days=1)
TERM, EXTENSION, MINIMUM_NOTICE = 10 * DAY, 5 * DAY, 2 * DAY

#: What an owner can write into a lease through Blazar's v1 API, beside its dates.
DAMAGES: list[dict[str, Any]] = [
    {"project_id": "0" * 32},
    {"user_id": None},
    {"trust_id": "0" * 32},
    {"start_date": "2026-04-01 10:00"},
    {"end_date": None},
    {"events": []},
    {"reservations": []},
    {"degraded": True},
    {"status": "TERMINATED"},
    {"status": "ERROR"},
]


class People(RuleBasedStateMachine):
    """A cloud, its Blazar with us in it, and its people."""

    vms = Bundle("vms")

    def __init__(self, backend: Backend, mail: WatchedMail) -> None:
        super().__init__()
        self.backend = backend
        self.mail = mail
        self.harness: Harness | None = None

    # The beginning --------------------------------------------------------------------------------

    @initialize(
        quarantine=st.sampled_from([timedelta(0), DAY]),
        on_end_action=st.sampled_from(["snapshot", "delete", "shelve", "stop"]),
        before_end_action=st.sampled_from(["notification", "snapshot"]),
        digest=st.sampled_from(["off", "daily 08:00 Europe/Zurich"]),
        target=vms,
    )
    def begin(
        self, quarantine: timedelta, on_end_action: str, before_end_action: str, digest: str
    ) -> str:
        """A cloud with one VM that is taken in, on some terms."""
        self.quarantine, self.on_end_action = quarantine, on_end_action
        self.story: Story = []
        self.judged = 0
        self.repeats = 0
        self.outages: dict[str, Any] = {}
        self.stopped_by_owner: set[str] = set()
        self.mail.forget()
        self.mail.story = self.story
        self.url = self.backend.create("ours")
        self.cloud = WatchedCloud(self.story)
        self.cloud.__enter__()
        self.harness = Harness(
            self.url,
            self.cloud,
            {
                "virtual:vm": {
                    "lease_duration": TERM,
                    "extension_duration": EXTENSION,
                    "minimum_notice": MINIMUM_NOTICE,
                    "quarantine": quarantine,
                    "hours_before_end_lease": 96.0,
                    "reminders": [DAY],
                    "on_end_action": on_end_action,
                    "before_end_action": before_end_action,
                },
                "vmexpire_mail": {
                    "host": "127.0.0.1",
                    "port": self.mail.port,
                    "digest": digest,
                },
                "vmexpire_worker": {"retry_max_interval": "20m", "audit_interval": "10m"},
                "vmexpire_intake": {"reconcile_interval": "6h"},
            },
        )
        self.journal = Journal(self.harness.database) if self.backend.name == "sqlite" else None
        self.world = World(self.harness, self.mail)
        self.clock = self.harness.clock
        self.workers = [WorkerProcess(self.harness.conf) for _ in range(2)]
        self.endpoint = Endpoint(self.harness.database, self.clock.now, lambda: None)
        self.booted = 0
        return self.world.adopt(**self._newcomer())

    def _newcomer(self) -> dict[str, str]:
        self.booted += 1
        server_id = str(uuid.UUID(int=self.booted, version=4))
        return {"id": server_id, "name": server_id}

    def _notify(self, server_id: str, event_type: str) -> None:
        self.endpoint.info({}, "nova", event_type, {"instance_id": server_id}, {})

    # People ---------------------------------------------------------------------------------------

    @rule(target=vms, told=st.booleans())
    @precondition(lambda self: self.booted < 3)
    def somebody_boots_a_vm(self, told: bool) -> str:
        """With a notification, or without: then the next reconciliation finds it."""
        server_id = self.world.boot(**self._newcomer())
        if told:
            self._notify(server_id, "compute.instance.create.end")
        return server_id

    @rule(server_id=vms, days=st.integers(1, 12), minutes=st.sampled_from([0, 1, 30]))
    def the_owner_moves_the_end(self, server_id: str, days: int, minutes: int) -> None:
        """By Blazar's API. What is refused changes nothing; what is granted is within the cap."""
        self._move_end(server_id, timedelta(days=days, minutes=minutes))

    def _move_end(self, server_id: str, ahead: timedelta) -> None:
        before = self.world.row_or_none(server_id)
        if before is None or before.lease_id is None or before.ends_at is None:
            return
        now = self.clock.now()
        new_end = lifecycle.floor_minute(now + ahead)
        answer = self.world.update(server_id, end_date=new_end)
        after = self.world.row(server_id)
        if answer.status_code != 200:
            assert after.ends_at == before.ends_at, f"{answer.status_code}, and yet it was moved"
            return
        if after.generation == before.generation:
            assert after.ends_at == before.ends_at
            return
        assert after.ends_at == new_end
        assert new_end <= max(before.ends_at, lifecycle.floor_minute(now + EXTENSION))
        self.story.append(Changed(server_id, now))
        if new_end < before.ends_at:
            # Whoever chose the date knows it.
            self.story.append(Mail(server_id, now, "", (new_end - self.quarantine,)))

    @rule(server_id=vms)
    def the_owner_extends(self, server_id: str) -> None:
        """By our own API, past the end, too."""
        before = self.world.row_or_none(server_id)
        answer = self.world.extend(server_id)
        after = self.world.row_or_none(server_id)
        if before is not None and after is not None and after.generation > before.generation:
            assert answer.status_code == 200
            self.story.append(Changed(server_id, self.clock.now()))

    @rule(server_id=vms)
    def the_owner_unshelves_the_vm(self, server_id: str) -> None:
        """As far as Nova lets them, and answers: then its next term begins."""
        if "nova" in self.outages:
            return
        if self.world.act(server_id, "unshelve") == 202:
            self.story.append(Changed(server_id, self.clock.now()))

    @rule(server_id=vms)
    def the_owner_deletes_the_lease(self, server_id: str) -> None:
        """That is no way out."""
        row = self.world.row_or_none(server_id)
        if row is not None and row.lease_id is not None:
            self.world.as_alice.delete(f"/v1/leases/{row.lease_id}")

    @rule(server_id=vms, damage=st.sampled_from(DAMAGES))
    def the_owner_damages_the_lease(self, server_id: str, damage: dict[str, Any]) -> None:
        """Neither is that."""
        row = self.world.row_or_none(server_id)
        if row is not None and row.lease_id is not None:
            self.world.update(server_id, **damage)

    @rule(server_id=vms)
    def the_owner_stops_the_vm(self, server_id: str) -> None:
        """As far as Nova lets them."""
        vm = self.cloud.compute.vms.get(server_id)
        if vm is not None and not vm.locked and vm.task_state is None and vm.vm_state == "active":
            vm.vm_state = "stopped"
            self.stopped_by_owner.add(server_id)

    @rule(server_id=consumes(vms), told=st.booleans())
    def somebody_deletes_the_vm(self, server_id: str, told: bool) -> None:
        """With a notification, or without."""
        if server_id in self.cloud.compute.vms:
            self.cloud.compute.vanish(server_id)
            if told:
                self._notify(server_id, "compute.instance.delete.end")

    @rule(server_id=vms, vm_state=st.sampled_from(["error", "building"]))
    def a_vm_breaks(self, server_id: str, vm_state: str) -> None:
        """Or is rebuilt."""
        vm = self.cloud.compute.vms.get(server_id)
        if vm is not None and vm.task_state is None:
            vm.vm_state = vm_state

    @rule(server_id=vms)
    def a_vm_is_busy(self, server_id: str) -> None:
        """Somebody resizes it, which takes its time."""
        vm = self.cloud.compute.vms.get(server_id)
        if vm is not None and vm.task_state is None:
            vm.task_state = "resize_migrating"

    @rule()
    def vms_are_well_again(self) -> None:
        """Those that were broken or busy."""
        for server_id, vm in self.cloud.compute.vms.items():
            if vm.task_state == "resize_migrating":
                vm.task_state = None
            if vm.vm_state in ("error", "building"):
                vm.vm_state = "stopped" if server_id in self.stopped_by_owner else "active"

    @rule(excluded=st.booleans())
    def an_operator_excludes_the_project(self, excluded: bool) -> None:
        """Or takes it in again."""
        projects = [self.world.alpha] if excluded else []
        self.harness.conf.set_override("excluded_projects", projects, group="virtual:vm")

    @rule(server_id=vms, days=st.sampled_from([0, 1, 5]))
    def an_operator_excludes_a_vm(self, server_id: str, days: int) -> None:
        """For some days, or until it is removed."""
        now = self.clock.now()
        row = self.world.row_or_none(server_id)
        try:
            with self.harness.database.begin() as connection:
                exclusions.add(
                    connection,
                    kind=Kind.SERVER,
                    value=server_id,
                    reason="a demonstration",
                    author="operator",
                    expires_at=now + days * DAY if days else None,
                    now=now,
                )
        except AlreadyExcluded:
            return
        if row is not None and not row.progress.get("irreversible"):
            self.story.append(Changed(server_id, now))

    @rule(server_id=vms)
    def an_operator_removes_an_exclusion(self, server_id: str) -> None:
        """Of a VM."""
        with self.harness.database.begin() as connection:
            exclusion = exclusions.get_by_value(connection, Kind.SERVER, server_id)
            if exclusion is not None:
                exclusions.remove(
                    connection, exclusion, author="operator", reason=None, now=self.clock.now()
                )

    @rule(server_id=vms, days=st.integers(1, 12))
    def an_operator_holds(self, server_id: str, days: int) -> None:
        """A VM, for some days; it may be held already."""
        now = self.clock.now()
        try:
            with self.harness.database.begin() as connection:
                holds.hold(
                    connection,
                    server_id,
                    until=now + days * DAY,
                    reason="it is looked into",
                    ticket=None,
                    author="operator",
                    book=self.harness.plugin.tools.book,
                    now=now,
                )
        except holds.Refused:
            return
        self.story += [Changed(server_id, now), Held(server_id, now, now + days * DAY)]

    @rule(server_id=vms)
    def an_operator_releases(self, server_id: str) -> None:
        """What is held."""
        now = self.clock.now()
        with self.harness.database.begin() as connection:
            released = holds.release(
                connection,
                server_id,
                reason=None,
                author="operator",
                book=self.harness.plugin.tools.book,
                now=now,
            )
        if released is not None:
            self.story += [Changed(server_id, now), Held(server_id, now, now)]

    @rule(server_id=vms)
    def an_operator_retries(self, server_id: str) -> None:
        """What had failed."""
        now = self.clock.now()
        with self.harness.database.begin() as connection:
            retried = retrial.retry(
                connection,
                server_id,
                actor="operator",
                reason=None,
                book=self.harness.plugin.tools.book,
                now=now,
            )
        if retried is not None:
            self.story.append(Changed(server_id, now))
