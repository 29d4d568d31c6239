# SPDX-License-Identifier: Apache-2.0
"""The queue of our notification pool, on a real RabbitMQ: when ``withdraw`` deletes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import amqp
import oslo_messaging
import pytest
from oslo_config import cfg
from oslo_log import log as oslo_log

from blazar_vmexpire import RESOURCE_TYPE
from blazar_vmexpire.cmd.manage import main
from blazar_vmexpire.conf import opts
from blazar_vmexpire.intake import notifications, queues
from tests.functional.manage import settings
from tests.integration.broker import Broker, rabbitmq
from tests.integration.waiting import wait_for
from tests.mail_servers import make_certificates

POOL = "blazar-vmexpire"
OTHERS = "somebody-else"
NOVAS = "notifications.info"
CLASSIC: dict[str, Any] = {}
QUORUM = {"rabbit_quorum_queue": True}


@pytest.fixture(scope="module")
def broker(home: Path) -> Iterator[Broker]:
    """A RabbitMQ."""
    with rabbitmq(home / "broker") as running:
        yield running


@pytest.fixture
def bus(broker: Broker) -> str:
    """Its transport URL."""
    return broker.url


@pytest.fixture(autouse=True)
def _nothing_left(bus: str) -> Iterator[None]:
    """Begin anew: queues and exchanges of one kind cannot be declared as another."""
    yield
    with amqp.Connection(place_of(bus)) as connection:
        channel = connection.channel()
        for queue in (POOL, OTHERS, NOVAS):
            channel.queue_delete(queue)
        channel.exchange_delete("nova")


def place_of(url: str) -> str:
    """Return host and port."""
    return url.partition("@")[2].strip("/")


def options(url: str, pool: str = POOL, **driver: Any) -> cfg.ConfigOpts:
    """Return options as blazar-manager has them."""
    conf = cfg.ConfigOpts()
    opts.register_opts(conf)
    conf([], default_config_files=[])
    conf.set_override("transport_url", url, group="vmexpire_intake")
    conf.set_override("pool", pool, group="vmexpire_intake")
    notifications.bus_of(conf)
    for name, value in driver.items():
        conf.set_override(name, value, group="oslo_messaging_rabbit")
    return conf


class Heard:
    """An endpoint that keeps what it is told."""

    def __init__(self) -> None:
        self.event_types: list[str] = []

    def info(self, ctxt: Any, publisher: Any, event_type: str, payload: Any, meta: Any) -> None:
        """Take a notification."""
        self.event_types.append(event_type)


def publish(conf: cfg.ConfigOpts) -> None:
    """Publish a notification, as Nova does."""
    conf.set_override("control_exchange", "nova")
    transport = oslo_messaging.get_notification_transport(
        conf, url=conf.vmexpire_intake.transport_url
    )
    notifier = oslo_messaging.Notifier(
        transport, "compute.compute1", driver="messagingv2", topics=["notifications"]
    )
    notifier.info({}, "compute.instance.create.end", {})
    transport.cleanup()


def state_of(url: str, queue: str) -> Any:
    """Ask RabbitMQ how many messages a queue has, and how many readers; None: there is none."""
    with amqp.Connection(place_of(url)) as connection:
        try:
            return connection.channel().queue_declare(queue, passive=True)
        except amqp.NotFound:
            return None


def messages(url: str, queue: str) -> int:
    """Count what is in a queue that is there."""
    return int(state_of(url, queue).message_count)


def readers(url: str, queue: str) -> int:
    """Count who reads from a queue that is there."""
    return int(state_of(url, queue).consumer_count)


def unread(bus: str, conf: cfg.ConfigOpts) -> None:
    """Make the queue as our listener does, and leave it as a listener does that is stopped."""
    listener = notifications.make_listener(conf, Heard())
    listener.start()
    listener.stop()
    listener.wait()

    pool = conf.vmexpire_intake.pool
    wait_for("the end of the listener", lambda: not readers(bus, pool), 10)


@pytest.mark.parametrize("driver", [CLASSIC, QUORUM], ids=["classic", "quorum"])
def test_it_goes_with_what_is_in_it_when_nobody_reads_it(bus: str, driver: dict[str, Any]) -> None:
    conf = options(bus, **driver)
    others = options(bus, OTHERS, **driver)
    unread(bus, conf)
    unread(bus, others)
    publish(conf)
    for queue in (POOL, OTHERS, NOVAS):
        wait_for(f"the notification in {queue}", lambda queue=queue: messages(bus, queue) == 1, 10)

    assert queues.of(conf).delete()

    assert state_of(bus, POOL) is None
    assert messages(bus, OTHERS) == 1
    assert messages(bus, NOVAS) == 1
    assert not queues.of(conf).delete()


@pytest.mark.parametrize("driver", [CLASSIC, QUORUM], ids=["classic", "quorum"])
def test_it_is_left_to_a_listener_that_runs(bus: str, driver: dict[str, Any]) -> None:
    conf = options(bus, **driver)
    heard = Heard()
    listener = notifications.make_listener(conf, heard)
    listener.start()
    try:
        with pytest.raises(queues.QueueLeft, match="still read from it: 1"):
            queues.of(conf).delete()
        publish(conf)
        wait_for("the notification", lambda: heard.event_types or None, 10)
    finally:
        listener.stop()
        listener.wait()


def test_the_first_host_that_answers_does_it(bus: str) -> None:
    unread(bus, options(bus))
    conf = options(f"rabbit://guest:guest@127.0.0.1:1,guest:guest@{place_of(bus)}/")
    assert queues.of(conf).delete()
    assert state_of(bus, POOL) is None


def test_a_refusal_is_said_without_the_password(bus: str) -> None:
    with pytest.raises(queues.QueueLeft, match="ACCESS_REFUSED") as caught:
        queues.of(options(bus.replace("guest:guest@", "guest:hunter2@"))).delete()
    assert "hunter2" not in str(caught.value)


def test_another_virtual_host_is_not_mixed_up_with_this_one(bus: str) -> None:
    unread(bus, options(bus))
    with pytest.raises(queues.QueueLeft, match="vhost elsewhere not found"):
        queues.of(options(f"{bus}elsewhere")).delete()
    assert state_of(bus, POOL) is not None


def test_a_host_is_told_no_password_unless_its_certificate_is_trusted(
    broker: Broker, tmp_path: Path
) -> None:
    def over_tls(host: str, authority: Path) -> cfg.ConfigOpts:
        url = f"rabbit://guest:guest@{host}:{broker.tls_port}/"
        return options(url, ssl=True, ssl_ca_file=str(authority))

    for nobodys in (
        over_tls("127.0.0.1", make_certificates(tmp_path).ca),
        over_tls("localhost", broker.certificates.ca),
    ):
        with pytest.raises(queues.QueueLeft, match="CERTIFICATE_VERIFY_FAILED"):
            queues.of(nobodys).delete()

    trusted = over_tls("127.0.0.1", broker.certificates.ca)
    unread(broker.url, trusted)
    assert queues.of(trusted).delete()
    assert state_of(broker.url, POOL) is None


@pytest.mark.databases("sqlite")
def test_the_command_says_what_it_does(
    bus: str, database_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    groups = {RESOURCE_TYPE: {"scope": "none"}, "vmexpire_intake": {"transport_url": bus}}
    files = settings(tmp_path, database_url, groups)

    def withdraw(*arguments: str, status: int = 0) -> str:
        conf = cfg.ConfigOpts()
        oslo_log.register_options(conf)
        assert main([*files, "withdraw", *arguments], conf) == status
        done = capsys.readouterr()
        return done.err if status else done.out

    conf = options(bus)
    listener = notifications.make_listener(conf, Heard())
    listener.start()
    try:
        preview = withdraw()
        left = withdraw("--yes", status=1)
    finally:
        listener.stop()
        listener.wait()
    where = f"RabbitMQ at {place_of(bus)}, vhost /"
    assert f"Queue to be deleted: {POOL} ({where})\nNothing was changed." in preview
    assert f"queue {POOL} was left: listeners of ours still read from it: 1; " in left
    assert "set [vmexpire_intake] notifications to false" in left
    assert f"rabbitmqctl delete_queue --vhost / {POOL}\n" in left
    unread(bus, conf)

    assert f"Queue {POOL} deleted." in withdraw("--yes")
    assert state_of(bus, POOL) is None
    assert f"Queue {POOL} is not there (any more)." in withdraw("--yes")
