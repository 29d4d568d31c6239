# SPDX-License-Identifier: Apache-2.0
"""How VMs are noticed: by Nova's notifications, by its list of servers, and by both at once."""

from __future__ import annotations

import concurrent.futures
import datetime
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import oslo_messaging
import pytest
import sqlalchemy as sa
from oslo_config import cfg

from blazar_vmexpire import lifecycle, service
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db.models import chores
from blazar_vmexpire.intake import notifications
from tests.functional.world import World

TERM = timedelta(days=60)
SPREAD = timedelta(days=14)
#: Between two reconciliations.
INTERVAL = timedelta(minutes=15)
#: Until a VM that Nova did not find is looked for once more.
MAKE_SURE = timedelta(seconds=6)

#: For what has nothing to do with the database.
ANY_DATABASE = pytest.mark.databases("sqlite")


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Wait for what other threads are about to do."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.005)


# Notifications


def unversioned(server_id: Any, **more: Any) -> dict[str, Any]:
    """Make a payload as Nova's unversioned notifications have it."""
    return {"instance_id": server_id, "state": "active", "display_name": "web1", **more}


def versioned(server_id: Any, **more: Any) -> dict[str, Any]:
    """Make a payload as Nova's versioned notifications have it."""
    return {
        "nova_object.name": "InstanceActionPayload",
        "nova_object.namespace": "nova",
        "nova_object.version": "1.8",
        "nova_object.data": {"uuid": server_id, "state": "active", **more},
    }


class Bus:
    """Nova's side of the bus, in either format."""

    def __init__(self, world: World, format_: str) -> None:
        self.world = world
        self.format = format_

    def say(self, event: str, server_id: Any, **more: Any) -> None:
        """Say what happened to a server, such as ``create.end``."""
        if self.format == "versioned":
            payload = versioned(server_id, **more)
            self.world.harness.notify(f"instance.{event}", payload, "versioned_notifications")
        else:
            payload = unversioned(server_id, **more)
            self.world.harness.notify(f"compute.instance.{event}", payload)


@pytest.fixture
def at_work(world: World) -> World:
    """A world whose Blazar listens and works, in threads of its own; nobody asks for the list."""
    world.harness.conf.set_override("reconciliation", False, group="vmexpire_intake")
    world.harness.restart()
    world.harness.poll()
    return world


@pytest.fixture(params=["unversioned", "versioned"])
def bus(request: pytest.FixtureRequest, at_work: World) -> Bus:
    """Nova's side of the bus, once in each format."""
    return Bus(at_work, request.param)


@pytest.fixture
def one_bus(at_work: World) -> Bus:
    """Nova's side of the bus, in one format."""
    return Bus(at_work, "unversioned")


def wait_for_state(world: World, server_id: str, state: str | None) -> None:
    """Wait until a VM's expiration is in this state, and nobody has it in hand."""

    def there() -> bool:
        row = world.row_or_none(server_id)
        if row is None or state is None:
            return row is None and state is None
        return row.state == state and row.claimed_by is None

    wait_until(there, f"server {server_id} becomes {state}")


def move_on(world: World, duration: timedelta) -> None:
    """Let time pass for the threads at work."""
    world.clock.set(world.clock.now() + duration)
    world.harness.plugin.service.worker.wake()


def asked(world: World, server_id: str) -> int:
    """Say how often Nova was asked for this very server."""
    return len(world.cloud.requests(f"/servers/{server_id}$", "GET"))


def test_a_vm_that_was_created_gets_its_lease(bus: Bus) -> None:
    world = bus.world
    server_id = world.boot("web1")
    bus.say("create.end", server_id)
    wait_for_state(world, server_id, "active")
    (lease,) = world.as_alice.get("/v1/leases").json["leases"]
    assert lease["reservations"][0]["resource_id"] == server_id
    assert world.row(server_id).ends_at == world.clock.now() + TERM
    assert world.lease(server_id).end_date == world.clock.now() + TERM
    assert world.events(server_id) == ["adopted"]


def test_a_vm_that_was_deleted_takes_its_lease_with_it(bus: Bus) -> None:
    world = bus.world
    server_id, other = world.boot(), world.boot()
    for each in (server_id, other):
        bus.say("create.end", each)
        wait_for_state(world, each, "active")
    world.cloud.compute.vanish(server_id)
    bus.say("delete.end", server_id)
    wait_for_state(world, server_id, "vanished")
    assert len(world.all_leases()) == 2
    move_on(world, MAKE_SURE)
    wait_for_state(world, server_id, "deleted")
    assert world.all_leases() == [world.row(other).lease_id]
    assert world.events(server_id) == ["adopted", "vanished", "deleted"]
    assert world.mails == []


