# SPDX-License-Identifier: Apache-2.0
"""Which rule counts for a VM, and what follows from it."""

from __future__ import annotations

import dataclasses
import time
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blazar_vmexpire import rules
from blazar_vmexpire.lifecycle import Terms, notice_margin
from blazar_vmexpire.notices import KINDS
from blazar_vmexpire.rules import Rules, RulesError, Subject
from blazar_vmexpire.rules.schema import HARSHNESS
from blazar_vmexpire.sense import misfits

DAY = timedelta(days=1)
BEFORE_END = {"notification", "snapshot"}
ON_END = {*HARSHNESS, "archive"}

DEFAULTS = Terms(
    lease_duration=60 * DAY,
    extension_duration=30 * DAY,
    max_total_duration=0 * DAY,
    max_extensions=0,
    extension_window=0 * DAY,
    first_notice=10 * DAY,
    reminders=(2 * DAY,),
    minimum_notice=2 * DAY,
    quarantine=0 * DAY,
    before_end_action="notification",
    on_end_action="snapshot",
    allowed_actions=(),
    calendar=None,
)


def server(**facts: Any) -> Subject:
    """A VM of which everything is known."""
    known: dict[str, Any] = {
        "server_id": "5f2c6a8e-8f3e-4a7b-9d0c-1b2a3c4d5e6f",
        "server_name": "web-1",
        "server_metadata": {"role": "web", "team": ""},
        "server_tags": ("blue", "green"),
        "image": "1d9c6c2e-6c4b-4e0c-9a71-3f0b7a55d1aa",
        "flavor": "m1.small",
        "flavor_extra_specs": {"hw:cpu_policy": "dedicated", "resources:VGPU": "1"},
        "availability_zone": "zone-a",
        "user": "9a1f",
        "project": "77aa",
        "domain": "default",
        "project_name": "Personal alice",
        "project_enabled": True,
        "project_properties": {"expire": "on", "type": "personal"},
        "project_tags": ("campus",),
    }
    return Subject(**{**known, **facts})


#: A VM whose project Keystone does not know, booted from a volume, and not scheduled yet.
STRANGER = server(
    image=None,
    availability_zone=None,
    user=None,
    domain=None,
    project_name=None,
    project_enabled=None,
    project_properties={},
    project_tags=(),
    server_metadata={},
    server_tags=(),
    flavor_extra_specs={},
)


def written(text: str) -> Rules:
    """Rules as a file would have them."""
    return rules.parse(text, "rules.yaml")


def matching(match: str) -> Rules:
    """One rule that leaves a VM out."""
    return written(f"rules: [{{name: it, match: {match}, trust_owner: true, set: {{expire: no}}}}]")


def matches(match: str, subject: Subject) -> bool:
    """Say whether a match holds for a VM."""
    return not matching(match).decide(subject, DEFAULTS).expires


# Matching


@pytest.mark.parametrize(
    "match",
    [
        "{domain: default}",
        "{project: [4711a, 77aa]}",
        "{project_name: 'Personal *'}",
        "{project_enabled: true}",
        "{project_properties: {expire: 'on'}}",
        "{project_properties: {expire: 'on', type: [test, pers*]}}",
        "{project_tags: campus}",
        "{user: 9a1f}",
        "{flavor: m1.*}",
        "{flavor: [g1.*, m1.small]}",
        "{flavor_extra_specs: {'resources:VGPU': '*'}}",
        "{availability_zone: 'zone-?'}",
        "{image: 1d9c6c2e-6c4b-4e0c-9a71-3f0b7a55d1aa}",
        "{server_name: 'web-[0-9]'}",
        "{server_metadata: {role: web}}",
        "{server_metadata: {team: ''}}",
        "{server_tags: [green, blue]}",
        "{project: 77aa, flavor: m1.small, server_tags: green}",
    ],
)
def test_a_match_that_holds(match: str) -> None:
    assert matches(match, server())


@pytest.mark.parametrize(
    "match",
    [
        "{domain: Default}",
        "{project: 77a}",
        "{project_name: 'personal *'}",
        "{project_name: Personal}",
        "{project_enabled: false}",
        "{project_properties: {expire: 'off'}}",
        "{project_properties: {expire: 'on', type: shared}}",
        "{project_properties: {owner: '*'}}",
        "{project_tags: [campus, lab]}",
        "{user: 77aa}",
        "{flavor: [g1.*, M1.*]}",
        "{flavor: small}",
        "{flavor_extra_specs: {'resources:VGPU': '2'}}",
        "{availability_zone: zone-}",
        "{image: 1d9c6c2e}",
        "{server_name: 'web-[!0-9]'}",
        "{server_metadata: {role: ''}}",
        "{server_tags: b*}",
        "{project: 77aa, flavor: m1.large}",
    ],
)
def test_a_match_that_does_not_hold(match: str) -> None:
    assert not matches(match, server())


