# SPDX-License-Identifier: Apache-2.0
"""The queue of our notification pool on RabbitMQ: deleting it, for when the plug-in is taken out.

oslo.messaging has one queue for a pool, with the pool's name, in the virtual host of the transport
URL: exchange, topics and priorities are only what it is bound to, and go with it. Nobody but our
listeners reads it, so without one it would grow. oslo.messaging deletes no queue that lasts;
that is why RabbitMQ is asked here itself.
"""

from __future__ import annotations

import dataclasses
import ssl
from collections.abc import Mapping
from typing import Any

import amqp
import oslo_messaging
from oslo_config import cfg
from oslo_utils import netutils, strutils

from blazar_vmexpire.exceptions import ConfigError
from blazar_vmexpire.intake import notifications

#: How long each host may take to be connected to, and for each answer, in seconds.
_PATIENCE = 5.0
#: What oslo.messaging takes where the transport URL says nothing.
_PORT = 5672
_ACCOUNT = "guest"
_HOST = "localhost"
_VIRTUAL_HOST = "/"
#: The names that it has for them, in small letters.
_PROTOCOLS = {
    "sslv23": ssl.PROTOCOL_TLS,
    "tlsv1": ssl.PROTOCOL_TLSv1,
    "tlsv1_1": ssl.PROTOCOL_TLSv1_1,
    "tlsv1_2": ssl.PROTOCOL_TLSv1_2,
}


class QueueLeft(Exception):
    """The queue is where it was; the message says why, and has no password in it."""


@dataclasses.dataclass(frozen=True, slots=True)
class PoolQueue:
    """The queue of our pool, and how the broker that has it is reached.

    :ivar brokers: what ``amqp.Connection`` takes, by host and port; one of them has to answer.
    """

    name: str
    virtual_host: str
    brokers: Mapping[str, Mapping[str, Any]] = dataclasses.field(repr=False)

    def __str__(self) -> str:
        """Say which queue it is, and where."""
        return f"{self.name} (RabbitMQ at {', '.join(self.brokers)}, vhost {self.virtual_host})"

    def delete(self) -> bool:
        """Delete it, with what is in it.

        Takes some seconds for each host that does not answer, and no longer.

        :returns: False if there is no such queue.
        :raises QueueLeft: somebody reads it; or no host can be reached, or RabbitMQ refuses.
        """
        said = []
        for place, broker in self.brokers.items():
            try:
                return self._delete(broker)
            except amqp.AMQPError as error:
                said.append(f"{place} says {error.reply_text or type(error).__name__}")
            except OSError as error:
                said.append(f"{place} cannot be reached: {str(error) or type(error).__name__}")
        raise QueueLeft("; ".join(said))

    def _delete(self, broker: Mapping[str, Any]) -> bool:
        try:
            return self._ask(broker, if_unused=True)
        except amqp.AMQPNotImplementedError:
            # A quorum queue cannot be deleted on this condition, and the connection is closed for
            # having asked. That nobody reads it was seen before, and is looked at once more.
            return self._ask(broker, if_unused=False)

    def _ask(self, broker: Mapping[str, Any], *, if_unused: bool) -> bool:
        with amqp.Connection(**broker) as connection:
            # After the handshake it would wait for ever.
            connection.sock.settimeout(_PATIENCE)
            channel = connection.channel()
            try:
                readers = channel.queue_declare(self.name, passive=True).consumer_count
                if not readers:
                    channel.queue_delete(self.name, if_unused=if_unused)
            except amqp.NotFound as error:
                # The same code is used for a queue whose host is down.
                if "no queue" not in error.reply_text:
                    raise
                return False
            except amqp.PreconditionFailed:
                # Somebody began to in between.
                readers = 1
            if readers:
                raise QueueLeft(f"listeners of ours still read from it: {readers}")
            return True


def of(conf: cfg.ConfigOpts) -> PoolQueue:
    """Say which queue our listener reads from with these options. Nothing is connected.

    :raises QueueLeft: there is no pool, or its bus is not RabbitMQ, or none that can be used.
    """
    options = conf.vmexpire_intake
    if not options.pool:
        # A listener without one reads from queues that are not ours.
        raise QueueLeft("[vmexpire_intake] pool is empty: there is no queue of our own")
    try:
        url = notifications.bus_of(conf)
    except ConfigError as error:
        raise QueueLeft(str(error)) from error
    if url.transport != "rabbit":
        raise QueueLeft(f"the message bus is {url.transport}, and only RabbitMQ's can be deleted")
    virtual_host = url.virtual_host or _VIRTUAL_HOST
    hosts = url.hosts or [oslo_messaging.TransportHost()]
    return PoolQueue(
        options.pool,
        virtual_host,
        {
            _place(host): {
                "host": _place(host),
                "userid": host.username or _ACCOUNT,
                "password": host.password or _ACCOUNT,
                "virtual_host": virtual_host,
                "login_method": _option(conf, url, "rabbit_login_method"),
                "ssl": _tls(conf, url, host),
                "connect_timeout": _PATIENCE,
            }
            for host in hosts
        },
    )


def _place(host: oslo_messaging.TransportHost) -> str:
    return f"{netutils.escape_ipv6(host.hostname or _HOST)}:{host.port or _PORT}"


def _tls(
    conf: cfg.ConfigOpts, url: oslo_messaging.TransportURL, host: oslo_messaging.TransportHost
) -> Mapping[str, Any] | bool:
    """Say how a host is to be trusted, as oslo.messaging does."""
    if not strutils.bool_from_string(_option(conf, url, "ssl")):
        return False
    version = _option(conf, url, "ssl_version")
    authority = _option(conf, url, "ssl_ca_file")
    known = {
        "keyfile": _option(conf, url, "ssl_key_file"),
        "certfile": _option(conf, url, "ssl_cert_file"),
        "ca_certs": authority,
        # Not only a bound: with a version named, amqp checks certificates only if told to.
        "ssl_version": version and _protocol(version),
        # Each host by its own name, before it is told the password.
        "cert_reqs": authority and ssl.CERT_REQUIRED,
        "server_hostname": authority and (host.hostname or _HOST),
    }
    return {name: value for name, value in known.items() if value} or True


def _protocol(version: str) -> int:
    try:
        return _PROTOCOLS[version.lower()]
    except KeyError:
        # No listener could connect with it either.
        raise QueueLeft(
            f"[oslo_messaging_rabbit] ssl_version is {version}, which is none of TLSv1_2, TLSv1_1,"
            " TLSv1 and SSLv23"
        ) from None


def _option(conf: cfg.ConfigOpts, url: oslo_messaging.TransportURL, name: str) -> Any:
    """Read an option of the driver, which the query of the URL may override."""
    return url.query.get(name, conf.oslo_messaging_rabbit[name])
