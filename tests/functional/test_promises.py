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
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis.stateful import invariant, run_state_machine_as_test

from blazar_vmexpire import leases
from blazar_vmexpire.lifecycle import LIVE, State
from tests.databases import Backend
from tests.functional.journal import DECLARED
from tests.functional.story_happenings import Happenings
from tests.functional.story_people import MINIMUM_NOTICE
from tests.functional.witness import Act, Changed, Held, Mail, Story, WatchedMail
from tests.mail_servers import running

#: States in which nothing is done any more, and nothing need be.
RESTING = {"ended", "exempt", "failed"}


class Promises(Happenings):
    """What has to hold, whatever happens."""

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
    number = 20 if backend.name == "sqlite" else 6
    hold(backend, max_examples=number, stateful_step_count=40)