@pytest.mark.parametrize(
    "match",
    [
        "{domain: None}",
        "{project_name: '*'}",
        "{project_enabled: true}",
        "{project_enabled: false}",
        "{project_properties: {expire: '*'}}",
        "{project_tags: campus}",
        "{user: None}",
        "{flavor_extra_specs: {'resources:VGPU': '*'}}",
        "{availability_zone: '*'}",
        "{image: None}",
        "{server_metadata: {role: '*'}}",
        "{server_tags: blue}",
    ],
)
def test_what_is_not_known_does_not_match(match: str) -> None:
    assert not matches(match, STRANGER)


def test_without_a_match_a_rule_is_for_every_server() -> None:
    found = written("rules: [{name: all, set: {quarantine: 7d}}]")
    for subject in (server(), STRANGER):
        decision = found.decide(subject, DEFAULTS)
        assert (decision.rule, decision.terms.quarantine) == ("all", 7 * DAY)


def test_the_first_rule_that_matches_counts_alone() -> None:
    found = written("""
        rules:
        - {name: others, match: {project: "0000"}, set: {lease_duration: 5d}}
        - {name: small, match: {flavor: m1.*}, set: {quarantine: 7d}}
        - {name: alice, match: {project: 77aa}, set: {lease_duration: 9d}}
    """)
    decision = found.decide(server(), DEFAULTS)
    assert (decision.expires, decision.rule, decision.tightened_by) == (True, "small", ())
    assert decision.terms == dataclasses.replace(DEFAULTS, quarantine=7 * DAY)


def test_without_a_rule_that_matches_the_options_count() -> None:
    for found in (Rules(), written("rules: []"), written("rules: [{name: a, match: {user: x}}]")):
        decision = found.decide(server(), DEFAULTS)
        assert (decision.expires, decision.rule, decision.terms) == (True, None, DEFAULTS)


def test_a_rule_sets_each_term() -> None:
    found = written("""
        rules:
        - name: all
          set:
            lease_duration: 180d
            extension_duration: 90d
            max_total_duration: 0
            max_extensions: 3
            extension_window: 30d
            reminders: [7d, 36h]
            hours_before_end_lease: 252.5
            quarantine: 7d
            minimum_notice: 3d
            before_end_action: snapshot
            on_end_action: delete
            allowed_actions: [stop]
            calendar: {closed: [sat, sun, "12-20..01-05"], time_zone: Europe/Zurich}
    """)
    found.check(DEFAULTS, BEFORE_END, ON_END, KINDS)
    terms = found.decide(server(), DEFAULTS).terms
    assert str(terms.calendar) == "the calendar (sat, sun, 12-20..01-05; Europe/Zurich)"
    assert dataclasses.replace(terms, calendar=None) == Terms(
        lease_duration=180 * DAY,
        extension_duration=90 * DAY,
        max_total_duration=0 * DAY,
        max_extensions=3,
        extension_window=30 * DAY,
        first_notice=timedelta(hours=252.5),
        reminders=(7 * DAY, timedelta(hours=36)),
        minimum_notice=3 * DAY,
        quarantine=7 * DAY,
        before_end_action="snapshot",
        on_end_action="delete",
        allowed_actions=("stop",),
        calendar=None,
    )


def test_rules_say_which_facts_they_need() -> None:
    found = written("""
        rules: [{name: a, match: {flavor: x, user: y}}, {name: b, match: {user: z}}, {name: c}]
    """)
    assert found.asks_for == {"flavor", "user"}
    assert [rule.name for rule in found] == ["a", "b", "c"]


# What an owner can edit


def test_a_rule_on_what_an_owner_can_edit_only_tightens() -> None:
    found = written("""
        rules:
        - name: volatile
          match: {server_metadata: {role: web}}
          set: {lease_duration: 90d, extension_duration: 7d, reminders: [1d], on_end_action: stop}
        - {name: small, match: {flavor: m1.*}, set: {lease_duration: 30d}}
    """)
    found.check(DEFAULTS, BEFORE_END, ON_END, KINDS)
    decision = found.decide(server(), DEFAULTS)
    assert (decision.rule, decision.tightened_by) == ("small", ("volatile",))
    assert decision.terms == dataclasses.replace(
        DEFAULTS, lease_duration=30 * DAY, extension_duration=7 * DAY, reminders=(DAY,)
    )


