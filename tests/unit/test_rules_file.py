# SPDX-License-Identifier: Apache-2.0
"""What a rules file may look like, and what is said about one that may not."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blazar_vmexpire import rules
from blazar_vmexpire.conf import vm
from blazar_vmexpire.exceptions import ConfigError
from blazar_vmexpire.rules import Contact, Copy, RulesError, Way, loading, reading
from blazar_vmexpire.rules.schema import MATCH_KEYS, TERMS
from tests.unit.test_rules import DEFAULTS


def said_of(text: str) -> list[str]:
    """Say what is wrong with a text, without the file's name."""
    with pytest.raises(RulesError) as error:
        rules.parse(text, "/etc/rules.yaml")
    lines = str(error.value).splitlines()
    assert all(line.startswith("/etc/rules.yaml") for line in lines)
    return [line.removeprefix("/etc/rules.yaml").lstrip(":, ") for line in lines]


def said_of_rule(text: str) -> list[str]:
    """Say what is wrong with the rest of a rule that begins in line 2 with its name."""
    lines = said_of(f"rules:\n- name: it\n{text}")
    return [line.replace(", rule 'it'", "") for line in lines]


# Files


def test_a_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text("# Nothing yet\nrules:\n- name: Zürich\n  match: {project_name: Zürich*}\n")
    (rule,) = rules.load(file)
    assert (rule.name, rule.line, rule.asks_for) == ("Zürich", 3, {"project_name"})
    assert len(rules.load(str(file))) == 1


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RulesError, match=r"rules\.yaml: it cannot be read: No such file"):
        rules.load(tmp_path / "rules.yaml")
    with pytest.raises(RulesError, match="it cannot be read: Is a directory"):
        rules.load(tmp_path)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_bytes(b"rules:\n- name: Z\xfcrich\n")
    with pytest.raises(RulesError, match=r"rules\.yaml, line 2: this is not UTF-8"):
        rules.load(file)


def test_a_file_that_is_too_long(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text("rules: []\n" + "# and so on\n" * (loading.LONGEST // 12))
    with pytest.raises(RulesError, match="the file has more than 1000000 bytes"):
        rules.load(file)


def test_an_error_of_the_rules_is_one_of_the_configuration() -> None:
    with pytest.raises(ConfigError):
        rules.parse("", "rules.yaml")


# YAML


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "the file is empty: it must be a mapping with 'rules'"),
        ("# nothing\n", "the file is empty: it must be a mapping with 'rules'"),
        ("rules:\n", "line 1: rules: is an empty value: it must be a list"),
        ("\nrule:\n- name: a", "line 2: key 'rule' is not known: did you mean 'rules'?"),
        ("- name: a", "line 1: the file: this is a list: it must be a mapping of keys to values"),
        ("rules:\n- all", "line 2: a rule: all is a text: it must be a mapping of keys to values"),
        ("rules:\n- name: a\n\tmatch:", "line 3: this is not YAML: while scanning"),
        ("rules: [\n", "line 2: this is not YAML: while parsing a flow node"),
        ("rules: []\n---\nrules: []", "line 2: this is not YAML: expected a single document"),
        ("rules:\n- name: \x07", "line 2: this is not YAML: character"),
        ("rules: []\nrules: []", "line 2: key 'rules' stands there twice, first in line 1"),
        ("rules:\n- !!python/object:os.x {}", "line 2: tag !!python/object:os.x is not taken"),
        ("rules:\n- !!set {a}", "line 2: tag !!set is not taken"),
        ("rules:\n- ? [a]\n  : b", "line 2: a key must be a text, not a list or a mapping"),
        ("rules:\n- name: !!int x", "line 2: 'x' is not a number"),
        (
            "a: &a [x, x]\nb: &b [*a, *a]\nrules: [*b]",
            "line 2: *a refers to another part of the file: write the value out",
        ),
        ("rules: " + "[" * 100_000, "line 1: lists and mappings are nested more than 12 deep"),
    ],
)
def test_what_is_not_a_rules_file_at_all(text: str, sentence: str) -> None:
    assert any(line.startswith(sentence) for line in said_of(text)), said_of(text)


