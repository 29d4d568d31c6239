# SPDX-License-Identifier: Apache-2.0
"""The life of a VM's expiration: its states, its dates, its caps."""

from __future__ import annotations

import dataclasses
import datetime
from datetime import timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from blazar_vmexpire import lifecycle
from blazar_vmexpire.calendars import Calendar
from blazar_vmexpire.lifecycle import Agenda, Event, State, Terms

NOW = datetime.datetime(2026, 3, 2, 10, 0)
MINUTE = timedelta(minutes=1)

TERMS = Terms(
    lease_duration=timedelta(days=60),
    extension_duration=timedelta(days=30),
    max_total_duration=timedelta(0),
    max_extensions=0,
    extension_window=timedelta(0),
    first_notice=timedelta(days=10),
    reminders=(timedelta(days=2),),
    minimum_notice=timedelta(days=2),
    quarantine=timedelta(0),
    before_end_action="notification",
    on_end_action="delete",
    allowed_actions=(),
    calendar=None,
)


def terms(**changes: object) -> Terms:
    """Make the default terms, but for these."""
    return dataclasses.replace(TERMS, **changes)  # type: ignore[arg-type]


# What Hypothesis draws: moments with and without seconds, terms as options allow them.

MOMENTS = st.datetimes(datetime.datetime(2020, 1, 1), datetime.datetime(2040, 1, 1))
WHOLE_MINUTES = MOMENTS.map(lambda moment: moment.replace(second=0, microsecond=0))


def durations(least: timedelta, most: timedelta = timedelta(days=400)) -> st.SearchStrategy:
    """Draw whole seconds: the options know nothing smaller."""
    whole = st.integers(int(least.total_seconds()), int(most.total_seconds()))
    return whole.map(lambda seconds: timedelta(seconds=seconds))


WEEKEND = Calendar.parse(["sat", "sun"], "UTC")

ANY_TERMS = st.builds(
    Terms,
    lease_duration=durations(MINUTE),
    extension_duration=durations(MINUTE),
    max_total_duration=st.just(timedelta(0)) | durations(MINUTE),
    max_extensions=st.just(0),
    extension_window=st.just(timedelta(0)),
    first_notice=st.floats(0, 2400).map(lambda hours: timedelta(hours=round(hours, 2))),
    reminders=st.lists(durations(MINUTE, timedelta(days=30)), max_size=5).map(tuple),
    minimum_notice=durations(MINUTE, timedelta(days=30)),
    quarantine=st.just(timedelta(0)) | durations(timedelta(seconds=1), timedelta(days=30)),
    before_end_action=st.just("notification"),
    on_end_action=st.just("delete"),
    allowed_actions=st.just(()),
    calendar=st.none(),
)

# The machine

