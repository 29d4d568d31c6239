# SPDX-License-Identifier: Apache-2.0
"""What has to hold when everything is over. Pure: facts go in, complaints come out."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import itertools
from collections.abc import Callable, Iterator

from tests.chaos.facts import Event, Facts, VmFacts

#: Nova records the beginning of an action in whole seconds.
_SECOND = datetime.timedelta(seconds=1)
#: A deletion that was asked for is asked for again after a minute, not earlier.
_ASKED_AGAIN = datetime.timedelta(seconds=59)

#: What Nova records of a VM that is ended.
_DISRUPTIVE = ("lock", "stop", "createImage", "delete")
#: In a VM's history, what says when its lease ends from then on.
_NEW_END = {"adopted": "ends_at", "extended": "new_end", "shortened": "new_end", "moved": "new_end"}

#: Of whom or what something is said, and what.
Complaint = tuple[str, str]


@dataclasses.dataclass(frozen=True, slots=True)
class Check:
    """Something that has to hold, and what it does not hold for."""

    claim: str
    complaints: tuple[Complaint, ...]

    @property
    def holds(self) -> bool:
        """Whether it does."""
        return not self.complaints


def judge(facts: Facts) -> list[Check]:
    """Check all that has to hold."""
    of_each: dict[str, Callable[[VmFacts, Facts], Iterator[str]]] = {
        "every VM has ended": _ended,
        "each exactly once": _once,
        "each with its one image, active, with a size, its project's": _image,
        "none before its lease's end": _not_before_its_end,
        "none before an end that its owner was granted": _as_granted,
        "none without minimum_notice, reckoned from the mail": _noticed,
        "every row at rest, none claimed": _at_rest,
        "one lease each, over, with no event left": _lease,
        "no mail storm: each at most twice, under one Message-ID": _mails,
    }
    checks = [
        Check(
            claim,
            tuple((vm.name, words) for vm in facts.vms for words in complain(vm, facts)),
        )
        for claim, complain in of_each.items()
    ]
    checks.append(Check("nothing left over elsewhere", tuple(_left_over(facts))))
    return checks


def _ended(vm: VmFacts, facts: Facts) -> Iterator[str]:
    if vm.status is not None:
        yield f"Nova has it still, in status {vm.status}"
    if vm.state != "deleted":
        yield f"its row is in state {vm.state}, last error: {vm.last_error}"
    ended = [notice for notice in vm.notices if notice.kind == "ended"]
    if not any(notice.accepted_at for notice in ended):
        yield "its owner was not told that it is gone"


def _once(vm: VmFacts, facts: Facts) -> Iterator[str]:
    gone = vm.events("deleted")
    if len(gone) > 1:
        yield f"its history has its end {len(gone)} times"
    for event in gone:
        if event.details.get("by") != "the end of its lease":
            yield f"it was deleted by {event.details.get('by')}"
    asked = [action.at for action in vm.actions if action.name == "delete"]
    # Nova's own record of a deletion is lost when its API is stopped in the middle of it.
    if vm.status is None and not asked and not vm.events("delete_asked"):
        yield "nobody has asked Nova to delete it"
    # Nova records a request when it gets round to it, and a Nova that was held up does so a minute
    # late. So the next one is reckoned from when the first could have been sent.
    sent = max((event.at for event in vm.events("image_given")), default=None)
    for before, after in itertools.pairwise(asked):
        sent = before if sent is None else min(sent, before)
        if after - sent < _ASKED_AGAIN:
            yield f"Nova was asked to delete it at {before} and again at {after}"
        sent = after
    told = {notice.message_id for notice in vm.notices if notice.kind == "ended"}
    if len(told) > 1:
        yield f"its owner was told {len(told)} times that it is gone"


def _image(vm: VmFacts, facts: Facts) -> Iterator[str]:
    if len(vm.images) != 1:
        yield f"it has {len(vm.images)} images: {', '.join(image.id for image in vm.images)}"
    for image in vm.images:
        if image.status != "active" or image.size <= 0:
            yield f"image {image.id} is {image.status} and has {image.size} bytes"
        if image.owner != vm.project_id:
            yield f"image {image.id} belongs to {image.owner}, not to project {vm.project_id}"
    told = {event.details.get("image_id") for event in vm.events("deleted")}
    if told and told != {image.id for image in vm.images}:
        yield f"its history names as its image {told}"


def _not_before_its_end(vm: VmFacts, facts: Facts) -> Iterator[str]:
    """By its own history, and by what Nova recorded of it."""
    end = None
    for event in vm.history:
        if event.name in _NEW_END:
            end = _moment(event, _NEW_END[event.name])
        elif event.name == "end_begun" and (end is None or event.at < end):
            yield f"its end was begun at {event.at}, and its lease ended at {end}"
    periods = list(_periods(vm))
    first = vm.asked_at + facts.lease_duration
    for action in vm.actions:
        if action.name not in _DISRUPTIVE:
            continue
        if action.at + _SECOND < first:
            yield f"Nova was asked for {action.name} at {action.at}, before a whole term was over"
        if not any(begun < action.at + _SECOND and action.at < over for begun, over in periods):
            yield f"Nova was asked for {action.name} at {action.at}, when it was not ending"


def _periods(vm: VmFacts) -> Iterator[tuple[datetime.datetime, datetime.datetime]]:
    """Say from when to when it was ending: until it was given back, or gone."""
    begun = None
    for event in vm.history:
        if event.name == "end_begun":
            begun = event.at
        elif event.name == "revived" and begun is not None:
            yield begun, event.at
            begun = None
    if begun is not None:
        yield begun, datetime.datetime.max


def _as_granted(vm: VmFacts, facts: Facts) -> Iterator[str]:
    for end in vm.granted:
        for action in vm.actions:
            if action.name == "delete" and action.at + _SECOND < end:
                yield f"it was granted {end}, and deleted at {action.at}"
        gone = vm.events("deleted")
        if gone and gone[0].at < end:
            yield f"it was granted {end}, and gone at {gone[0].at}"


def _noticed(vm: VmFacts, facts: Facts) -> Iterator[str]:
    arrived: dict[str, datetime.datetime] = {}
    for mail in vm.mails:
        arrived.setdefault(mail.message_id, mail.arrived_at)
    for event in vm.events("end_begun"):
        dates = [
            arrived[notice.message_id]
            for notice in vm.notices
            if notice.kind.startswith("reminder/")
            and notice.generation == event.generation
            and notice.message_id in arrived
        ]
        if not dates:
            yield f"its end was begun at {event.at}, and no mail had told of it"
        elif event.at < min(dates) + facts.minimum_notice:
            yield f"its end was begun at {event.at}, and the first mail came at {min(dates)}"


def _at_rest(vm: VmFacts, facts: Facts) -> Iterator[str]:
    if vm.claimed_by is not None:
        yield f"it is claimed by {vm.claimed_by}"
    if vm.next_at is not None:
        yield f"it is due at {vm.next_at}, in state {vm.state}"
    for notice in vm.notices:
        if notice.due_at is not None:
            yield f"its notice {notice.kind} is due at {notice.due_at}"


def _lease(vm: VmFacts, facts: Facts) -> Iterator[str]:
    if len(vm.leases) != 1:
        yield f"it has {len(vm.leases)} leases: {', '.join(lease.id for lease in vm.leases)}"
    for lease in vm.leases:
        if lease.status != "TERMINATED":
            yield f"lease {lease.id} is {lease.status}"
        left = [status for status in lease.events if status != "DONE"]
        if left:
            yield f"lease {lease.id} has events left: {', '.join(left)}"


def _mails(vm: VmFacts, facts: Facts) -> Iterator[str]:
    known = {notice.message_id for notice in vm.notices}
    for message_id, count in collections.Counter(mail.message_id for mail in vm.mails).items():
        if count > 2:
            yield f"mail {message_id} came {count} times"
        if message_id not in known:
            yield f"mail {message_id} is none of its notices"
    for notice in vm.notices:
        if notice.accepted_at and not any(m.message_id == notice.message_id for m in vm.mails):
            yield f"notice {notice.kind} counts as accepted, and there is no such mail"


def _left_over(facts: Facts) -> Iterator[Complaint]:
    for claim in facts.dead_claims:
        yield "chores", claim
    if facts.braked is not None:
        yield "the brake", f"it has tripped: {facts.braked}"
    for image in facts.other_images:
        yield "Glance", f"image {image} is nobody's"
    for lease in facts.other_leases:
        yield "Blazar", f"lease {lease} is for no VM of these"


def _moment(event: Event, name: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(event.details[name])