@given(st.text(alphabet=st.sampled_from("rules:name[]{}-*&!|>'\"#%@ \n\t?,0.<~é\x00"), max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    for attempt in (text, f"rules:\n- name: it\n  match:\n    flavor: {text}\n"):
        with contextlib.suppress(RulesError):
            rules.parse(attempt, "rules.yaml")


def test_lines_are_those_of_the_text() -> None:
    document = reading.read("a:\n\n  b: [1,\n      x]\n", "f")
    assert document.value == {"a": {"b": [1, "x"]}}
    assert {path: place.line for path, place in document.places.items()} == {
        (): 1,
        ("a",): 1,
        ("a", "b"): 3,
        ("a", "b", 0): 3,
        ("a", "b", 1): 4,
    }


# Rules


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("- match: {user: x}", "line 2: 'name' is missing"),
        ("- name:", "line 2: name: is an empty value: it must be a text"),
        ("- name: ''", "line 2: name is empty: it must be a text"),
        ("- name: yes", 'line 2: name: yes without quotes is a boolean in YAML: write "yes"'),
        (f"- name: {'x' * 256}", "name has 256 characters: the most is 255"),
        ('- name: "a\\nb"', "line 2, rule 'a\\nb': its name has characters that cannot be printed"),
        (
            "- {name: a, match: {user: x}}\n- {name: a}",
            "line 3, rule 'a': its name is that of the rule in line 2: each rule needs its own",
        ),
        (
            "- {name: a}\n- {name: b, match: {user: x}}",
            "line 3, rule 'b': it is never reached: rule 'a' above it matches every VM. The first"
            " rule that matches counts: move it up",
        ),
    ],
)
def test_what_is_wrong_with_a_list_of_rules(text: str, sentence: str) -> None:
    (line,) = said_of(f"rules:\n{text}")
    assert sentence in line


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "  match: {project_properties: {expire: on}}",
            "line 3: match.project_properties.expire: on without quotes is a boolean in YAML: write"
            ' "on", with the quotes',
        ),
        (
            "  match:\n    project_properties:\n      type: 2024",
            "line 5: match.project_properties.type: 2024 without quotes is a number in YAML: write"
            ' "2024", with the quotes',
        ),
        (
            "  match: {project_properties: {since: 2024-01-01}}",
            "line 3: match.project_properties.since: 2024-01-01 without quotes is a date in YAML:"
            ' write "2024-01-01", with the quotes',
        ),
        (
            "  match: {server_metadata: {off: x}}",
            'line 3: key off without quotes is a boolean in YAML: write "off", with the quotes',
        ),
        (
            "  match: {flavor: [m1, 1.10]}",
            'match.flavor: 1.10 without quotes is a number in YAML: write "1.10", with the quotes',
        ),
        ("  match: {flavour: x}", "match: key 'flavour' is not known: did you mean 'flavor'?"),
        ("  match: {}", "line 3: match is empty: leave it out, or say what has to match"),
        ("  match:", "line 3: match: is an empty value: it must be a mapping of keys to values"),
        ("  match: {flavor: []}", "match.flavor: is an empty list, which nothing matches: leave"),
        ("  match: {flavor: {a: b}}", "match.flavor: this is a mapping: it must be a text"),
        ("  match: {project_properties: expire}", "match.project_properties: expire is a text"),
        ("  match: {project_properties: {}}", "match.project_properties is empty: leave it out"),
        ("  match: {project_enabled: 'yes'}", "match.project_enabled: yes is a text: it must be"),
        ("  match: {project: dev-*}", "match.project: 'dev-*' is not an ID: IDs are compared as"),
        ("  matches: {flavor: x}", "line 3: key 'matches' is not known: did you mean 'match'?"),
        ("  trust_owner: 1", "line 3: trust_owner: 1 is a number: it must be true or false"),
        ("  set:\n    lease_duration: 60", "line 4: set.lease_duration: '60' is not a duration:"),
        ("  set: {lease_duration: 2 weeks}", "set.lease_duration: '2 weeks' is not a duration:"),
        ("  set: {lease_duration: 0}", "set.lease_duration: 0 is too short: the least is 1m"),
        ("  set: {quarantine: off}", "set.quarantine: 'False' is not a duration: write a whole"),
        ("  set: {reminders: 2d}", "set.reminders: 2d is a text: it must be a list"),
        (
            "  set: {reminders: [2d, soon]}",
            "set.reminders: 'soon' is not a duration: write a whole",
        ),
        ("  set: {max_extensions: 2.5}", "set.max_extensions: 2.5 is a number: it must be a whole"),
        ("  set: {max_extensions: -1}", "set.max_extensions: -1 is out of range: the least is 0"),
        ("  set: {hours_before_end_lease: 10d}", "set.hours_before_end_lease: 10d is a text: it"),
        ("  set: {hours_before_end_lease: .nan}", "set.hours_before_end_lease: .nan is out of ran"),
        ("  set: {hours_before_end_lease: 1.0e+9}", "set.hours_before_end_lease: 1.0e+9 is out"),
        ("  set: {on_end_action: ''}", "set.on_end_action is empty: it must be a text"),
        (
            "  set: {lease_durations: 2d}",
            "set: key 'lease_durations' is not known: did you mean 'l",
        ),
        (
            "  set: {expire: false, quarantine: 2d}",
            "set.expire: false leaves no VM that quarantine could be for: take out either",
        ),
        ("  set: {calendar: {closed: [sat]}}", "set.calendar: 'time_zone' is missing"),
        (
            "  set:\n    quarantine: 1d\n    calendar: {closed: [someday], time_zone: UTC}",
            "line 5: set.calendar: closed day 'someday' is not known: write a weekday",
        ),
        (
            "  set: {calendar: {closed: [sat], time_zone: Mars}}",
            "set.calendar: time zone 'Mars' is not known",
        ),
        (
            "  match: {server_name: x, image: y}\n  set: {expire: false}",
            "line 4: set.expire: this rule matches on what an owner can edit (server_name, image),"
            " so it may only tighten terms. Say trust_owner: true if owners may choose this",
        ),
        ("  match: {image: y}\n  set: {allowed_actions: []}", "set.allowed_actions: this rule mat"),
        ("  match: {image: y}\n  set: {before_end_action: snapshot}", "set.before_end_action: thi"),
        (
            "  match: {image: y}\n  set: {calendar: {closed: [sat], time_zone: UTC}}",
            "set.calendar: this rule matches on what an owner can edit (image)",
        ),
        (
            "  match: {server_tags: y}\n  set: {on_end_action: archive}",
            "so its action must be one of stop, shelve, snapshot, delete: of 'archive' nobody",
        ),
    ],
)
def test_what_is_wrong_with_a_rule(text: str, sentence: str) -> None:
    (line,) = said_of_rule(text)
    assert sentence in line


