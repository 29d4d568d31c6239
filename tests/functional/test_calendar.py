# SPDX-License-Identifier: Apache-2.0
"""Days on which nothing is done to a VM: its end and its quarantine come on open ones."""

from __future__ import annotations

import datetime
from datetime import timedelta

import pytest

from tests.functional.test_bursts import LIFTED, crowd, run
from tests.functional.world import World

WEEKEND = {"calendar_closed": ["sat", "sun"]}
SHOWN = "the calendar (sat, sun; UTC)"

pytestmark = [
    pytest.mark.databases("sqlite"),
    pytest.mark.options({"virtual:vm": WEEKEND}),
]

FRIDAY, SATURDAY, MONDAY, TUESDAY = (
    # 60 days after a test begins, a Monday at ten, it is Friday.
    datetime.datetime(2026, 5, day, 10)
    for day in (1, 2, 4, 5)
)


def ends_at(world: World, server_id: str) -> datetime.datetime:
    """Return the end that our row has, which Blazar's lease has to have as well."""
    found = world.row(server_id).ends_at
    assert found is not None
    assert world.lease(server_id).end_date == found
    return found


def moves(world: World, server_id: str) -> list[tuple[str, str, str]]:
    """Return whence and whither an end was moved by the service, and why."""
    return [
        (details["old_end"], details["new_end"], details["reason"])
        for event, details in world.history(server_id)
        if event == "moved"
    ]


BY_CALENDAR = f"nothing is done to servers on the closed days of {SHOWN}"


# The first end


@pytest.mark.options({"virtual:vm": {"lease_duration": "61d"}})
def test_a_first_term_ends_on_an_open_day(world: World) -> None:
    assert ends_at(world, world.adopt()) == MONDAY


@pytest.mark.databases("sqlite", "mariadb", "postgresql")
@pytest.mark.options({"virtual:vm": {"calendar_closed": ["tue", "thu", "sat", "sun"]}})
def test_an_existing_cloud_ends_on_open_days(world: World) -> None:
    server_ids = [world.boot(f"vm{number}") for number in range(40)]
    world.harness.work()
    ends = [ends_at(world, server_id) for server_id in server_ids]
    assert {end.weekday() for end in ends} == {0, 2, 4}
    assert len({end.date() for end in ends}) > 3


@pytest.mark.options({"virtual:vm": {"lease_duration": "61d", "quarantine": "1d"}})
def test_so_that_its_quarantine_begins_on_one_too(world: World) -> None:
    server_id = world.adopt()
    assert ends_at(world, server_id) == TUESDAY
    world.live(MONDAY - timedelta(minutes=1))
    assert world.state(server_id) == "noticed"
    world.live(MONDAY + timedelta(minutes=1))
    assert world.state(server_id) == "quarantined"
    world.live(TUESDAY + timedelta(minutes=10))
    assert world.state(server_id) == "deleted"
    assert moves(world, server_id) == []


# An end that falls on a closed day later


@pytest.mark.databases("sqlite", "mariadb", "postgresql")
def test_an_owner_may_choose_a_closed_day_and_gets_the_next_that_is_open(world: World) -> None:
    server_id = world.adopt()
    world.live(FRIDAY - timedelta(days=5))
    assert world.update(server_id, end_date=SATURDAY).status_code == 200
    world.settle()
    assert ends_at(world, server_id) == MONDAY
    assert moves(world, server_id) == [(SATURDAY.isoformat(), MONDAY.isoformat(), BY_CALENDAR)]
    assert world.row(server_id).extensions == 1
    # Nobody was told of the Saturday.
    world.live(MONDAY - timedelta(hours=1))
    told = [mail.get_content() for mail in world.mails if "2026-05-0" in mail.get_content()]
    assert any("2026-05-04 10:00 UTC" in text for text in told)
    assert not any("2026-05-02 10:00 UTC" in text for text in told)
    assert server_id in world.cloud.compute.vms
    world.live(MONDAY + timedelta(minutes=10))
    assert server_id not in world.cloud.compute.vms


def test_so_does_an_administrator(world: World) -> None:
    server_id = world.adopt()
    far = datetime.datetime(2027, 5, 1, 10)
    assert world.update(server_id, world.as_admin, end_date=far).status_code == 200
    world.settle()
    assert ends_at(world, server_id) == datetime.datetime(2027, 5, 3, 10)


