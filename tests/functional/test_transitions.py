# SPDX-License-Identifier: Apache-2.0
"""Every transition of the machine, made to happen; and none that it does not declare.

The table holds one scenario for each ``(state, event)`` of :data:`lifecycle.MACHINE`;
``test_the_table_is_the_machine`` names those that are missing. To add one, write a function with
``@scenario(State.…, Event.…)``. It gets a VM that stands in that state (``ways_to_states.py`` says
how it got there) and makes the event happen as it would outside: by a request, a date, a fault, an
option.

Which transition that was is not the scenario's to say. The database's own journal has to begin with
the declared change of state, and the VM's history has to name the event.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from blazar.context import BlazarContext

from blazar_vmexpire import lifecycle
from blazar_vmexpire.lifecycle import MACHINE, Event, State
from tests.functional import journal as journals
from tests.functional.journal import Change, Journal
from tests.functional.manage import Manage
from tests.functional.ways_to_states import (
    ACTION,
    REACH,
    SERVER,
    Stage,
    at_rest_in_quarantine,
    begin_end,
    being_stopped,
    end_begun,
    ended_untouched,
    failed_untouched,
    imaged,
    imaged_untold,
    noticed_at_its_end,
    noticed_without_quarantine,
    quarantine_begun,
    quarantined,
    reviving_at_rest,
    vanished_at_rest,
    vanished_in_quarantine,
)
from tests.functional.world import World

pytestmark = [
    pytest.mark.databases("sqlite"),
    pytest.mark.options(
        {
            "virtual:vm": {"quarantine": "7d"},
            "vmexpire_worker": {"retry_max_interval": "20s", "max_attempts": 2},
        }
    ),
]

DECLARED = {(State(start), Event(event)): State(end) for start, event, end in MACHINE}

#: What the history says of an event.
EVIDENCE = {
    Event.ADOPT: "adopted",
    Event.NOTICE: "notice_accepted",
    Event.EXTEND: "extended",
    Event.UNDO: "extended",
    Event.QUARANTINE: "quarantine_begun",
    Event.END: "end_begun",
    Event.KEPT: "kept",
    Event.REVIVED: "revived",
    Event.HOLD: "held",
    Event.RELEASE: "released",
    Event.EXEMPT: "exempt",
    Event.VANISH: "vanished",
    Event.REAPPEAR: "reappeared",
    Event.RETURN: "reappeared",
    Event.GONE: "deleted",
    Event.FAIL: "failed",
    Event.RETRY: "retried",
    Event.POSTPONE: "moved",
}

Scenario = Callable[[Stage, str], None]

TABLE: dict[tuple[State, Event], Scenario] = {}
#: How a scenario's VM gets to its state, where the usual way is not the one.
BEGIN: dict[tuple[State, Event], Callable[[Stage], str]] = {}


def scenario(
    state: State, event: Event, begin: Callable[[Stage], str] | None = None
) -> Callable[[Scenario], Scenario]:
    """Register what makes an event happen in a state."""

    def register(act: Scenario) -> Scenario:
        assert (state, event) not in TABLE, f"two scenarios for {state}, {event}"
        TABLE[state, event] = act
        BEGIN[state, event] = begin or REACH[state]
        return act

    return register


# The table ----------------------------------------------------------------------------------------


@scenario(State.SEEN, Event.ADOPT)
def _(stage: Stage, server_id: str) -> None:
    stage.world.cloud.compute.vms[server_id].vm_state = "active"
    stage.live(minutes=6)


@scenario(State.DELETED, Event.ADOPT)
def _(stage: Stage, server_id: str) -> None:
    stage.world.cloud.compute.vms[server_id].vm_state = "active"
    stage.world.see(server_id)


@scenario(State.EXEMPT, Event.ADOPT)
def _(stage: Stage, server_id: str) -> None:
    stage.set(excluded_projects=[])
    stage.live(hours=1)


@scenario(State.ENDED, Event.ADOPT, ended_untouched)
def _(stage: Stage, server_id: str) -> None:
    """Its owner unshelves it."""
    stage.world.cloud.compute.vms[server_id].vm_state = "active"
    stage.live(hours=1)


@scenario(State.ENDING, Event.KEPT, being_stopped)
def _(stage: Stage, server_id: str) -> None:
    stage.world.cloud.compute.settle(server_id)
    stage.live(minutes=1)


@scenario(State.ENDED, Event.UNDO)
@scenario(State.ENDED, Event.EXTEND, ended_untouched)
def _(stage: Stage, server_id: str) -> None:
    answer = stage.world.extend(server_id)
    assert answer.status_code == 200, answer.json


@scenario(State.ACTIVE, Event.NOTICE)
def _(stage: Stage, server_id: str) -> None:
    stage.live_until_end(server_id, days=9)


@scenario(State.NOTICED, Event.NOTICE, noticed_without_quarantine)
@scenario(State.QUARANTINED, Event.NOTICE)
def _(stage: Stage, server_id: str) -> None:
    stage.live_until_end(server_id, days=1)


@scenario(State.ACTIVE, Event.UNDO, imaged_untold)
@scenario(State.NOTICED, Event.UNDO, imaged)
@scenario(State.QUARANTINED, Event.UNDO)
@scenario(State.VANISHED, Event.UNDO, vanished_in_quarantine)
@scenario(State.REVIVING, Event.UNDO)
@scenario(State.FAILED, Event.UNDO)
@scenario(State.ACTIVE, Event.EXTEND)
@scenario(State.NOTICED, Event.EXTEND)
@scenario(State.QUARANTINED, Event.EXTEND)
@scenario(State.VANISHED, Event.EXTEND)
@scenario(State.REVIVING, Event.EXTEND)
@scenario(State.FAILED, Event.EXTEND)
@scenario(State.HELD, Event.EXTEND)
def _(stage: Stage, server_id: str) -> None:
    stage.extend(server_id)


@scenario(State.ENDING, Event.UNDO)
@scenario(State.ENDING, Event.EXTEND)
def _(stage: Stage, server_id: str) -> None:
    """Blazar had read the lease a moment before it was closed."""
    world = stage.world
    reservation = world.lease(server_id).reservations[0].id
    begun = world.lease(server_id).start_date
    end = lifecycle.floor_minute(world.clock.now()) + timedelta(days=30)
    with BlazarContext(user_id=world.alice, project_id=world.alpha, roles=["member"]):
        world.harness.plugin.update_reservation(reservation, {"start_date": begun, "end_date": end})


@scenario(State.NOTICED, Event.QUARANTINE)
def _(stage: Stage, server_id: str) -> None:
    stage.live_until_end(server_id, days=7)


@scenario(State.NOTICED, Event.END, noticed_at_its_end)
@scenario(State.QUARANTINED, Event.END)
def _(stage: Stage, server_id: str) -> None:
    stage.live_until_end(server_id)


@scenario(State.ENDING, Event.POSTPONE, end_begun)
def _(stage: Stage, server_id: str) -> None:
    """Somebody resizes it at that moment."""
    stage.world.cloud.compute.vms[server_id].task_state = "resize_migrating"
    stage.live(minutes=1)


@scenario(State.QUARANTINED, Event.POSTPONE, quarantine_begun)
def _(stage: Stage, server_id: str) -> None:
    """The day is closed before anything was done to it."""
    stage.set(calendar_closed=[f"{stage.world.clock.now():%Y-%m-%d}"])
    stage.live(minutes=1)


@scenario(State.REVIVING, Event.REVIVED)
def _(stage: Stage, server_id: str) -> None:
    stage.live(minutes=1)


@scenario(State.ACTIVE, Event.HOLD)
@scenario(State.NOTICED, Event.HOLD)
@scenario(State.QUARANTINED, Event.HOLD, at_rest_in_quarantine)
@scenario(State.ENDING, Event.HOLD, end_begun)
@scenario(State.REVIVING, Event.HOLD, reviving_at_rest)
@scenario(State.VANISHED, Event.HOLD)
@scenario(State.FAILED, Event.HOLD, failed_untouched)
@scenario(State.HELD, Event.HOLD)
def _(stage: Stage, server_id: str) -> None:
    stage.hold(server_id)


@scenario(State.HELD, Event.RELEASE)
def _(stage: Stage, server_id: str) -> None:
    stage.live(days=10)


@scenario(State.ACTIVE, Event.EXEMPT)
@scenario(State.NOTICED, Event.EXEMPT)
@scenario(State.QUARANTINED, Event.EXEMPT, at_rest_in_quarantine)
@scenario(State.ENDING, Event.EXEMPT, end_begun)
@scenario(State.ENDED, Event.EXEMPT)
@scenario(State.FAILED, Event.EXEMPT, failed_untouched)
@scenario(State.HELD, Event.EXEMPT)
def _(stage: Stage, server_id: str) -> None:
    stage.exclude()
    stage.world.see(server_id)
    stage.live(hours=1)


@scenario(State.ACTIVE, Event.VANISH)
@scenario(State.NOTICED, Event.VANISH)
@scenario(State.QUARANTINED, Event.VANISH)
@scenario(State.ENDED, Event.VANISH)
@scenario(State.REVIVING, Event.VANISH)
@scenario(State.FAILED, Event.VANISH)
@scenario(State.EXEMPT, Event.VANISH)
@scenario(State.HELD, Event.VANISH)
@scenario(State.ENDING, Event.GONE)
def _(stage: Stage, server_id: str) -> None:
    stage.gone(server_id)
    stage.live(minutes=1)


@scenario(State.VANISHED, Event.REAPPEAR)
@scenario(State.VANISHED, Event.RETURN, vanished_at_rest)
def _(stage: Stage, server_id: str) -> None:
    stage.live(minutes=1)


@scenario(State.VANISHED, Event.GONE)
def _(stage: Stage, server_id: str) -> None:
    stage.gone(server_id)
    stage.live(minutes=1)


@scenario(State.ACTIVE, Event.FAIL)
@scenario(State.NOTICED, Event.FAIL)
@scenario(State.QUARANTINED, Event.FAIL)
def _(stage: Stage, server_id: str) -> None:
    stage.world.cloud.fault(SERVER, status=403, message="Policy doesn't allow it")
    stage.world.see(server_id)
    stage.live(minutes=5)


@scenario(State.ENDING, Event.FAIL)
def _(stage: Stage, server_id: str) -> None:
    """Nova drops three images one after the other."""
    for _ in range(3):
        for image_id in list(stage.world.cloud.image.images):
            stage.world.cloud.image.fail(image_id)
        stage.live(minutes=2)


@scenario(State.REVIVING, Event.FAIL)
def _(stage: Stage, server_id: str) -> None:
    stage.world.cloud.fault(ACTION, status=403, message="Policy doesn't allow it")
    stage.live(minutes=5)


@scenario(State.FAILED, Event.RETRY)
def _(stage: Stage, server_id: str) -> None:
    done = stage.manage(stage.database_url, "failed", "retry", server_id)
    assert done.returncode == 0, done.stderr


# What is checked ----------------------------------------------------------------------------------


def test_the_table_is_the_machine() -> None:
    lacking = sorted(
        f"@scenario(State.{s.name}, Event.{e.name})" for s, e in DECLARED.keys() - TABLE
    )
    assert not lacking, f"declared in lifecycle.py, not tried here: {', '.join(lacking)}"
    extra = sorted(f"State.{s.name}, Event.{e.name}" for s, e in TABLE.keys() - DECLARED)
    assert not extra, f"tried here, not declared in lifecycle.py: {', '.join(extra)}"
    assert not EVIDENCE.keys() ^ set(Event), (
        "EVIDENCE has to say what the history says of each event"
    )


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("state", "event"), sorted(TABLE), ids=[f"{s}-{e}" for s, e in sorted(TABLE)]
)
def test_transition(
    world: World, manage: Manage, database_url: str, state: State, event: Event
) -> None:
    journal = Journal(world.harness.database)
    stage = Stage(world, manage, database_url)
    server_id = BEGIN[state, event](stage)
    assert world.state(server_id) == state, "the scenario does not begin where it should"
    before, known = journal.of(server_id), len(world.events(server_id))

    TABLE[state, event](stage, server_id)

    end = DECLARED[state, event]
    changes = journal.of(server_id)[len(before) :]
    if state == end:
        assert not changes
    else:
        assert changes[:1] == [Change(state, end)]
    assert EVIDENCE[event] in world.events(server_id)[known:]
    assert journal.all() <= journals.DECLARED


@pytest.mark.parametrize("state", list(State))
def test_no_event_leads_anywhere_that_is_not_declared(state: State) -> None:
    for event in Event:
        if (state, event) in DECLARED:
            assert lifecycle.after(state, event) == DECLARED[state, event]
        else:
            with pytest.raises(lifecycle.UndeclaredTransition, match=f"{event}.*{state}"):
                lifecycle.after(state, event)


def test_an_end_that_is_put_off_in_quarantine_leads_back_into_it(
    world: World, manage: Manage, database_url: str
) -> None:
    journal = Journal(world.harness.database)
    stage = Stage(world, manage, database_url)
    server_id = quarantined(stage)
    stage.live_until_end(server_id, minutes=1)
    begin_end(stage, server_id)
    world.cloud.compute.vms[server_id].task_state = "resize_migrating"
    stage.live(minutes=1)
    assert world.state(server_id) == "quarantined"
    assert journal.all() <= journals.DECLARED
