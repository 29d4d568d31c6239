# SPDX-License-Identifier: Apache-2.0
"""Notifications on the message bus, as OpenStack's services publish theirs."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import oslo_messaging
from oslo_config import cfg

from blazar_vmexpire import words
from blazar_vmexpire.exceptions import ConfigError
from blazar_vmexpire.notifiers.base import NotDelivered, Notification, Notifier


class Bus(Notifier):
    """Publishes by oslo.messaging: driver, topics and URL are Blazar's own.

    oslo.messaging's drivers log what they could not send, and say nothing to who asked for it. So
    it is seen below them whether the transport has taken it.
    """

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        self._problem: Exception | None = None
        self._transport = oslo_messaging.get_notification_transport(conf)
        self._transport._send_notification = self._watched(self._transport._send_notification)
        self._notifier = oslo_messaging.Notifier(
            self._transport,
            publisher_id=f"vmexpire.{socket.gethostname()}",
            # Whoever calls us tries again, later and later.
            retry=1,
        )
        if set(conf.oslo_messaging_notifications.driver) <= {"", "noop"}:
            raise ConfigError(
                "[oslo_messaging_notifications] driver is not set, so that the notifier bus would"
                " send nothing: messagingv2 is the usual one"
            )

    def notify(self, notification: Notification) -> None:
        """Publish, at priority ``info``."""
        self._problem = None
        self._notifier.info({}, notification.event_type, dict(notification.payload))
        if self._problem is not None:
            raise NotDelivered(
                f"the message bus did not take it: {type(self._problem).__name__}:"
                f" {words.one_line(str(self._problem))}"
            )

    def _watched(self, send: Callable[..., None]) -> Callable[..., None]:
        """Note what goes wrong when something is sent."""

        def watched(*arguments: Any, **more: Any) -> None:
            try:
                send(*arguments, **more)
            except Exception as error:
                self._problem = error
                raise

        return watched

    def close(self) -> None:
        """Close the connection."""
        self._transport.cleanup()