def test_the_latest_allowed_end_is_what_it_would_be_without(world: World) -> None:
    """It may be a closed day; and no later date may be asked for because of that."""
    server_id = world.adopt()
    world.live(FRIDAY - timedelta(days=8))
    latest = world.clock.now().replace(second=0, microsecond=0) + timedelta(days=30)
    assert latest.date() == datetime.date(2026, 5, 23), "a Saturday"
    answer = world.update(server_id, end_date=latest + timedelta(minutes=1))
    assert answer.status_code == 400
    answer = world.as_alice.post(f"/v1/vm-expirations/{server_id}/extend", json={})
    assert answer.status_code == 200, answer.json
    assert ends_at(world, server_id) == latest
    world.settle()
    assert ends_at(world, server_id) == latest + timedelta(days=2)


@pytest.mark.options({"virtual:vm": {"quarantine": "2d", "minimum_notice": "1d"}})
def test_a_notice_stays_valid_when_its_end_moves(world: World) -> None:
    """A closed day was added after the owner had been told: the end is later, the mails the same.

    Friday's end had its quarantine on Wednesday.
    """
    server_id = world.adopt()
    world.live(FRIDAY - timedelta(days=3))
    told = len(world.mails)
    generation = world.row(server_id).generation
    world.harness.conf.set_override(
        "calendar_closed", ["sat", "sun", "2026-04-29"], group="virtual:vm"
    )
    world.live(FRIDAY + timedelta(days=3, minutes=-1))
    # Monday's quarantine would be Saturday's, Tuesday's Sunday's.
    assert ends_at(world, server_id) == datetime.datetime(2026, 5, 6, 10)
    assert len(world.mails) == told
    assert world.row(server_id).generation == generation
    world.live(datetime.datetime(2026, 5, 4, 10, 1))
    assert world.state(server_id) == "quarantined"


# What comes late


def test_an_end_that_comes_late_on_a_closed_day_waits_for_an_open_one(world: World) -> None:
    server_id = world.adopt()
    world.live(FRIDAY - timedelta(minutes=1))
    mails = len(world.mails)
    # Nobody was at work for a day.
    world.clock.set(SATURDAY + timedelta(hours=3))
    world.settle()
    assert world.state(server_id) == "noticed"
    assert ends_at(world, server_id) == MONDAY
    assert world.lease(server_id).status == "ACTIVE"
    assert moves(world, server_id) == [(FRIDAY.isoformat(), MONDAY.isoformat(), BY_CALENDAR)]
    world.live(MONDAY - timedelta(minutes=1))
    assert world.cloud.compute.vms[server_id].vm_state == "active"
    assert len(world.mails) == mails
    world.live(MONDAY + timedelta(minutes=10))
    assert server_id not in world.cloud.compute.vms


@pytest.mark.options({"virtual:vm": {"quarantine": "7d"}})
def test_a_quarantine_that_comes_late_on_a_closed_day_waits_and_is_not_shortened(
    world: World,
) -> None:
    server_id = world.adopt()
    begin = FRIDAY - timedelta(days=7)
    world.live(begin - timedelta(minutes=1))
    world.clock.set(begin + timedelta(days=1))
    world.settle()
    assert world.state(server_id) == "noticed"
    assert not world.cloud.compute.vms[server_id].locked
    assert ends_at(world, server_id) == MONDAY
    world.live(MONDAY - timedelta(days=7) + timedelta(minutes=1))
    assert world.state(server_id) == "quarantined"


def step_until(world: World, server_id: str, state: str) -> None:
    """Take the steps until something has begun, and nothing has been done to the VM yet."""
    for _ in range(10):
        if world.state(server_id) == state:
            return
        world.harness.plugin.service.worker.work_off(1)
    raise AssertionError(f"server {server_id} does not get to {state}")


@pytest.mark.options({"virtual:vm": {"quarantine": "7d"}})
def test_a_quarantine_of_which_nothing_was_done_before_midnight_waits(world: World) -> None:
    world.clock.set(datetime.datetime(2026, 3, 2, 23, 59))
    server_id = world.adopt()
    end = ends_at(world, server_id)
    begin = end - timedelta(days=7)
    assert begin == datetime.datetime(2026, 4, 24, 23, 59)
    world.live(begin - timedelta(minutes=1))
    world.clock.set(begin)
    step_until(world, server_id, "quarantined")
    world.clock.advance(minutes=1)
    world.settle()
    assert world.state(server_id) == "noticed"
    assert not world.cloud.compute.vms[server_id].locked
    assert ends_at(world, server_id) == end + timedelta(days=3)
    world.live(begin + timedelta(days=3, minutes=1))
    assert world.state(server_id) == "quarantined"
    assert world.cloud.compute.vms[server_id].vm_state == "stopped"


