# SPDX-License-Identifier: Apache-2.0
"""Owners of several VMs get one mail a day about them, in time, and each VM counts as told of."""

from __future__ import annotations

import concurrent.futures
import datetime
import shlex
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import pytest
import vobject

from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.worker.digesting import MOST, Digesting
from tests.functional.processes import WorkerProcess
from tests.functional.world import Mail, World, calendar_of

CONTACT = "operators@example.org"

pytestmark = [
    pytest.mark.options({"vmexpire_mail": {"digest": "daily 08:00 UTC"}}),
    # What is tried here lies between us, Keystone and the mail server.
    pytest.mark.databases("sqlite"),
]


def course(world: World, number: int, name: str = "vm", **attributes: Any) -> list[str]:
    """Boot VMs at once, of Alice's unless said otherwise, and have them taken in."""
    servers = [world.boot(f"{name}-{n:03}", **attributes) for n in range(1, number + 1)]
    see(world, servers)
    return servers


def see(world: World, servers: Sequence[str]) -> None:
    with world.harness.database.begin() as connection:
        for server_id in servers:
            db_api.see(connection, server_id, world.clock.now())
    world.harness.work()


def end_of(world: World, server_id: str) -> datetime.datetime:
    found = world.row(server_id).ends_at
    assert found is not None
    return found


def arrivals(mails: Sequence[Mail]) -> list[str]:
    """Say when mails were written: UTC."""
    return [f"{mail['Date'].datetime:%Y-%m-%d %H:%M}" for mail in mails]


def command_in(mail: Mail) -> list[str]:
    """Return the command of a digest, as a shell takes it."""
    text = mail.get_content().replace("\r\n", "\n")
    begin = text.index("    openstack vm expiration extend ")
    return shlex.split(text[begin : text.index("\n\n", begin)].replace("\\\n", ""))


def named_in(mail: Mail) -> set[str]:
    """Return the UUIDs of the VMs that a digest's command extends."""
    return set(command_in(mail)[4:])


def test_a_course_of_forty_vms_gets_one_mail(world: World) -> None:
    servers = course(world, 40)
    end = end_of(world, servers[0])
    assert {end_of(world, server_id) for server_id in servers} == {end}
    world.live(end - timedelta(days=9))
    (mail,) = world.mails
    # Told ten days ahead: at the time of day that was asked for, after that.
    assert arrivals([mail]) == ["2026-04-22 08:00"]
    assert world.recipients() == ["alice@example.org"]
    assert mail["Subject"] == (
        '40 VMs (alpha) will end, "vm-001" first: it will be deleted in 9 days and 2 hours, on'
        " 2026-05-01 10:00 UTC"
    )
    text = mail.get_content()
    places = [text.index(f"  vm-{n:03}: will be deleted in 9 days and 2 hours") for n in (1, 2, 40)]
    assert places == sorted(places)
    assert named_in(mail) == set(servers)
    assert "X-OpenStack-Server" not in mail
    # Each VM has been told of.
    for server_id in servers:
        (notice,) = world.notices(server_id)
        assert (notice.kind, notice.recipient) == ("reminder/10d", "alice@example.org")
        assert (notice.accepted_at, notice.told_end) == (
            datetime.datetime(2026, 4, 22, 8),
            end,
        )
        assert notice.message_id == mail["Message-ID"]
        assert world.events(server_id).count("notice_accepted") == 1
        assert world.state(server_id) == "noticed"
    metrics = world.harness.plugin.tools.metrics.registry
    accepted = metrics.get_sample_value("blazar_vmexpire_notices_total", {"result": "accepted"})
    assert accepted == 40
    # One question about their owner, and one about their project.
    assert len(world.cloud.requests(r"/v3/(users|projects)/[^/]+$")) == 2


