# SPDX-License-Identifier: Apache-2.0
"""What happens when: all of it derived from a seed, so that a run can be repeated.

Pure: no clock, no cloud. Moments are seconds since the first boot.
"""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import random
from collections.abc import Callable, Iterable, Iterator

from blazar_vmexpire.conf.types import format_duration

MANAGERS = ("blazar-manager", "blazar-manager-2")
WORKERS = tuple(f"blazar-vmexpire-worker-{number}" for number in (1, 2, 3))
#: What is killed: alone, all of a kind, or all together.
PROCESSES = (*MANAGERS, *WORKERS)
#: What is stopped for a while.
SERVICES = ("rabbitmq", "mariadb", "keystone", "glance", "smtp", "nova-api")
#: Without these nothing of ours starts: what was killed is not started before they are back.
_FOUNDATION = ("rabbitmq", "mariadb")

#: Takes a line that tells of progress.
Say = Callable[[str], None]

#: Whose the VMs are; see ``crowd.people``.
OWNERS = ("alice", "bob", "carol", "dave")

_SECOND = datetime.timedelta(seconds=1)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much of everything. Durations are in seconds, ranges are (least, most)."""

    vms: int
    #: The boots are spread evenly over this.
    booting: float
    #: Terms of minutes, where a cloud has days.
    lease: int
    extension: int
    minimum_notice: int
    first_notice: int
    #: How often Nova's list, and all parts of the leases, are gone through.
    reconcile: int
    #: One VM in so many is extended by its owner; 0: none.
    extended_of: int
    #: By how many minutes.
    minutes_more: tuple[int, int]
    kills: int
    #: For how long what was killed stays away.
    away: tuple[float, float]
    #: Nothing is killed before.
    kills_from: float
    #: How often each of SERVICES is stopped, for how long, and not before.
    rounds: int
    outage: tuple[float, float]
    outages_from: float
    #: When the last fault is over, or nearly.
    until: float
    #: When every VM has to have ended, at the latest.
    deadline: float

    def settings(self) -> list[str]:
        """Say what the sandbox puts into blazar.conf."""

        def written(seconds: float) -> str:
            return format_duration(seconds * _SECOND)

        return [
            f"virtual:vm.lease_duration={written(self.lease)}",
            f"virtual:vm.extension_duration={written(self.extension)}",
            f"virtual:vm.minimum_notice={written(self.minimum_notice)}",
            f"virtual:vm.hours_before_end_lease={self.first_notice / 3600:.4f}",
            "virtual:vm.adoption_spread=0",
            "virtual:vm.on_end_action=snapshot",
            "vmexpire_brake.deletions_per_hour=100000",
            f"vmexpire_intake.reconcile_interval={written(self.reconcile)}",
            "vmexpire_worker.audit_interval=10s",
            "vmexpire_worker.blazar_grace=15s",
            "vmexpire_worker.busy_postponement=1m",
            "vmexpire_worker.claim_duration=15s",
            "vmexpire_worker.retry_interval=1s",
            "vmexpire_worker.retry_max_interval=10s",
            "vmexpire_worker.snapshot_timeout=1m",
            "vmexpire_mail.timeout=5s",
            "vmexpire_cloud.request_timeout=20s",
        ]


#: `make chaos`.
FULL = Scale(
    vms=200,
    booting=480,
    lease=600,
    extension=1200,
    minimum_notice=120,
    first_notice=300,
    reconcile=60,
    extended_of=5,
    minutes_more=(2, 5),
    kills=25,
    away=(2, 20),
    kills_from=20,
    rounds=2,
    outage=(15, 60),
    outages_from=540,
    until=1260,
    deadline=2100,
)

#: One pass of each fault, in the time that a test may take: without extensions, which make it a
#: minute longer.
SHORT = Scale(
    vms=25,
    booting=15,
    lease=120,
    extension=600,
    minimum_notice=60,
    first_notice=120,
    reconcile=15,
    extended_of=0,
    minutes_more=(1, 1),
    kills=6,
    away=(1, 3),
    kills_from=10,
    rounds=1,
    outage=(3, 6),
    outages_from=60,
    until=190,
    deadline=400,
)


@dataclasses.dataclass(frozen=True, slots=True)
class Extension:
    """Its owner gives it more time."""

    #: Seconds before the end that it has; below zero: after it, while it is ending.
    before_end: float
    #: How much later the end is to be.
    minutes: int


@dataclasses.dataclass(frozen=True, slots=True)
class PlannedVm:
    """A VM, before there is one."""

    name: str
    owner: str
    boot_at: float
    extension: Extension | None


@dataclasses.dataclass(frozen=True, slots=True)
class Fault:
    """Something is killed, or stopped, and started again."""

    at: float
    #: ``kill`` (SIGKILL) or ``stop`` (in its own way).
    how: str
    services: tuple[str, ...]
    back_at: float


@dataclasses.dataclass(frozen=True, slots=True)
class Act:
    """One thing that is done to the cloud."""

    at: float
    #: ``kill``, ``stop`` or ``start``.
    verb: str
    service: str


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """All that will happen."""

    seed: int
    scale: Scale
    vms: tuple[PlannedVm, ...]
    faults: tuple[Fault, ...]

    def acts(self) -> list[Act]:
        """List what is done to the cloud, one thing after another."""
        acts = [
            act
            for fault in self.faults
            for service in fault.services
            for act in (Act(fault.at, fault.how, service), Act(fault.back_at, "start", service))
        ]
        # Of one moment, in the order of the plan: what was killed first is started first.
        return sorted(acts, key=lambda act: act.at)

    def lines(self) -> Iterator[str]:
        """Write it down, for people."""
        scale = self.scale
        extended = [vm for vm in self.vms if vm.extension]
        yield f"{len(self.vms)} VMs of {', '.join(OWNERS)}, booted within {scale.booting:.0f} s"
        yield (
            f"lease {scale.lease} s, first notice {scale.first_notice} s before the end,"
            f" minimum notice {scale.minimum_notice} s"
        )
        for fault in self.faults:
            yield (
                f"{clock(fault.at)}  {fault.how} {', '.join(fault.services)};"
                f" back at {clock(fault.back_at)}"
            )
        yield f"{len(extended)} VMs are extended by their owners{':' if extended else ''}"
        for vm in extended:
            assert vm.extension
            yield (
                f"  {vm.name} by {vm.extension.minutes} min,"
                f" {abs(vm.extension.before_end):.0f} s"
                f" {'before' if vm.extension.before_end >= 0 else 'after'} its end"
            )


def clock(seconds: float) -> str:
    """Write seconds as minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes:02}:{rest:02}"


