# SPDX-License-Identifier: Apache-2.0
"""An SMTP connection whose whole life is bounded, however slowly the server talks.

smtplib's timeout is for one wait on the socket: a server that sends one byte a second keeps it for
ever. Here every wait gets what is left until a deadline. What this cannot bound is the look-up of
the server's name, which the system's resolver does in its own time (in glibc: seconds for each
name server in resolv.conf, times its attempts).
"""

from __future__ import annotations

import io
import re
import smtplib
import socket
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

#: What one exchange may bring, in bytes; a real one has less than a thousandth of it.
_READ_LIMIT = 1024 * 1024

_FULL_NAME = re.compile(r"[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+")


class Deadline:
    """A moment after which nothing waits any more.

    :param clock: seconds, going up only.
    :param seconds: how far away the moment is.
    """

    def __init__(self, clock: Callable[[], float], seconds: float) -> None:
        self._clock = clock
        self._end = clock() + seconds

    def remaining(self) -> float:
        """Give the seconds that are left.

        :raises TimeoutError: when none are.
        """
        left = self._end - self._clock()
        if left <= 0:
            raise TimeoutError("the exchange took longer than timeout allows")
        return left

    def remaining_or_least(self) -> float:
        """Give the seconds that are left, and a thousandth of one when none are."""
        return max(self._end - self._clock(), 0.001)


class Connection(smtplib.SMTP):
    """An SMTP connection that is opened when it is made, and fails at its deadline.

    :param tls: encrypts from the first byte; None leaves it plain, for ``starttls()`` or for good.
    :raises OSError: when the server cannot be reached in time, or TLS fails.
    :raises smtplib.SMTPException: when it does not greet with 220, or breaks off.
    """

    def __init__(
        self, host: str, port: int, *, deadline: Deadline, tls: ssl.SSLContext | None
    ) -> None:
        self._deadline = deadline
        self._tls = tls
        self._reader: _Reader | None = None
        # A local_hostname that is given spares smtplib's look-ups in the DNS; see connect().
        super().__init__(host, port, local_hostname="localhost")
        self.local_hostname = _own_name(self._connected())

    def set_deadline(self, deadline: Deadline) -> None:
        """Begin another exchange, with a deadline of its own."""
        self._deadline = deadline
        if self._reader is not None:
            self._reader.begin()

    def connect(
        self,
        host: str = "localhost",
        port: int = 0,
        source_address: Any = None,
    ) -> tuple[int, bytes]:
        """Connect to the first of the host's addresses that answers, and read the greeting."""
        self.sock = self._open(host, port)
        self.file = None
        try:
            return self.getreply()
        except BaseException:
            self.close()
            raise

    def _open(self, host: str, port: int) -> socket.socket:
        failure: OSError | None = None
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        ):
            sock = socket.socket(family, kind, protocol)
            try:
                sock.settimeout(self._deadline.remaining())
                sock.connect(address)
                if self._tls is not None:
                    sock.settimeout(self._deadline.remaining())
                    return self._tls.wrap_socket(sock, server_hostname=host)
                return sock
            except OSError as error:
                sock.close()
                failure = failure or error
            except BaseException:
                sock.close()
                raise
        raise failure or OSError(f"{host} has no address")

    def _connected(self) -> socket.socket:
        if self.sock is None:
            raise smtplib.SMTPServerDisconnected("the connection is closed")
        return self.sock

    def send(self, s: ReadableBuffer | str) -> None:
        """Send ``s`` to the server, waiting until the deadline at most."""
        sock = self._connected()
        rest = memoryview(s.encode(self.command_encoding) if isinstance(s, str) else s)
        try:
            while rest:
                sock.settimeout(self._deadline.remaining())
                rest = rest[sock.send(rest) :]
        except OSError as error:
            self.close()
            raise smtplib.SMTPServerDisconnected(f"connection lost: {error}") from error

    def getreply(self) -> tuple[int, bytes]:
        """Read one reply, waiting until the deadline at most."""
        sock = self._connected()
        if self.file is None:
            self._reader = _Reader(sock, lambda: self._deadline.remaining())
            self.file = io.BufferedReader(self._reader)
        reply = super().getreply()
        # A TLS handshake may follow. It takes the socket's timeout as a bound of the whole of it.
        sock.settimeout(self._deadline.remaining_or_least())
        return reply


def _own_name(sock: socket.socket) -> str:
    """Name this machine for EHLO: by its full name if it knows one, else by its address."""
    name = socket.gethostname()
    if _FULL_NAME.fullmatch(name):
        return name
    address = str(sock.getsockname()[0]).partition("%")[0]
    return f"[IPv6:{address}]" if ":" in address else f"[{address}]"


class _Reader(io.RawIOBase):
    """The reading side of a socket, each wait of which is bounded anew."""

    def __init__(self, sock: socket.socket, remaining: Callable[[], float]) -> None:
        self._sock = sock
        self._remaining = remaining
        self.begin()

    def begin(self) -> None:
        """Let the server say as much as it may in one exchange."""
        self._left = _READ_LIMIT

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        self._sock.settimeout(self._remaining())
        count = self._sock.recv_into(buffer)
        self._left -= count
        if self._left < 0:
            raise OSError("the mail server talks without end")
        return count