@pytest.mark.options({"virtual:vm": {"on_end_action": "delete", "reminders": "2d"}})
def test_the_calendar_has_an_entry_for_each_vm_which_later_mails_cancel(world: World) -> None:
    servers = course(world, 3)
    end = end_of(world, servers[0])
    world.live(end - timedelta(hours=1))
    first, second = world.mails
    for mail in first, second:
        calendar = vobject.readOne(str(calendar_of(mail)))
        assert calendar.method.value == "PUBLISH"
        entries = {entry.uid.value: entry for entry in calendar.vevent_list}
        assert set(entries) == {f"{server_id}@localhost" for server_id in servers}
        assert {e.dtstart.value.replace(tzinfo=None) for e in entries.values()} == {end}
    # What was announced is done, and each VM's end is told by a mail of its own.
    world.live(end + timedelta(minutes=1))
    assert {world.state(server_id) for server_id in servers} == {"deleted"}
    last = world.mails[2:]
    assert sorted(mail["X-OpenStack-Server"] for mail in last) == sorted(servers)
    assert {vobject.readOne(str(calendar_of(mail))).method.value for mail in last} == {"CANCEL"}


@pytest.mark.options({"vmexpire_mail": {"tell_adoptions": "true"}})
def test_new_vms_are_told_of_together(world: World) -> None:
    servers = course(world, 3)
    world.live(world.clock.now() + timedelta(days=2))
    (mail,) = world.mails
    assert arrivals([mail]) == ["2026-03-03 08:00"]
    assert mail["Subject"].startswith("3 VMs (alpha) will end")
    assert "There is nothing to do now" in mail.get_content()
    assert "administrators" not in mail.get_content()
    # That is no notice of the end.
    assert {world.state(server_id) for server_id in servers} == {"active"}


def test_one_vm_alone_gets_the_mail_that_it_always_gets(world: World) -> None:
    server_id = world.adopt("web1")
    world.live(end_of(world, server_id) - timedelta(days=9))
    (mail,) = world.mails
    # And at its own time.
    assert mail["Subject"].startswith('VM "web1" (alpha) will be deleted in 10 days, on')
    assert mail["X-OpenStack-Server"] == server_id
    assert mail["Message-ID"] == f"<reminder/10d.0.{server_id}@localhost>"
    assert world.state(server_id) == "noticed"


@pytest.mark.options(
    {"vmexpire_mail": {"digest": "daily 08:00 Europe/Zurich"}, "virtual:vm": {"reminders": ""}}
)
@pytest.mark.parametrize(
    ("adopted", "told"),
    [
        # In the winter, in the summer, and on the days on which the clocks are changed.
        ("2026-01-10 12:00", "2026-03-02 07:00"),
        ("2026-03-02 12:00", "2026-04-22 06:00"),
        ("2026-02-06 12:00", "2026-03-29 06:00"),
        ("2026-09-04 12:00", "2026-10-25 07:00"),
    ],
)
def test_the_time_of_day_is_that_of_the_place(world: World, adopted: str, told: str) -> None:
    world.clock.set(datetime.datetime.fromisoformat(adopted))
    servers = course(world, 2)
    world.live(end_of(world, servers[0]) - timedelta(days=8))
    assert arrivals(world.mails) == [told]


def test_a_vm_that_is_the_only_one_to_tell_of_that_day_gets_its_own_mail(world: World) -> None:
    server_id = world.adopt("web1")
    world.clock.advance(days=3)
    world.adopt("web2")
    world.live(end_of(world, server_id) - timedelta(days=8))
    (mail,) = world.mails
    assert mail["Subject"].startswith('VM "web1" (alpha) will be deleted in 9 days and 2 hours')
    assert mail["Message-ID"] == f"<reminder/10d.0.{server_id}@localhost>"


# In time ------------------------------------------------------------------------------------------


