# SPDX-License-Identifier: Apache-2.0
"""A port on which programs ask: ``/metrics`` for Prometheus, ``/healthz`` for who restarts us."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from wsgiref import simple_server

import prometheus_client as prometheus
from oslo_log import log as logging

LOG = logging.getLogger(__name__)

#: How soon a port is tried again that another process has, in seconds.
_AGAIN = 60.0


class Endpoint:
    """Answers on a port, from :meth:`start` to :meth:`stop`, in threads of its own.

    A port that is taken is said once, and tried again: of two processes on a host, one answers, and
    the other does when the first has gone. Nothing else waits for it.

    :param problems: says what is wrong with the service: sentences, none when it is well.
    """

    def __init__(
        self,
        host: str,
        port: int,
        registry: prometheus.CollectorRegistry,
        problems: Callable[[], Sequence[str]],
        again: float = _AGAIN,
    ) -> None:
        self._host = host
        self._port = port
        self._metrics = prometheus.make_wsgi_app(registry)
        self._problems = problems
        self._again = again
        self._stopping = threading.Event()
        self._guard = threading.Lock()
        self._server: _Server | None = None
        self._thread = threading.Thread(target=self._run, name="vmexpire-metrics", daemon=True)

    def start(self) -> None:
        """Begin to answer, or to try to. After a fork: in the process that serves."""
        self._thread.start()

    def stop(self) -> None:
        """Answer no more."""
        self._stopping.set()
        with self._guard:
            if self._server is not None:
                self._server.shutdown()
        self._thread.join()

    def _run(self) -> None:
        said = False
        while not self._stopping.is_set():
            try:
                server = _Server.on(self._host, self._port)
            except OSError as error:
                if not said:
                    LOG.error(
                        "[vmexpire_metrics] %s port %d cannot be used: %s. The service goes on"
                        " without metrics; it is tried again every minute. Two processes on one"
                        " host need a port each.",
                        self._host,
                        self._port,
                        error.strerror or error,
                    )
                said = True
                self._stopping.wait(self._again)
                continue
            said = False
            self._serve(server)

    def _serve(self, server: _Server) -> None:
        server.set_app(self._answer)
        with self._guard:
            if self._stopping.is_set():
                server.server_close()
                return
            self._server = server
        LOG.info("Metrics and health can be asked for on %s port %d", self._host, self._port)
        with server:
            server.serve_forever(poll_interval=0.1)

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return _text(start_response, "405 Method Not Allowed", "only GET\n")
        if path == "/metrics":
            answer: Iterable[bytes] = self._metrics(environ, start_response)
            return answer
        if path == "/healthz":
            problems = self._problems()
            if problems:
                return _text(
                    start_response, "503 Service Unavailable", "".join(f"{p}\n" for p in problems)
                )
            return _text(start_response, "200 OK", "ok\n")
        return _text(start_response, "404 Not Found", "there are /metrics and /healthz\n")


def _text(start_response: Any, status: str, text: str) -> list[bytes]:
    content = text.encode()
    start_response(
        status,
        [
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Length", str(len(content))),
            ("Cache-Control", "no-store"),
        ],
    )
    return [content]


class _Handler(simple_server.WSGIRequestHandler):
    """Answers without a line in the log, and does not wait for who is slow to ask."""

    timeout = 10

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: a scraper asks several times a minute."""


class _Server(socketserver.ThreadingMixIn, simple_server.WSGIServer):
    daemon_threads = True

    @classmethod
    def on(cls, host: str, port: int) -> _Server:
        """Listen.

        :raises OSError: the port is taken, or the host is not this one.
        """
        (family, _, _, _, address), *_ = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        cls_there = type("_ServerThere", (cls,), {"address_family": family})
        server: _Server = cls_there(address[:2], _Handler)
        return server

    def server_bind(self) -> None:
        """Bind, without the look-up of our own name that http.server makes: DNS may be away."""
        socketserver.TCPServer.server_bind(self)
        host, self.server_port = self.server_address[:2]
        self.server_name = str(host)
        self.setup_environ()