@pytest.mark.sampled(2)
@pytest.mark.databases("sqlite", "mariadb", "postgresql")
@pytest.mark.options({"virtual:vm": {"lease_duration": "60d"}})
@pytest.mark.parametrize("quarantine", [timedelta(0), timedelta(days=1)])
def test_an_end_of_which_nothing_was_done_before_midnight_waits(
    world: World, quarantine: timedelta
) -> None:
    """As when many end together late on Friday, or Nova cannot be reached then."""
    world.harness.conf.set_override("quarantine", quarantine, group="virtual:vm")
    world.clock.set(datetime.datetime(2026, 3, 2, 23, 59))
    server_id = world.adopt()
    end = ends_at(world, server_id)
    assert end == datetime.datetime(2026, 5, 1, 23, 59)
    world.live(end - timedelta(minutes=1))
    before, mails = world.state(server_id), len(world.mails)
    world.clock.set(end)
    step_until(world, server_id, "ending")
    world.clock.advance(minutes=1)
    world.settle()
    assert world.state(server_id) == before
    assert ends_at(world, server_id) == end + timedelta(days=3)
    assert world.lease(server_id).status == "ACTIVE"
    world.live(end + timedelta(days=3, minutes=-1))
    assert server_id in world.cloud.compute.vms
    assert len(world.mails) == mails
    world.live(end + timedelta(days=3, minutes=10))
    assert world.state(server_id) == "deleted"


@pytest.mark.options({"virtual:vm": {"on_end_action": "snapshot"}})
def test_an_end_that_has_begun_is_finished_on_a_closed_day(world: World) -> None:
    """The VM is stopped and its image under way: to leave it so for days would help nobody."""
    world.clock.set(datetime.datetime(2026, 3, 2, 23, 59))
    server_id = world.adopt()
    end = ends_at(world, server_id)
    world.live(end - timedelta(minutes=1))
    world.clock.set(end)
    step_until(world, server_id, "ending")
    while world.cloud.compute.vms[server_id].vm_state == "active":
        world.harness.plugin.service.worker.work_off(1)
        world.clock.advance(seconds=1)
    world.clock.set(end + timedelta(minutes=5))
    world.settle()
    world.live(end + timedelta(minutes=20))
    assert world.state(server_id) == "deleted"


@LIFTED
def test_many_that_are_due_on_a_closed_day_are_not_taken_together(world: World) -> None:
    world.clock.set(datetime.datetime(2026, 3, 6, 23, 58))
    server_ids = crowd(world, ends_in=timedelta(0))
    world.clock.advance(minutes=5)
    assert run(world).taken == 0
    assert {world.state(server_id) for server_id in server_ids} == {"noticed"}
    world.clock.set(datetime.datetime(2026, 3, 9, 0, 0))
    assert run(world).taken == len(server_ids)


@pytest.mark.options(
    {"vmexpire_brake": {"deletions_per_hour": 1, "deletions_share": 0.0, "trip_hours": 1000.0}}
)
def test_a_turn_on_a_closed_day_comes_on_the_next_open_one(world: World) -> None:
    world.clock.set(datetime.datetime(2026, 3, 2, 23, 30))
    first, second = world.adopt("first"), world.adopt("second")
    end = ends_at(world, first)
    assert end == datetime.datetime(2026, 5, 1, 23, 30)
    world.live(end + timedelta(minutes=20))
    gone = [s for s in (first, second) if s not in world.cloud.compute.vms]
    assert len(gone) == 1
    (waits,) = {first, second} - set(gone)
    turn = ends_at(world, waits)
    assert turn.date() == datetime.date(2026, 5, 2)
    world.live(turn + timedelta(minutes=1))
    assert ends_at(world, waits) == turn + timedelta(days=2)
    assert world.row(waits).waiting_since == end
    world.live(turn + timedelta(days=2, minutes=10))
    assert waits not in world.cloud.compute.vms
