# SPDX-License-Identifier: Apache-2.0
"""The brake on mass deletion: its pace, what trips it, and what happens while it has tripped."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from blazar.context import BlazarContext

from blazar_vmexpire.brake import Status
from blazar_vmexpire.conf import brake as options
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db.models import brake as brakes
from blazar_vmexpire.db.models import history, passes
from tests.functional.world import World

pytestmark = [
    # What all workers share is tried on all databases in test_brake_counting.py.
    pytest.mark.databases("sqlite"),
    pytest.mark.options({"vmexpire_worker": {"retry_max_interval": "20s"}}),
]

SERVER = r"/compute/v2.1/servers/[^/]+$"
CONTACT = "operators@example.org"
HOUR = timedelta(hours=1)


def pace(an_hour: int, **others: Any) -> pytest.MarkDecorator:
    """Let so many go in an hour, however many there are."""
    values = {"deletions_per_hour": an_hour, "deletions_share": 0.0, **others}
    return pytest.mark.options({"vmexpire_brake": values})


def course(world: World, count: int, **attributes: Any) -> list[str]:
    """Take in VMs of Alice's that all end at the same time."""
    server_ids = [world.boot(f"vm{number}", **attributes) for number in range(count)]
    with world.harness.database.begin() as connection:
        for server_id in server_ids:
            db_api.see(connection, server_id, world.clock.now())
    world.harness.work()
    return server_ids


def end_of(world: World, server_id: str) -> datetime.datetime:
    """Say when a VM's lease ends, by our row and by Blazar's."""
    ends_at = world.row(server_id).ends_at
    assert ends_at is not None
    assert world.lease(server_id).end_date == ends_at
    return ends_at


def later(world: World, **duration: float) -> None:
    """Let time pass, with all that happens meanwhile."""
    world.live(world.clock.now() + timedelta(**duration))


def left(world: World, server_ids: Sequence[str]) -> list[str]:
    """Say which of the VMs Nova still has."""
    return [server_id for server_id in server_ids if server_id in world.cloud.compute.vms]


def status(world: World) -> Status:
    """Say how the brake stands."""
    with world.harness.database.begin() as connection:
        found: Status = world.harness.plugin.tools.brake.status(connection, world.clock.now())
    return found


def trip(world: World) -> None:
    """Trip the brake as an administrator does."""
    with world.harness.database.begin() as connection:
        assert world.harness.plugin.tools.brake.trip(
            connection, reason="not sure about this", by="root", now=world.clock.now()
        )


def release(world: World) -> None:
    """Release the brake as an administrator does."""
    with world.harness.database.begin() as connection:
        assert world.harness.plugin.tools.brake.release(
            connection, reason="it is right", by="root", now=world.clock.now()
        )


def option(world: World, **values: Any) -> None:
    """Change options while everything runs, as SIGHUP does with mutable ones."""
    for name, value in values.items():
        world.harness.conf.set_override(name, value, group="vmexpire_brake")


def counted(world: World, kind: str) -> list[datetime.datetime]:
    """Return when what the brake counts was done, in its order."""
    with world.harness.database.begin() as connection:
        return list(
            connection.scalars(
                sa.select(passes.c.at).where(passes.c.kind == kind).order_by(passes.c.at)
            )
        )


def most_in_an_hour(moments: Sequence[datetime.datetime]) -> int:
    """Say how many came within the hour in which most did."""
    return max(
        (sum(1 for m in moments if begin <= m < begin + HOUR) for begin in moments), default=0
    )


def operators_mails(world: World) -> list[Any]:
    """Return what was told about the brake."""
    return [mail for mail in world.mails if "brake" in mail["Subject"]]


# The pace -----------------------------------------------------------------------------------------


def test_a_course_of_forty_simply_takes_two_hours(world: World) -> None:
    """With all options as they come: twenty an hour."""
    server_ids = course(world, 40)
    end = end_of(world, server_ids[0])
    world.live(end - HOUR)
    assert len(world.mails) == 80
    world.live(end + timedelta(minutes=10))
    waiting = left(world, server_ids)
    assert len(waiting) == 20
    shown = {
        lease["reservations"][0]["resource_id"]: (lease["status"], lease["end_date"])
        for lease in world.as_alice.get("/v1/leases").json["leases"]
    }
    for server_id in waiting:
        assert world.row(server_id).waiting_since == end
        new_end = end_of(world, server_id)
        assert end < new_end <= end + HOUR + timedelta(minutes=1)
        assert shown[server_id] == ("ACTIVE", f"{new_end.isoformat()}.000000")
        assert world.events(server_id).count("moved") == 1
    world.live(end + timedelta(minutes=80))
    assert left(world, server_ids) == []
    assert {world.state(server_id) for server_id in server_ids} == {"deleted"}
    # Two reminders each, and that it has ended; who waits is not told again.
    assert len(world.mails) == 120
    assert most_in_an_hour(counted(world, "end")) == 20
    assert most_in_an_hour(counted(world, "deletion")) == 20
    assert status(world).tripped_at is None


