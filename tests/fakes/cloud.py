# SPDX-License-Identifier: Apache-2.0
"""A small cloud on one port: Keystone v3, Nova 2.90, Glance v2, Cinder v3, as far as we use them.

The JSON has the shape of the real services' (a test holds Nova's answers against Nova's own
schemas), and state changes take their time: a stopped VM shows ``powering-off`` first, an image is
``queued`` and ``saving`` before it is ``active``. Requests can be made to fail in every way that a
network, a proxy or a broken service can.

::

    with FakeCloud() as cloud:
        cloud.configure(conf)
        vm = cloud.add_server(project_id=cloud.add_project("web"))
        cloud.fault(r"/servers/.*/action", close=True, after=True, times=1)
"""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import socket
import struct
import threading
import time
import urllib.parse
from collections.abc import Callable
from typing import Any

from tests.fakes import compute, identity, image, servers, volume, wire


class FakeCloud:
    """A cloud with one service account (administrator), and nothing else at first.

    :ivar identity: users, projects, tokens
    :ivar compute: servers; ``compute.reads`` is how many GETs see a state in transition
    :ivar volume: volumes
    :ivar image: images; ``image.reads`` likewise, None to wait for ``image.finish``
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.log: list[wire.Request] = []
        self._faults: list[wire.Fault] = []
        self._stopping = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.cloud = self
        self.port: int = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.identity = identity.Identity(self.url)
        self.image = image.Image(self.identity)
        self.volume = volume.Volume(self.identity)
        self.compute = compute.Compute(self.url, self.identity, self.image, self.volume)
        self._services: dict[str, Callable[[str, wire.Request], wire.Response]] = {
            "/identity": self.identity.handle,
            "/compute/v2.1": self.compute.handle,
            "/image": self.image.handle,
            "/volume/v3": self.volume.handle,
        }
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> FakeCloud:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    # What is in it

    def add_server(self, **attributes: Any) -> str:
        """Add a VM and return its UUID; see :class:`tests.fakes.servers.Vm` for the attributes.

        Its project and user are made when they are not given.
        """
        with self.lock:
            attributes.setdefault("project_id", self.identity.any_project())
            attributes.setdefault("user_id", self.identity.any_user())
            return self.compute.add(**attributes)

    def attach(
        self, server_id: str, *, delete_on_termination: bool = True, **attributes: Any
    ) -> str:
        """Add a volume, attach it to a VM, and return its id; the first of all is ``/dev/vda``.

        :param attributes: see :class:`tests.fakes.volume.Disk`; its project is the VM's
        """
        with self.lock:
            vm = self.compute.vms[server_id]
            attributes = {"project_id": vm.project_id, "status": "in-use", **attributes}
            volume_id = self.volume.add(**attributes)
            # The root disk of a VM that does not boot from a volume is /dev/vda, and no volume.
            number = len(vm.volumes) + (vm.image_id is not None)
            vm.volumes[volume_id] = servers.Attached(
                f"/dev/vd{'abcdefgh'[number]}", delete_on_termination
            )
            return volume_id

    def add_user(self, name: str = "alice", **attributes: Any) -> str:
        """Add a user and return its id: ``email``, ``enabled``, ``domain_id``, ``password``, …"""
        with self.lock:
            return self.identity.add_user(name, **attributes)

    def add_project(self, name: str = "web", **attributes: Any) -> str:
        """Add a project and return its id: ``enabled``, ``tags``, ``domain_id``, any property."""
        with self.lock:
            return self.identity.add_project(name, **attributes)

    def add_image(self, **attributes: Any) -> str:
        """Add an image and return its id."""
        with self.lock:
            return self.image.add(**attributes)

    # How it is reached

    def conf_overrides(self) -> dict[str, dict[str, Any]]:
        """Return the options by group under which a Blazar with us in it finds this cloud."""
        return {
            "DEFAULT": {
                "os_auth_protocol": "http",
                "os_auth_host": "127.0.0.1",
                "os_auth_port": str(self.port),
                "os_auth_prefix": "identity",
                "os_auth_version": "v3",
                "os_admin_username": identity.SERVICE_USER,
                "os_admin_password": identity.SERVICE_PASSWORD,
                "os_admin_project_name": identity.SERVICE_PROJECT,
                "os_admin_user_domain_name": "Default",
                "os_admin_project_domain_name": "Default",
                "os_region_name": identity.REGION,
            },
            "nova": {"endpoint_type": "internal"},
        }

    def configure(self, conf: Any) -> None:
        """Set these options on ``conf``, on which they have to be registered."""
        for group, options in self.conf_overrides().items():
            for name, value in options.items():
                conf.set_override(name, value, group=None if group == "DEFAULT" else group)

    # What goes wrong, and what was asked

    def fault(self, path: str, **how: Any) -> wire.Fault:
        """Make the requests whose path (``/compute/v2.1/servers/…``) matches this regex fail.

        The latest fault wins. It lasts until ``fault.remove()``, or for ``times`` requests.

        :param how: ``method``; ``times``; and any of

            - ``status``: this status, with the service's own error JSON and ``message``; or with
              ``body`` (JSON, or a ``str`` as it is); or with a proxy's ``html`` page; or ``empty``
            - ``delay``: seconds before the request is looked at
            - ``hang``: never answer
            - ``truncate``: the right answer, cut in the middle
            - ``close``: the connection is reset instead of an answer
            - ``rewrite``: a function from the right answer's JSON to that which is sent
            - ``after``: do what was asked for, and only then go wrong
        """
        fault = wire.Fault(re.compile(path), **how)
        with self.lock:
            self._faults.insert(0, fault)
        return fault

    def requests(self, path: str = "", method: str | None = None) -> list[wire.Request]:
        """Return the requests so far, oldest first, whose path matches this regex."""
        with self.lock:
            return [
                request
                for request in self.log
                if re.search(path, request.path) and method in (None, request.method)
            ]

    # Inside

    def serve(self, request: wire.Request, handler: _Handler) -> None:
        """Answer a request, or fail to."""
        with self.lock:
            self.log.append(request)
            fault = next((fault for fault in self._faults if fault.matches(request)), None)
            if fault is not None:
                fault.hits += 1
        if fault is None:
            handler.answer(self._respond(request))
            return
        if fault.delay:
            self._stopping.wait(fault.delay)
        broken = fault.replaces or fault.hang or fault.close
        response = wire.Response(500)
        if fault.after or not broken:
            response = self._respond(request)
        if fault.hang:
            self._stopping.wait()
            handler.reset()
        elif fault.close:
            handler.reset()
        elif fault.replaces:
            handler.answer(self._broken(fault, request, response))
        elif fault.rewrite is not None:
            response.body = fault.rewrite(response.body)
            handler.answer(response)
        else:
            handler.answer(response, truncate=fault.truncate)

    def _respond(self, request: wire.Request) -> wire.Response:
        for prefix, handle in self._services.items():
            if request.path.startswith(prefix):
                with self.lock:
                    try:
                        response = handle(request.path.removeprefix(prefix), request)
                    except wire.HTTPError as exc:
                        response = exc.response
                    # Not sent yet: later changes must not show in it.
                    response.body = json.loads(json.dumps(response.body))
                    return response
        return wire.Response(404, wire.HTML.format(status=404))

    def _broken(
        self, fault: wire.Fault, request: wire.Request, right: wire.Response
    ) -> wire.Response:
        status = fault.status or right.status if fault.after else fault.status or 200
        if fault.empty:
            return wire.Response(status)
        if fault.html:
            return wire.Response(status, wire.HTML.format(status=status))
        if fault.body is not None:
            return wire.Response(status, fault.body)
        for prefix, error in {
            "/identity": identity.error,
            "/compute": servers.error,
            "/image": image.error,
            "/volume": volume.error,
        }.items():
            if request.path.startswith(prefix):
                return error(status, fault.message)
        return wire.Response(status)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    cloud: FakeCloud

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that went away


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def _handle(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        text = self.rfile.read(length) if length else b""
        url = urllib.parse.urlsplit(self.path)
        self._request = wire.Request(
            self.command,
            url.path,
            urllib.parse.parse_qs(url.query, keep_blank_values=True),
            json.loads(text) if text else None,
            {key.lower(): value for key, value in self.headers.items()},
        )
        self.server.cloud.serve(self._request, self)

    do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = _handle

    def answer(self, response: wire.Response, truncate: bool = False) -> None:
        """Send an answer, or only half of its body."""
        body = response.encoded()
        self._request.status = response.status
        self.send_response(response.status)
        kind = "text/html" if isinstance(response.body, str) else "application/json"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Openstack-Request-Id", f"req-{time.monotonic_ns()}")
        for key, value in response.headers.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if truncate else body)
        self.close_connection = self.close_connection or truncate

    def reset(self) -> None:
        """Break the connection off."""
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()
        self.close_connection = True

    def finish(self) -> None:
        """Flush what there is, unless the connection was broken off."""
        with contextlib.suppress(OSError, ValueError):
            super().finish()

    def log_message(self, format: str, *args: Any) -> None:
        pass
