# SPDX-License-Identifier: Apache-2.0
"""The proxy that breaks connections does to them what it says, and counts it."""

from __future__ import annotations

import contextlib
import pathlib
import random
import socket
import socketserver
import threading
from collections.abc import Iterator

import pytest

from tests.fault_proxy import (
    CUT,
    DROP,
    HANG,
    HOST,
    LOST,
    REFUSE,
    RESET,
    Fault,
    FaultProxy,
    at_random,
    connection,
    delay,
    exchange,
    exchanges,
    page,
    truncate,
)


class Echo:
    """Answers each line with ``you said`` and the line; keeps what arrived."""

    def __init__(self, server: socketserver.BaseServer) -> None:
        self.server = server
        self.arrived: list[bytes] = []

        class Handler(socketserver.StreamRequestHandler):
            def handle(handler) -> None:
                with contextlib.suppress(ConnectionError):
                    while line := handler.rfile.readline():
                        self.arrived.append(line)
                        handler.wfile.write(b"you said " + line)

        server.RequestHandlerClass = Handler


@contextlib.contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[Echo]:
    echo = Echo(server)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield echo
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Tcp(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False


class Unix(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False


@pytest.fixture
def echo() -> Iterator[Echo]:
    with serving(Tcp((HOST, 0), socketserver.BaseRequestHandler)) as running:
        yield running


@pytest.fixture
def proxy(echo: Echo) -> Iterator[FaultProxy]:
    with FaultProxy((HOST, echo.server.server_address[1])) as running:  # type: ignore[arg-type]
        yield running


def client(proxy: FaultProxy) -> socket.socket:
    return socket.create_connection((HOST, proxy.port), timeout=10)


def ask(sock: socket.socket, line: bytes) -> bytes:
    """Send a line and return what comes until its end, or that of the connection."""
    sock.sendall(line + b"\n")
    return hear(sock)


def hear(sock: socket.socket) -> bytes:
    answer = b""
    while not answer.endswith(b"\n") and (more := sock.recv(1000)):
        answer += more
    return answer


def test_what_is_whole_is_carried(proxy: FaultProxy, echo: Echo) -> None:
    with client(proxy) as one, client(proxy) as other:
        assert ask(one, b"a") == b"you said a\n"
        assert ask(other, b"b") == b"you said b\n"
        assert ask(one, b"c" * 500_000) == b"you said " + b"c" * 500_000 + b"\n"
    assert proxy.connections == 2
    assert proxy.exchanges == 3
    assert not proxy.done


def test_the_target_may_be_a_unix_socket(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "s")
    with (
        serving(Unix(path, socketserver.BaseRequestHandler)),
        FaultProxy(path) as proxy,
        client(proxy) as sock,
    ):
        assert ask(sock, b"a") == b"you said a\n"


def test_a_target_that_is_not_there_is_a_reset() -> None:
    with socket.socket() as nobody:
        nobody.bind((HOST, 0))
        with FaultProxy(nobody.getsockname()) as proxy, pytest.raises(ConnectionResetError):
            ask(client(proxy), b"a")


def test_refused(proxy: FaultProxy) -> None:
    there_before = client(proxy)
    assert ask(there_before, b"a") == b"you said a\n"
    with proxy.broken(REFUSE):
        with pytest.raises(ConnectionError):
            ask(there_before, b"b")
        for _ in range(3):
            with pytest.raises(ConnectionRefusedError):
                client(proxy)
    with client(proxy) as sock:
        assert ask(sock, b"c") == b"you said c\n"


def test_dropped(proxy: FaultProxy, echo: Echo) -> None:
    with client(proxy) as there_before:
        assert ask(there_before, b"a") == b"you said a\n"
        with proxy.broken(DROP):
            with client(proxy) as sock:
                assert hear(sock) == b""
            assert ask(there_before, b"b") == b""
    assert proxy.done == {"drop": 2}
    assert echo.arrived == [b"a\n"]


def test_reset(proxy: FaultProxy) -> None:
    # While the machine is busy it may come before the connection is ours.
    with proxy.broken(RESET), pytest.raises(ConnectionResetError), client(proxy) as sock:
        hear(sock)


def test_black_hole(proxy: FaultProxy, echo: Echo) -> None:
    with client(proxy) as sock:
        with proxy.broken(HANG, exchange(1)):
            sock.sendall(b"a\n")
            sock.settimeout(0.05)
            with pytest.raises(TimeoutError):
                sock.recv(1)
            sock.settimeout(10)
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    assert echo.arrived == []


@pytest.mark.parametrize(
    ("fault", "arrived", "heard"),
    [
        (RESET, b"", b""),
        (CUT, b"0123456", b""),
        (LOST, b"0123456789\n", b""),
        (truncate(4), b"0123456789\n", b"you "),
        (Fault("hang", HANG.how, sent=None, received=3), b"0123456789\n", b"you"),
    ],
)
def test_how_far_an_exchange_comes(
    proxy: FaultProxy, echo: Echo, fault: Fault, arrived: bytes, heard: bytes
) -> None:
    with client(proxy) as sock:
        proxy.break_(fault, exchange(1))
        sock.sendall(b"0123456789\n")
        got = b""
        if heard:
            while len(got) < len(heard):
                got += sock.recv(100)
            proxy.mend()
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(100) == b""
    assert got == heard
    proxy.cut_all()
    # What the target has got of a line that was cut, it reads when its connection ends.
    if arrived.endswith(b"\n"):
        assert echo.arrived == [arrived]
    else:
        assert arrived.startswith(b"".join(echo.arrived))
    assert proxy.done == {fault.name: 1}


def test_a_load_balancers_page(proxy: FaultProxy, echo: Echo) -> None:
    with proxy.broken(page(503)), client(proxy) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        answer = b""
        while more := sock.recv(1000):
            answer += more
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"<h1>503</h1>" in answer
    assert echo.arrived == []


def test_delayed_until_it_is_lifted(proxy: FaultProxy, echo: Echo) -> None:
    with client(proxy) as sock:
        with proxy.broken(delay()):
            sock.sendall(b"a\n")
            sock.settimeout(0.05)
            with pytest.raises(TimeoutError):
                sock.recv(1)
            assert echo.arrived == []
            sock.settimeout(10)
        assert hear(sock) == b"you said a\n"
        with proxy.broken(delay(0.01)):
            assert ask(sock, b"b") == b"you said b\n"
    assert proxy.done == {"delay": 2}


def test_one_connection_is_hit(proxy: FaultProxy) -> None:
    proxy.break_(DROP, connection(2))
    heard = []
    for _ in range(3):
        with client(proxy) as sock:
            try:
                heard.append(ask(sock, b"a"))
            except ConnectionError:
                heard.append(b"")
    assert heard == [b"you said a\n", b"", b"you said a\n"]
    proxy.mend()
    proxy.break_(page(500), connection(1))
    with client(proxy) as sock:
        assert b"500" in ask(sock, b"a")


def test_some_exchanges_are_hit_of_those_that_match(proxy: FaultProxy, echo: Echo) -> None:
    proxy.break_(LOST, exchanges(range(2, 4), b"^write"))
    heard = []
    for line in (b"write 1", b"read", b"write 2", b"write 3", b"read", b"write 4"):
        with client(proxy) as sock:
            try:
                heard.append(ask(sock, line).strip())
            except ConnectionResetError:
                heard.append(b"")
    assert heard == [
        b"you said write 1",
        b"you said read",
        b"",
        b"",
        b"you said read",
        b"you said write 4",
    ]
    assert len(echo.arrived) == 6


def test_what_is_hit_at_random_follows_from_the_seed(proxy: FaultProxy) -> None:
    def hits(seed: int) -> list[bool]:
        found = []
        with proxy.broken(DROP, at_random(random.Random(seed), 0.3)):
            for _ in range(40):
                with client(proxy) as sock:
                    found.append(ask(sock, b"a") == b"")
        return found

    first = hits(1)
    assert first == hits(1)
    assert first != hits(2)
    assert 3 <= sum(first) <= 25