@pace(2, trip_hours=24.0)
def test_who_waits_longest_goes_first_whoever_comes(world: World) -> None:
    """More come all the time than may go: nobody is passed over."""
    ends: dict[str, datetime.datetime] = {}
    for count in (5, 2, 2, 2):
        ends |= {server_id: end_of(world, server_id) for server_id in course(world, count)}
        world.clock.advance(minutes=30)
    world.live(max(ends.values()) + timedelta(hours=8))
    assert left(world, list(ends)) == []
    with world.harness.database.begin() as connection:
        order = connection.scalars(
            sa.select(history.c.server_id)
            .where(history.c.event == "end_begun")
            .order_by(history.c.id)
        ).all()
    assert [ends[server_id] for server_id in order] == sorted(ends.values())
    assert most_in_an_hour(counted(world, "end")) == 2


@pace(1)
def test_an_extension_takes_a_vm_out_of_the_queue(world: World) -> None:
    server_ids = course(world, 2)
    world.live(end_of(world, server_ids[0]) + timedelta(minutes=5))
    (waiting,) = left(world, server_ids)
    assert world.row(waiting).waiting_since is not None
    new_end = world.clock.now().replace(second=0, microsecond=0) + timedelta(days=20)
    assert world.update(waiting, end_date=new_end).status_code == 200
    later(world, hours=5)
    assert left(world, server_ids) == [waiting]
    assert (world.state(waiting), end_of(world, waiting)) == ("active", new_end)
    assert world.row(waiting).waiting_since is None
    assert status(world).waiting == 0
    # Its new end is a new one, of which its owner is told anew.
    world.live(new_end - timedelta(days=1))
    told = [str(mail["Subject"]) for mail in world.mails if mail["X-OpenStack-Server"] == waiting]
    assert ["has been extended" in subject for subject in told] == [False] * 2 + [True] + [
        False
    ] * 2


@pace(2)
def test_a_pace_that_is_changed_while_they_wait_counts_at_once(world: World) -> None:
    server_ids = course(world, 8)
    end = end_of(world, server_ids[0])
    world.live(end + timedelta(minutes=5))
    assert len(left(world, server_ids)) == 6
    option(world, deletions_per_hour=50)
    world.live(end + timedelta(minutes=70))
    assert len(left(world, server_ids)) <= 4
    later(world, hours=3)
    assert left(world, server_ids) == []


def test_all_options_can_be_changed_while_it_runs() -> None:
    assert [option.name for option in options.OPTS if not option.mutable] == []


@pace(1, enabled=False, trip_hours=0.0)
def test_a_brake_that_is_switched_off_limits_nothing(world: World) -> None:
    server_ids = course(world, 12)
    world.live(end_of(world, server_ids[0]) + timedelta(minutes=2))
    assert left(world, server_ids) == []
    assert status(world).tripped_at is None
    assert len(counted(world, "deletion")) == 12


# Tripping -----------------------------------------------------------------------------------------


@pace(1, trip_hours=2.0)
def test_it_trips_when_too_many_wait_and_tells_its_operator_once(world: World) -> None:
    server_ids = course(world, 5)
    end = end_of(world, server_ids[0])
    world.live(end + timedelta(minutes=1))
    stays = left(world, server_ids)
    assert len(stays) >= 4
    world.live(end + timedelta(days=1))
    assert left(world, server_ids) == stays
    for server_id in stays:
        assert end_of(world, server_id) > world.clock.now()
        assert world.lease(server_id).status == "ACTIVE"
    (mail,) = operators_mails(world)
    text = mail.get_content()
    assert mail["To"] == CONTACT
    assert all(f"{server_id}  vm" in text for server_id in stays)
    assert "blazar-vmexpire-manage brake show" in text
    assert "blazar-vmexpire-manage brake release" in text
    assert "servers wait for their end, more than 2" in " ".join(text.split())
    assert status(world).told_at is not None