def test_what_an_owner_edits_takes_no_server_in() -> None:
    found = written("""
        rules:
        - {name: volatile, match: {server_tags: blue}, set: {lease_duration: 9d}}
        - {name: nobody, set: {expire: false}}
    """)
    decision = found.decide(server(), DEFAULTS)
    assert (decision.expires, decision.rule) == (False, "nobody")


def test_a_trusted_owner_can_loosen() -> None:
    found = written("""
        rules:
        - name: keep
          match: {server_metadata: {role: web}}
          trust_owner: true
          set: {lease_duration: 90d}
        - {name: all, set: {lease_duration: 30d}}
    """)
    decision = found.decide(server(), DEFAULTS)
    assert (decision.rule, decision.terms.lease_duration) == ("keep", 90 * DAY)


@pytest.mark.parametrize("base", [*HARSHNESS, "archive"])
def test_the_harsher_action_counts(base: str) -> None:
    for wanted in HARSHNESS:
        found = written(f"""
            rules:
            - {{name: mark, match: {{server_tags: blue}}, set: {{on_end_action: {wanted}}}}}
            - {{name: all, set: {{on_end_action: {base}}}}}
        """)
        action = found.decide(server(), DEFAULTS).terms.on_end_action
        if base == "archive":
            assert action == base
        else:
            assert HARSHNESS.index(action) == max(HARSHNESS.index(a) for a in (base, wanted))


def test_the_first_of_two_rules_has_the_word_on_reminders() -> None:
    found = written("""
        rules:
        - {name: one, match: {server_tags: blue}, set: {reminders: [1d], lease_duration: 9d}}
        - {name: two, match: {server_tags: green}, set: {reminders: [3d], lease_duration: 8d}}
    """)
    decision = found.decide(server(), DEFAULTS)
    assert (decision.rule, decision.tightened_by) == (None, ("one", "two"))
    assert decision.terms.reminders == (DAY,)
    assert decision.terms.lease_duration == 8 * DAY


def test_of_two_rules_the_longest_quarantine_counts_that_fits() -> None:
    found = written("""
        rules:
        - {name: long, match: {server_tags: blue}, set: {quarantine: 20d}}
        - {name: shorter, match: {server_tags: blue}, set: {quarantine: 5d}}
        - {name: short, match: {server_tags: green}, set: {lease_duration: 9d}}
    """)
    found.check(DEFAULTS, BEFORE_END, ON_END, KINDS)
    terms = found.decide(server(), DEFAULTS).terms
    assert (terms.lease_duration, terms.quarantine) == (9 * DAY, 5 * DAY)


def days(least: int, most: int) -> st.SearchStrategy[timedelta]:
    return st.integers(least, most).map(lambda n: n * DAY)


TIGHTENING = {
    "lease_duration": days(1, 90),
    "extension_duration": days(1, 90),
    "max_total_duration": days(0, 400),
    "max_extensions": st.integers(0, 5),
    "extension_window": days(0, 90),
    "reminders": st.lists(days(1, 20), max_size=3).map(tuple),
    "quarantine": days(0, 40),
    "minimum_notice": days(1, 9),
    "on_end_action": st.sampled_from(HARSHNESS),
}


def infinite(value: Any) -> Any:
    """A limit, as it compares: 0 is none."""
    return value if value else type(value)(10**6) if isinstance(value, int) else timedelta.max


def as_yaml(value: Any) -> str:
    """Write a value of a term in YAML."""
    if isinstance(value, timedelta):
        return f"{value.days}d"
    if isinstance(value, tuple):
        return f"[{', '.join(map(as_yaml, value))}]"
    return str(value)


SETS = st.fixed_dictionaries({}, optional=TIGHTENING)


