# SPDX-License-Identifier: Apache-2.0
"""In which language an owner is told: their own, that of a rule, or that of the options."""

from __future__ import annotations

import pathlib
from datetime import timedelta

import pytest
import vobject

from tests.functional.world import World, calendar_of

pytestmark = pytest.mark.databases("sqlite")

ASKED = pytest.mark.options({"vmexpire_mail": {"language_attribute": "language"}})


def told(world: World) -> str:
    """Have a VM's owner reminded of its end; return the subject of the mail."""
    server_id = world.adopt()
    ends_at = world.row(server_id).ends_at
    assert ends_at is not None
    world.live(ends_at - timedelta(days=5))
    (mail,) = world.mails
    return str(mail["Subject"])


@ASKED
@pytest.mark.parametrize(
    ("attribute", "word"),
    [("de_CH", "gelöscht"), ("fr", "supprimée"), ("tlh", "deleted"), (None, "deleted"), (7, "del")],
)
def test_who_has_a_language_in_keystone_is_told_in_it(
    world: World, attribute: object, word: str
) -> None:
    world.cloud.identity.users[world.alice]["language"] = attribute
    assert word in told(world)


@ASKED
def test_the_calendar_entry_is_in_the_same_language(world: World) -> None:
    world.cloud.identity.users[world.alice]["language"] = "de"
    told(world)
    (mail,) = world.mails
    event = vobject.readOne(calendar_of(mail)).vevent
    assert event.summary.value == "VM „web1“ (alpha): Die Lease endet"


def use_rules(world: World, directory: pathlib.Path, text: str) -> None:
    """Put a rules file into effect."""
    path = directory / "rules.yaml"
    path.write_text(text)
    world.harness.conf.set_override("rules_file", str(path), group="virtual:vm")
    world.harness.plugin.service.reload(world.harness.conf, None)


RULE = "rules: [{name: german, set: {language: de}}]"


@ASKED
@pytest.mark.parametrize(("attribute", "word"), [(None, "gelöscht"), ("fr", "supprimée")])
def test_a_rule_says_it_for_those_of_whom_nothing_is_known(
    world: World, tmp_path: pathlib.Path, attribute: str | None, word: str
) -> None:
    world.cloud.identity.users[world.alice]["language"] = attribute
    use_rules(world, tmp_path, RULE)
    assert word in told(world)


@pytest.mark.options({"vmexpire_mail": {"language": "fr"}})
def test_who_stands_in_for_an_owner_is_told_in_the_language_of_the_options(
    world: World, tmp_path: pathlib.Path
) -> None:
    world.cloud.identity.users[world.alice]["enabled"] = False
    use_rules(world, tmp_path, RULE)
    assert "supprimée" in told(world)
    assert world.recipients() == ["operators@example.org"]


@pytest.mark.options({"vmexpire_mail": {"language": "fr"}})
def test_contacts_of_a_rules_file_are_told_in_the_language_that_it_says(
    world: World, tmp_path: pathlib.Path
) -> None:
    world.cloud.identity.users[world.alice]["enabled"] = False
    use_rules(world, tmp_path, f"contacts: [{{address: hpc@example.org}}]\n{RULE}")
    assert "gelöscht" in told(world)
    assert world.recipients() == ["hpc@example.org"]


def test_a_rule_that_changes_the_language_alone_changes_nothing_else(
    world: World, tmp_path: pathlib.Path
) -> None:
    use_rules(world, tmp_path, "rules: [{name: german}]")
    server_id = world.adopt()
    before = world.row(server_id)
    use_rules(world, tmp_path, RULE)
    world.watch(minutes=20)
    assert "terms_changed" not in world.events(server_id)
    assert world.row(server_id).terms_digest == before.terms_digest
