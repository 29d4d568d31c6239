# SPDX-License-Identifier: Apache-2.0
"""The plan of a chaos run: repeatable, and nothing in it that could not be done."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from tests.chaos import plan
from tests.chaos.plan import FULL, SHORT, Plan

SEEDS = st.integers(min_value=0, max_value=10**6)
SCALES = st.sampled_from([FULL, SHORT])


def test_a_seed_always_makes_the_same_plan():
    assert plan.make(7, FULL) == plan.make(7, FULL)
    assert plan.make(7, FULL) != plan.make(8, FULL)


@given(seed=SEEDS, scale=SCALES)
def test_each_service_is_stopped_in_every_round(seed, scale):
    stopped = [fault.services for fault in plan.make(seed, scale).faults if fault.how == "stop"]
    assert sorted(stopped) == sorted([(name,) for name in plan.SERVICES] * scale.rounds)


@given(seed=SEEDS, scale=SCALES)
def test_one_outage_is_over_before_the_next_one_begins(seed, scale):
    outages = [fault for fault in plan.make(seed, scale).faults if fault.how == "stop"]
    for before, after in itertools.pairwise(outages):
        assert before.at < before.back_at < after.at
    assert scale.outages_from <= outages[0].at
    assert outages[-1].back_at <= scale.until


@given(seed=SEEDS, scale=SCALES)
def test_nothing_is_stopped_or_killed_that_is_down_or_started_that_is_up(seed, scale):
    down: set[str] = set()
    for act in plan.make(seed, scale).acts():
        if act.verb == "start":
            assert act.service in down
            down.remove(act.service)
        else:
            assert act.service not in down
            down.add(act.service)
    assert not down


@given(seed=SEEDS, scale=SCALES)
def test_nothing_of_ours_is_started_while_it_could_not_start(seed, scale):
    without: set[str] = set()
    for act in plan.make(seed, scale).acts():
        if act.service in ("rabbitmq", "mariadb"):
            (without.discard if act.verb == "start" else without.add)(act.service)
        elif act.verb == "start" and act.service in plan.PROCESSES:
            assert not without


@given(seed=SEEDS)
def test_the_full_plan_kills_each_process_alone_or_with_others(seed):
    made = plan.make(seed, FULL)
    killed = {service for f in made.faults if f.how == "kill" for service in f.services}
    assert killed == set(plan.PROCESSES)


@given(seed=SEEDS)
def test_owners_extend_both_in_good_time_and_in_the_moment_of_the_end(seed):
    leads = [vm.extension.before_end for vm in plan.make(seed, FULL).vms if vm.extension]
    assert len(leads) == FULL.vms // FULL.extended_of
    assert min(leads) < 10 < max(leads) < FULL.lease


def test_everything_is_booted_before_the_first_end():
    for scale in (FULL, SHORT):
        assert scale.booting < scale.lease
        assert plan.make(1, scale).vms[-1].boot_at <= scale.booting


def test_the_whole_plan_is_written_down():
    made: Plan = plan.make(5, SHORT)
    text = "\n".join(made.lines())
    for fault in made.faults:
        assert f"{plan.clock(fault.at)}  {fault.how} {', '.join(fault.services)}" in text
    for vm in made.vms:
        assert (f"{vm.name} by" in text) == (vm.extension is not None)


def test_settings_are_durations_as_the_options_take_them():
    settings = FULL.settings()
    assert "virtual:vm.lease_duration=10m" in settings
    assert "virtual:vm.on_end_action=snapshot" in settings
    assert any(setting.startswith("vmexpire_brake.deletions_per_hour=") for setting in settings)
