# SPDX-License-Identifier: Apache-2.0
"""The verdict on a chaos run: what is right passes, and each thing that is wrong is found."""

from __future__ import annotations

import dataclasses
import datetime

import pytest

from tests.chaos import verdict
from tests.chaos.facts import Action, Event, Facts, Image, Lease, Mail, Notice, VmFacts

BOOTED = datetime.datetime(2026, 3, 2, 10, 0, 20)
ENDS = datetime.datetime(2026, 3, 2, 10, 13)
LATER = datetime.datetime(2026, 3, 2, 10, 16)
PROJECT = "a" * 32


def at(minute: float) -> datetime.datetime:
    """So many minutes after ten."""
    return datetime.datetime(2026, 3, 2, 10) + datetime.timedelta(minutes=minute)


def good_vm() -> VmFacts:
    """One that was extended once by three minutes, noticed, and ended in order."""
    return VmFacts(
        name="good",
        server_id="8d5e",
        project_id=PROJECT,
        asked_at=BOOTED,
        granted=(LATER,),
        status=None,
        state="deleted",
        next_at=None,
        claimed_by=None,
        last_error=None,
        history=(
            Event("adopted", at(0.5), 0, {"ends_at": ENDS.isoformat()}),
            Event("extended", at(9), 1, {"old_end": str(ENDS), "new_end": LATER.isoformat()}),
            Event("notice_accepted", at(11), 1, {"kind": "reminder/5m"}),
            Event("end_begun", at(16.01), 1, {}),
            Event("deleted", at(16.5), 1, {"by": "the end of its lease", "image_id": "i1"}),
        ),
        notices=(
            Notice("reminder/5m", 0, "<1@x>", at(8), None),
            Notice("reminder/5m", 1, "<2@x>", at(11), None),
            Notice("ended", 1, "<3@x>", at(16.6), None),
        ),
        mails=(Mail("<1@x>", at(8)), Mail("<2@x>", at(11)), Mail("<3@x>", at(16.6))),
        actions=(
            Action("create", at(0.4)),
            Action("lock", at(16.1)),
            Action("stop", at(16.1)),
            Action("createImage", at(16.2)),
            Action("delete", at(16.4)),
        ),
        images=(Image("i1", "active", 3392, PROJECT),),
        leases=(Lease("l1", "TERMINATED", ("DONE", "DONE", "DONE")),),
    )


def facts(*vms: VmFacts, **changes: object) -> Facts:
    """Make the facts of a run of these VMs."""
    whole = Facts(
        lease_duration=datetime.timedelta(minutes=12),
        minimum_notice=datetime.timedelta(minutes=2),
        vms=vms,
        dead_claims=(),
        braked=None,
        other_images=(),
        other_leases=(),
    )
    return dataclasses.replace(whole, **changes)


def complaints(found: Facts) -> list[str]:
    """List what does not hold, with the words of the claim."""
    return [
        f"{who}: {words} ({check.claim})"
        for check in verdict.judge(found)
        for who, words in check.complaints
    ]


def event(name: str, moment: datetime.datetime, generation: int = 1, **details: object) -> Event:
    """Make a line of history."""
    return Event(name, moment, generation, details)


def test_a_vm_that_ended_as_it_should():
    assert complaints(facts(good_vm())) == []


def test_a_nova_that_gets_round_to_it_late_was_not_asked_twice_at_once():
    vm = good_vm()
    asked = (Action("delete", at(17.2)), Action("delete", at(17.9)))
    vm = dataclasses.replace(
        vm,
        history=(*vm.history[:-1], event("image_given", at(16.3)), vm.history[-1]),
        actions=(*vm.actions[:-1], *asked),
    )
    assert complaints(facts(vm)) == []


def test_an_end_that_was_begun_undone_and_begun_again():
    vm = good_vm()
    first = (
        event("end_begun", at(13.1), 0),
        event("extended", at(13.2), 1, old_end=str(ENDS), new_end=LATER.isoformat()),
        event("revived", at(13.4), 1),
    )
    vm = dataclasses.replace(
        vm,
        history=(vm.history[0], *first, *vm.history[2:]),
        actions=(Action("lock", at(13.1)), Action("unlock", at(13.3)), *vm.actions),
    )
    assert complaints(facts(vm)) == []


def test_a_mail_that_came_twice():
    vm = good_vm()
    assert (
        complaints(facts(dataclasses.replace(vm, mails=(*vm.mails, Mail("<2@x>", at(12)))))) == []
    )


GOOD = good_vm()

