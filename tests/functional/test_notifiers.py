# SPDX-License-Identifier: Apache-2.0
"""Other programs are told what happens to VMs: all of it, in order, and nothing waits for them."""

from __future__ import annotations

import datetime
import hashlib
import hmac
import http.server
import json
import signal
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from oslo_config import cfg
from oslo_utils import timeutils

from blazar_vmexpire import notifiers
from blazar_vmexpire.conf import opts
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db import outbox
from blazar_vmexpire.db.engine import Database
from blazar_vmexpire.db.models import cursors, history
from blazar_vmexpire.exceptions import ClaimLost, ConfigError
from blazar_vmexpire.notifiers import NotDelivered, Notification
from blazar_vmexpire.notifiers.webhook import Webhook
from blazar_vmexpire.worker.publishing import Publishing
from tests.fakes.cloud import FakeCloud
from tests.functional.worker_process import Command, wait_until
from tests.functional.world import World
from tests.mail_servers import Certificates, listening_socket, make_certificates

SQLITE = pytest.mark.databases("sqlite")
#: Weeks pass between two looks.
IN_A_MOMENT = pytest.mark.options({"vmexpire_notifiers": {"catch_up": "90d"}})
SECRET = "a key that both know"
NOW = datetime.datetime(2026, 3, 2, 10, 0)


class Receiver:
    """A program that is told: it takes what is posted, and answers what it is told to."""

    def __init__(self) -> None:
        self.taken: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[int] = []
        """Of the next posts; after these, 200."""
        self.hold = threading.Event()
        """Nothing is answered while it is not set."""
        self.hold.set()
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.hold.wait(60)
                status = receiver.answers.pop(0) if receiver.answers else 200
                if status == 200:
                    headers = {key.lower(): value for key, value in self.headers.items()}
                    receiver.taken.append((headers, body))
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.send_header("Location", "/elsewhere")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def port(self) -> int:
        return int(self.server.server_address[1])

    @property
    def payloads(self) -> list[dict[str, Any]]:
        """What it was told, without the text."""
        return [json.loads(body)["notification"] for _, body in self.taken]

    @property
    def events(self) -> list[str]:
        return [payload["event"] for payload in self.payloads]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    running = Receiver()
    yield running
    running.hold.set()
    running.server.shutdown()
    running.server.server_close()


@pytest.fixture
def told(world: World, receiver: Receiver) -> World:
    """A world whose webhook is on, from now on."""
    conf = world.harness.conf
    conf.set_override("enabled", ["webhook"], group="vmexpire_notifiers")
    conf.set_override("url", f"http://127.0.0.1:{receiver.port}/hook", group="vmexpire_webhook")
    conf.set_override("secret", SECRET, group="vmexpire_webhook")
    world.harness.restart()
    world.harness.work()
    return world


def publishing(world: World) -> Publishing:
    (found,) = world.harness.plugin.service._publishing
    return found  # type: ignore[no-any-return]


def all_events(world: World) -> list[str]:
    """Return what happened to all VMs, as their histories have it."""
    with world.harness.database.begin() as connection:
        return list(connection.scalars(sa.select(history.c.event).order_by(history.c.id)))


def later(world: World, **duration: float) -> None:
    """Let time pass, and what is due then be done."""
    world.clock.advance(**duration)
    world.harness.work()


@SQLITE
@IN_A_MOMENT
def test_a_life_is_told_in_order_and_signed(told: World, receiver: Receiver) -> None:
    server_id = told.adopt()
    told.clock.advance(days=40)
    assert told.extend(server_id).status_code == 200
    told.live(told.lease(server_id).end_date + timedelta(minutes=1))
    later(told, seconds=5)
    assert told.state(server_id) == "deleted"
    assert receiver.events == all_events(told)
    assert {"adopted", "extended", "notice_accepted", "delete_asked"} <= set(receiver.events)
    assert len({payload["id"] for payload in receiver.payloads}) == len(receiver.taken)

    headers, body = receiver.taken[receiver.events.index("extended")]
    signed = headers["x-vmexpire-timestamp"].encode() + b"." + body
    right = hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
    assert headers["x-vmexpire-signature"] == f"sha256={right}"
    assert abs(int(headers["x-vmexpire-timestamp"]) - time.time()) < 300
    said = json.loads(body)
    assert headers["x-vmexpire-delivery"] == said["notification"]["id"]
    assert headers["x-vmexpire-event"] == "vmexpire.extended"
    # What Slack and Mattermost show.
    assert said["text"].startswith(f"Server web1 ({server_id}): extended (")
    assert said["notification"]["actor"] == told.alice
    everything = b"".join(body for _, body in receiver.taken)
    assert b"@example.org" not in everything
    assert SECRET.encode() not in everything