@ANY_DATABASE
@pytest.mark.parametrize("event", ["delete.end", "soft_delete.end"])
def test_a_deletion_that_nova_told_of_is_explained_by_that(bus: Bus, event: str) -> None:
    """Nova remembers nothing of the VM: its list of deleted servers has been archived."""
    world = bus.world
    server_id, other = world.boot(), world.boot()
    for each in (server_id, other):
        bus.say("create.end", each)
        wait_for_state(world, each, "active")
    world.cloud.compute.lose(server_id)
    world.cloud.compute.lose(other)
    bus.say(event, server_id)
    bus.say("unshelve.end", other)
    wait_for_state(world, server_id, "vanished")
    wait_for_state(world, other, "vanished")
    move_on(world, MAKE_SURE)
    wait_for_state(world, server_id, "deleted")
    wait_until(lambda: world.row(other).unexplained_at, "the other one is found unexplained")
    assert world.state(other) == "vanished"
    assert world.all_leases() == [world.row(other).lease_id]


@ANY_DATABASE
def test_a_deletion_that_was_told_and_did_not_happen_explains_nothing_later(one_bus: Bus) -> None:
    world = one_bus.world
    server_id = world.boot()
    one_bus.say("create.end", server_id)
    wait_for_state(world, server_id, "active")
    one_bus.say("delete.end", server_id)
    wait_until(lambda: asked(world, server_id) >= 2, "Nova is asked about it")
    wait_until(lambda: _answered(world, server_id), "the question is answered")
    assert world.row(server_id).deletion_told_at is None
    world.cloud.compute.lose(server_id)
    one_bus.say("unshelve.end", server_id)
    wait_for_state(world, server_id, "vanished")
    move_on(world, MAKE_SURE)
    wait_until(lambda: world.row(server_id).unexplained_at, "it is found unexplained")
    assert world.state(server_id) == "vanished"


def test_both_formats_and_each_of_them_ten_times(at_work: World) -> None:
    server_id = at_work.boot()
    for _ in range(10):
        for format_ in ("unversioned", "versioned"):
            Bus(at_work, format_).say("create.end", server_id)
    wait_for_state(at_work, server_id, "active")
    wait_until(lambda: _answered(at_work, server_id), "every question is answered")
    assert len(at_work.all_leases()) == 1
    assert at_work.events(server_id) == ["adopted"]
    at_work.cloud.compute.vanish(server_id)
    for _ in range(10):
        Bus(at_work, "versioned").say("delete.end", server_id)
    wait_until(lambda: at_work.state(server_id) != "active", "the VM is missed")
    move_on(at_work, MAKE_SURE)
    wait_for_state(at_work, server_id, "deleted")
    assert at_work.all_leases() == []
    assert at_work.events(server_id) == ["adopted", "vanished", "deleted"]


def _questions(world: World, server_id: str) -> int:
    row = world.row_or_none(server_id)
    return -1 if row is None else row.questions


def _answered(world: World, server_id: str) -> bool:
    row = world.row(server_id)
    return row.questions == row.answered and row.claimed_by is None


def test_a_delete_that_overtakes_the_create(one_bus: Bus) -> None:
    """What Nova has counts, in whatever order it is told."""
    world = one_bus.world
    gone, there = str(uuid.uuid4()), world.boot()
    for server_id in (gone, there):
        one_bus.say("delete.end", server_id)
        one_bus.say("create.end", server_id)
    wait_for_state(world, there, "active")
    wait_until(lambda: asked(world, gone), "Nova is asked")
    wait_for_state(world, gone, None)
    assert world.all_leases() == [world.row(there).lease_id]
    assert world.events(gone) == []


def test_a_delete_of_a_vm_that_lives_on_is_only_a_reason_to_look(one_bus: Bus) -> None:
    world = one_bus.world
    server_id = world.boot()
    one_bus.say("create.end", server_id)
    wait_for_state(world, server_id, "active")
    before = world.row(server_id)
    one_bus.say("delete.end", server_id, state="deleted", deleted_at="2026-03-02T10:00:00")
    wait_until(lambda: _questions(world, server_id) == 1, "it is taken")
    wait_until(lambda: _answered(world, server_id), "it is looked at")
    after = world.row(server_id)
    assert (after.state, after.ends_at, after.lease_id, after.generation) == (
        "active",
        before.ends_at,
        before.lease_id,
        before.generation,
    )
    assert world.events(server_id) == ["adopted"]


def test_a_vm_that_nova_does_not_know_leaves_nothing_behind(one_bus: Bus) -> None:
    world = one_bus.world
    server_id = str(uuid.uuid4())
    one_bus.say("create.end", server_id)
    wait_until(lambda: asked(world, server_id), "Nova is asked")
    wait_for_state(world, server_id, None)
    assert world.rows() == []
    assert world.all_leases() == []
    assert world.events(server_id) == []


def test_a_vm_of_somebody_else_is_somebody_elses(one_bus: Bus) -> None:
    """What a notification says of project, user, name or dates is not believed."""
    world = one_bus.world
    server_id = world.boot("hers", project_id=world.beta, user_id=world.bob)
    lies = {"tenant_id": world.alpha, "project_id": world.alpha, "user_id": world.alice}
    one_bus.say(
        "create.end", server_id, **lies, display_name="mine", created_at="1999-01-01T00:00:00Z"
    )
    wait_for_state(world, server_id, "active")
    row, lease = world.row(server_id), world.lease(server_id)
    assert (row.project_id, row.user_id, row.server_name) == (world.beta, world.bob, "hers")
    assert (lease.project_id, lease.user_id) == (world.beta, world.bob)
    assert row.server_created_at == world.clock.now()
    assert world.as_alice.get("/v1/leases").json["leases"] == []