@pace(1, trip_hours=2.0)
def test_a_release_accepts_what_waits_and_no_more_than_that(world: World) -> None:
    first = course(world, 5)
    world.clock.advance(hours=4)
    second = course(world, 6)
    end = end_of(world, first[0])
    world.live(end + timedelta(minutes=10))
    assert status(world).tripped_at is not None
    release(world)
    later(world, hours=3)
    gone = len(first) - len(left(world, first))
    assert gone >= 2
    assert status(world).tripped_at is None
    assert most_in_an_hour(counted(world, "end")) == 1
    assert len(operators_mails(world)) == 1
    # By then most of what was accepted is gone; this is new.
    world.live(end_of(world, second[0]) + timedelta(minutes=10))
    assert status(world).tripped_at is not None
    assert len(operators_mails(world)) == 2
    assert len({mail["Message-ID"] for mail in operators_mails(world)}) == 2


def lose(world: World, server_ids: Sequence[str]) -> dict[str, Any]:
    """Have Nova know nothing of VMs any more, as after a restore of its database."""
    lost = {server_id: world.cloud.compute.lose(server_id) for server_id in server_ids}
    later(world, minutes=20)  # with a reconciliation
    world.watch(minutes=1)
    return lost


@pace(3)
def test_it_trips_when_many_vanish_from_a_restored_database(world: World) -> None:
    server_ids = course(world, 8)
    before = {server_id: world.row(server_id) for server_id in server_ids}
    lost = lose(world, server_ids[:5])
    assert {world.state(server_id) for server_id in lost} == {"vanished"}
    found = status(world)
    assert (found.vanished, found.most_vanished) == (5, 3)
    assert str(found.reason).startswith("5 servers have vanished from Nova without being deleted")
    (mail,) = operators_mails(world)
    assert all(f"{server_id}  vm" in mail.get_content() for server_id in lost)

    later(world, hours=8)
    assert len(world.all_leases()) == 8
    assert {world.state(server_id) for server_id in lost} == {"vanished"}
    # Nova's operator puts three of them back.
    for server_id in server_ids[:3]:
        world.cloud.compute.vms[server_id] = lost[server_id]
    later(world, minutes=20)
    for server_id in server_ids[:3]:
        row = world.row(server_id)
        assert (row.state, row.lease_id) == ("active", before[server_id].lease_id)
        assert (row.ends_at, row.unexplained_at) == (before[server_id].ends_at, None)

    release(world)
    later(world, minutes=1)
    assert {world.state(server_id) for server_id in server_ids[3:5]} == {"deleted"}
    assert len(world.all_leases()) == 6
    assert "nothing tells who deleted it" in world.history(server_ids[3])[-1][1]["evidence"]
    assert len(operators_mails(world)) == 1


@pace(3)
def test_that_too_many_vanished_needs_nobody_who_watches(world: World) -> None:
    """The chore that trips the brake is late: their leases are kept all the same."""
    option(world, vanish_hold=timedelta(minutes=1))
    server_ids = course(world, 5)
    for server_id in server_ids:
        world.cloud.compute.lose(server_id)
    with world.harness.database.begin() as connection:
        db_api.ask(connection, server_ids, world.clock.now())
    worker = world.harness.plugin.service.worker
    for _ in range(20):
        while worker.work_off():
            pass
        world.clock.advance(seconds=30)
    assert {world.state(server_id) for server_id in server_ids} == {"vanished"}
    assert len(world.all_leases()) == 5
    assert status(world).tripped_at is None


@pace(1)
def test_it_does_not_trip_for_what_people_deleted(world: World) -> None:
    deleted, told = course(world, 4), course(world, 4)
    for server_id in deleted:
        world.cloud.compute.vanish(server_id)
    for server_id in told:
        world.cloud.compute.lose(server_id)
    with world.harness.database.begin() as connection:
        for server_id in told:
            db_api.see(connection, server_id, world.clock.now(), deletion_told=True)
    later(world, minutes=20)
    assert {world.state(server_id) for server_id in (*deleted, *told)} == {"deleted"}
    assert world.all_leases() == []
    assert status(world).tripped_at is None
    assert world.history(deleted[0])[-1][1]["evidence"] == "it is in Nova's list of deleted servers"
    assert world.history(told[0])[-1][1]["evidence"] == "Nova notified its deletion"


