# SPDX-License-Identifier: Apache-2.0
"""A TCP proxy on loopback that lets the network, or who is behind it, fail in every way they can.

It knows nothing of what it carries, but that one side asks and the other answers: an *exchange* is
what a client sends, up to the first byte of the answer to it. So it is with HTTP, SMTP and the
protocols of MariaDB and PostgreSQL, where an exchange is a request, a command, a statement.

::

    with FaultProxy(("127.0.0.1", 3306)) as proxy:
        connect_to(proxy.port)
        with proxy.broken(RESET):
            ...                                       # every connection is reset
        proxy.break_(LOST, exchange(3, b"COMMIT"))    # the third COMMIT is done, its answer lost
        proxy.break_(RESET, at_random(random.Random(7), 0.1))
        proxy.mend()
        assert proxy.done["lost"] == 1
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import enum
import random
import re
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator

HOST = "127.0.0.1"

#: Host and port, or the path of a unix socket.
Address = tuple[str, int] | str

PAGE = (
    "<html><head><title>{status}</title></head><body><h1>{status}</h1>"
    "<p>No server is available to handle this request.</p></body></html>\n"
)


class How(enum.Enum):
    """How a connection ends that a fault hits."""

    CLOSE = "FIN"
    RESET = "RST"
    HANG = "nothing is sent any more, until the fault is lifted"
    PAGE = "a load balancer's error page, then FIN"
    DELAY = "it does not: it goes on after a while"


@dataclasses.dataclass(frozen=True)
class Fault:
    """What goes wrong with an exchange.

    :param name: under which it is counted.
    :param sent: bytes of what was asked that still reach the target; None for all of them, and then
        the target does what it was asked for, and its answer is waited for.
    :param received: bytes of that answer that still reach the client.
    :param status: of the page.
    :param seconds: of the delay; None until the fault is lifted.
    """

    name: str
    how: How
    sent: int | None = 0
    received: int = 0
    status: int = 503
    seconds: float | None = None

    @property
    def hits_connections(self) -> bool:
        """Whether it can hit a connection on which nothing was asked yet."""
        return self.sent == 0 and self.how not in (How.PAGE, How.DELAY)


#: A closed port. Connections that there are get reset, too: whoever was behind it is gone.
REFUSE = Fault("refuse", How.RESET)
#: Connections are accepted and closed.
DROP = Fault("drop", How.CLOSE)
RESET = Fault("reset", How.RESET)
#: A black hole.
HANG = Fault("hang", How.HANG)
#: In the middle of what is asked.
CUT = Fault("cut", How.RESET, sent=7)
#: The target does what it is asked for, but its answer never arrives.
LOST = Fault("lost", How.RESET, sent=None)


def truncate(received: int) -> Fault:
    """Let the connection be closed after that many bytes of an answer."""
    return Fault("truncate", How.CLOSE, sent=None, received=received)


def page(status: int) -> Fault:
    """Let a load balancer answer in HTML in the place of who is behind it."""
    return Fault(f"page {status}", How.PAGE, status=status)


def delay(seconds: float | None = None) -> Fault:
    """Let each exchange wait before it reaches the target; None until the fault is lifted."""
    return Fault("delay", How.DELAY, seconds=seconds)


@dataclasses.dataclass(frozen=True)
class Moment:
    """When a fault may hit: a connection that is accepted, or an exchange that begins on one.

    :param connection: its number since the fault was set, from 1; 0 for one that was there before.
    :param exchange: likewise; None for a connection that is accepted.
    :param asked: the first bytes of what is asked.
    """

    connection: int
    exchange: int | None
    asked: bytes


#: Whether a fault hits at a moment. Never called twice for one, nor twice at a time.
When = Callable[[Moment], bool]


def always(moment: Moment) -> bool:
    """Let everything be hit."""
    return True


def connection(number: int) -> When:
    """Let one connection be hit, when it is accepted, or else by the first it asks for."""
    hit = False

    def when(moment: Moment) -> bool:
        nonlocal hit
        if hit or moment.connection != number:
            return False
        hit = moment.exchange is not None
        return True

    return when


def exchange(number: int, matching: bytes = b"") -> When:
    """Let one exchange be hit: of those whose first bytes hold this regex, the ``number``-th."""
    return exchanges(range(number, number + 1), matching)


def exchanges(numbers: range, matching: bytes = b"") -> When:
    """Let several exchanges be hit, counted as for :func:`exchange`."""
    pattern, seen = re.compile(matching), 0

    def when(moment: Moment) -> bool:
        nonlocal seen
        if moment.exchange is None or not pattern.search(moment.asked):
            return False
        seen += 1
        return seen in numbers

    return when


def at_random(generator: random.Random, probability: float) -> When:
    """Let exchanges be hit at random."""
    return lambda moment: moment.exchange is not None and generator.random() < probability


class _Set:
    """A fault that is set, and what has come since."""

    def __init__(self, fault: Fault, when: When) -> None:
        self.fault = fault
        self.when = when
        self.connections = 0
        self.exchanges = 0
        self.lifted = threading.Event()


class FaultProxy:
    """Carries connections to a target, and breaks them as it is told.

    :ivar port: where it listens, on 127.0.0.1
    :ivar connections: how many it has accepted
    :ivar exchanges: how many have begun
    :ivar done: what it has broken, by the fault's name
    """

    def __init__(self, target: Address) -> None:
        self._target = target
        self.connections = 0
        self.exchanges = 0
        self.done: collections.Counter[str] = collections.Counter()
        self._guard = threading.RLock()
        self._set: list[_Set] = []
        self._carriers: dict[_Carrier, threading.Thread] = {}
        # Keeps the port ours while it is closed.
        self._place = _bound(0)
        self.port: int = self._place.getsockname()[1]
        self._listener: socket.socket | None = None
        self._acceptor: threading.Thread | None = None

    def __enter__(self) -> FaultProxy:
        self._open()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.mend()
        self._close()
        self.cut_all()
        self._place.close()

    # What goes wrong

    def break_(self, fault: Fault, when: When = always) -> None:
        """Set a fault, on top of those there are; the first that hits wins."""
        with self._guard:
            self._set.append(_Set(fault, when))
        if fault == REFUSE:
            self._close()
            self.cut_all()

    def mend(self) -> None:
        """Lift all faults: what was delayed goes on, what hung is reset."""
        with self._guard:
            lifted, self._set = self._set, []
        for one in lifted:
            one.lifted.set()
        if any(one.fault == REFUSE for one in lifted):
            self._open()

    @contextlib.contextmanager
    def broken(self, fault: Fault, when: When = always) -> Iterator[None]:
        """Set a fault for as long as the block takes."""
        self.break_(fault, when)
        try:
            yield
        finally:
            self.mend()

    def cut_all(self) -> None:
        """Reset all connections there are, and wait until they are."""
        with self._guard:
            carriers = dict(self._carriers)
        for carrier in carriers:
            carrier.cut()
        for thread in carriers.values():
            thread.join()

    # Inside

    def _open(self) -> None:
        self._listener = _bound(self.port)
        self._listener.listen(128)
        self._acceptor = threading.Thread(target=self._accept, args=(self._listener,), daemon=True)
        self._acceptor.start()

    def _close(self) -> None:
        listener, acceptor = self._listener, self._acceptor
        self._listener = self._acceptor = None
        if listener is not None and acceptor is not None:
            # It is waited for, so that nobody is accepted any more once this returns.
            listener.shutdown(socket.SHUT_RDWR)
            acceptor.join()
            listener.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            carrier = _Carrier(self, client)
            thread = threading.Thread(target=self._carry, args=(carrier,), daemon=True)
            with self._guard:
                self.connections += 1
                for one in self._set:
                    one.connections += 1
                    carrier.numbers[one] = one.connections
                self._carriers[carrier] = thread
            thread.start()

    def _carry(self, carrier: _Carrier) -> None:
        try:
            carrier.run(self._target)
        finally:
            with self._guard:
                self._carriers.pop(carrier, None)

    def judge(self, carrier: _Carrier, asked: bytes | None) -> _Set | None:
        """Say which fault hits at this moment; None for none.

        :param asked: None for a connection that was accepted.
        """
        with self._guard:
            if asked is not None:
                self.exchanges += 1
            hit = None
            for one in self._set:
                if asked is not None:
                    one.exchanges += 1
                elif not one.fault.hits_connections:
                    continue
                number = None if asked is None else one.exchanges
                moment = Moment(carrier.numbers.get(one, 0), number, asked or b"")
                if hit is None and one.when(moment):
                    hit = one
            if hit is not None:
                self.done[hit.fault.name] += 1
            return hit


class _Carrier:
    """One connection from a client, and that to the target."""

    def __init__(self, proxy: FaultProxy, client: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._target: socket.socket | None = None
        self._cut = threading.Event()
        self.numbers: dict[_Set, int] = {}

    def cut(self) -> None:
        """Have it end, by its own thread."""
        self._cut.set()
        with contextlib.suppress(OSError):
            self._client.shutdown(socket.SHUT_RD)

    def run(self, address: Address) -> None:
        """Carry until one side is done, or a fault hits."""
        how = How.RESET
        try:
            hit = self._proxy.judge(self, None)
            if hit is None:
                self._target = _connect(address)
                how = self._exchange(self._target)
            else:
                how = self._end(hit)
        except OSError:
            # One side has broken off: so does the other.
            pass
        finally:
            if how is How.RESET or self._cut.is_set():
                for sock in (self._client, self._target):
                    if sock is not None:
                        _reset_on_close(sock)
            self._client.close()
            if self._target is not None:
                self._target.close()

    def _exchange(self, target: socket.socket) -> How:
        client, begins = self._client, True
        hit: _Set | None = None
        left: int | None = None
        while True:
            readable = select.select([client, target], [], [])[0]
            if client in readable:
                data = client.recv(65536)
                if self._cut.is_set():
                    return How.RESET
                if not data:
                    return How.CLOSE
                if begins:
                    begins = False
                    hit = self._proxy.judge(self, data)
                    if hit is not None and hit.fault.how is How.DELAY:
                        self._wait(hit, hit.fault.seconds)
                        hit = None
                    left = hit.fault.sent if hit is not None else None
                target.sendall(data[:left])
                if hit is not None and left is not None:
                    left -= min(left, len(data))
                    if left == 0:
                        return self._end(hit)
            if target in readable:
                data = target.recv(65536)
                if not data:
                    return How.CLOSE
                if hit is not None:
                    client.sendall(data[: hit.fault.received])
                    return self._end(hit)
                begins = True
                client.sendall(data)

    def _end(self, hit: _Set) -> How:
        fault = hit.fault
        if fault.how is How.HANG:
            self._wait(hit, None)
            return How.RESET
        if fault.how is How.PAGE:
            text = PAGE.format(status=fault.status).encode()
            head = (
                f"HTTP/1.1 {fault.status} No Server\r\nContent-Type: text/html\r\n"
                f"Content-Length: {len(text)}\r\nConnection: close\r\n\r\n"
            )
            self._client.sendall(head.encode() + text)
            # Were anything unread when it is closed, that would be a reset, and the page lost.
            self._client.shutdown(socket.SHUT_WR)
            while self._client.recv(65536):
                pass
        return fault.how

    def _wait(self, hit: _Set, seconds: float | None) -> None:
        """Wait until the fault is lifted, or all connections are to end."""
        left = seconds
        while not self._cut.is_set() and not hit.lifted.wait(
            0.05 if left is None else min(left, 0.05)
        ):
            if left is not None:
                left -= 0.05
                if left <= 0:
                    return


def _bound(port: int) -> socket.socket:
    sock = socket.socket()
    # Two sockets have the port: one keeps it, the other listens, or does not.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind((HOST, port))
    return sock


def _connect(address: Address) -> socket.socket:
    if isinstance(address, str):
        sock = socket.socket(socket.AF_UNIX)
    else:
        sock = socket.socket()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        sock.connect(address)
    except OSError:
        sock.close()
        raise
    return sock


def _reset_on_close(sock: socket.socket) -> None:
    if sock.family == socket.AF_INET:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