@pytest.mark.options(
    # Two hours are left for a second try of the mail; the next digest would come after them.
    {"virtual:vm": {"hours_before_end_lease": "0", "reminders": "", "minimum_notice": "2d"}}
)
def test_where_a_digest_would_come_too_late_it_comes_early(world: World) -> None:
    servers = course(world, 2)
    world.clock.advance(minutes=7)
    servers += course(world, 2, "late")
    end = end_of(world, servers[0])
    world.live(end - timedelta(minutes=1))
    (mail,) = world.mails
    # The others became due while it was gathered.
    assert named_in(mail) == set(servers)
    assert mail["Date"].datetime.replace(tzinfo=None) == end - timedelta(hours=50, minutes=-10)
    # So nothing had to move.
    for server_id in servers:
        assert "moved" not in world.events(server_id)
    world.live(end + timedelta(minutes=10))
    assert [world.state(server_id) for server_id in servers] == ["deleted"] * 4


@pytest.mark.options({"virtual:vm": {"reminders": "6h"}})
def test_a_last_reminder_comes_while_there_is_time(world: World) -> None:
    servers = course(world, 2)
    end = end_of(world, servers[0])
    world.live(end - timedelta(minutes=1))
    last = world.mails[-1]
    assert named_in(last) == set(servers)
    # The end is at 10:00, and 08:00 would leave two hours.
    assert last["Date"].datetime.replace(tzinfo=None) == end - timedelta(hours=6, minutes=-10)


@pytest.mark.options(
    {
        "virtual:vm": {"hours_before_end_lease": "0", "reminders": ""},
        "vmexpire_worker": {"retry_max_interval": "4h"},
    }
)
def test_while_no_mail_goes_out_the_ends_move_and_the_mail_stays_the_same(world: World) -> None:
    servers = course(world, 3)
    end = end_of(world, servers[0])
    world.mail.answers["DATA"] = "451 later"
    world.live(end - timedelta(hours=40))
    assert {world.state(server_id) for server_id in servers} == {"active"}
    for server_id in servers:
        assert "moved" in world.events(server_id)
    ids = {n.message_id for server_id in servers for n in world.notices(server_id) if n.due_at}
    assert len(ids) == 1
    world.mail.answers.clear()
    world.live(world.clock.now() + timedelta(hours=5))
    (mail,) = world.mails
    assert {mail["Message-ID"]} == ids
    assert named_in(mail) == set(servers)
    told_at = world.notices(servers[0])[-1].accepted_at
    assert told_at is not None
    assert end_of(world, servers[0]) >= told_at + timedelta(days=2)


# Whom -------------------------------------------------------------------------------------------


def test_each_owner_gets_their_own_and_the_contact_that_of_who_is_gone(world: World) -> None:
    carol = world.cloud.add_user("carol", email="carol@example.org")
    hers = {"user_id": carol, "project_id": world.beta}
    mine, hers, bobs = course(world, 2), course(world, 2, "hers", **hers), []
    for name in ("one", "two"):
        bobs.append(world.boot(name, user_id=world.bob, project_id=world.beta))
    see(world, bobs)
    del world.cloud.identity.users[carol]
    world.live(end_of(world, mine[0]) - timedelta(days=9))
    told = {
        recipient: named_in(mail)
        for recipient, mail in zip(world.recipients(), world.mails, strict=True)
    }
    assert told == {
        "alice@example.org": set(mine),
        "bob@example.org": set(bobs),
        CONTACT: set(hers),
    }
    (to_contact,) = [m for m in world.mails if named_in(m) == set(hers)]
    assert "in place of the VM's owner" in " ".join(to_contact.get_content().split())
    assert calendar_of(to_contact) is None


def test_a_refused_owner_is_replaced_after_a_while(world: World) -> None:
    servers = course(world, 2)
    world.mail.refused["alice@example.org"] = "550 no such user"
    world.live(end_of(world, servers[0]) - timedelta(days=8))
    assert world.recipients() == [CONTACT]
    for server_id in servers:
        assert world.events(server_id).count("notice_refused") == 3
        assert world.state(server_id) == "noticed"