@pytest.mark.parametrize("enabled", [True, False])
def test_one_that_vanished_unexplained_keeps_its_lease_for_a_while(
    world: World, *, enabled: bool
) -> None:
    option(world, enabled=enabled)
    server_id = world.adopt()
    lost = lose(world, [server_id])
    assert world.state(server_id) == "vanished"
    since = world.row(server_id).unexplained_at
    assert since is not None
    world.live(since + timedelta(minutes=59))
    assert (world.state(server_id), len(world.all_leases())) == ("vanished", 1)
    # It comes back, and goes again: that is another disappearance.
    world.cloud.compute.vms.update(lost)
    later(world, minutes=20)
    assert world.state(server_id) == "active"
    lose(world, [server_id])
    again = world.row(server_id).unexplained_at
    assert again is not None
    world.live(again + timedelta(minutes=59))
    assert world.state(server_id) == "vanished"
    world.live(again + timedelta(minutes=61))
    assert (world.state(server_id), world.all_leases()) == ("deleted", [])
    events = world.events(server_id)
    assert events.count("vanished_unexplained") == 2
    assert events[-1] == "deleted"
    assert world.history(server_id)[-1][1]["by"] == "somebody unknown"


def test_one_that_is_out_of_scope_is_not_kept(world: World) -> None:
    server_id = world.adopt()
    lose(world, [server_id])
    assert world.state(server_id) == "vanished"
    world.harness.conf.set_override("scope", "none", group="virtual:vm")
    world.see(server_id)
    assert (world.state(server_id), world.all_leases()) == ("deleted", [])


def test_that_deleted_servers_may_not_be_listed_explains_nothing(world: World) -> None:
    """A policy refuses it: the VM was deleted, but who could know?"""
    server_id = world.adopt()
    world.cloud.compute.vanish(server_id)
    world.cloud.fault("/servers/detail", status=403, message="Policy doesn't allow it")
    world.see(server_id)
    later(world, minutes=50)
    assert (world.state(server_id), len(world.all_leases())) == ("vanished", 1)
    later(world, minutes=20)
    assert (world.state(server_id), world.all_leases()) == ("deleted", [])


@pytest.mark.parametrize(
    "fault", [{"status": 503}, {"truncate": True}, {"body": {"servers": [{}]}}]
)
def test_while_the_deleted_servers_cannot_be_listed_nothing_is_concluded(
    world: World, fault: dict[str, Any]
) -> None:
    option(world, vanish_hold=timedelta(minutes=1))
    server_id = world.adopt()
    world.cloud.compute.vanish(server_id)
    broken = world.cloud.fault("/servers/detail", **fault)
    world.see(server_id)
    later(world, minutes=4)
    assert (world.state(server_id), len(world.all_leases())) == ("vanished", 1)
    broken.remove()
    later(world, minutes=1)
    assert (world.state(server_id), world.all_leases()) == ("deleted", [])


# While it has tripped -----------------------------------------------------------------------------

SNAPSHOT = pytest.mark.options({"virtual:vm": {"on_end_action": "snapshot"}})


@SNAPSHOT
def test_tripped_no_deletion_passes_its_last_fence(world: World) -> None:
    """Its image is complete: nothing but the deletion is left to do."""
    world.cloud.image.reads = None
    server_id = world.adopt()
    world.live(end_of(world, server_id) + timedelta(minutes=5))
    (image_id,) = world.cloud.image.images
    trip(world)
    world.cloud.image.finish(image_id)
    later(world, minutes=20)
    vm = world.cloud.compute.vms[server_id]
    assert (world.state(server_id), vm.vm_state, vm.locked) == ("ending", "stopped", True)
    assert not world.row(server_id).progress.get("irreversible")
    assert not world.cloud.requests(SERVER, "DELETE")
    assert counted(world, "deletion") == []
    release(world)
    later(world, minutes=5)
    assert world.state(server_id) == "deleted"
    assert server_id not in world.cloud.compute.vms
    assert world.cloud.image.images[image_id]["owner"] == world.alpha
    assert len(counted(world, "deletion")) == 1


@SNAPSHOT
def test_tripped_an_extension_gives_back_what_was_about_to_go(world: World) -> None:
    world.cloud.image.reads = None
    server_id = world.adopt()
    world.live(end_of(world, server_id) + timedelta(minutes=5))
    trip(world)
    later(world, minutes=30)
    assert world.state(server_id) == "ending"
    reservation = world.lease(server_id).reservations[0].id
    begun = world.lease(server_id).start_date
    end = world.clock.now().replace(second=0, microsecond=0) + timedelta(days=20)
    with BlazarContext(user_id=world.alice, project_id=world.alpha, roles=["member"]):
        world.harness.plugin.update_reservation(reservation, {"start_date": begun, "end_date": end})
    later(world, minutes=2)
    vm = world.cloud.compute.vms[server_id]
    assert (world.state(server_id), vm.vm_state, vm.locked) == ("active", "active", False)
    assert (world.lease(server_id).status, end_of(world, server_id)) == ("ACTIVE", end)


