# SPDX-License-Identifier: Apache-2.0
"""Nothing disruptive without an accepted notice, whatever the mail server and Keystone do."""

from __future__ import annotations

import datetime
from datetime import timedelta

import pytest

from tests.functional.world import World
from tests.mail_servers import HANG, OddServer

CONTACT = "operators@example.org"

#: So that an outage of days is not hundreds of tries.
pytestmark = [
    pytest.mark.options({"vmexpire_worker": {"retry_max_interval": "4h"}}),
    # What is tried here lies between us, Keystone and the mail server; it is slow, too.
    pytest.mark.databases("sqlite"),
]


def the_end(world: World, server_id: str) -> datetime.datetime:
    """Return when a VM's lease ends, according to us and to Blazar."""
    found = world.row(server_id).ends_at
    assert found is not None
    assert world.lease(server_id).end_date == found
    return found


def send_nowhere(world: World) -> None:
    """Let nothing listen where the mail server should be."""
    world.harness.plugin.tools.mailer._port = 1


def send_to(world: World, port: int) -> None:
    """Use another mail server."""
    world.harness.plugin.tools.mailer._port = port


@pytest.mark.long
@pytest.mark.parametrize("answer", [{"DATA": "451 later"}, "nobody"])
def test_while_no_mail_goes_out_the_lease_moves_in_time(
    world: World, answer: dict[str, str] | str
) -> None:
    server_id = world.adopt()
    first_end = the_end(world, server_id)
    if isinstance(answer, dict):
        world.mail.answers.update(answer)
    else:
        send_nowhere(world)
    world.live(first_end + timedelta(days=3))
    assert world.cloud.compute.vms[server_id].vm_state == "active"
    assert world.state(server_id) == "active"
    assert world.lease(server_id).status == "ACTIVE"
    moved = the_end(world, server_id)
    assert moved >= world.clock.now() + timedelta(days=2)
    # Visibly, and not every minute.
    moves = [details for event, details in world.history(server_id) if event == "moved"]
    assert 1 <= len(moves) <= 12 * 6
    assert "no notice" in moves[0]["reason"]
    world.mail.answers.clear()
    send_to(world, world.mail.port)
    world.live(world.clock.now() + timedelta(hours=4))
    (accepted_at,) = [n.accepted_at for n in world.notices(server_id) if n.accepted_at]
    end = the_end(world, server_id)
    assert end >= accepted_at + timedelta(days=2)
    assert f"{end:%Y-%m-%d %H:%M} UTC" in world.mails[0].get_content()
    world.live(accepted_at + timedelta(days=2) - timedelta(minutes=1))
    assert server_id in world.cloud.compute.vms
    world.live(end + timedelta(minutes=1))
    assert server_id not in world.cloud.compute.vms


@pytest.mark.options({"vmexpire_mail": {"timeout": "1s"}})
def test_a_mail_server_that_hangs_is_one_that_is_down(world: World) -> None:
    server_id = world.adopt()
    end = the_end(world, server_id)
    with OddServer({"MAIL": HANG}) as odd:
        send_to(world, odd.port)
        world.clock.set(end - timedelta(days=10))
        world.harness.work()
        (notice,) = world.notices(server_id)
        assert notice.accepted_at is None
        assert notice.attempts == 1
        assert notice.due_at is not None
        assert notice.due_at > world.clock.now()
    assert world.state(server_id) == "active"


def test_a_refused_owner_is_replaced_after_a_while(world: World) -> None:
    server_id = world.adopt()
    end = the_end(world, server_id)
    world.mail.refused["alice@example.org"] = "550 no such user"
    world.live(end - timedelta(days=9))
    assert world.recipients() == [CONTACT]
    assert world.events(server_id).count("notice_refused") == 3
    assert "refused" in str(world.history(server_id))
    world.live(end + timedelta(minutes=1))
    assert server_id not in world.cloud.compute.vms


@pytest.mark.parametrize(
    "email",
    [None, "", "alice", "a@example.org, b@example.org", "x@example.org\r\nBcc: y@example.org"],
)
def test_without_a_usable_address_the_contact_is_told(world: World, email: str | None) -> None:
    world.cloud.identity.users[world.alice]["email"] = email
    server_id = world.adopt()
    end = the_end(world, server_id)
    world.live(end - timedelta(days=9))
    assert world.recipients() == [CONTACT]
    assert "no usable mail address" in str(world.history(server_id))
    world.live(end + timedelta(minutes=1))
    assert server_id not in world.cloud.compute.vms