ALLOWED: dict[State, dict[Event, State]] = {
    State.SEEN: {Event.ADOPT: State.ACTIVE},
    State.ACTIVE: {
        Event.HOLD: State.HELD,
        Event.NOTICE: State.NOTICED,
        Event.EXTEND: State.ACTIVE,
        Event.UNDO: State.REVIVING,
        Event.EXEMPT: State.EXEMPT,
        Event.VANISH: State.VANISHED,
        Event.FAIL: State.FAILED,
    },
    State.NOTICED: {
        Event.HOLD: State.HELD,
        Event.NOTICE: State.NOTICED,
        Event.EXTEND: State.ACTIVE,
        Event.UNDO: State.REVIVING,
        Event.QUARANTINE: State.QUARANTINED,
        Event.END: State.ENDING,
        Event.EXEMPT: State.EXEMPT,
        Event.VANISH: State.VANISHED,
        Event.FAIL: State.FAILED,
    },
    State.QUARANTINED: {
        Event.HOLD: State.REVIVING,
        Event.NOTICE: State.QUARANTINED,
        Event.EXTEND: State.REVIVING,
        Event.UNDO: State.REVIVING,
        Event.END: State.ENDING,
        Event.EXEMPT: State.EXEMPT,
        Event.VANISH: State.VANISHED,
        Event.FAIL: State.FAILED,
        Event.POSTPONE: State.NOTICED,
    },
    State.ENDING: {
        Event.HOLD: State.REVIVING,
        Event.EXTEND: State.REVIVING,
        Event.UNDO: State.REVIVING,
        Event.EXEMPT: State.EXEMPT,
        Event.GONE: State.DELETED,
        Event.FAIL: State.FAILED,
        Event.POSTPONE: State.NOTICED,
        Event.KEPT: State.ENDED,
    },
    State.ENDED: {
        Event.ADOPT: State.ACTIVE,
        Event.EXTEND: State.REVIVING,
        Event.UNDO: State.REVIVING,
        Event.EXEMPT: State.EXEMPT,
        Event.VANISH: State.VANISHED,
    },
    State.REVIVING: {
        Event.HOLD: State.REVIVING,
        Event.EXTEND: State.REVIVING,
        Event.UNDO: State.REVIVING,
        Event.REVIVED: State.ACTIVE,
        Event.VANISH: State.VANISHED,
        Event.FAIL: State.FAILED,
    },
    State.HELD: {
        Event.HOLD: State.HELD,
        Event.RELEASE: State.ACTIVE,
        Event.EXTEND: State.HELD,
        Event.EXEMPT: State.EXEMPT,
        Event.VANISH: State.VANISHED,
    },
    State.EXEMPT: {Event.ADOPT: State.ACTIVE, Event.VANISH: State.VANISHED},
    State.VANISHED: {
        Event.HOLD: State.REVIVING,
        Event.EXTEND: State.REVIVING,
        Event.UNDO: State.REVIVING,
        Event.REAPPEAR: State.ACTIVE,
        Event.RETURN: State.ENDED,
        Event.GONE: State.DELETED,
    },
    State.FAILED: {
        Event.HOLD: State.REVIVING,
        Event.EXTEND: State.REVIVING,
        Event.UNDO: State.REVIVING,
        Event.EXEMPT: State.EXEMPT,
        Event.VANISH: State.VANISHED,
        Event.RETRY: State.REVIVING,
    },
    State.DELETED: {Event.ADOPT: State.ACTIVE},
}


def test_the_table_names_every_state() -> None:
    assert set(ALLOWED) == set(State)


@pytest.mark.parametrize("event", Event)
@pytest.mark.parametrize("state", State)
def test_every_event_in_every_state(state: State, event: Event) -> None:
    wanted = ALLOWED[state].get(event)
    assert lifecycle.possible(state, event) is (wanted is not None)
    if wanted is not None:
        assert lifecycle.after(state, event) is wanted
        assert lifecycle.after(state.value, event) is wanted
    else:
        with pytest.raises(lifecycle.UndeclaredTransition) as error:
            lifecycle.after(state.value, event)
        assert str(error.value) == f"{event.value!r} cannot happen in state {state.value!r}"


def test_a_state_that_nobody_knows() -> None:
    with pytest.raises(lifecycle.UndeclaredTransition, match="in state 'zombie'"):
        lifecycle.after("zombie", Event.EXTEND)


def test_no_state_is_reached_by_nothing_and_every_vm_can_come_to_its_end() -> None:
    reached = {end for events in ALLOWED.values() for end in events.values()}
    assert reached | {State.SEEN} == set(State)
    ends = {State.DELETED}
    while new := {s for s in State if set(ALLOWED[s].values()) & ends} - ends:
        ends |= new
    assert ends == set(State)


def test_nothing_disruptive_comes_straight_from_a_lease_without_notice() -> None:
    assert set(ALLOWED[State.ACTIVE].values()).isdisjoint({State.QUARANTINED, State.ENDING})


@pytest.mark.parametrize("state", sorted(set(State) - {State.SEEN, State.DELETED, State.EXEMPT}))
def test_an_owner_can_extend_from_every_state_while_the_vm_exists(state: State) -> None:
    assert lifecycle.possible(state, Event.EXTEND)


# Dates


@pytest.mark.parametrize(
    ("second", "microsecond", "floor", "ceil"),
    [(0, 0, 0, 0), (0, 1, 0, 1), (1, 0, 0, 1), (59, 999999, 0, 1)],
)
def test_whole_minutes(second: int, microsecond: int, floor: int, ceil: int) -> None:
    moment = NOW.replace(second=second, microsecond=microsecond)
    assert lifecycle.floor_minute(moment) == NOW + floor * MINUTE
    assert lifecycle.ceil_minute(moment) == NOW + ceil * MINUTE