def test_vms_of_several_projects_have_a_command_each(world: World) -> None:
    here, there = course(world, 2), course(world, 2, "there", project_id=world.beta)
    world.live(end_of(world, here[0]) - timedelta(days=9))
    (mail,) = world.mails
    assert mail["Subject"].startswith("4 VMs will end")
    text = mail.get_content().replace("\r\n", "\n")
    assert "4 of your VMs in 2 projects will end." in text
    parts = text.split("openstack vm expiration extend")[1:]
    found = [{server_id for server_id in [*here, *there] if server_id in part} for part in parts]
    assert sorted(found, key=sorted) == sorted([set(here), set(there)], key=sorted)


@pytest.mark.long
def test_a_digest_has_a_limit_and_what_is_beyond_it_is_in_another(world: World) -> None:
    servers = course(world, MOST + 1)
    world.live(end_of(world, servers[0]) - timedelta(days=9))
    first, second = world.mails
    assert len(named_in(first)) == MOST
    assert second["Subject"].startswith(f'VM "vm-{MOST + 1}" (alpha)')
    assert named_in(first) | {second["X-OpenStack-Server"]} == set(servers)
    assert first["Message-ID"] != second["Message-ID"]


@pytest.mark.options({"vmexpire_mail": {"max_per_minute": "1"}})
def test_digests_have_their_turn_like_other_mails(world: World) -> None:
    mine = course(world, 2)
    bobs = course(world, 2, "bobs", user_id=world.bob, project_id=world.beta)
    world.live(end_of(world, mine[0]) - timedelta(days=9))
    assert [named_in(mail) for mail in world.mails] in (
        [set(mine), set(bobs)],
        [set(bobs), set(mine)],
    )
    first, second = (mail["Date"].datetime for mail in world.mails)
    assert second - first >= timedelta(minutes=1)


# What is not so any more --------------------------------------------------------------------------


def test_what_was_changed_meanwhile_is_not_told(world: World) -> None:
    told, other, extended, held, deleted, excluded = servers = course(world, 6)
    end = end_of(world, told)
    world.live(end - timedelta(days=9, hours=12))
    assert world.mails == []
    assert world.extend(extended).status_code == 200
    until = f"{world.clock.now() + timedelta(days=5):%Y-%m-%dT%H:%M:%SZ}"
    hold = {"reason": "x", "hold": {"until": until}}
    answer = world.as_admin.patch(f"/v1/vm-expirations/{held}", json=hold)
    assert answer.status_code == 200, answer.json
    answer = world.as_admin.patch(
        f"/v1/vm-expirations/{excluded}", json={"reason": "x", "exempt": True}
    )
    assert answer.status_code == 200, answer.json
    del world.cloud.compute.vms[deleted]
    world.live(end - timedelta(days=9))
    (mail,) = world.mails
    assert named_in(mail) == {told, other}
    assert {world.state(server_id) for server_id in (told, other)} == {"noticed"}
    for server_id in servers[2:]:
        assert not any(n.accepted_at for n in world.notices(server_id))
        assert not any(
            n.due_at for n in world.notices(server_id) if world.state(server_id) != "vanished"
        )


def test_one_vm_with_an_error_keeps_no_other_waiting(world: World) -> None:
    servers = course(world, 2)
    ailing = course(world, 1, "ailing", project_id=world.beta)[0]
    fault = world.cloud.fault(rf"/projects/{world.beta}", status=503)
    world.live(end_of(world, ailing) - timedelta(days=9, hours=25))
    world.harness.plugin.tools.cloud.keystone._known.clear()
    world.live(end_of(world, ailing) - timedelta(days=9))
    (mail,) = world.mails
    assert named_in(mail) == set(servers)
    (notice,) = world.notices(ailing)
    assert notice.attempts > 0
    fault.remove()
    world.live(end_of(world, ailing) - timedelta(days=8))
    assert world.mails[1]["X-OpenStack-Server"] == ailing