def test_all_that_is_wrong_is_said_in_the_order_of_lines() -> None:
    lines = said_of("""\
rules:
- name: cern
  match: {project_properties: {expire: on}}
  set:
    lease_duration: 60
    lease_duration: 60d
    quarantaine: 7d
- name: gpu
  set: {reminders: [2d, 1 day]}
""")
    assert [line.split(": ")[0] for line in lines] == [
        "line 3, rule 'cern'",
        "line 5, rule 'cern'",
        "line 6",
        "line 7, rule 'cern'",
        "line 9, rule 'gpu'",
    ]


def test_what_needs_no_quotes() -> None:
    (rule,) = rules.parse("rules: [{name: a, set: {quarantine: 0, max_extensions: 0}}]", "f")
    assert not rule.sets["quarantine"]


@pytest.mark.parametrize("name", sorted(key for key in MATCH_KEYS if MATCH_KEYS[key].of_owner))
def test_each_key_that_an_owner_can_edit_only_tightens_unless_trusted(name: str) -> None:
    value = "{a: b}" if name == "server_metadata" else "x"
    rule = f"name: a, match: {{{name}: {value}, user: x}}, set: {{lease_duration: 9d}}"
    (plain,) = rules.parse(f"rules: [{{{rule}}}]", "f")
    (trusted,) = rules.parse(f"rules: [{{{rule}, trust_owner: true}}]", "f")
    assert (plain.only_tightens, trusted.only_tightens) == (True, False)