@pytest.mark.parametrize("gone", ["deleted", "disabled"])
def test_without_an_owner_the_contact_is_told(world: World, gone: str) -> None:
    server_id = world.adopt()
    end = the_end(world, server_id)
    if gone == "deleted":
        del world.cloud.identity.users[world.alice]
    else:
        world.cloud.identity.users[world.alice]["enabled"] = False
    world.live(end + timedelta(minutes=1))
    assert set(world.recipients()) == {CONTACT}
    assert server_id not in world.cloud.compute.vms


@pytest.mark.parametrize("missing", ["user", "project"])
def test_a_vm_whose_user_or_project_is_gone_is_reported_once_and_ends_in_its_time(
    world: World, caplog: pytest.LogCaptureFixture, missing: str
) -> None:
    server_id = world.adopt()
    end = the_end(world, server_id)
    key = world.alice if missing == "user" else world.alpha
    kept = world.cloud.identity.users if missing == "user" else world.cloud.identity.projects
    del kept[key]
    world.live(end - timedelta(minutes=1))
    assert world.state(server_id) == "noticed"
    assert world.cloud.compute.vms[server_id].vm_state == "active"
    assert (the_end(world, server_id), len(world.mails)) == (end, 2)
    assert set(world.recipients()) == {CONTACT if missing == "user" else "alice@example.org"}
    world.live(end + timedelta(minutes=1))
    assert server_id not in world.cloud.compute.vms
    orphaned = [details for event, details in world.history(server_id) if event == "orphaned"]
    assert orphaned == [{missing: key}]
    said = [record.getMessage() for record in caplog.records if "orphan" in record.getMessage()]
    (line,) = said
    assert line.startswith(f"Server {server_id}: orphaned ({missing} {key}); request req-")


@pytest.mark.sampled(4)
@pytest.mark.parametrize("path", ["users", "projects"])
@pytest.mark.parametrize("fault", [{"truncate": True}, {"status": 404, "html": True}])
def test_an_answer_of_keystones_that_is_none_makes_nobody_an_orphan(
    world: World, path: str, fault: dict[str, object]
) -> None:
    server_id = world.adopt()
    end = the_end(world, server_id)
    broken = world.cloud.fault(f"/identity/v3/{path}/", **fault)
    world.live(end - timedelta(days=9))
    assert "orphaned" not in world.events(server_id)
    assert (world.mails, world.state(server_id)) == ([], "active")
    broken.remove()
    world.live(world.clock.now() + timedelta(hours=4))
    assert world.recipients() == ["alice@example.org"]


@pytest.mark.long
@pytest.mark.parametrize("fault", [{"status": 500}, {"close": True}, {"truncate": True}])
def test_a_broken_keystone_says_nothing_about_an_owner(
    world: World, fault: dict[str, object]
) -> None:
    server_id = world.adopt()
    end = the_end(world, server_id)
    broken = world.cloud.fault("/identity/v3/users/", **fault)
    world.live(end + timedelta(days=1))
    assert world.mails == []
    assert server_id in world.cloud.compute.vms
    assert the_end(world, server_id) > world.clock.now()
    broken.remove()
    world.live(world.clock.now() + timedelta(hours=4))
    assert world.recipients() == ["alice@example.org"]


@pytest.mark.long
def test_a_broken_nova_keeps_nobody_from_being_told(world: World) -> None:
    server_id = world.adopt()
    end = the_end(world, server_id)
    world.cloud.fault("/compute/", status=503)
    world.live(end - timedelta(days=9))
    assert world.recipients() == ["alice@example.org"]
    world.live(end + timedelta(days=3))
    assert server_id in world.cloud.compute.vms


def test_our_own_downtime_eats_nobodys_notice(world: World) -> None:
    """Nobody was told because we were away; the end moves as far as that needs."""
    server_id = world.adopt()
    end = the_end(world, server_id)
    world.clock.set(end + timedelta(days=7))
    world.settle()
    assert server_id in world.cloud.compute.vms
    assert len(world.mails) == 1
    assert world.lease(server_id).status == "ACTIVE"
    moved = the_end(world, server_id)
    assert timedelta(days=2) <= moved - world.clock.now() <= timedelta(days=2, hours=3)
    world.live(moved + timedelta(minutes=1))
    assert server_id not in world.cloud.compute.vms


