# SPDX-License-Identifier: Apache-2.0
"""One run: a crowd, chaos, and, when all is over, a verdict."""

from __future__ import annotations

import collections
import dataclasses
import statistics
import time
from collections.abc import Iterator, Sequence

from tests.chaos import crowd, evidence, faults, verdict
from tests.chaos import plan as plans
from tests.chaos.crowd import Crowd, Member
from tests.chaos.facts import Facts
from tests.chaos.plan import Plan, Say, Scale
from tests.integration.cloudlib import Cloud
from tools.demo.terms import free_offset
from tools.sandbox import Sandbox

#: Between two looks at how far it is, and between two lines about that, in seconds.
_LOOK = 2.0
_LINE = 20.0
#: Of so many VMs all is shown, when something does not hold for them.
_SHOWN = 10


class Broken(Exception):
    """The chaos itself did not do what the plan says: the run shows nothing."""


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run has shown."""

    facts: Facts
    checks: Sequence[verdict.Check]
    members: Sequence[Member]
    figures: Sequence[tuple[str, str]]

    @property
    def holds(self) -> bool:
        """Whether all holds that has to."""
        return all(check.holds for check in self.checks)

    def table(self) -> Iterator[str]:
        """Lay it out: what was checked, and what was counted."""
        total = len(self.facts.vms)
        for check in self.checks:
            wrong = len({who for who, _ in check.complaints})
            held = "held" if check.holds else f"FAILED for {wrong} of {total}"
            yield f"  {check.claim:<62}  {held}"
        yield ""
        for name, value in self.figures:
            yield f"  {name:<62}  {value}"

    def failures(self) -> Iterator[str]:
        """Say what does not hold, and all that is known of the first VMs that it concerns."""
        for check in self.checks:
            for who, words in check.complaints:
                yield f"{who}: {words}  [{check.claim}]"
        named = {who for check in self.checks for who, _ in check.complaints}
        concerned = [
            (vm, member)
            for vm, member in zip(self.facts.vms, self.members, strict=True)
            if vm.name in named
        ]
        for vm, member in concerned[:_SHOWN]:
            yield ""
            yield f"--- {vm.name}, granted {[str(end) for end in vm.granted]}"
            yield member.vm.facts()
            yield from (f"  {event.at} {event.name}" for event in vm.history)
            yield from (f"  Nova: {action.at} {action.name}" for action in vm.actions)
            yield from (f"  {image}" for image in vm.images)


def bring_up(sandbox: Sandbox, scale: Scale) -> None:
    """Start a sandbox for a run.

    :raises tools.sandbox.SandboxError: it does not come up.
    """
    sandbox.up(
        free_offset(), scale.settings(), managers=len(plans.MANAGERS), workers=len(plans.WORKERS)
    )


def run(sandbox: Sandbox, plan: Plan, say: Say) -> Result:
    """Do all that the plan says on a sandbox that is up, and judge what becomes of it.

    :raises crowd.NotBooted: the VMs did not become what they are without any chaos.
    :raises Broken: something could not be broken, or not be mended.
    """
    cloud = Cloud(sandbox)
    people = crowd.people(cloud)
    began = time.monotonic()
    vms = Crowd(cloud, plan, began)
    breaker = faults.Breaker(sandbox, plan.acts(), began, say)
    try:
        breaker.start()
        vms.boot(people, say)
        say(f"{len(vms.members)} VMs are ACTIVE and have their leases")
        breaker.crowd_is_there.set()
        vms.live()
        _wait(vms, breaker, plan, began, say)
    finally:
        breaker.stop()
        vms.stop()
    if breaker.error is not None:
        raise Broken(str(breaker.error)) from breaker.error
    say("gathering what became of them")
    found = evidence.gather(cloud, vms.members, plan.scale)
    took = time.monotonic() - began
    figures = list(_figures(found, vms, breaker, plan, took))
    cloud.database.engine.dispose()
    return Result(found, verdict.judge(found), vms.members, figures)


def _wait(vms: Crowd, breaker: faults.Breaker, plan: Plan, began: float, say: Say) -> None:
    """Wait until all have ended and the chaos is over, or until the deadline."""
    said = 0.0
    while True:
        ended = vms.ended()
        quiet = not breaker.at_work and not vms.busy
        now = time.monotonic()
        if now - said > _LINE:
            said = now
            counted = "nobody can say how many" if ended is None else f"{ended} of {len(plan.vms)}"
            say(f"{counted} have ended; {vms.busy} owners have still to extend")
        if (quiet and ended == len(plan.vms)) or breaker.error is not None:
            break
        if now - began > plan.scale.deadline:
            say("the deadline has come")
            break
        time.sleep(_LOOK)


def _figures(
    found: Facts, vms: Crowd, breaker: faults.Breaker, plan: Plan, took: float
) -> Iterator[tuple[str, str]]:
    kills = [service for f in plan.faults if f.how == "kill" for service in f.services]
    stops = collections.Counter(s for f in plan.faults if f.how == "stop" for s in f.services)
    yield "kill -9", f"{len(kills)} processes"
    yield "stopped for a while", ", ".join(f"{name} {n}x" for name, n in stops.items())
    yield "ended by themselves, and were started again", str(len(breaker.ended_by_themselves))
    extended = [member for member in vms.members if member.plan.extension]
    granted = sum(bool(member.granted) for member in extended)
    refused = [member for member in extended if member.refused]
    yield (
        "extensions granted, refused, without a clear answer",
        f"{granted}, {len(refused)}, {len(extended) - granted - len(refused)}"
        f" ({sum(member.tries for member in extended)} tries)",
    )
    events = collections.Counter(event.name for vm in found.vms for event in vm.history)
    for name in ("moved", "revived", "image_failed", "stray_image_removed", "image_removed"):
        yield f"in their histories: {name}", str(events[name])
    copies = collections.Counter(mail.message_id for vm in found.vms for mail in vm.mails)
    twice = sum(count > 1 for count in copies.values())
    yield "mails, of them repeated", f"{sum(copies.values())}, {twice}"
    delays = sorted(_delays(found))
    if delays:
        middle = statistics.median(delays)
        yield "from begun to gone: median, longest", f"{middle:.0f} s, {delays[-1]:.0f} s"
    yield "from the first boot to the verdict", f"{took:.0f} s"


def _delays(found: Facts) -> Iterator[float]:
    for vm in found.vms:
        begun, gone = vm.events("end_begun"), vm.events("deleted")
        if begun and gone:
            yield (gone[-1].at - begun[-1].at).total_seconds()
