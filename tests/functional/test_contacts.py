# SPDX-License-Identifier: Apache-2.0
"""Who is written to where the owner cannot be reached, and who gets copies: a real mail server."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from blazar_vmexpire import RESOURCE_TYPE
from blazar_vmexpire.db.models import notices
from tests.functional.world import World

OPERATORS = "operators@example.org"
ALICE, BOB, CAROL = "alice@example.org", "bob@example.org", "carol@example.org"

#: What is tried here lies between us, Keystone and the mail server; it is slow, too.
pytestmark = [
    # So that an outage of a day is not a hundred tries.
    pytest.mark.options({"vmexpire_worker": {"retry_interval": "4h", "retry_max_interval": "4h"}}),
    pytest.mark.databases("sqlite"),
]

Use = Callable[[str], None]

CHAIN = """
contacts:
  - project_property: owner_email
  - role: manager
  - address: hpc@example.org
rules: []
"""


@pytest.fixture
def use(world: World, tmp_path: pathlib.Path) -> Use:
    """Put a rules file in place, and send SIGHUP."""
    path = tmp_path / "rules.yaml"
    plugin = world.harness.plugin
    plugin.tools.conf.set_override("rules_file", str(path), RESOURCE_TYPE)

    def put(text: str) -> None:
        path.write_text(text)
        plugin.service.reload(plugin.tools.conf, {})
        world.harness.work()

    return put


def remind(world: World, server_id: str, days: int = 1) -> None:
    """Live until some days after the first reminder is due."""
    end = world.row(server_id).ends_at
    assert end is not None
    world.live(end - timedelta(days=10 - days))


def accepted(world: World, server_id: str) -> dict[str, Any]:
    """Return what the history says of the one notice that was accepted."""
    (details,) = [d for event, d in world.history(server_id) if event == "notice_accepted"]
    return details


def lose_alice(world: World) -> None:
    """Let Alice leave, without a trace."""
    del world.cloud.identity.users[world.alice]


def own(world: World, **properties: str) -> None:
    """Set properties of Alice's project."""
    world.cloud.identity.projects[world.alpha].update(properties)


def give_role(world: World, user_id: str, role: str = "manager") -> None:
    """Give somebody a role in Alice's project."""
    world.cloud.identity.roles.setdefault((user_id, world.alpha), []).append(role)


# The chain


def test_the_owner_comes_first(world: World, use: Use) -> None:
    use(CHAIN)
    own(world, owner_email="boss@example.org")
    server_id = world.adopt()
    remind(world, server_id)
    assert world.recipients() == [ALICE]
    assert "instead_of_owner" not in accepted(world, server_id)


def test_the_first_contact_that_can_be_reached_is_told_and_told_why(world: World, use: Use) -> None:
    use(CHAIN)
    own(world, owner_email="boss@example.org")
    lose_alice(world)
    server_id = world.adopt()
    remind(world, server_id)
    (mail,) = world.mails
    assert mail["To"] == "boss@example.org"
    text = " ".join(mail.get_content().split())
    assert "in place of the VM's owner, who cannot be reached" in text
    assert (
        'It comes to you because your address is the property "owner_email" of the project.' in text
    )
    told = accepted(world, server_id)
    assert told["reached_as"] == "project property owner_email"
    assert told["instead_of_owner"] == f"user {world.alice} does not exist any more"


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("properties", "why"),
    [
        ({}, "project property owner_email is not set"),
        ({"owner_email": "ask Alice"}, "'ask Alice' is not a usable mail address"),
        ({"owner_email": ["a@example.org", "b@example.org"]}, "is not a usable mail address"),
    ],
)
def test_users_with_a_role_get_one_mail(
    world: World, use: Use, properties: dict[str, Any], why: str
) -> None:
    use(CHAIN)
    own(world, **properties)
    lose_alice(world)
    identity = world.cloud.identity
    give_role(world, world.bob)
    give_role(world, world.cloud.add_user("carol", email=CAROL))
    for unfit in (
        world.cloud.add_user("dave", email="dave@example.org", enabled=False),
        world.cloud.add_user("erin"),
        "gone",
    ):
        give_role(world, unfit)
    # These have it in another project, or because of a role that implies it.
    identity.roles[world.cloud.add_user("other", email="x@example.org"), world.beta] = ["manager"]
    give_role(world, world.cloud.add_user("root", email="root@example.org"), "admin")
    server_id = world.adopt()
    remind(world, server_id)
    (mail,) = world.mails
    assert {address.addr_spec for address in mail["To"].addresses} == {BOB, CAROL}
    assert sorted(world.recipients()) == [BOB, CAROL]
    assert 'you have the role "manager" in the project' in " ".join(mail.get_content().split())
    told = accepted(world, server_id)
    assert told["reached_as"] == "role manager"
    assert why in told["instead_of_owner"]
    assert "left_out" not in told


