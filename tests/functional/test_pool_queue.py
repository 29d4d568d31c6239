# SPDX-License-Identifier: Apache-2.0
"""The queue of our notification pool, where there is no RabbitMQ that could delete it.

With one: ``tests/integration/test_pool_queue.py``.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from typing import Any

import pytest
from oslo_config import cfg

from blazar_vmexpire import RESOURCE_TYPE
from blazar_vmexpire.conf import opts
from blazar_vmexpire.intake import notifications, queues
from tests.functional.manage import Done, Manage
from tests.functional.world import World

pytestmark = pytest.mark.databases("sqlite")


def options(transport_url: str | None, **driver: Any) -> cfg.ConfigOpts:
    """Return options as blazar-manager has them."""
    conf = cfg.ConfigOpts()
    opts.register_opts(conf)
    conf([], default_config_files=[])
    notifications.bus_of(conf)
    conf.set_override("transport_url", transport_url, group="vmexpire_intake")
    for name, value in driver.items():
        conf.set_override(name, value, group="oslo_messaging_rabbit")
    return conf


def withdraw(world: World, manage: Manage, url: str, transport_url: str) -> Done:
    """Run it on a cloud whose message bus that is."""
    groups: dict[str, dict[str, Any]] = {
        name: dict(values) for name, values in world.cloud.conf_overrides().items()
    }
    groups[RESOURCE_TYPE] = {"scope": "none"}
    groups["vmexpire_intake"] = {"transport_url": transport_url}
    return manage(url, "withdraw", "--yes", options=groups)


@pytest.fixture
def silent() -> Iterator[str]:
    """Where connections are accepted, and never answered."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_a_bus_that_is_away_keeps_nothing_else_from_being_done(
    world: World, manage: Manage, database_url: str
) -> None:
    server_id = world.adopt()

    done = withdraw(world, manage, database_url, "rabbit://blazar:hunter2@127.0.0.1:1/")

    assert done.returncode == 1
    assert world.all_leases() == []
    assert world.state(server_id) == "exempt"
    assert "127.0.0.1:1 cannot be reached: [Errno 111] Connection refused" in done.stderr
    assert "rabbitmqctl delete_queue --vhost / blazar-vmexpire" in done.stderr
    assert "Now take virtual.vm.plugin out" not in done.stdout
    assert "hunter2" not in done.stdout + done.stderr


def test_a_bus_that_does_not_answer_is_not_waited_for(silent: str) -> None:
    queue = queues.of(options(f"rabbit://blazar:hunter2@{silent}/"))
    began = time.monotonic()
    with pytest.raises(queues.QueueLeft, match=f"{silent} cannot be reached: timed out"):
        queue.delete()
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("transport_url", "said"),
    [
        ("fake://", "the message bus is fake, and only"),
        ("rabid://blazar:hunter2@bus.example.org/", "names no message bus"),
        ("rabbit://blazar:hunter2@bus.example.org/?ssl=perhaps", "may only be options"),
        ("rabbit://blazar:hunter2@bus.example.org/?tls=1", "may only be options"),
    ],
)
def test_a_bus_that_is_none_of_rabbitmqs_or_no_use_is_left_alone(
    world: World, manage: Manage, database_url: str, transport_url: str, said: str
) -> None:
    world.adopt()
    done = withdraw(world, manage, database_url, transport_url)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("Queue ")]
    assert line.startswith("Queue to be deleted: none; ")
    assert said in line
    assert "hunter2" not in done.stdout + done.stderr
    assert world.all_leases() == []


def test_without_a_pool_the_queues_that_are_read_are_novas_and_stay() -> None:
    conf = options("rabbit://")
    conf.set_override("pool", "", group="vmexpire_intake")
    with pytest.raises(queues.QueueLeft, match="pool is empty"):
        queues.of(conf)


def test_it_is_where_the_listener_reads() -> None:
    conf = options(None)
    assert str(queues.of(conf)) == "blazar-vmexpire (RabbitMQ at localhost:5672, vhost /)"
    conf.set_override("transport_url", "rabbit://u:p@a,u:p@[::1]:5673/nova")
    assert str(queues.of(conf)) == "blazar-vmexpire (RabbitMQ at a:5672, [::1]:5673, vhost nova)"
    conf.set_override("transport_url", "rabbit://u:p@b/", group="oslo_messaging_notifications")
    assert str(queues.of(conf)) == "blazar-vmexpire (RabbitMQ at b:5672, vhost /)"
    conf.set_override("transport_url", "rabbit://u:p@c/%2Fx", group="vmexpire_intake")
    assert str(queues.of(conf)) == "blazar-vmexpire (RabbitMQ at c:5672, vhost /x)"


def trusted(transport_url: str, **driver: Any) -> list[Any]:
    """Say how each host is to be trusted."""
    brokers = queues.of(options(transport_url, **driver)).brokers
    return [broker["ssl"] for broker in brokers.values()]


def test_it_is_trusted_as_the_listener_trusts_it() -> None:
    assert trusted("rabbit://u:p@bus/") == [False]
    assert trusted("rabbit://u:p@bus/?ssl=1") == [True]
    checked = {"ca_certs": "/ca.pem", "cert_reqs": ssl.CERT_REQUIRED}
    assert trusted("rabbit://u:p@a,u:p@b/", ssl=True, ssl_ca_file="/ca.pem") == [
        {**checked, "server_hostname": "a"},
        {**checked, "server_hostname": "b"},
    ]
    ours = {"ssl_cert_file": "/our.pem", "ssl_key_file": "/our.key", "ssl_version": "TLSv1_2"}
    assert trusted("rabbit://u:p@bus/", ssl=True, **ours) == [
        {"certfile": "/our.pem", "keyfile": "/our.key", "ssl_version": ssl.PROTOCOL_TLSv1_2}
    ]
    with pytest.raises(queues.QueueLeft, match="ssl_version is SSLv2, which is none of"):
        trusted("rabbit://u:p@bus/", ssl=True, ssl_version="SSLv2")