@ANY_DATABASE
def test_the_priority_does_not_matter(at_work: World) -> None:
    for priority in ("warn", "error"):
        server_id = at_work.boot()
        payload = unversioned(server_id)
        at_work.harness.notify("compute.instance.create.end", payload, priority=priority)
        wait_for_state(at_work, server_id, "active")


@ANY_DATABASE
def test_what_does_not_concern_us_costs_nothing(one_bus: Bus) -> None:
    world = one_bus.world
    silent, server_id = world.boot(), world.boot()
    for event in ("create.start", "update", "exists", "power_off.end", "create.end.x"):
        one_bus.say(event, silent)
    world.harness.notify("compute.libvirt.error", {"reason": "no UUID here"}, priority="error")
    world.harness.notify("image.create", unversioned(silent))
    one_bus.say("create.end", server_id)
    wait_for_state(world, server_id, "active")
    assert asked(world, silent) == 0
    assert world.row_or_none(silent) is None


def _nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = [{"nova_object.data": {"uuid": value}}]
    return value


MALFORMED: dict[str, Any] = {
    "no payload": None,
    "an empty payload": {},
    "a list": [],
    "a text": "instance_id",
    "a number": 7,
    "no id": {"state": "active"},
    "null for an id": unversioned(None),
    "a number for an id": unversioned(17),
    "true for an id": unversioned(True),
    "an empty id": unversioned(""),
    "no UUID": unversioned("web1"),
    "a list of ids": unversioned([str(uuid.uuid4())]),
    "an object for an id": unversioned({"uuid": str(uuid.uuid4())}),
    "a path": unversioned(f"../{uuid.uuid4()}"),
    "a line break": unversioned(f"{uuid.uuid4()}\nCRITICAL all is lost"),
    "SQL": unversioned("'; DROP TABLE leases; --"),
    "NUL": unversioned("\0"),
    "half a character": unversioned("\ud83d"),
    "two ids": unversioned(f"{uuid.uuid4()},{uuid.uuid4()}"),
    "a megabyte": unversioned("x" * 2**20),
    "a megabyte of objects": unversioned([{"x": n} for n in range(2**16)]),
    "no data": {"nova_object.data": None},
    "data that is a list": {"nova_object.data": [{"uuid": str(uuid.uuid4())}]},
    "a versioned id of an unversioned key": {"nova_object.data": {"instance_id": "x"}},
    "a versioned object for an id": versioned({"nova_object.data": {"uuid": "x"}}),
    "nested": _nested(5),
    "nested deeply": unversioned(_nested(100)),
}