def test_the_first_end() -> None:
    assert lifecycle.first_end(NOW, TERMS) == NOW + timedelta(days=60)
    late = NOW + timedelta(seconds=1)
    assert lifecycle.first_end(late, TERMS) == NOW + timedelta(days=60, minutes=1)
    spread = timedelta(days=3.5)
    assert lifecycle.first_end(NOW, TERMS, spread) == NOW + timedelta(days=63.5)


@given(MOMENTS, ANY_TERMS, durations(timedelta(0)))
def test_the_first_end_is_never_short_and_a_whole_minute(
    now: datetime.datetime, terms: Terms, spread: timedelta
) -> None:
    end = lifecycle.first_end(now, terms, spread)
    assert now + terms.lease_duration + spread <= end
    assert end < now + terms.lease_duration + spread + MINUTE
    assert end == lifecycle.floor_minute(end)


@given(MOMENTS, ANY_TERMS, durations(timedelta(0)))
def test_the_first_end_comes_on_an_open_day_and_is_never_short(
    now: datetime.datetime, terms: Terms, spread: timedelta
) -> None:
    without = lifecycle.first_end(now, terms, spread)
    terms = dataclasses.replace(terms, calendar=WEEKEND)
    end = lifecycle.first_end(now, terms, spread)
    assert without <= end <= without + timedelta(days=14)
    assert not lifecycle.closed(end, terms)
    plan = lifecycle.agenda(end, terms)
    assert not lifecycle.closed(plan.disruption_at, terms)


@given(WHOLE_MINUTES, ANY_TERMS, MOMENTS, st.booleans(), st.none() | st.just(WEEKEND))
def test_an_end_that_is_late_moves_no_less_than_it_has_to(
    end: datetime.datetime,
    terms: Terms,
    earliest: datetime.datetime,
    quarantined: bool,
    calendar: Calendar | None,
) -> None:
    terms = dataclasses.replace(terms, calendar=calendar)
    moved = lifecycle.open_end(end, terms, quarantined=quarantined, earliest=earliest)
    assert max(end, earliest) <= moved
    assert not lifecycle.closed(moved, terms)
    if calendar is None:
        assert moved == max(end, lifecycle.ceil_minute(earliest))
    elif terms.quarantine and not quarantined:
        assert not lifecycle.closed(moved - terms.quarantine, terms)


@given(st.uuids())
def test_a_share_is_the_vms_own(server_id: object) -> None:
    share = lifecycle.share(str(server_id))
    assert 0 <= share < 1
    assert lifecycle.share(str(server_id)) == share


def test_shares_are_even() -> None:
    tenths = [0] * 10
    for number in range(5000):
        tenths[int(10 * lifecycle.share(f"00000000-0000-4000-8000-{number:012}"))] += 1
    assert 400 < min(tenths) <= max(tenths) < 600


@pytest.mark.parametrize(
    ("total", "age", "current", "latest"),
    [
        (0, 0, 5, 30),
        (0, 1000, 5, 30),
        (0, 0, 45, 45),
        (100, 0, 5, 30),
        (100, 80, 5, 20),
        (100, 98, 5, 5),
        (100, 200, 5, 5),
    ],
)
def test_the_latest_allowed_end(total: int, age: int, current: int, latest: int) -> None:
    """In days from now: ``max(current, min(now + 30, created + total))``."""
    day = timedelta(days=1)
    capped = terms(max_total_duration=total * day)
    found = lifecycle.latest_allowed(NOW + current * day, NOW, NOW - age * day, capped)
    assert found == NOW + latest * day


def test_without_a_date_of_creation_there_is_no_total() -> None:
    capped = terms(max_total_duration=timedelta(days=1))
    found = lifecycle.latest_allowed(NOW, NOW, None, capped)
    assert found == NOW + timedelta(days=30)