def test_names_of_terms_are_those_of_the_options() -> None:
    options = {option.name for option in vm.OPTS}
    assert set(TERMS) - options == {"expire", "calendar", "language"}


# Who is written to


def test_whom_mails_go_to() -> None:
    found = rules.parse(
        "contacts: [{project_property: owner_email}]\n"
        "bcc: [{address: archive@example.org, kinds: [ended]}]\n"
        "rules:\n"
        "- name: GPU\n"
        "  match: {flavor: gpu.*}\n"
        "  contacts:\n"
        "  - role: manager\n"
        "  - address: gpu@example.org\n"
        "  cc:\n"
        "  - address: gpu@example.org\n"
        "- name: rest\n",
        "f",
    )
    gpu, rest = found
    assert [str(contact) for contact in gpu.mailing.contacts] == ["role manager", "gpu@example.org"]
    archive = Copy(Contact(Way.ADDRESS, "archive@example.org"), frozenset({"ended"}), 2)
    assert list(gpu.mailing.copies) == [
        ("cc", Copy(Contact(Way.ADDRESS, "gpu@example.org"), frozenset(), 10)),
        ("bcc", archive),
    ]
    assert rest.mailing == found.mailing
    assert found.mailing.contacts == (Contact(Way.PROPERTY, "owner_email"),)
    assert list(found.mailing.copies) == [("bcc", archive)]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("  contacts: a@b", "contacts: a@b is a text: it must be a list"),
        (
            "  contacts: [a@b]",
            "contacts: a@b is a text: it must be a mapping of keys to values",
        ),
        (
            "  contacts: [{}]",
            "contacts: it must have exactly one of address, project_property, role",
        ),
        (
            "  contacts: [{role: manager, address: a@b}]",
            "contacts: it must have exactly one of address, project_property, role",
        ),
        ("  contacts: [{roll: manager}]", "contacts: key 'roll' is not known"),
        (
            "  contacts: [{address: Alice <a@b>}]",
            "contacts.address: 'Alice <a@b>' is not a usable mail address",
        ),
        ("  contacts: [{role: no}]", "contacts.role: no without quotes is a boolean in YAML"),
        ("  contacts: [{role: a, kinds: [ended]}]", "contacts: key 'kinds' is not known"),
        (
            "  cc: [" + "{role: a}, " * 11 + "]",
            "cc has 11 entries: the most is 10",
        ),
        (
            "  match: {server_tags: x}\n  cc: [{role: a}]",
            "cc: this rule matches on what an owner can edit (server_tags), so it may only tighten"
            " terms. Say trust_owner: true if owners may choose this",
        ),
        (
            "  set: {expire: false}\n  bcc: [{role: a}]",
            "bcc: nobody is told of VMs that do not expire: take it out",
        ),
    ],
)
def test_what_is_wrong_with_whom_mails_go_to(text: str, sentence: str) -> None:
    assert any(sentence in line for line in said_of_rule(text)), said_of_rule(text)


def test_beside_the_rules_it_is_said_as_well() -> None:
    (line,) = said_of("rules: []\nbcc:\n- role: manager\n- address: nobody\n")
    assert line.startswith("line 4: bcc.address: 'nobody' is not a usable mail address")


def test_copies_are_of_mails_that_there_are() -> None:
    found = rules.parse(
        "rules:\n- name: it\n  bcc: [{role: a}, {role: b, kinds: [ended, end]}]\n"
        "cc:\n- {role: a, kinds: [last]}\n- {role: b, kinds: [ended]}\n",
        "f",
    )
    with pytest.raises(RulesError) as error:
        found.check(DEFAULTS, {"notification"}, {"snapshot"}, ["reminder", "ended"])
    assert str(error.value).splitlines() == [
        "f, line 3, rule 'it': bcc.kinds: there is no mail of kind 'end': known are reminder,"
        " ended",
        "f, line 5: cc.kinds: there is no mail of kind 'last': known are reminder, ended",
    ]