def test_of_many_users_ten_are_told_and_the_history_says_how_many_were_left_out(
    world: World, use: Use
) -> None:
    use("contacts: [{role: teacher}]\nrules: []\n")
    lose_alice(world)
    for number in range(13):
        user = world.cloud.add_user(f"t{number}", email=f"teacher-{number}@example.org")
        give_role(world, user, "teacher")
    server_id = world.adopt()
    remind(world, server_id)
    assert len(set(world.recipients())) == 10
    assert accepted(world, server_id)["left_out"] == 3
    (notice,) = world.notices(server_id)
    assert notice.recipient is not None
    assert notice.recipient == accepted(world, server_id)["recipient"][:320]


@pytest.mark.options({"vmexpire_mail": {"max_refusals": "2"}})
def test_one_user_with_the_role_who_is_not_refused_is_enough(world: World, use: Use) -> None:
    use("contacts: [{role: manager}]\nrules: []\n")
    lose_alice(world)
    give_role(world, world.bob)
    give_role(world, world.cloud.add_user("carol", email=CAROL))
    world.mail.refused[BOB] = "550 5.1.1 no such user"
    server_id = world.adopt()
    remind(world, server_id)
    assert world.recipients() == [CAROL]
    told = accepted(world, server_id)
    (refused,) = told["not_to"]
    assert refused.endswith(f"did not take the mail to {BOB}: 550 5.1.1 no such user")
    assert "notice_refused" not in world.events(server_id)


@pytest.mark.options({"vmexpire_mail": {"max_refusals": "2"}})
def test_who_is_refused_is_followed_by_the_next_and_nobody_is_tried_twice(
    world: World, use: Use
) -> None:
    use(
        "contacts:\n"
        "  - address: ALICE@example.org\n"
        "  - project_property: owner_email\n"
        "  - address: boss@example.org\n"
        "  - role: manager\n"
        "rules: []\n"
    )
    own(world, owner_email="boss@example.org")
    give_role(world, world.bob)
    for address in (ALICE, "boss@example.org", BOB):
        world.mail.refused[address] = "550 5.1.1 no such user"
    server_id = world.adopt()
    remind(world, server_id)
    assert world.recipients() == [OPERATORS]
    tries = [d["recipient"] for e, d in world.history(server_id) if e == "notice_refused"]
    assert tries == [ALICE] * 2 + ["boss@example.org"] * 2 + [BOB] * 2
    why = accepted(world, server_id)["instead_of_owner"]
    assert why.split("; ") == [
        f"{ALICE} was refused 2 times",
        "ALICE@example.org was refused 2 times",
        "boss@example.org was refused 2 times",
        "boss@example.org was refused 2 times",
        f"{BOB} was refused 2 times",
    ]
    # Each notice begins anew: there may be better days.
    assert world.notices(server_id)[0].refused == {ALICE: 2, "boss@example.org": 2, BOB: 2}
    world.mail.refused.clear()
    end = world.row(server_id).ends_at
    assert end is not None
    world.live(end - timedelta(days=1))
    assert world.recipients()[1:] == [ALICE]


@pytest.mark.options({"vmexpire_mail": {"max_refusals": "2"}})
def test_who_can_be_written_to_only_later_is_waited_for(world: World, use: Use) -> None:
    use(CHAIN)
    world.mail.refused[ALICE] = "450 4.2.0 greylisted"
    server_id = world.adopt()
    remind(world, server_id)
    assert world.mails == []
    assert world.notices(server_id)[0].refused == {}
    world.mail.refused.clear()
    remind(world, server_id, days=2)
    assert world.recipients() == [ALICE]


@pytest.mark.sampled(4)
@pytest.mark.parametrize("path", ["/identity/v3/role_assignments", "/identity/v3/roles"])
@pytest.mark.parametrize("fault", [{"status": 503}, {"truncate": True}])
def test_a_keystone_that_does_not_answer_says_nothing_about_anybody(
    world: World, use: Use, path: str, fault: dict[str, Any]
) -> None:
    use("contacts: [{role: manager}]\nrules: []\n")
    lose_alice(world)
    give_role(world, world.bob)
    server_id = world.adopt()
    broken = world.cloud.fault(path, **fault)
    remind(world, server_id)
    assert world.mails == []
    broken.remove()
    remind(world, server_id, days=2)
    assert world.recipients() == [BOB]


@pytest.mark.parametrize("rule", ["", "match: {flavor: 'gpu.*'}, "])
def test_a_rule_says_otherwise_than_the_file(world: World, use: Use, rule: str) -> None:
    use(
        "contacts: [{address: hpc@example.org}]\n"
        f"rules: [{{name: it, {rule}contacts: [{{address: gpu@example.org}}]}}]\n"
    )
    lose_alice(world)
    server_id = world.adopt()
    remind(world, server_id)
    assert world.recipients() == ["hpc@example.org" if rule else "gpu@example.org"]