def test_the_latest_allowed_end_has_no_seconds() -> None:
    found = lifecycle.latest_allowed(NOW, NOW + timedelta(seconds=59), None, TERMS)
    assert found == NOW + timedelta(days=30)


@given(WHOLE_MINUTES, MOMENTS, st.none() | MOMENTS, ANY_TERMS)
def test_the_latest_allowed_end_takes_nothing_away_and_gives_no_more_than_the_rules(
    current: datetime.datetime,
    now: datetime.datetime,
    created: datetime.datetime | None,
    terms: Terms,
) -> None:
    latest = lifecycle.latest_allowed(current, now, created, terms)
    assert latest >= current
    assert latest == lifecycle.floor_minute(latest)
    if latest > current:
        assert latest <= now + terms.extension_duration
        if terms.max_total_duration and created is not None:
            assert latest <= created + terms.max_total_duration
    # To choose it changes nothing about what may be chosen next.
    assert lifecycle.latest_allowed(latest, now, created, terms) == latest


def test_the_earliest_allowed_end() -> None:
    assert lifecycle.earliest_allowed(NOW, TERMS) == NOW + timedelta(days=2)
    late = NOW + timedelta(seconds=1)
    assert lifecycle.earliest_allowed(late, TERMS) == NOW + timedelta(days=2, minutes=1)
    strict = terms(quarantine=timedelta(days=7))
    assert lifecycle.earliest_allowed(NOW, strict) == NOW + timedelta(days=9)


@given(MOMENTS, ANY_TERMS)
def test_who_shortens_to_the_earliest_allowed_end_has_the_full_notice(
    now: datetime.datetime, terms: Terms
) -> None:
    plan = lifecycle.agenda(lifecycle.earliest_allowed(now, terms), terms)
    assert plan.disruption_at - now >= terms.minimum_notice
    # Their own act is the notice: no further postponement.
    assert lifecycle.needed_end(plan, now, now, terms) is None


# The agenda

END = NOW + timedelta(days=60)


def days_before(plan: Agenda) -> list[tuple[str, float]]:
    """Say of each notice its kind and how many days before the end it is."""
    return [(r.kind, (plan.ends_at - r.at) / timedelta(days=1)) for r in plan.reminders]


def test_the_default_agenda() -> None:
    plan = lifecycle.agenda(END, TERMS)
    # With two days' notice and two hours to send it in, the reminder of two days is in time.
    assert days_before(plan) == [("reminder/10d", 10), ("reminder/2d", 2)]
    assert plan.before_end_at == END - timedelta(days=10)
    assert plan.quarantine_at is None
    assert plan.disruption_at == plan.ends_at == END


def test_reminders_are_sorted_and_none_comes_twice_or_before_the_first_notice() -> None:
    days = [timedelta(days=n) for n in (1, 7, 3, 7, 10, 30)]
    plan = lifecycle.agenda(END, terms(reminders=tuple(days)))
    assert [d for _, d in days_before(plan)] == [10, 7, 3, 1]


def test_two_notices_on_one_date_are_one() -> None:
    plan = lifecycle.agenda(END, terms(reminders=(timedelta(hours=240), timedelta(days=10))))
    assert days_before(plan) == [("reminder/10d", 10)]


def test_a_first_notice_that_comes_too_late_is_sent_earlier() -> None:
    strict = terms(first_notice=timedelta(0), quarantine=timedelta(days=7), reminders=())
    plan = lifecycle.agenda(END, strict)
    assert [d for _, d in days_before(plan)] == [9 + 2 / 24]
    # The before-end action keeps the date that the operator gave it.
    assert plan.before_end_at == END
    assert plan.quarantine_at == plan.disruption_at == END - timedelta(days=7)


def test_an_owner_moves_the_action_not_the_notice() -> None:
    moved = NOW + timedelta(days=1)
    plan = lifecycle.agenda(END, TERMS, before_end_at=moved)
    assert plan.before_end_at == moved
    assert days_before(plan)[0] == ("reminder/10d", 10)


