# SPDX-License-Identifier: Apache-2.0
"""The promises, whatever happens and in whatever order.

Hypothesis makes up stories of a cloud with a few VMs: owners who extend, stop, delete; leases that
are deleted and damaged; notifications that are lost, doubled and forged; workers that are held up,
interrupted and killed; services that are away; a clock that jumps. After every event the promises
are checked, by what Nova was asked and what the mail server took (:mod:`tests.functional.witness`).
At the end of each story the faults cease, and everything has to come to rest: each VM that is left
has a sound lease, and when its time is over it ends as it should.

A story that breaks a promise is printed as a program, as short as Hypothesis can make it, with a
``@reproduce_failure(…)``: put that on ``story`` in :func:`hold` to have it told again. The program
itself, line by line, makes a test.
"""

from __future__ import annotations

import sys
import uuid
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from blazar_vmexpire import exclusions, holds, leases, lifecycle, retrial
from blazar_vmexpire.db.models import chores
from blazar_vmexpire.exclusions import AlreadyExcluded, Kind
from blazar_vmexpire.intake.notifications import Endpoint
from blazar_vmexpire.lifecycle import LIVE, State
from tests.blazar_harness import Harness
from tests.databases import Backend
from tests.functional.journal import DECLARED, Journal
from tests.functional.processes import WorkerProcess
from tests.functional.witness import Act, Changed, Held, Mail, Story, WatchedCloud, WatchedMail
from tests.functional.world import World
from tests.mail_servers import running

DAY = timedelta(days=1)
TERM, EXTENSION, MINIMUM_NOTICE = 10 * DAY, 5 * DAY, 2 * DAY

#: States in which nothing is done any more, and nothing need be.
RESTING = {"ended", "exempt", "failed"}

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