def test_a_contact_counts_as_notice(world: World, use: Use) -> None:
    use(CHAIN)
    lose_alice(world)
    server_id = world.adopt()
    end = world.row(server_id).ends_at
    assert end is not None
    world.live(end + timedelta(minutes=1))
    assert server_id not in world.cloud.compute.vms
    assert set(world.recipients()) == {"hpc@example.org"}
    assert "moved" not in world.events(server_id)


@pytest.mark.options({RESOURCE_TYPE: {"dry_run": "true"}})
def test_in_a_dry_run_nobody_but_the_operators_is_told(world: World, use: Use) -> None:
    use(
        "contacts: [{address: hpc@example.org}]\n"
        "cc: [{address: cc@example.org}]\n"
        "bcc: [{address: bcc@example.org}]\n"
        "rules: []\n"
    )
    lose_alice(world)
    server_id = world.adopt()
    remind(world, server_id)
    assert world.recipients() == [OPERATORS]


def test_the_chain_is_shown_to_the_projects_members_and_to_no_stranger(
    world: World, use: Use
) -> None:
    use(CHAIN)
    server_id = world.adopt()
    path = f"/v1/vm-expirations/{server_id}"
    assert world.as_alice.get(path).json["vm_expiration"]["contacts"] == [
        {"kind": "owner", "value": world.alice},
        {"kind": "project_property", "value": "owner_email"},
        {"kind": "role", "value": "manager"},
        {"kind": "address", "value": "hpc@example.org"},
        {"kind": "undeliverable_contact", "value": None},
    ]
    stranger = world.harness.api.as_user(world.bob, world.beta)
    for asked in (path, f"{path}/history"):
        answer = stranger.get(asked)
        assert answer.status_code == 404
        assert "@" not in answer.text


# Copies

COPIES = """
cc:
  - address: hpc@example.org
  - project_property: owner_email
    kinds: [ended]
bcc:
  - address: archive@example.org
  - address: Hpc@example.org
  - address: alice@example.org
rules: []
"""


def test_copies_go_beside_the_mail_by_kind(world: World, use: Use) -> None:
    use(COPIES)
    own(world, owner_email="boss@example.org")
    server_id = world.adopt()
    remind(world, server_id)
    assert world.recipients() == [ALICE, "hpc@example.org", "archive@example.org"]
    for mail in world.mails:
        assert (mail["To"], mail["Cc"], mail["Bcc"]) == (ALICE, "hpc@example.org", None)
        assert "archive" not in mail.as_string()
    told = accepted(world, server_id)
    assert (told["recipient"], told["cc"], told["bcc"]) == (ALICE, "hpc@example.org", 1)
    assert "archive" not in str(told)
    end = world.row(server_id).ends_at
    assert end is not None
    world.live(end + timedelta(minutes=1))
    assert world.mails[-1]["Cc"] == "hpc@example.org, boss@example.org"


@pytest.mark.options({"virtual:vm": {"reminders": "2d"}})
def test_copies_of_the_last_reminder_alone_or_of_all(world: World, use: Use) -> None:
    use(
        "cc: [{address: hpc@example.org, kinds: [last_reminder]}]\n"
        "bcc: [{address: archive@example.org, kinds: [reminder]}]\nrules: []\n"
    )
    server_id = world.adopt()
    remind(world, server_id)
    assert world.recipients() == [ALICE, "archive@example.org"]
    world.mail.forget()
    remind(world, server_id, 9)
    assert world.mails[0]["Subject"].startswith("Last reminder")
    assert world.recipients() == [ALICE, "hpc@example.org", "archive@example.org"]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("answer", ["550 5.1.1 no such user", "450 4.2.0 greylisted", "421 bye"])
def test_a_copy_that_is_refused_does_no_harm(world: World, use: Use, answer: str) -> None:
    use("cc: [{address: hpc@example.org}]\nbcc: [{address: archive@example.org}]\nrules: []\n")
    for address in ("hpc@example.org", "archive@example.org"):
        world.mail.refused[address] = answer
    server_id = world.adopt()
    remind(world, server_id)
    assert world.recipients() == [ALICE]
    told = accepted(world, server_id)
    assert (len(told["not_to"]), told["bcc"], told["bcc_refused"]) == (1, 1, 1)
    assert answer in told["not_to"][0]
    assert "archive" not in str(told)
    assert "notice_refused" not in world.events(server_id)


