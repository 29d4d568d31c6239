# SPDX-License-Identifier: Apache-2.0
"""The bus is not ours alone: others who listen to Nova lose nothing by us."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import oslo_messaging
import pytest
from oslo_config import cfg

from tests.functional.intake import (
    ANY_DATABASE,
    Bus,
    asked,
    at_work,
    one_bus,
    questions,
    unversioned,
    wait_for_state,
    wait_until,
)
from tests.functional.world import World

__all__ = ["at_work", "one_bus"]


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
    wait_until(lambda: len(rival.heard) + questions(at_work, there) + 1 >= count, "all are taken")
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