class Promises(RuleBasedStateMachine):
    """A cloud, its people, its Blazar with us in it, and all that can go wrong."""

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

    def _notify(self, server_id: str, event_type: str) -> None:
        self.endpoint.info({}, "nova", event_type, {"instance_id": server_id}, {})

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

    # The promises ---------------------------------------------------------------------------------

    @invariant()
    def the_promises_hold(self) -> None:
        """After every event."""
        if self.harness is not None:
            self._nothing_disruptive_without_notice()
            self._never_two_live_leases_for_one_vm()
            self._nobody_is_immortal()
            self._every_change_of_state_is_a_declared_one()
            self._no_mail_is_sent_twice_but_after_a_crash()

    def _nothing_disruptive_without_notice(self) -> None:
        """Of this end, taken by the mail server long enough ago; and no deletion without image."""
        story = list(self.story)
        for position in range(self.judged, len(story)):
            event = story[position]
            if isinstance(event, Act):
                self._judge(event, story[:position])
        self.judged = len(story)

    def _judge(self, act: Act, before: Story) -> None:
        told: list[Mail] = []
        free = act.at
        for event in before:
            if event.server_id == act.server_id:
                if isinstance(event, Changed):
                    told = []
                elif isinstance(event, Held):
                    free = event.until
                elif isinstance(event, Mail):
                    told.append(event)
        assert act.at >= free, f"{act} while it is held"
        in_time = [
            mail
            for mail in told
            if mail.at + MINIMUM_NOTICE <= act.at and mail.dates and mail.dates[0] <= act.at
        ]
        assert in_time, f"{act} without notice; told were {told}"
        if act.what == "delete" and self.on_end_action == "snapshot":
            assert act.images, f"{act} without an image"
            assert not act.running, f"{act} while it runs: its image is not its last state"

    def _never_two_live_leases_for_one_vm(self) -> None:
        """Live is what is not TERMINATED."""
        r, lease = leases.RESERVATIONS.c, leases.LEASES.c
        with self.harness.database.begin() as connection:
            found = Counter(
                connection.scalars(
                    sa.select(r.resource_id)
                    .join(leases.LEASES, lease.id == r.lease_id)
                    .where(lease.status != "TERMINATED")
                )
            )
        assert all(number == 1 for number in found.values()), found

    def _nobody_is_immortal(self) -> None:
        """Each VM that we know has a date on which something happens to it."""
        for row in self.world.rows():
            if row.server_id in self.cloud.compute.vms and row.state not in {*RESTING, "deleted"}:
                assert row.next_at is not None, f"{row} rests for ever"

    def _every_change_of_state_is_a_declared_one(self) -> None:
        """As the database saw it."""
        if self.journal is not None:
            assert self.journal.all() <= DECLARED

    def _no_mail_is_sent_twice_but_after_a_crash(self) -> None:
        """Then with the same Message-ID."""
        sent = Counter(
            (e.message_id, e.server_id) for e in self.story if isinstance(e, Mail) and e.message_id
        )
        # A digest is one mail, of however many VMs it tells.
        repeated = {message_id: number - 1 for (message_id, _), number in sent.items()}
        assert sum(repeated.values()) <= self.repeats, sent

    # The end --------------------------------------------------------------------------------------

    def teardown(self) -> None:
        """Let everything come to rest."""
        if self.harness is None:
            return
        try:
            # Where a promise was broken already, that is what is to be reported.
            if sys.exc_info()[0] is None:
                self._faults_cease()
                self._everything_is_sound()
                self._everything_ends()
        finally:
            for worker in self.workers:
                worker.close()
            self.harness.close()
            self.cloud.__exit__()
            self.backend.drop(self.url)

    def _faults_cease(self) -> None:
        self.all_services_are_back()
        self.vms_are_well_again()
        self.an_operator_excludes_the_project(False)
        for server_id in self.cloud.compute.vms:
            # One that was left out from the beginning has no row.
            self.an_operator_removes_an_exclusion(server_id)
        for row in self.world.rows():
            self.an_operator_releases(row.server_id)
            self.an_operator_retries(row.server_id)
        # Claims of the dead run out and what they left behind is mended, then whatever failed is
        # tried again; at last VMs that were busy are.
        for minutes in (3, 3, 25, 65):
            self.clock.advance(minutes=minutes)
            self._nova_gets_on()
            self._make_chores_due()
            self.world.settle()
        self.the_promises_hold()

    def _everything_is_sound(self) -> None:
        """Each VM has its lease, runs if its owner lets it, and nobody else has one."""
        for server_id, vm in self.cloud.compute.vms.items():
            row = self.world.row(server_id)
            if row.state == State.ENDED:
                self._is_kept(server_id)
                continue
            assert row.state in LIVE, row
            assert row.ends_at is not None
            lease = self.world.lease(server_id)
            assert (lease.status, lease.end_date) == ("ACTIVE", row.ends_at)
            assert (lease.project_id, lease.user_id) == (vm.project_id, vm.user_id)
            assert lease.trust_id is None
            ends = [(e.time, e.status) for e in lease.events if e.event_type == "end_lease"]
            assert ends == [(row.ends_at, "UNDONE")]
            if row.state != State.QUARANTINED:
                assert not vm.locked, f"{row} and yet it is locked"
                runs = vm.vm_state == "active"
                assert runs or server_id in self.stopped_by_owner, f"{row}, yet it is stopped"
        for row in self.world.rows():
            if row.server_id not in self.cloud.compute.vms:
                assert (row.state, row.next_at) == ("deleted", None), row

    def _is_kept(self, server_id: str) -> None:
        """As the action at the end leaves it, and with a lease that is over."""
        vm = self.cloud.compute.vms[server_id]
        assert self.world.row(server_id).next_at is None
        if self.on_end_action == "stop":
            assert vm.locked
            assert vm.vm_state != "active"
        else:
            assert not vm.locked
            assert vm.vm_state == "shelved_offloaded"
            image = self.cloud.image.images[vm.shelved_image or ""]
            assert (image["status"], image["owner"]) == ("active", vm.project_id)

    def _everything_ends(self) -> None:
        """Nobody extends any more, so each VM ends, and nothing is left over."""
        for _ in range(40):
            ends = [row.ends_at for row in self.world.rows() if row.state in LIVE]
            if not ends:
                break
            self.world.live(min(end for end in ends if end is not None) + timedelta(minutes=10))
            self.clock.advance(minutes=1)
        self.world.live(self.clock.now() + timedelta(hours=1))
        self.the_promises_hold()
        if self.on_end_action in ("shelve", "stop"):
            for server_id in self.cloud.compute.vms:
                assert self.world.state(server_id) == State.ENDED
                self._is_kept(server_id)
        else:
            assert not self.cloud.compute.vms
        assert {(row.state, row.next_at) for row in self.world.rows()} <= {
            ("deleted", None),
            ("ended", None),
        }
        lease, event = leases.LEASES.c, leases.EVENTS.c
        with self.harness.database.begin() as connection:
            statuses = set(connection.scalars(sa.select(lease.status)))
            waiting = set(connection.scalars(sa.select(event.status)))
        assert statuses <= {"TERMINATED"}
        assert waiting <= {"DONE"}
        stray = [i for i in self.cloud.image.images.values() if i["owner"] != self.world.alpha]
        assert not stray, "an image was left in the service project"


def hold(backend: Backend, **options: Any) -> None:
    """Make up stories, and see that the promises hold in them."""
    with running(WatchedMail()) as mail:

        def story() -> Promises:
            return Promises(backend, mail)

        run_state_machine_as_test(
            story,
            settings=settings(
                # The machine is shared: what takes long is not wrong.
                deadline=None,
                suppress_health_check=list(HealthCheck),
                print_blob=True,
                **options,
            ),
        )


@pytest.mark.databases("sqlite")
def test_the_promises_hold(backend: Backend) -> None:
    """The same stories each time, so that what breaks one is found out where it is made."""
    hold(backend, max_examples=6, stateful_step_count=25, derandomize=True, database=None)


@pytest.mark.long
def test_the_promises_hold_in_other_stories(backend: Backend) -> None:
    """Others each time, and longer ones; one that broke a promise is kept in ``.hypothesis``."""
    number = 40 if backend.name == "sqlite" else 6
    hold(backend, max_examples=number, stateful_step_count=40)