@given(WHOLE_MINUTES, ANY_TERMS)
@example(END, terms(first_notice=timedelta(microseconds=1), minimum_notice=timedelta(seconds=61)))
def test_an_agenda(end: datetime.datetime, terms: Terms) -> None:
    plan = lifecycle.agenda(end, terms)
    dates = [reminder.at for reminder in plan.reminders]
    assert dates == sorted(set(dates))
    kinds = [reminder.kind for reminder in plan.reminders]
    assert len(kinds) == len(set(kinds))
    assert all(len(kind) <= 64 for kind in kinds)
    assert dates[0] + terms.minimum_notice + terms.quarantine <= end
    assert dates[0] + terms.minimum_notice < plan.disruption_at
    assert dates[-1] <= plan.ends_at
    assert plan.disruption_at <= plan.ends_at
    assert (plan.quarantine_at is None) is (not terms.quarantine)


# Which notice is due


def test_which_notice_is_due() -> None:
    plan = lifecycle.agenda(END, terms(reminders=(timedelta(days=5), timedelta(days=2))))
    ten, five, two = plan.reminders
    assert plan.due_reminder(ten.at - MINUTE, ()) is None
    assert plan.due_reminder(ten.at, ()) is ten
    assert plan.due_reminder(ten.at, {ten.kind}) is None
    assert plan.due_reminder(five.at - MINUTE, {ten.kind}) is None
    assert plan.due_reminder(five.at, {ten.kind}) is five
    # Two dates have passed while nothing could be sent: one mail says all.
    assert plan.due_reminder(five.at, ()) is five
    assert plan.due_reminder(END, {ten.kind}) is two
    assert plan.due_reminder(END, {ten.kind, two.kind}) is None
    assert plan.due_reminder(five.at, {five.kind}) is None


@given(WHOLE_MINUTES, ANY_TERMS, st.lists(durations(timedelta(0)), min_size=1, max_size=20))
def test_whenever_somebody_looks_nothing_is_said_twice_and_the_last_thing_is_said(
    end: datetime.datetime, terms: Terms, looks: list[timedelta]
) -> None:
    plan = lifecycle.agenda(end, terms)
    told: list[str] = []
    for now in sorted({end - look for look in looks} | {end}):
        due = plan.due_reminder(now, told)
        if due is not None:
            assert due.at <= now
            told.append(due.kind)
        assert plan.due_reminder(now, told) is None
    assert len(told) == len(set(told))
    assert told[-1] == plan.reminders[-1].kind


# Moving the end, so that nothing happens without notice


def test_an_end_whose_notice_was_accepted_in_time_stays() -> None:
    plan = lifecycle.agenda(END, TERMS)
    accepted = END - timedelta(days=2)
    assert lifecycle.needed_end(plan, END, accepted, TERMS) is None
    late = accepted + timedelta(seconds=1)
    assert lifecycle.needed_end(plan, END, late, TERMS) == END + MINUTE


def test_an_end_moves_when_there_is_no_time_left_for_a_notice() -> None:
    plan = lifecycle.agenda(END, TERMS)
    last = END - timedelta(days=2)
    assert lifecycle.undeliverable_deadline(plan, TERMS) == last
    assert lifecycle.needed_end(plan, last, None, TERMS) is None
    # By a margin of two hours, so that it does not move again at once.
    now = last + timedelta(seconds=1)
    assert lifecycle.needed_end(plan, now, None, TERMS) == END + timedelta(hours=2, minutes=1)


def test_a_quarantine_counts_as_disruption() -> None:
    strict = terms(quarantine=timedelta(days=7))
    plan = lifecycle.agenda(END, strict)
    accepted = END - timedelta(days=9)
    assert lifecycle.needed_end(plan, END, accepted, strict) is None
    found = lifecycle.needed_end(plan, END, accepted + timedelta(hours=1), strict)
    assert found == END + timedelta(hours=1)


@given(WHOLE_MINUTES, MOMENTS, ANY_TERMS)
def test_without_a_notice_the_end_moves_once_and_never_nearer(
    end: datetime.datetime, now: datetime.datetime, terms: Terms
) -> None:
    plan = lifecycle.agenda(end, terms)
    moved = lifecycle.needed_end(plan, now, None, terms)
    if moved is None:
        assert plan.disruption_at >= now + terms.minimum_notice
        return
    assert moved > end
    assert moved == lifecycle.floor_minute(moved)
    again = lifecycle.agenda(moved, terms)
    assert lifecycle.needed_end(again, now, None, terms) is None
    # And not at the next moment, either: a mail server may be down for a day.
    assert lifecycle.undeliverable_deadline(again, terms) >= now + lifecycle.notice_margin(terms)