WRONG = {
    "still there": ({"status": "ACTIVE"}, "Nova has it still, in status ACTIVE"),
    "not told": ({"notices": GOOD.notices[:2], "mails": GOOD.mails[:2]}, "was not told"),
    "failed": ({"state": "failed", "last_error": "why"}, "state failed, last error: why"),
    "ended twice": (
        {"history": (*GOOD.history, GOOD.history[-1])},
        "its history has its end 2 times",
    ),
    "by somebody else": (
        {"history": (*GOOD.history[:-1], event("deleted", at(16.5), by="its owner"))},
        "it was deleted by its owner",
    ),
    "deleted by two at once": (
        {"actions": (*GOOD.actions, Action("delete", at(16.42)))},
        "Nova was asked to delete it at",
    ),
    "never deleted": ({"actions": GOOD.actions[:-1]}, "nobody has asked Nova to delete it"),
    "told twice": (
        {
            "notices": (*GOOD.notices, Notice("ended", 2, "<4@x>", at(17), None)),
            "mails": (*GOOD.mails, Mail("<4@x>", at(17))),
        },
        "told 2 times",
    ),
    "no image": ({"images": ()}, "it has 0 images"),
    "a stray": ({"images": (*GOOD.images, Image("i2", "queued", 0, None))}, "it has 2 images"),
    "an empty image": ({"images": (Image("i1", "active", 0, PROJECT),)}, "has 0 bytes"),
    "an image that is not complete": ({"images": (Image("i1", "queued", 9, PROJECT),)}, "queued"),
    "somebody's image": ({"images": (Image("i1", "active", 9, "b"),)}, "belongs to b"),
    "another image": ({"images": (Image("i9", "active", 9, PROJECT),)}, "names as its image"),
    "begun early": (
        {"history": (*GOOD.history[:3], event("end_begun", at(15.9)), GOOD.history[-1])},
        "and its lease ended at 2026-03-02 10:16",
    ),
    "stopped within its first term": (
        {"actions": (Action("stop", at(12)), *GOOD.actions)},
        "before a whole term was over",
    ),
    "stopped before its end was begun": (
        {"actions": (Action("stop", at(14)), *GOOD.actions)},
        "when it was not ending",
    ),
    "stopped after it was given back": (
        {
            "history": (
                GOOD.history[0],
                event("end_begun", at(13.1), 0),
                event("extended", at(13.2), 1, old_end=str(ENDS), new_end=LATER.isoformat()),
                event("revived", at(13.4), 1),
                *GOOD.history[2:],
            ),
            "actions": (Action("stop", at(13.5)), *GOOD.actions),
        },
        "Nova was asked for stop at 2026-03-02 10:13:30, when it was not ending",
    ),
    "deleted before what was granted": ({"granted": (at(17),)}, "it was granted"),
    "not noticed": ({"mails": GOOD.mails[::2]}, "no mail had told of it"),
    "noticed too late": (
        {"mails": (GOOD.mails[0], Mail("<2@x>", at(15)), GOOD.mails[2])},
        "the first mail came at",
    ),
    "claimed": ({"claimed_by": "w1"}, "claimed by w1"),
    "due": ({"next_at": at(20)}, "it is due at"),
    "a notice due": (
        {"notices": (*GOOD.notices, Notice("reminder/2m", 1, "<5@x>", None, at(20)))},
        "its notice reminder/2m is due",
    ),
    "two leases": ({"leases": GOOD.leases * 2}, "it has 2 leases"),
    "a live lease": ({"leases": (Lease("l1", "ACTIVE", ("DONE",)),)}, "lease l1 is ACTIVE"),
    "an event left": ({"leases": (Lease("l1", "TERMINATED", ("IN_PROGRESS",)),)}, "events left"),
    "a mail storm": ({"mails": (*GOOD.mails, *GOOD.mails[:1] * 2)}, "<1@x> came 3 times"),
    "a mail of no notice": ({"mails": (*GOOD.mails, Mail("<9@x>", at(12)))}, "none of its notices"),
    "a mail that was lost": ({"mails": GOOD.mails[1:]}, "there is no such mail"),
}


@pytest.mark.parametrize("changes", WRONG)
def test_what_is_wrong_with_a_vm_is_found(changes):
    columns, words = WRONG[changes]
    found = complaints(facts(GOOD, dataclasses.replace(GOOD, name="bad", **columns)))
    assert found
    assert any(words in line for line in found), found
    assert all(line.startswith("bad: ") for line in found)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dead_claims": ("reconciliation is claimed by w1",)}, "reconciliation is claimed"),
        ({"braked": "too many"}, "it has tripped: too many"),
        ({"other_images": ("i7",)}, "image i7"),
        ({"other_leases": ("l7",)}, "lease l7"),
    ],
)
def test_what_is_left_over_elsewhere_is_found(changes, words):
    (line,) = complaints(facts(GOOD, **changes))
    assert words in line
