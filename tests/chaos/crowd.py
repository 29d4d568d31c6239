# SPDX-License-Identifier: Apache-2.0
"""The VMs, their owners, and what the owners do."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import datetime
import threading
import time
from collections.abc import Callable

import sqlalchemy as sa
from keystoneauth1.exceptions import ClientException
from oslo_db.exception import DBError

from blazar_vmexpire import leases
from blazar_vmexpire.db.models import expirations
from tests.chaos.plan import Plan, PlannedVm, Say
from tests.integration.cloudlib import MINUTE, Account, Cloud, Vm
from tests.integration.waiting import utcnow

#: Boots at a time; more of them would only wait for each other.
_BOOTS = 2
#: A line is said for so many VMs.
_LINE = 20
#: How long Nova may take for what it was asked, on a busy machine, in seconds.
_PATIENCE = 300.0
#: Between two tries, of owners too, in seconds.
_AGAIN = 2.0
#: How often an owner who waits looks at the end that the VM has.
_LOOK = 5.0
#: For how long an owner tries to extend, counted from the end that the VM had.
_TRIES_FOR = 5 * MINUTE


class NotBooted(Exception):
    """There is no crowd: the cloud did not do what it does without any chaos."""


@dataclasses.dataclass
class Member:
    """A VM of the crowd, and what its owner did."""

    vm: Vm
    plan: PlannedVm
    #: Just before it was asked for, naive UTC.
    asked_at: datetime.datetime
    #: Each end that Blazar has granted its owner, by an answer of 200.
    granted: list[datetime.datetime] = dataclasses.field(default_factory=list)
    #: The last words of a refusal.
    refused: str | None = None
    tries: int = 0


def people(cloud: Cloud) -> dict[str, Account]:
    """Make the owners: of two domains, two projects, and two who share one."""
    return {
        "alice": cloud.alice,
        "bob": cloud.bob,
        "carol": cloud.add_user("carol", "carol@example.org"),
        "dave": cloud.add_user("dave", "dave@example.org"),
    }


class Crowd:
    """All VMs of a run.

    :param began: ``time.monotonic()`` at the first boot.
    """

    def __init__(self, cloud: Cloud, plan: Plan, began: float) -> None:
        self._cloud = cloud
        self._plan = plan
        self._began = began
        self._over = threading.Event()
        self._owners: list[threading.Thread] = []
        self.members: list[Member] = []

    def boot(self, owners: dict[str, Account], say: Say) -> None:
        """Boot them when the plan says; returns when all are ACTIVE and have their leases.

        :param say: takes a line now and then.
        :raises NotBooted: one of them is not, in time.
        """
        with concurrent.futures.ThreadPoolExecutor(_BOOTS, "chaos-boot") as pool:
            asked = [pool.submit(self._ask, vm, owners[vm.owner]) for vm in self._plan.vms]
            for future in asked:
                self.members.append(future.result())
                if len(self.members) % _LINE == 0:
                    say(f"{len(self.members)} of {len(asked)} VMs have been asked for")
        self._wait("ACTIVE", self._not_active)
        self._wait("in possession of a lease", self._without_lease)

    def _ask(self, planned: PlannedVm, owner: Account) -> Member:
        time.sleep(max(0.0, self._began + planned.boot_at - time.monotonic()))
        now = utcnow()
        return Member(self._cloud.ask_for_vm(planned.name, owner), planned, now)

    def _wait(self, what: str, look: Callable[[], list[Member]]) -> None:
        end = time.monotonic() + _PATIENCE
        while lacking := look():
            if time.monotonic() > end:
                names = ", ".join(member.plan.name for member in lacking[:10])
                raise NotBooted(f"{len(lacking)} VMs are not {what} after {_PATIENCE} s: {names}")
            time.sleep(_AGAIN)

    def _not_active(self) -> list[Member]:
        path = "/servers?all_tenants=1&status=ACTIVE&limit=1000"
        active = {server["id"] for server in self._cloud.admin.get("compute", path)["servers"]}
        return [member for member in self.members if member.vm.id not in active]

    def _without_lease(self) -> list[Member]:
        return [m for m in self.members if (row := m.vm.row_or_none()) is None or not row.lease_id]

    # Their owners

    def live(self) -> None:
        """Let owners extend, each in a thread of their own, when the plan says."""
        for member in self.members:
            if member.plan.extension:
                name = f"chaos-{member.plan.name}"
                thread = threading.Thread(
                    target=self._extend, args=(member,), name=name, daemon=True
                )
                self._owners.append(thread)
                thread.start()

    @property
    def busy(self) -> int:
        """How many owners have still to extend, or are at it."""
        return sum(thread.is_alive() for thread in self._owners)

    def stop(self) -> None:
        """Let owners do nothing more."""
        self._over.set()
        for thread in self._owners:
            thread.join()

    def _extend(self, member: Member) -> None:
        """Extend by lease update, and try again until there is a clear answer."""
        assert member.plan.extension
        extension = member.plan.extension
        lead = datetime.timedelta(seconds=extension.before_end)
        old_end = self._end_of(member)
        # The end may be moved meanwhile, because no notice could be sent.
        while old_end is None or (left := (old_end - lead - utcnow()).total_seconds()) > 0:
            if self._over.wait(_LOOK if old_end is None else min(left, _LOOK)):
                return
            old_end = self._end_of(member) or old_end
        wanted = old_end + extension.minutes * MINUTE
        while utcnow() < old_end + _TRIES_FOR:
            end = self._end_of(member)
            if end is not None and end > wanted:
                wanted = end + extension.minutes * MINUTE
            if end is not None and self._ask_for_end(member, wanted):
                return
            if self._over.wait(_AGAIN):
                return

    def _ask_for_end(self, member: Member, wanted: datetime.datetime) -> bool:
        """Ask Blazar once; True when its answer is clear."""
        member.tries += 1
        try:
            answer = member.vm.put_lease(end_date=wanted)
        except (ClientException, DBError):
            # Nobody there, or nobody that knows the owner.
            return False
        if answer.status == 200:
            member.granted.append(wanted)
            return True
        if answer.status in (400, 404):
            member.refused = answer.message
            return True
        return False

    def _end_of(self, member: Member) -> datetime.datetime | None:
        """Say when its lease ends; None while nobody can say."""
        try:
            row = member.vm.row_or_none()
        except DBError:
            return None
        return row.ends_at if row else None

    def ended(self) -> int | None:
        """Count those that ended, with nothing left to do; None while nobody can say."""
        rows, events = expirations.c, leases.EVENTS.c
        # Of events that a dead manager had in hand, some are found by the next reconciliation.
        left = sa.exists().where(events.lease_id == rows.lease_id, events.status != "DONE")
        done = sa.select(sa.func.count()).where(
            rows.state == "deleted", rows.next_at.is_(None), rows.claimed_by.is_(None), ~left
        )
        try:
            with self._cloud.database.begin() as connection:
                return int(connection.scalars(done).one())
        except DBError:
            return None