def test_a_mail_is_repeated_rather_than_lost_with_the_same_message_id(world: World) -> None:
    """A crash between the mail server's 250 and our commit."""
    from blazar_vmexpire.db.models import notices

    server_id = world.adopt()
    end = the_end(world, server_id)
    world.live(end - timedelta(days=9))
    world.wreck(
        notices, notices.c.server_id == server_id, accepted_at=None, due_at=world.clock.now()
    )
    world.see(server_id)
    world.live(end - timedelta(days=8))
    first, second = world.mails
    assert first["Message-ID"] == second["Message-ID"]


@pytest.mark.options({"virtual:vm": {"reminders": "10d, 5d, 2d, 1d"}})
def test_reminders_that_were_missed_are_not_sent_late(world: World) -> None:
    server_id = world.adopt()
    end = the_end(world, server_id)
    world.clock.set(end - timedelta(days=1, hours=12))
    world.live(end - timedelta(days=1, hours=11))
    # The end moved so that minimum_notice fits: the last one due by then speaks for all.
    assert [notice.kind for notice in world.notices(server_id)] == ["reminder/5d"]
    assert len(world.mails) == 1


@pytest.mark.options({"vmexpire_mail": {"max_per_minute": "2"}})
def test_notices_of_a_big_batch_wait_their_turn_and_all_arrive(world: World) -> None:
    servers = [world.adopt(f"web{n}") for n in range(6)]
    end = min(the_end(world, server_id) for server_id in servers)
    world.clock.set(end - timedelta(days=9))
    world.harness.work()
    assert len(world.mails) == 2
    waiting = [notice for s in servers for notice in world.notices(s) if notice.due_at]
    assert {notice.attempts for notice in waiting} == {0}
    assert len({notice.due_at for notice in waiting}) == 2
    for sent in (4, 6):
        world.clock.advance(minutes=1)
        world.harness.work()
        assert len(world.mails) == sent
    assert {the_end(world, server_id) for server_id in servers} == {end}


@pytest.mark.parametrize("who", ["alice", "administrator"])
def test_an_owner_who_was_told_of_an_end_is_told_that_it_is_off(world: World, who: str) -> None:
    server_id = world.adopt()
    world.live(the_end(world, server_id) - timedelta(days=5))
    assert len(world.mails) == 1
    api = world.as_admin if who == "administrator" else world.as_alice
    until = world.clock.now() + timedelta(days=15)
    assert world.update(server_id, api, end_date=until).status_code == 200
    world.settle()
    _, told = world.mails
    assert "has been extended until" in str(told["Subject"])
    text = " ".join(told.get_content().split())
    assert f"has been extended until {the_end(world, server_id):%Y-%m-%d %H:%M} UTC" in text
    name = 'user "alice"' if who == "alice" else 'administrator "'
    assert f"Who extended it: {name}" in text
    # It is no notice of the new end: that comes, too.
    world.live(the_end(world, server_id) - timedelta(days=9))
    assert len(world.mails) == 3
    assert "will be" in str(world.mails[-1]["Subject"])


def test_who_extends_again_and_again_is_told_once_a_day(world: World) -> None:
    server_id = world.adopt()
    world.live(the_end(world, server_id) - timedelta(days=5))
    for days in (13, 14, 15):
        until = world.clock.now() + timedelta(days=days)
        assert world.update(server_id, end_date=until).status_code == 200
        world.settle()
    assert len(world.mails) == 2
    world.clock.advance(days=2)
    assert world.update(server_id, end_date=until + timedelta(days=5)).status_code == 200
    world.settle()
    assert len(world.mails) == 3


def test_who_was_told_of_no_end_is_told_of_no_extension(world: World) -> None:
    server_id = world.adopt()
    world.live(the_end(world, server_id) - timedelta(days=20))
    assert world.extend(server_id).status_code == 200
    world.settle()
    assert world.mails == []


@pytest.mark.options({"vmexpire_mail": {"tell_extensions": "false"}})
def test_that_an_end_is_off_need_not_be_told(world: World) -> None:
    server_id = world.adopt()
    world.live(the_end(world, server_id) - timedelta(days=5))
    assert world.extend(server_id).status_code == 200
    world.settle()
    assert len(world.mails) == 1