@pytest.mark.parametrize("event", ["compute.instance.create.end", "instance.delete.end"])
@pytest.mark.parametrize("payload", MALFORMED.values(), ids=MALFORMED)
def test_what_makes_no_sense_is_told_in_one_line(
    payload: Any, event: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert notifications.server_of(event, payload) is None
    (record,) = caplog.records
    line = record.getMessage()
    assert record.levelno == logging.WARNING
    assert line.startswith(f"Notification {event} names no server: ")
    assert len(line) < 300
    assert "\n" not in line


@pytest.mark.parametrize("event", [None, 7, ["compute.instance.create.end"], "", "x" * 2**20, {}])
def test_an_event_that_is_none_is_none_of_ours(
    event: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert notifications.server_of(event, unversioned(str(uuid.uuid4()))) is None
    assert caplog.records == []


@pytest.mark.parametrize(
    "spell", [str.upper, lambda s: s.replace("-", ""), lambda s: f"{{{s}}}", "urn:uuid:{}".format]
)
def test_a_uuid_is_one_however_it_is_spelled(spell: Callable[[str], str]) -> None:
    """As a key it has 36 characters, and one VM has one key."""
    server_id = str(uuid.uuid4())
    named = notifications.server_of("instance.create.end", versioned(spell(server_id)))
    assert named == server_id


def test_nothing_is_lost_among_messages_that_make_no_sense(
    one_bus: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    """All of them through the real listener; those that could become rows do not."""
    world = one_bus.world
    good = [world.boot() for _ in range(3)]
    one_bus.say("create.end", good[0])
    for payload in MALFORMED.values():
        world.harness.notify("compute.instance.create.end", payload)
        world.harness.notify("instance.create.end", payload, "versioned_notifications")
    one_bus.say("create.end", f"urn:uuid:{good[1]}")
    one_bus.say("create.end", good[2])
    for server_id in good:
        wait_for_state(world, server_id, "active")

    def told() -> int:
        return sum("names no server" in record.message for record in caplog.records)

    wait_until(lambda: told() == 2 * len(MALFORMED), "each is told of")
    assert {row.server_id for row in world.rows()} == set(good)
    assert len(world.all_leases()) == len(good)


def test_a_vm_that_is_still_being_built_waits(one_bus: Bus) -> None:
    world = one_bus.world
    server_id = world.boot(vm_state="building", task_state="spawning")
    one_bus.say("create.end", server_id)
    wait_until(lambda: asked(world, server_id), "Nova is asked")
    wait_for_state(world, server_id, "seen")
    assert world.all_leases() == []
    vm = world.cloud.compute.vms[server_id]
    vm.vm_state, vm.task_state = "active", None
    move_on(world, timedelta(seconds=10))
    wait_for_state(world, server_id, "active")


@pytest.mark.parametrize(
    "fault",
    [{"status": 404, "html": True}, {"truncate": True}],
    ids=["404 of a proxy", "truncated"],
)
@ANY_DATABASE
def test_while_nova_makes_no_sense_a_vm_is_remembered(one_bus: Bus, fault: dict[str, Any]) -> None:
    world = one_bus.world
    server_id = world.boot()
    broken = world.cloud.fault(f"/servers/{server_id}", **fault)
    one_bus.say("create.end", server_id)
    wait_until(lambda: _attempts(world, server_id) == 1, "it fails")
    broken.remove()
    move_on(world, timedelta(minutes=1))
    wait_for_state(world, server_id, "active")
    assert world.events(server_id) == ["adopted"]


def _attempts(world: World, server_id: str) -> int:
    row = world.row_or_none(server_id)
    return 0 if row is None or row.claimed_by else row.attempts


def test_a_message_that_could_not_be_noted_comes_again(
    one_bus: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    world = one_bus.world
    server_id = world.boot()
    engine = world.harness.plugin.tools.database.engine
    broken = threading.Event()

    def refuse(_: Any, __: Any, statement: str, *___: Any) -> None:
        if statement.startswith("INSERT INTO vm_expirations") and not broken.is_set():
            broken.set()
            raise RuntimeError("the database is on fire")

    sa.event.listen(engine, "before_cursor_execute", refuse)
    one_bus.say("create.end", server_id)
    wait_for_state(world, server_id, "active")
    assert broken.is_set()
    assert f"Server {server_id} could not be noted; the notification is kept" in caplog.messages


def test_what_is_said_while_the_manager_is_down_is_heard(one_bus: Bus) -> None:
    world = one_bus.world
    kept, gone, new = world.boot(), world.boot(), world.boot()
    for server_id in (kept, gone):
        one_bus.say("create.end", server_id)
        wait_for_state(world, server_id, "active")
    world.harness.stop()
    world.cloud.compute.vanish(gone)
    one_bus.say("delete.end", gone)
    one_bus.say("create.end", new)
    world.harness.start()
    world.harness.poll()
    wait_for_state(world, new, "active")
    wait_for_state(world, gone, "vanished")
    move_on(world, MAKE_SURE)
    wait_for_state(world, gone, "deleted")
    assert len(world.all_leases()) == 2


# The bus is not ours alone


class Ear:
    """Another consumer of Nova's notifications."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def info(self, context: Any, publisher: Any, event: Any, payload: Any, metadata: Any) -> None:
        """Take a notification."""
        self.heard.append(payload["instance_id"])


@pytest.fixture
def listen() -> Iterator[Callable[..., Ear]]:
    """Return a function that makes another consumer of a topic listen."""
    running: list[Any] = []

    def make(exchange: str, topic: str, pool: str | None = None) -> Ear:
        conf = cfg.ConfigOpts()
        conf([], default_config_files=[], default_config_dirs=[])
        transport = oslo_messaging.get_notification_transport(conf, url="fake:/")
        ear = Ear()
        target = oslo_messaging.Target(topic=topic, exchange=exchange)
        listener = oslo_messaging.get_notification_listener(
            transport, [target], [ear], executor="threading", pool=pool
        )
        listener.start()
        running.append(listener)
        return ear

    yield make
    for listener in running:
        listener.stop()
        listener.wait()


@ANY_DATABASE
def test_other_consumers_of_the_topic_get_every_message(
    one_bus: Bus, listen: Callable[..., Ear]
) -> None:
    world = one_bus.world
    without_pool, with_pool = listen("nova", "notifications"), listen("nova", "notifications", "x")
    servers = [world.boot() for _ in range(20)]
    for server_id in servers:
        one_bus.say("create.end", server_id)
    for server_id in servers:
        wait_for_state(world, server_id, "active")
    for ear in (without_pool, with_pool):
        wait_until(lambda ear=ear: len(ear.heard) >= 20, "all are heard")
        assert sorted(ear.heard) == sorted(servers)


@pytest.mark.options(
    {
        "vmexpire_intake": {
            "exchange": "nova2",
            "topics": ["ours"],
            "pool": "blazar-of-region-2",
            "reconciliation": False,
        }
    }
)
@ANY_DATABASE
def test_exchange_topics_and_pool_are_those_of_the_options(
    at_work: World, listen: Callable[..., Ear]
) -> None:
    """What Nova says on other topics or exchanges is not listened to."""
    elsewhere, there = at_work.boot(), at_work.boot()
    rival = listen("nova2", "ours", "blazar-of-region-2")
    at_work.harness.notify("compute.instance.create.end", unversioned(elsewhere), "ours")
    at_work.harness.notify("compute.instance.create.end", unversioned(elsewhere))
    _notify_on("nova2", "notifications", unversioned(elsewhere))
    # One of the same pool shares with us: each message goes to either.
    count = 20
    for _ in range(count):
        _notify_on("nova2", "ours", unversioned(there))
    wait_until(lambda: len(rival.heard) + _questions(at_work, there) + 1 >= count, "all are taken")
    assert asked(at_work, elsewhere) == 0
    assert at_work.row_or_none(elsewhere) is None


def _notify_on(exchange: str, topic: str, payload: Any) -> None:
    conf = cfg.ConfigOpts()
    conf([], default_config_files=[], default_config_dirs=[])
    oslo_messaging.set_transport_defaults(exchange)
    transport = oslo_messaging.get_notification_transport(conf, url="fake:/")
    oslo_messaging.set_transport_defaults("openstack")
    sender = oslo_messaging.Notifier(transport, "host1", driver="messagingv2", topics=[topic])
    sender.info({}, "compute.instance.create.end", payload)


# Reconciliation


@pytest.fixture
def reconcile(world: World) -> Callable[[], None]:
    """Return a function that lets the time of the next reconciliation come, and all it leads to."""

    def run() -> None:
        world.clock.set(world.clock.now() + INTERVAL)
        world.harness.work()
        # VMs that Nova did not find are looked for once more.
        world.clock.set(world.clock.now() + MAKE_SURE)
        world.harness.work()

    return run


Reconcile = Callable[[], None]


def chore(world: World) -> Any:
    """Return the row of the chore of reconciling; None before it was ever begun."""
    with world.harness.database.begin() as connection:
        return connection.execute(
            sa.select(chores).where(chores.c.name == service.RECONCILIATION)
        ).one_or_none()


def pages(world: World) -> int:
    """Say how many pages were asked of Nova so far."""
    return len(world.cloud.requests("/servers/detail"))


def end_of(
    server_id: str, begun: datetime.datetime, spread: timedelta = timedelta(0)
) -> datetime.datetime:
    """Say when the first lease of a VM that was taken in then has to end."""
    return lifecycle.ceil_minute(begun + TERM + spread * lifecycle.share(server_id))


def check_lease(world: World, server_id: str, end: datetime.datetime) -> None:
    """Check that a VM has its row, its lease and its history, all of one end."""
    row, lease = world.row(server_id), world.lease(server_id)
    assert (row.state, row.ends_at) == ("active", end)
    assert (lease.status, lease.end_date) == ("ACTIVE", end)
    assert row.adopted_at is not None
    assert lease.start_date == lifecycle.floor_minute(row.adopted_at)
    assert [r.resource_id for r in lease.reservations] == [server_id]
    vm = world.cloud.compute.vms[server_id]
    assert (lease.project_id, lease.user_id) == (vm.project_id, vm.user_id)
    ((event, details),) = world.history(server_id)
    assert event == "adopted"
    assert details == {"ends_at": end.isoformat(), "lease_id": row.lease_id}


def test_vms_that_were_there_before_get_a_full_term_and_more(
    world: World, reconcile: Reconcile
) -> None:
    """The very first reconciliation spreads the ends; later ones give a plain term."""
    begun = world.clock.now()
    old = begun - timedelta(days=2000)
    before = [world.boot(created_at=old + timedelta(hours=n)) for n in range(40)]
    world.harness.work()
    for server_id in before:
        check_lease(world, server_id, end_of(server_id, begun, SPREAD))
        ends_at = world.row(server_id).ends_at
        assert ends_at is not None
        assert begun + TERM <= ends_at <= begun + TERM + SPREAD
    assert len({world.row(s).ends_at.date() for s in before}) >= 8  # type: ignore[union-attr]
    assert chore(world).last_finished_at == begun
    assert len(world.as_alice.get("/v1/leases").json["leases"]) == 40
    later = world.boot(created_at=old)
    reconcile()
    check_lease(world, later, begun + INTERVAL + TERM)


@pytest.mark.options({"virtual:vm": {"adoption_spread": "0"}})
@ANY_DATABASE
def test_without_a_spread_all_first_ends_are_one(world: World) -> None:
    servers = [world.boot() for _ in range(5)]
    world.harness.work()
    for server_id in servers:
        check_lease(world, server_id, world.clock.now() + TERM)


def test_what_is_known_and_unchanged_is_left_alone(world: World, reconcile: Reconcile) -> None:
    servers = [world.boot() for _ in range(7)]
    world.harness.work()
    before = sorted(world.rows(), key=lambda row: row.server_id)
    reconcile()
    reconcile()
    assert sorted(world.rows(), key=lambda row: row.server_id) == before
    assert sum(asked(world, server_id) for server_id in servers) == 0
    assert chore(world).last_error is None


def test_what_notifications_missed_is_found(world: World, reconcile: Reconcile) -> None:
    kept, lost = world.boot(), world.boot()
    world.harness.work()
    world.cloud.compute.vanish(lost)
    new = world.boot()
    begun = world.clock.now() + INTERVAL
    reconcile()
    check_lease(world, new, begun + TERM)
    assert world.state(lost) == "deleted"
    assert world.events(lost) == ["adopted", "vanished", "deleted"]
    assert sorted(world.all_leases()) == sorted(str(world.row(s).lease_id) for s in (kept, new))
    assert world.mails == []


@pytest.mark.parametrize(
    ("vm_state", "task_state"),
    [("building", "spawning"), ("error", None), ("active", "resize_prep")],
)
@ANY_DATABASE
def test_a_vm_that_is_busy_or_broken_is_taken_in_when_that_is_over(
    world: World, reconcile: Reconcile, vm_state: str, task_state: str | None
) -> None:
    server_id = world.boot(vm_state=vm_state, task_state=task_state)
    world.harness.work()
    reconcile()
    assert world.rows() == []
    vm = world.cloud.compute.vms[server_id]
    vm.vm_state, vm.task_state = "active", None
    reconcile()
    check_lease(world, server_id, end_of(server_id, world.clock.now() - MAKE_SURE))


def test_projects_that_are_left_out(world: World, reconcile: Reconcile) -> None:
    world.harness.conf.set_override("excluded_projects", [world.beta], group="virtual:vm")
    out = [
        world.boot(project_id=world.beta, user_id=world.bob),
        world.boot(project_id=world.cloud.identity.service_project),
    ]
    there = world.boot()
    world.harness.work()
    for server_id in out:
        world.see(server_id)
    reconcile()
    assert [row.server_id for row in world.rows()] == [there]
    assert world.all_leases() == [world.row(there).lease_id]


def test_names_that_no_table_can_hold(world: World) -> None:
    names = ["\N{FIRE}" * 300, "a\0b", "", "x\r\ny", "\ud83d", "'; DROP TABLE leases; --"]
    servers = [world.boot(name) for name in names]
    world.harness.work()
    assert {world.state(server_id) for server_id in servers} == {"active"}
    assert all(world.lease(server_id).status == "ACTIVE" for server_id in servers)


# A list that is not what it must be

SMALL_PAGES = pytest.mark.options({"vmexpire_intake": {"page_size": 3}})


def _on_page(world: World, number: int, **fault: Any) -> None:
    """Make a page of the next listing fail: 0 is the first."""
    if number == 0:
        world.cloud.fault("/servers/detail", **fault)
        return

    def next_one(body: Any) -> Any:
        _on_page(world, number - 1, **fault)
        return body

    world.cloud.fault("/servers/detail", rewrite=next_one, times=1)


def _link_back(body: Any) -> Any:
    """Let the next page be the one after the first server of this one."""
    href = f"http://nova.invalid/servers/detail?marker={body['servers'][0]['id']}"
    return {**body, "servers_links": [{"rel": "next", "href": href}]}


def _lacks(key: str) -> Callable[[Any], Any]:
    def rewrite(body: Any) -> Any:
        return {"servers": [{k: v for k, v in s.items() if k != key} for s in body["servers"]]}

    return rewrite


BROKEN: dict[str, dict[str, Any]] = {
    "500": {"status": 500},
    "503 of a proxy": {"status": 503, "html": True},
    "404": {"status": 404},
    "403": {"status": 403},
    "429": {"status": 429},
    "truncated": {"truncate": True},
    "connection reset": {"close": True},
    "empty body": {"empty": True},
    "HTML": {"html": True},
    "null": {"body": {"servers": None}},
    "no servers": {"body": {}},
    "a list": {"body": []},
    "a server that is empty": {"body": {"servers": [{}]}},
    "servers without an id": {"rewrite": _lacks("id")},
    "a next link that loops": {"rewrite": _link_back},
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("how", "page"), [*((how, 1) for how in BROKEN), ("500", 0), ("500", 2), ("truncated", 0)]
)
@SMALL_PAGES
@ANY_DATABASE
def test_of_a_list_that_is_broken_off_nothing_is_concluded(
    world: World, reconcile: Reconcile, how: str, page: int
) -> None:
    _check_nothing_concluded(world, reconcile, lambda: _on_page(world, page, **BROKEN[how]))


@pytest.mark.options({"vmexpire_cloud": {"request_timeout": "1s"}})
@SMALL_PAGES
@ANY_DATABASE
def test_of_a_list_that_hangs_nothing_is_concluded(world: World, reconcile: Reconcile) -> None:
    _check_nothing_concluded(world, reconcile, lambda: _on_page(world, 1, hang=True))


@SMALL_PAGES
def test_of_a_list_without_the_services_nothing_is_concluded(
    world: World, reconcile: Reconcile
) -> None:
    _check_nothing_concluded(
        world, reconcile, lambda: world.cloud.fault("/os-services", status=500)
    )


def _check_nothing_concluded(
    world: World, reconcile: Reconcile, break_it: Callable[[], object]
) -> None:
    servers = [
        world.boot(created_at=world.clock.now() - timedelta(hours=1, minutes=n)) for n in range(8)
    ]
    world.harness.work()
    finished = chore(world).last_finished_at
    assert finished is not None
    gone = servers[4]
    world.cloud.compute.vanish(gone)
    rows = sorted(world.rows(), key=lambda row: row.server_id)
    leases = sorted(world.all_leases())
    break_it()
    reconcile()
    assert sorted(world.rows(), key=lambda row: row.server_id) == rows
    assert sorted(world.all_leases()) == leases
    assert sum(asked(world, server_id) for server_id in servers) == 0
    failed = chore(world)
    assert failed.last_finished_at == finished
    assert failed.last_error.startswith("nova: list ")
    assert failed.claimed_by is None
    for fault in list(world.cloud._faults):
        fault.remove()
    reconcile()
    right = chore(world)
    assert right.last_error is None
    assert right.last_finished_at > finished
    assert world.state(gone) == "deleted"
    assert len(world.all_leases()) == 7


@SMALL_PAGES
def test_the_first_reconciliation_is_the_first_that_comes_to_its_end(
    world: World, reconcile: Reconcile
) -> None:
    """What one that was broken off has taken in stays; the rest is still spread."""
    begun = world.clock.now()
    servers = [world.boot(created_at=begun - timedelta(hours=n)) for n in range(7)]
    _on_page(world, 1, status=500, times=1)
    world.harness.work()
    assert {row.server_id for row in world.rows()} == set(servers[:3])
    assert chore(world).last_finished_at is None
    reconcile()
    for server_id in servers[:3]:
        check_lease(world, server_id, end_of(server_id, begun, SPREAD))
    for server_id in servers[3:]:
        check_lease(world, server_id, end_of(server_id, begun + INTERVAL, SPREAD))
    assert chore(world).last_finished_at == begun + INTERVAL


def test_a_vm_that_the_list_lacks_is_asked_for_and_stays(
    world: World, reconcile: Reconcile
) -> None:
    """The list is complete by its own account, and yet it lacks half of the VMs."""
    servers = [world.boot() for _ in range(6)]
    world.harness.work()
    leases = sorted(world.all_leases())

    def half(body: Any) -> Any:
        return {"servers": [s for s in body["servers"] if s["id"] in servers[:3]]}

    lacking = world.cloud.fault("/servers/detail", rewrite=half)
    for _ in range(3):
        reconcile()
    lacking.remove()
    assert sorted(world.all_leases()) == leases
    assert {asked(world, server_id) for server_id in servers[:3]} == {0}
    assert {asked(world, server_id) for server_id in servers[3:]} == {3}
    for server_id in servers:
        assert world.state(server_id) == "active"
        assert world.events(server_id) == ["adopted"]


def test_an_empty_list_deletes_nothing(world: World, reconcile: Reconcile) -> None:
    servers = [world.boot() for _ in range(6)]
    world.harness.work()
    world.cloud.fault("/servers/detail", body={"servers": []})
    world.cloud.fault("/servers/[0-9a-f-]{36}$", status=503)
    reconcile()
    assert {world.state(server_id) for server_id in servers} == {"active"}
    assert len(world.all_leases()) == 6


def test_a_vm_that_is_listed_but_not_found_has_no_lease_in_the_end(
    world: World, reconcile: Reconcile
) -> None:
    """Nothing explains it, so that its lease is kept for an hour."""
    server_id = world.boot()
    world.cloud.fault(
        f"/servers/{server_id}$", status=404, message=f"Instance {server_id} could not be found."
    )
    world.harness.work()
    assert world.state(server_id) == "active"
    world.see(server_id)
    world.clock.advance(seconds=6)
    world.harness.work()
    assert world.state(server_id) == "vanished"
    for _ in range(3):
        reconcile()
        assert world.state(server_id) == "vanished"
        assert len(world.all_leases()) == 1
    world.live(world.clock.now() + timedelta(hours=1))
    assert world.state(server_id) == "deleted"
    for _ in range(3):
        reconcile()
    assert world.state(server_id) == "deleted"
    assert world.all_leases() == []
    events = ["adopted", "vanished", "vanished_unexplained", "deleted"]
    assert world.events(server_id) == events


def test_a_vm_that_is_not_found_once_reappears(world: World) -> None:
    server_id = world.adopt()
    lease_id = world.row(server_id).lease_id
    world.cloud.fault(
        f"/servers/{server_id}$",
        status=404,
        message=f"Instance {server_id} could not be found.",
        times=1,
    )
    world.see(server_id)
    assert world.state(server_id) == "vanished"
    world.clock.advance(seconds=6)
    world.harness.work()
    assert (world.state(server_id), world.row(server_id).lease_id) == ("active", lease_id)
    assert world.events(server_id) == ["adopted", "vanished", "reappeared"]
    assert len(world.all_leases()) == 1


def test_while_a_cell_is_down_its_vms_keep_their_leases(world: World, reconcile: Reconcile) -> None:
    near = world.boot()
    far = [world.boot(cell="cell2", host="compute2") for _ in range(3)]
    world.harness.work()
    finished = chore(world).last_finished_at
    world.cloud.compute.down_cells = {"cell2"}
    new = world.boot()
    reconcile()
    assert world.state(new) == "active"
    assert chore(world).last_finished_at == finished
    assert "Nova cannot reach the cell of 1 hosts (compute2)" in chore(world).last_error
    # Somebody speaks of one: it is asked for, and what comes back is no answer.
    world.see(far[0])
    assert world.row(far[0]).last_error is not None
    for server_id in [near, *far]:
        assert world.state(server_id) == "active"
        assert world.lease(server_id).status == "ACTIVE"
    world.cloud.compute.down_cells = set()
    world.cloud.compute.vanish(far[1])
    reconcile()
    assert chore(world).last_error is None
    assert world.state(far[1]) == "deleted"
    assert [world.state(server_id) for server_id in (near, far[0], far[2])] == ["active"] * 3


def test_a_vm_of_which_the_list_says_too_little_does_not_hold_up_the_others(
    world: World, reconcile: Reconcile, caplog: pytest.LogCaptureFixture
) -> None:
    odd, plain = world.boot(), world.boot()

    def without_a_date(body: Any) -> Any:
        for server in body["servers"]:
            if server["id"] == odd:
                del server["created"]
        return body

    fault = world.cloud.fault("/servers/detail", rewrite=without_a_date)
    world.harness.work()
    assert world.state(plain) == "active"
    assert world.row_or_none(odd) is None
    assert f"Server {odd} is not taken in" in caplog.text
    fault.remove()
    reconcile()
    assert world.state(odd) == "active"


def test_a_vm_that_is_listed_twice_is_taken_in_once(world: World) -> None:
    servers = [world.boot() for _ in range(3)]

    def doubled(body: Any) -> Any:
        return {"servers": [*body["servers"], *body["servers"]]}

    world.cloud.fault("/servers/detail", rewrite=doubled)
    world.harness.work()
    assert {row.server_id for row in world.rows()} == set(servers)
    assert len(world.all_leases()) == 3
    assert chore(world).last_error is None


# Both legs at once, and two of one


def test_a_notification_comes_between_looking_and_taking_in(world: World) -> None:
    servers = [world.boot() for _ in range(5)]
    database = world.harness.plugin.tools.database
    taken: list[str] = []

    def see_one(*_: Any) -> None:
        # The first transaction after the page came in is the one that looks for known VMs.
        if not taken and pages(world):
            taken.append(servers[2])
            with world.harness.database.begin() as connection:
                db_api.see(connection, servers[2], world.clock.now())

    sa.event.listen(database.engine, "checkin", see_one)
    begun = world.clock.now()
    world.harness.work()
    assert taken
    for server_id in servers:
        spread = timedelta(0) if server_id in taken else SPREAD
        check_lease(world, server_id, end_of(server_id, begun, spread))
    assert len(world.all_leases()) == 5
    assert chore(world).last_error is None


@pytest.mark.options({"vmexpire_intake": {"page_size": 7}})
def test_both_legs_find_the_same_vms_at_once(world: World) -> None:
    servers = [world.boot() for _ in range(60)]
    world.harness.poll()
    for server_id in reversed(servers):
        world.harness.notify("compute.instance.create.end", unversioned(server_id))
    for server_id in servers:
        wait_for_state(world, server_id, "active")
    wait_until(
        lambda: (begun := chore(world)) and begun.last_finished_at,
        "the reconciliation comes to its end",
    )
    world.harness.stop()
    assert len(world.all_leases()) == 60
    assert sorted(world.all_leases()) == sorted(str(row.lease_id) for row in world.rows())
    assert all(world.events(server_id) == ["adopted"] for server_id in servers)


def test_of_two_that_want_to_reconcile_one_does(world: World) -> None:
    for _ in range(3):
        world.boot()
    tools = world.harness.plugin.tools
    start = threading.Barrier(2)

    def run(_: int) -> bool:
        own = service.reconciliation_chore(tools)
        start.wait()
        if not own.claim():
            return False
        service.reconcile(tools, own)
        own.finish()
        return True

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(run, range(2))) == [False, True]
    # The list, and the empty page that is its end.
    assert pages(world) == 2
    assert len(world.all_leases()) == 3


@SMALL_PAGES
def test_who_is_taken_for_dead_stops_and_the_other_finishes(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    begun = world.clock.now()
    servers = [world.boot(created_at=begun - timedelta(hours=n)) for n in range(18)]
    other = service.reconciliation_chore(world.harness.plugin.tools)

    def take_over(body: Any) -> Any:
        world.clock.set(world.clock.now() + timedelta(minutes=5, seconds=1))
        assert other.claim()
        return body

    world.cloud.fault("/servers/detail", rewrite=take_over, times=1)
    world.harness.work()
    assert "reconciliation was taken over by another worker" in caplog.text
    # What was in hand is written; no page after that is looked at.
    assert 0 < len(world.rows()) < len(servers)
    assert chore(world).last_finished_at is None
    service.reconcile(world.harness.plugin.tools, other)
    other.finish()
    assert {row.server_id for row in world.rows()} == set(servers)
    assert len(world.all_leases()) == 18
    for server_id in servers:
        ends_at = world.row(server_id).ends_at
        assert ends_at is not None
        assert ends_at >= begun + TERM
        check_lease(world, server_id, end_of(server_id, _adopted_at(world, server_id), SPREAD))


def _adopted_at(world: World, server_id: str) -> datetime.datetime:
    adopted_at = world.row(server_id).adopted_at
    assert adopted_at is not None
    return adopted_at


@pytest.mark.options({"vmexpire_intake": {"reconciliation": False}})
@ANY_DATABASE
def test_reconciliation_can_be_switched_off(world: World) -> None:
    world.boot()
    world.harness.work()
    assert pages(world) == 0
    assert world.rows() == []