def test_a_copy_whose_address_cannot_be_found_is_left_out(world: World, use: Use) -> None:
    use("cc: [{role: nobody}, {project_property: none}]\nrules: []\n")
    server_id = world.adopt()
    remind(world, server_id)
    assert world.recipients() == [ALICE]
    assert "cc" not in accepted(world, server_id)


def test_a_mail_that_is_refused_has_no_copies(world: World, use: Use) -> None:
    use(COPIES)
    world.mail.refused[ALICE] = "451 later"
    remind(world, world.adopt())
    assert world.mails == []


@pytest.mark.options({"vmexpire_mail": {"digest": "daily 08:00 UTC"}})
def test_vms_with_other_contacts_or_copies_are_in_digests_of_their_own(
    world: World, use: Use
) -> None:
    use(
        "bcc: [{address: archive@example.org}]\n"
        "rules:\n"
        "- name: GPU\n"
        "  match: {flavor: 'gpu*'}\n"
        "  contacts: [{role: manager}]\n"
        "  cc: [{address: gpu@example.org}]\n"
    )
    lose_alice(world)
    give_role(world, world.bob)
    servers = [world.adopt(f"web{n}") for n in range(2)]
    gpus = [world.adopt(f"gpu{n}", flavor="gpu") for n in range(2)]
    remind(world, servers[0])
    assert sorted(world.recipients()) == sorted(
        [OPERATORS, BOB, "gpu@example.org", "archive@example.org", "archive@example.org"]
    )
    (told_bob, *_) = [mail for mail in world.mails if mail["To"] == BOB]
    assert 'you have the role "manager"' in " ".join(told_bob.get_content().split())
    for server_id in gpus:
        told = accepted(world, server_id)
        assert (told["recipient"], told["cc"], told["bcc"]) == (BOB, "gpu@example.org", 1)
        assert told["reached_as"] == "role manager"
    assert {accepted(world, server_id)["recipient"] for server_id in servers} == {OPERATORS}


# Users for whom Keystone holds no address

BY_NAME = pytest.mark.options(
    {"vmexpire_mail": {"mail_address_template": "{{ name | lower }}@example.org"}}
)
BY_ID = pytest.mark.options({"vmexpire_mail": {"mail_address_template": "{{ unique_id }}"}})
BY_ATTRIBUTE = pytest.mark.options(
    {
        "vmexpire_mail": {
            "mail_address_template": "{{ user.uid }}@{{ user.realm | default('a.org') }}"
        }
    }
)


@BY_NAME
def test_an_address_that_keystone_holds_comes_before_the_template(world: World) -> None:
    server_id = world.adopt(user_id=world.cloud.add_user("Alice2", email="a2@example.org"))
    remind(world, server_id)
    assert world.recipients() == ["a2@example.org"]


@BY_NAME
def test_a_template_makes_the_address_of_who_has_none(world: World, use: Use) -> None:
    use("contacts: [{role: manager}]\nrules: []\n")
    first = world.adopt(user_id=world.cloud.add_user("Frank"))
    # What is no address is none, whatever somebody calls themselves.
    second = world.adopt("web2", user_id=world.cloud.add_user("x@evil.example, frank"))
    give_role(world, world.cloud.add_user("Grace"))
    remind(world, first)
    remind(world, second)
    assert sorted(world.recipients()) == ["frank@example.org", "grace@example.org"]
    assert "is not a usable mail address" in accepted(world, second)["instead_of_owner"]


@BY_ID
def test_a_federated_user_is_known_by_their_id(world: World) -> None:
    protocols = [{"protocol_id": "mapped", "unique_id": "frank%40idp.example.org"}]
    user = world.cloud.add_user("Frank", federated=[{"idp_id": "idp", "protocols": protocols}])
    first, second = world.adopt(user_id=user), world.adopt("web2", user_id=world.alice)
    local = world.adopt("web3", user_id=world.cloud.add_user("local"))
    for server_id in (first, second, local):
        remind(world, server_id)
    assert sorted(world.recipients()) == [ALICE, "frank@idp.example.org", OPERATORS]
    assert "'unique_id' is undefined" in accepted(world, local)["instead_of_owner"]


@BY_ATTRIBUTE
def test_any_attribute_can_be_used(world: World) -> None:
    server_id = world.adopt(user_id=world.cloud.add_user("Frank", uid="f17"))
    remind(world, server_id)
    assert world.recipients() == ["f17@a.org"]


# From before


def test_refusals_from_before_an_upgrade_count(world: World, use: Use) -> None:
    use(CHAIN)
    server_id = world.adopt()
    world.mail.answers["RCPT"] = "451 later"
    remind(world, server_id)
    world.wreck(notices, notices.c.server_id == server_id, refused=f'{{"{ALICE}": 3}}')
    world.mail.answers.clear()
    remind(world, server_id, days=2)
    assert world.recipients() == ["hpc@example.org"]