def make(seed: int, scale: Scale) -> Plan:
    """Make the plan of a seed: the same for the same seed and scale, on every machine."""
    dice = random.Random(seed)
    vms = tuple(_vms(dice, scale))
    outages = list(_outages(dice, scale))
    kills = _kills(dice, scale, outages)
    faults = sorted([*outages, *kills], key=lambda fault: fault.at)
    return Plan(seed, scale, vms, tuple(faults))


def _vms(dice: random.Random, scale: Scale) -> Iterator[PlannedVm]:
    count = scale.vms // scale.extended_of if scale.extended_of else 0
    extended = set(dice.sample(range(scale.vms), count))
    # Some in good time, some in the very moment of the end.
    early = itertools.cycle([True, False])
    for number in range(scale.vms):
        extension = None
        if number in extended:
            in_time = (20.0, min(scale.lease, scale.first_notice) * 0.9)
            before_end = dice.uniform(*(in_time if next(early) else (-3.0, 8.0)))
            extension = Extension(before_end, dice.randint(*scale.minutes_more))
        yield PlannedVm(
            f"chaos-{number:03}",
            dice.choice(OWNERS),
            number * scale.booting / scale.vms,
            extension,
        )


def _outages(dice: random.Random, scale: Scale) -> Iterator[Fault]:
    """One after another, each in a slot of its own: in every round each service once."""
    order = [
        service for _ in range(scale.rounds) for service in dice.sample(SERVICES, len(SERVICES))
    ]
    slot = (scale.until - scale.outages_from) / len(order)
    for number, service in enumerate(order):
        length = min(dice.uniform(*scale.outage), slot * 0.8)
        begin = scale.outages_from + number * slot + dice.uniform(0, slot * 0.9 - length)
        yield Fault(begin, "stop", (service,), begin + length)


def _kills(dice: random.Random, scale: Scale, outages: Iterable[Fault]) -> Iterator[Fault]:
    without = [(o.at, o.back_at) for o in outages if set(o.services) & set(_FOUNDATION)]
    back: dict[str, float] = {}
    # Each process alone, and all of them together, if there are so many.
    victims = [*((process,) for process in PROCESSES), PROCESSES, MANAGERS, WORKERS]
    first = victims[: scale.kills]
    chosen = first + [dice.choice(victims) for _ in range(scale.kills - len(first))]
    dice.shuffle(chosen)
    moments = sorted(dice.uniform(scale.kills_from, scale.until) for _ in chosen)
    for at, group in zip(moments, chosen, strict=True):
        alive = tuple(process for process in group if back.get(process, 0.0) < at)
        back_at = at + dice.uniform(*scale.away)
        for begin, end in without:
            if begin <= back_at <= end:
                back_at = end + 1
        if alive:
            back |= dict.fromkeys(alive, back_at)
            yield Fault(at, "kill", alive, back_at)