@SQLITE
@pytest.mark.options(
    {"vmexpire_notifiers": {"enabled": ["bus"], "events": ["ext*", "deleted"], "catch_up": "90d"}}
)
def test_the_bus_gets_the_events_that_are_wanted(world: World) -> None:
    world.harness.work()
    server_id = world.adopt()
    world.clock.advance(days=40)
    assert world.extend(server_id).status_code == 200
    world.live(world.lease(server_id).end_date + timedelta(minutes=1))
    later(world, seconds=5)
    found = [
        (event_type, payload)
        for event_type, payload in world.harness.notifications
        if event_type.startswith("vmexpire.")
    ]
    assert [event_type for event_type, _ in found] == ["vmexpire.extended", "vmexpire.deleted"]
    payload = found[0][1]
    assert (payload["version"], payload["server_id"]) == ("1.0", server_id)
    assert (payload["project_id"], payload["user_id"]) == (world.alpha, world.alice)


@SQLITE
@IN_A_MOMENT
def test_what_is_not_taken_is_told_again_and_nothing_overtakes_it(
    told: World, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answers = [500, 302, 429]
    server_id = told.adopt()
    told.harness.work()
    assert receiver.events == []
    # The work itself goes on.
    told.live(told.lease(server_id).end_date + timedelta(minutes=1))
    for _ in range(3):
        later(told, minutes=6)
    assert receiver.events == all_events(told)
    assert caplog.text.count("Notifier webhook is told nothing until") == 1
    assert "the webhook answered 500" in caplog.text
    assert str(receiver.port) not in caplog.text


@SQLITE
def test_what_is_refused_for_good_is_left_out_and_logged(
    told: World, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answers = [400]
    server_id = told.adopt()
    told.adopt("web2")
    later(told, seconds=5)
    assert [payload["server_name"] for payload in receiver.payloads] == ["web2"]
    said = f"Notifier webhook: vmexpire.adopted of server {server_id} was refused for good"
    assert said in caplog.text


@SQLITE
@pytest.mark.options(
    {"vmexpire_notifiers": {"timeout": "1s"}, "vmexpire_webhook": {"timeout": "60s"}}
)
def test_one_that_hangs_delays_no_step_and_gets_each_once(told: World, receiver: Receiver) -> None:
    """By the threads of the service; it is stopped while the webhook hangs."""
    receiver.hold.clear()
    told.clock.release()
    told.harness.poll()
    for name in ("web1", "web2"):
        server_id = told.boot(name)
        with told.harness.database.begin() as connection:
            db_api.see(connection, server_id, told.clock.now())
        # One second after the other: the first is under way when the second is taken in.
        wait_until(lambda: "adopted" in told.events(server_id), "it is taken in")  # noqa: B023
        time.sleep(1.5)
    assert receiver.taken == []
    begun = time.monotonic()
    told.harness.stop()
    assert time.monotonic() - begun < 20
    receiver.hold.set()
    told.harness.start()
    told.harness.poll()
    wait_until(lambda: len({p["id"] for p in receiver.payloads}) >= 2, "it is told", 60)
    # Of the one that was under way nobody knew how it went: it may have come twice.
    once = list({payload["id"]: payload["event"] for payload in receiver.payloads}.values())
    assert once == all_events(told)[: len(once)]


@SQLITE
def test_a_crash_repeats_with_the_same_id_and_loses_nothing(
    told: World, receiver: Receiver
) -> None:
    told.adopt()
    later(told, seconds=5)
    before = [payload["id"] for payload in receiver.payloads]
    told.adopt("web2")
    with told.harness.database.begin() as connection:
        connection.execute(sa.update(cursors).values(position=0))

    def crash() -> None:
        raise ClaimLost("killed")

    with pytest.raises(ClaimLost):
        publishing(told).run(crash)
    publishing(told).run(lambda: None)
    ids = [payload["id"] for payload in receiver.payloads]
    assert len(before) == 1
    assert ids.count(before[0]) == 3
    assert len(set(ids)) == len(all_events(told))


@SQLITE
def test_after_a_long_absence_it_goes_on_with_the_last_day_and_says_so(
    told: World, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answers = [503] * 1000
    told.adopt()
    told.adopt("web2")
    later(told, days=2)
    receiver.answers.clear()
    told.adopt("web3")
    later(told, minutes=10)
    (payload,) = receiver.payloads
    assert payload["server_name"] == "web3"
    assert "Notifier webhook was away for long: 2 notifications from before" in caplog.text
    text = told.harness.plugin.tools.metrics.registry.get_sample_value(
        "blazar_vmexpire_notified_total", {"notifier": "webhook", "result": "too_old"}
    )
    assert text == 2


@SQLITE
def test_one_that_is_switched_on_is_told_what_happens_from_then_on(
    world: World, receiver: Receiver
) -> None:
    world.adopt()
    conf = world.harness.conf
    conf.set_override("enabled", ["webhook"], group="vmexpire_notifiers")
    conf.set_override("url", f"http://127.0.0.1:{receiver.port}/", group="vmexpire_webhook")
    world.harness.restart()
    world.harness.work()
    world.adopt("web2")
    later(world, seconds=5)
    assert [payload["server_name"] for payload in receiver.payloads] == ["web2"]
    # It is not signed by a secret that nobody has set.
    assert "x-vmexpire-signature" not in receiver.taken[0][0]


# The stream ------------------------------------------------------------------------------------


def entry(server_id: str, at: datetime.datetime) -> dict[str, Any]:
    return {"server_id": server_id, "at": at, "event": "moved", "generation": 0, "details": "{}"}


def read(database: Database, now: datetime.datetime) -> list[str]:
    with database.begin() as connection:
        return [found.server_id for found in outbox.read(connection, 0, now, 100)]


@pytest.mark.databases("mariadb", "postgresql")
def test_what_is_committed_late_is_not_passed_over(database: Database) -> None:
    """Its id is lower than that of what was committed before it."""
    with database.engine.connect() as slow:
        slow.execute(history.insert(), [entry("slow", NOW)])
        with database.begin() as fast:
            fast.execute(history.insert(), [entry("fast", NOW)])
        assert read(database, NOW) == []
        slow.commit()
    assert read(database, NOW) == ["slow", "fast"]


@pytest.mark.databases("mariadb", "postgresql")
def test_what_was_rolled_back_is_waited_for_only_so_long(database: Database) -> None:
    with database.engine.connect() as undone:
        undone.execute(history.insert(), [entry("undone", NOW)])
        undone.rollback()
    with database.begin() as connection:
        connection.execute(history.insert(), [entry("there", NOW)])
    assert read(database, NOW) == []
    assert read(database, NOW + outbox.SETTLED) == ["there"]


# Options, and notifiers of an operator's own -----------------------------------------------------


def options(**by_group: dict[str, Any]) -> cfg.ConfigOpts:
    conf = cfg.ConfigOpts()
    opts.register_opts(conf)
    conf([], default_config_files=[], default_config_dirs=[])
    for group, values in by_group.items():
        for name, value in values.items():
            conf.set_override(name, value, group=group)
    return conf


@pytest.mark.parametrize(
    ("enabled", "url", "said"),
    [
        ("smoke", None, "enabled: there is no notifier 'smoke' installed"),
        ("webhook", None, "url has to be set"),
        ("webhook", "http://chat.example.org/hooks/secret", "begin with https://"),
        ("webhook", "ftp://chat.example.org", "begin with https://"),
        ("bus", None, "driver is not set"),
    ],
)
def test_what_cannot_work_keeps_the_service_from_starting(
    enabled: str, url: str | None, said: str
) -> None:
    conf = options(vmexpire_notifiers={"enabled": [enabled]}, vmexpire_webhook={"url": url})
    with pytest.raises(ConfigError) as caught:
        notifiers.load(conf)
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)


NOTIFICATION = Notification("id", "vmexpire.moved", {"event": "moved"}, "Server x: moved")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def test_https_is_checked(receiver: Receiver, certificates: Certificates) -> None:
    context = certificates.server_context()
    receiver.server.socket = context.wrap_socket(receiver.server.socket, server_side=True)
    url = f"https://127.0.0.1:{receiver.port}/"
    trusting = Webhook(options(vmexpire_webhook={"url": url, "cafile": str(certificates.ca)}))
    trusting.notify(NOTIFICATION)
    assert len(receiver.taken) == 1
    with pytest.raises(NotDelivered, match="the webhook cannot be reached: SSLError"):
        Webhook(options(vmexpire_webhook={"url": url})).notify(NOTIFICATION)
    assert len(receiver.taken) == 1
    trusting.close()


# A bus that is away ------------------------------------------------------------------------------


@SQLITE
def test_a_bus_that_is_away_keeps_nobody(
    tmp_path: Path, database_url: str, cloud: FakeCloud, database: Database
) -> None:
    """A worker of its own. What oslo.messaging could not send, it only logs: it is sent again."""
    with listening_socket() as sock:
        port = sock.getsockname()[1]
    command = Command(tmp_path, database_url, cloud)
    command.options["vmexpire_notifiers"] = {"enabled": "bus", "timeout": "1s"}
    command.options["oslo_messaging_notifications"] = {
        "driver": "messagingv2",
        "transport_url": f"rabbit://nobody:nothing@127.0.0.1:{port}/",
    }
    process = command.start()
    try:
        # From here on it is told what happens.
        wait_until(lambda: _cursors(database), "it begins", 120)
        _take_in(command, cloud, database, "web1")
        said = "Notifier bus is told nothing until"
        wait_until(lambda: said in command.log, "that is said", 120)
        _take_in(command, cloud, database, "web2")
        ((position, attempts),) = _cursors(database)
        assert (position, attempts > 0) == (0, True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, command.log
    finally:
        command.kill()


def _take_in(command: Command, cloud: FakeCloud, database: Database, name: str) -> None:
    server_id = cloud.add_server(name=name, project_id=cloud.add_project(name))
    with database.begin() as connection:
        db_api.see(connection, server_id, timeutils.utcnow())
    wait_until(lambda: f"Server {server_id}: adopted" in command.log, "it is taken in", 120)


def _cursors(database: Database) -> list[tuple[int, int]]:
    with database.begin() as connection:
        # But for that of the mail to the operators, which is no notifier's.
        found = connection.execute(
            sa.select(cursors.c.position, cursors.c.attempts).where(
                cursors.c.name != "mail of failures"
            )
        )
        return [(row.position, row.attempts) for row in found]
