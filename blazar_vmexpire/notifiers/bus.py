# SPDX-License-Identifier: Apache-2.0
"""Notifications on the message bus, as OpenStack's services publish theirs."""

from __future__ import annotations

import socket

import oslo_messaging
from oslo_config import cfg

from blazar_vmexpire.exceptions import ConfigError
from blazar_vmexpire.notifiers.base import Notification, Notifier


class Bus(Notifier):
    """Publishes by oslo.messaging: driver, topics and URL are Blazar's own.

    While the bus is away oslo.messaging tries to connect for as long as it takes, and so keeps
    whoever publishes: nothing is lost, and only the thread that publishes waits.
    """

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        self._transport = oslo_messaging.get_notification_transport(conf)
        self._notifier = oslo_messaging.Notifier(
            self._transport,
            publisher_id=f"vmexpire.{socket.gethostname()}",
            # For ever: when it gave up it would only log that, and we would take it for done.
            retry=-1,
        )
        if set(conf.oslo_messaging_notifications.driver) <= {"", "noop"}:
            raise ConfigError(
                "[oslo_messaging_notifications] driver is not set, so that the notifier bus would"
                " send nothing: messagingv2 is the usual one"
            )

    def notify(self, notification: Notification) -> None:
        """Publish, at priority ``info``."""
        self._notifier.info({}, notification.event_type, dict(notification.payload))

    def close(self) -> None:
        """Close the connection."""
        self._transport.cleanup()