def test_tripped_a_deletion_that_was_asked_for_is_not_asked_for_again(world: World) -> None:
    """Nova lost the first request, and we our process between the fence and it."""
    lost = world.cloud.fault(SERVER, method="DELETE", status=503)
    server_id = world.adopt()
    world.live(end_of(world, server_id) + timedelta(minutes=2))
    assert world.row(server_id).progress["irreversible"]
    trip(world)
    lost.remove()
    asked = len(world.cloud.requests(SERVER, "DELETE"))
    world.harness.restart()
    later(world, minutes=20)
    assert server_id in world.cloud.compute.vms
    assert len(world.cloud.requests(SERVER, "DELETE")) == asked
    release(world)
    later(world, minutes=5)
    assert world.state(server_id) == "deleted"
    assert len(counted(world, "deletion")) == 1


@pytest.mark.options({"virtual:vm": {"quarantine": "6h"}})
def test_tripped_no_quarantine_is_begun_and_what_is_stopped_stays_stopped(world: World) -> None:
    stopped = world.adopt("stopped")
    world.clock.advance(hours=2)
    running = world.adopt("running")
    end = end_of(world, running)
    world.live(end - timedelta(hours=7))
    assert world.state(stopped) == "quarantined"
    trip(world)
    world.live(end + timedelta(hours=2))
    vms = world.cloud.compute.vms
    assert (vms[stopped].vm_state, vms[stopped].locked) == ("stopped", True)
    assert (vms[running].vm_state, vms[running].locked) == ("active", False)
    assert (world.state(stopped), world.state(running)) == ("quarantined", "noticed")
    for server_id in (stopped, running):
        assert end_of(world, server_id) > world.clock.now()
    release(world)
    later(world, minutes=10)
    # Its owner has the whole quarantine to come back to it.
    assert world.state(running) == "quarantined"
    assert end_of(world, running) >= world.clock.now() + timedelta(hours=5, minutes=45)
    world.live(end_of(world, running) + timedelta(minutes=5))
    assert left(world, [stopped, running]) == []


def test_tripped_notices_and_what_comes_before_the_end_go_on(world: World) -> None:
    server_id = world.adopt()
    end = end_of(world, server_id)
    trip(world)
    world.live(end - timedelta(days=1))
    assert [m["X-OpenStack-Server"] for m in world.mails].count(server_id) == 2
    assert "before_end" in world.events(server_id)
    world.live(end + timedelta(hours=2))
    assert server_id in world.cloud.compute.vms
    assert world.state(server_id) == "noticed"


# Telling ------------------------------------------------------------------------------------------


def test_the_operators_mail_is_tried_until_it_is_accepted(world: World) -> None:
    option(world, contact="cloud-team@example.org")
    world.mail.answers["DATA"] = "451 later"
    world.adopt()
    trip(world)
    world.watch(minutes=5)
    assert world.mails == []
    assert status(world).told_at is None
    world.mail.answers.clear()
    world.watch(minutes=5)
    (mail,) = operators_mails(world)
    assert mail["To"] == "cloud-team@example.org"
    assert mail["X-OpenStack-Server"] is None
    text = " ".join(mail.get_content().split())
    assert "applied by root" in text
    assert "Why: not sure about this." in text
    # As after a crash between the mail server's 250 and our commit.
    world.wreck(brakes, sa.true(), told_at=None)
    world.watch(minutes=5)
    first, second = operators_mails(world)
    assert first["Message-ID"] == second["Message-ID"]


def test_names_of_vms_harm_no_mail(world: World) -> None:
    world.cloud.image.reads = None
    option(world, trip_hours=0.0, deletions_per_hour=1, deletions_share=0.0)
    server_ids = course(world, 3)
    for server_id in server_ids:
        world.cloud.compute.vms[server_id].name = "x\r\n\r\nBcc: everybody@example.org"
        world.see(server_id)
    world.live(end_of(world, server_ids[0]) + timedelta(minutes=1))
    (mail,) = operators_mails(world)
    assert "\nBcc" not in mail.get_content()
    assert mail["Bcc"] is None
    assert CONTACT in world.recipients()


def test_what_was_counted_is_forgotten_after_a_day(world: World) -> None:
    server_id = world.adopt()
    world.live(end_of(world, server_id) + timedelta(minutes=5))
    assert (len(counted(world, "end")), len(counted(world, "deletion"))) == (1, 1)
    world.clock.advance(days=1, hours=1)
    world.harness.work()
    assert counted(world, "end") + counted(world, "deletion") == []
