# SPDX-License-Identifier: Apache-2.0
"""Which port each service listens on."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Iterable, Mapping

from tools.sandbox.errors import SandboxError

HOST = "127.0.0.1"

DEFAULT_OFFSET = 20000
# Above this the highest service port would come near the ephemeral ports, where any outgoing
# connection of the machine may already sit on it.
MAXIMUM_OFFSET = 22000
FIRST_EPHEMERAL = 32768

# SMTP has 1025, as mail catchers do: 25 is root's, and a machine's own mail server sits on it.
STANDARD_PORTS: Mapping[str, int] = {
    "smtp": 1025,
    "blazar-api": 1234,
    "mariadb": 3306,
    "keystone": 5000,
    "rabbitmq": 5672,
    "horizon": 8080,
    "nova-api": 8774,
    "cinder-api": 8776,
    "placement": 8778,
    "glance": 9292,
    "neutron": 9696,
}

# Ports that nobody outside the sandbox needs to know: any free ones.
AUXILIARY_PORTS = ("rabbitmq-distribution", "epmd")


def service_ports(offset: int) -> dict[str, int]:
    """The standard ports, moved up by `offset`."""
    if not 0 <= offset <= MAXIMUM_OFFSET:
        raise SandboxError(f"port offset {offset} is not between 0 and {MAXIMUM_OFFSET}")
    return {service: port + offset for service, port in STANDARD_PORTS.items()}


def is_free(port: int) -> bool:
    """Whether a server could listen on `port` of the loopback now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: connections in TIME_WAIT are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def is_listening(port: int) -> bool:
    """Whether something accepts connections on `port` of the loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(2)
        return probe.connect_ex((HOST, port)) == 0


def require_free(ports: Mapping[str, int], patience: float = 0.0) -> None:
    """Raise SandboxError that names every port of `ports` which is taken.

    patience: seconds that they may take to become free; the sockets of a process can outlive it
        by a moment
    """
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline and not all(map(is_free, ports.values())):
        time.sleep(0.05)
    taken = [f"{port} ({service})" for service, port in ports.items() if not is_free(port)]
    if taken:
        raise SandboxError(
            f"ports already taken: {', '.join(taken)}; stop what listens there, "
            f"or choose another --port-offset (0 to {MAXIMUM_OFFSET})"
        )


def free_ports(count: int, avoid: Iterable[int]) -> list[int]:
    """`count` free ports below the ephemeral ones, none of `avoid`.

    Taken at random, so that two sandboxes that start together do not choose the same.
    """
    avoided = set(avoid)
    found: list[int] = []
    for port in random.sample(range(10000, FIRST_EPHEMERAL), FIRST_EPHEMERAL - 10000):
        if len(found) == count:
            break
        if port not in avoided and is_free(port):
            found.append(port)
    return found