@given(WHOLE_MINUTES, MOMENTS, MOMENTS, ANY_TERMS)
def test_nothing_disruptive_comes_before_the_minimum_notice(
    end: datetime.datetime, now: datetime.datetime, accepted: datetime.datetime, terms: Terms
) -> None:
    plan = lifecycle.agenda(end, terms)
    moved = lifecycle.needed_end(plan, now, accepted, terms)
    if moved is not None:
        assert moved > end
        assert moved == lifecycle.floor_minute(moved)
        plan = lifecycle.agenda(moved, terms)
        assert lifecycle.needed_end(plan, now, accepted, terms) is None
    assert plan.disruption_at >= accepted + terms.minimum_notice


# Trying again


def test_backoff() -> None:
    first, longest = timedelta(seconds=10), timedelta(minutes=10)
    most = [lifecycle.backoff(n, first, longest, 1.0).total_seconds() for n in range(1, 9)]
    assert most == [10, 20, 40, 80, 160, 320, 600, 600]
    least = [lifecycle.backoff(n, first, longest, 0.0).total_seconds() for n in range(1, 9)]
    assert least == [wait / 2 for wait in most]


@given(
    st.integers(1, 10**6),
    durations(timedelta(seconds=1)),
    durations(timedelta(seconds=1)),
    st.floats(0, 1, exclude_max=True),
)
def test_backoff_is_bounded(
    attempts: int, first: timedelta, longest: timedelta, jitter: float
) -> None:
    wait = lifecycle.backoff(attempts, first, longest, jitter)
    assert min(first, longest) / 2 <= wait <= longest
    assert lifecycle.backoff(attempts + 1, first, longest, jitter) >= wait


# What an owner chose

CHOOSING = terms(
    before_end_action="notification",
    on_end_action="delete",
    allowed_actions=("snapshot", "shelve"),
)


@pytest.mark.parametrize(
    ("chosen", "before_end", "on_end"),
    [
        ({}, "notification", "delete"),
        ({"on_end_action": "shelve"}, "notification", "shelve"),
        ({"before_end_action": "snapshot"}, "snapshot", "delete"),
        (
            {"before_end_action": "snapshot", "on_end_action": "snapshot", "explicit": "a lease"},
            "snapshot",
            "snapshot",
        ),
        # Not allowed, or not any more.
        ({"on_end_action": "stop"}, "notification", "delete"),
        ({"on_end_action": "stop", "before_end_action": "snapshot"}, "snapshot", "delete"),
        ({"on_end_action": None}, "notification", "delete"),
        # An administrator's word counts whatever the terms allow, and before the owner's.
        ({"imposed": {"on_end_action": "stop"}}, "notification", "stop"),
        (
            {"on_end_action": "shelve", "imposed": {"on_end_action": "stop"}},
            "notification",
            "stop",
        ),
        ({"on_end_action": "shelve", "imposed": {}}, "notification", "shelve"),
    ],
)
def test_what_an_owner_chose_applies_where_the_terms_allow_it(
    chosen: dict[str, object], before_end: str, on_end: str
) -> None:
    applied = lifecycle.with_choice(CHOOSING, chosen)
    assert (applied.before_end_action, applied.on_end_action) == (before_end, on_end)
    assert applied == dataclasses.replace(
        CHOOSING, before_end_action=before_end, on_end_action=on_end
    )


def test_the_actions_at_the_end_have_an_order_and_an_operators_own_has_no_place_in_it() -> None:
    order = ["stop", "shelve", "snapshot", "delete"]
    for place, action in enumerate(order):
        assert [lifecycle.as_gentle(action, other) for other in order] == (
            [False] * place + [True] * (len(order) - place)
        )
        assert not lifecycle.as_gentle(action, "archive")
        assert not lifecycle.as_gentle("archive", action)
    assert lifecycle.as_gentle("archive", "archive")