@given(st.lists(SETS, min_size=1, max_size=4), SETS)
def test_what_an_owner_edits_never_loosens(
    marks: list[dict[str, Any]], base: dict[str, Any]
) -> None:
    named = [(f"mark-{n}", f"match: {{server_tags: t{n}}}", sets) for n, sets in enumerate(marks)]
    named.append(("base", "match: {flavor: m1.small}", base))
    found = written(
        "rules:\n"
        + "\n".join(
            f"- {{name: {name}, {match}, set:"
            f" {{{', '.join(f'{term}: {as_yaml(value)}' for term, value in sets.items())}}}}}"
            for name, match, sets in named
        )
    )
    plain = found.decide(server(), DEFAULTS).terms
    tagged = server(server_tags=tuple(f"t{n}" for n in range(len(marks))))
    marked = found.decide(tagged, DEFAULTS).terms

    for term in ("lease_duration", "extension_duration", "minimum_notice"):
        assert getattr(marked, term) <= getattr(plain, term)
    for term in ("max_total_duration", "max_extensions", "extension_window"):
        assert infinite(getattr(marked, term)) <= infinite(getattr(plain, term))
    assert marked.quarantine >= plain.quarantine
    assert HARSHNESS.index(marked.on_end_action) >= HARSHNESS.index(plain.on_end_action)
    for term in ("before_end_action", "allowed_actions", "calendar", "first_notice"):
        assert getattr(marked, term) == getattr(plain, term)

    try:
        found.check(DEFAULTS, BEFORE_END, ON_END, KINDS)
    except RulesError:
        return
    # Rules that were checked one by one make sense together, too.
    assert not list(misfits(marked, BEFORE_END, ON_END))
    assert marked.lease_duration >= marked.shortest_lease + notice_margin(marked)


# What has to fit together


@pytest.mark.parametrize(
    ("rule", "sentences"),
    [
        (
            "{name: it, set: {\n lease_duration: 1d}}",
            ["line 2, rule 'it': lease_duration = 1d is too short: minimum_notice (2d) and quar"],
        ),
        (
            "{name: it, set: {quarantine: 40d}}",
            ["line 1, rule 'it': extension_duration = 30d is too short: minimum_notice (2d) and"],
        ),
        (
            "{name: it, set: {on_end_action: explode,\n allowed_actions: [stop, sing]}}",
            [
                "line 1, rule 'it': on_end_action = 'explode' is not known: it must be one of",
                "line 2, rule 'it': allowed_actions: 'sing' is not known: it must be one of arch",
            ],
        ),
        (
            "{name: it, set: {before_end_action: delete}}",
            ["before_end_action = 'delete' is not known: it must be one of notification, snap"],
        ),
        (
            "{name: it, set: {quarantine: 3d, calendar: {closed:"
            " [tue, wed, thu, fri, sat, sun], time_zone: UTC}}}",
            ["rule 'it': the calendar (tue, wed, thu, fri, sat, sun; UTC) leaves no day within"],
        ),
        (
            "{name: it, match: {image: x}, set: {lease_duration: 5d}},\n"
            "{name: base, match: {flavor: y}, set: {quarantine: 7d}}",
            ["line 1, rule 'it': lease_duration = 5d is too short: minimum_notice (2d) and quar"],
        ),
    ],
)
def test_terms_that_make_no_sense_are_refused(rule: str, sentences: list[str]) -> None:
    found = written(f"rules: [{rule}]")
    with pytest.raises(RulesError) as error:
        found.check(DEFAULTS, BEFORE_END, ON_END, KINDS)
    lines = str(error.value).splitlines()
    assert len(lines) == len(sentences)
    for line, sentence in zip(lines, sentences, strict=True):
        assert line.startswith("rules.yaml, line ")
        assert sentence in line


def test_a_rule_that_only_tightens_says_for_whom_it_makes_no_sense() -> None:
    found = written("""
        rules:
        - {name: mark, match: {image: x}, set: {lease_duration: 5d}}
        - {name: base, match: {flavor: y}, set: {quarantine: 7d}}
        - {name: rest, set: {expire: false}}
    """)
    with pytest.raises(RulesError, match=r"to spare for sending the notice \(for VMs of rule 'bas"):
        found.check(DEFAULTS, BEFORE_END, ON_END, KINDS)


def test_rules_are_not_blamed_for_the_options() -> None:
    short = dataclasses.replace(DEFAULTS, lease_duration=DAY)
    found = written("rules: [{name: it, set: {reminders: [3d]}}]")
    found.check(short, BEFORE_END, ON_END, KINDS)


# Speed


def test_many_servers_are_decided_fast() -> None:
    found = written(
        "rules:\n"
        + "\n".join(
            f"- {{name: r{n}, match: {{project_properties: {{type: t{n}}}, flavor: g{n}.*}}}}"
            for n in range(10)
        )
    )
    subject = server()
    begun = time.process_time()
    for _ in range(10_000):
        found.decide(subject, DEFAULTS)
    # A second for 100,000, on a machine that is four times as slow as a slow one.
    assert time.process_time() - begun < 0.5