def test_while_nova_is_away_what_is_known_is_told(world: World) -> None:
    servers = course(world, 3)
    world.live(end_of(world, servers[0]) - timedelta(days=9, hours=12))
    for server_id in servers:
        world.cloud.compute.vms[server_id].name = "renamed"
    fault = world.cloud.fault(r"/compute/", status=503)
    world.live(end_of(world, servers[0]) - timedelta(days=9))
    (mail,) = world.mails
    assert named_in(mail) == set(servers)
    assert "vm-001" in mail.get_content()
    # It was not asked for each of them, as long as it does not answer.
    assert fault.hits < len(servers) + 2


# Several workers ----------------------------------------------------------------------------------


@pytest.fixture
def workers(world: World) -> Iterator[list[WorkerProcess]]:
    """Two more of them, beside the manager's."""
    started = [WorkerProcess(world.harness.conf) for _ in range(2)]
    yield started
    for worker in started:
        worker.close()


def until_the_digest(world: World, servers: Sequence[str]) -> None:
    """Let all be as it is when the digest of some VMs is due."""
    world.live(end_of(world, servers[0]) - timedelta(days=9, hours=3))
    assert world.mails == []
    world.clock.set(datetime.datetime(2026, 4, 22, 8))


ON_ALL = pytest.mark.databases("sqlite", "mariadb", "postgresql")


@ON_ALL
@pytest.mark.every_database
def test_a_worker_that_dies_repeats_the_same_mail_at_most(
    world: World, workers: list[WorkerProcess]
) -> None:
    """It is killed once at each of its borders: requests, and commits."""
    servers = course(world, 2)
    until_the_digest(world, servers)
    one, _ = workers
    killed = 0
    while not any(world.notices(server_id)[0].accepted_at for server_id in servers):
        killed += 1
        assert killed < 100
        with one.killed_at(killed):
            Digesting(one.tools).run()
        world.clock.advance(minutes=2)
    assert len(world.mails) > 1, "it was never killed between 250 and the commit"
    assert len({mail["Message-ID"] for mail in world.mails}) == 1
    assert {frozenset(named_in(mail)) for mail in world.mails} == {frozenset(servers)}
    assert world.events(servers[0]).count("notice_accepted") == 1


@pytest.mark.parametrize("border", [1, 6, 10])
def test_what_is_extended_while_a_digest_is_put_together_is_not_told(
    world: World, workers: list[WorkerProcess], border: int
) -> None:
    """Before the first request that a worker makes for it, between them, and after the last."""
    servers = course(world, 3)
    until_the_digest(world, servers)
    worker, _ = workers
    answers: list[int] = []
    with worker.interrupted_at(
        border, lambda: answers.append(world.extend(servers[0]).status_code)
    ):
        worker.do_chores()
    assert answers == [200]
    (mail,) = world.mails
    assert named_in(mail) == set(servers[1:])
    world.settle()
    assert [world.state(server_id) for server_id in servers] == ["active", "noticed", "noticed"]


@pytest.mark.options({"vmexpire_worker": {"claim_duration": "1m"}})
def test_a_worker_that_was_taken_for_dead_sends_no_second_digest(
    world: World, workers: list[WorkerProcess]
) -> None:
    servers = course(world, 3)
    until_the_digest(world, servers)
    one, other = workers

    def taken_over() -> None:
        world.clock.advance(minutes=5)
        other.do_chores()

    with one.interrupted_at(2, taken_over):
        one.do_chores()
    world.settle()
    (mail,) = world.mails
    assert named_in(mail) == set(servers)


@ON_ALL
@pytest.mark.every_database
def test_workers_at_the_same_moment_send_one_digest(
    world: World, workers: list[WorkerProcess]
) -> None:
    servers = course(world, 3)
    until_the_digest(world, servers)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for done in [pool.submit(worker.do_chores) for worker in workers * 3]:
            done.result()
    (mail,) = world.mails
    assert named_in(mail) == set(servers)
    assert {world.notices(server_id)[0].message_id for server_id in servers} == {mail["Message-ID"]}
