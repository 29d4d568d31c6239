# SPDX-License-Identifier: Apache-2.0
"""A Nova that only lists servers, as fast as a socket takes them.

It runs as a process of its own and sends pages that were serialised beforehand straight from a
file, so that what is measured is who asks. Beside ``servers/detail`` it knows what is asked on the
way there: a token with a catalogue, and ``os-services``; and for Blazar's manager Keystone's
version. Nothing but the standard library.
"""

from __future__ import annotations

import argparse
import datetime
import http.server
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import threading
import urllib.parse
import uuid
from typing import Any

USER = "blazar"
PASSWORD = "blazar-secret"
PROJECT = "service"
REGION = "RegionOne"

_SERVICE_PROJECT_ID = uuid.UUID(int=1).hex
_SERVERS_A_PROJECT = 40
_HOSTS = 200
_ROOT = pathlib.Path(__file__).parents[2]


class NovaServer:
    """A running process that lists a number of servers; to be used with ``with``.

    :param servers: how many.
    :param page_size: how many on a page, whatever is asked for (Nova's ``max_limit``).

    :ivar port: where it answers, on 127.0.0.1.
    :ivar servers: how many it lists.
    :ivar page_size: how many on a page.
    :ivar mean_size: bytes of a server's JSON, on average.
    """

    def __init__(self, servers: int, page_size: int = 1000) -> None:
        self.servers = servers
        self.page_size = page_size
        self._directory = tempfile.TemporaryDirectory(prefix="vmx-nova-")
        arguments = (str(servers), str(page_size), self._directory.name)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=_ROOT,
                text=True,
                # Ctrl-C is for the one who measures.
                start_new_session=True,
            )
        except BaseException:
            self._directory.cleanup()
            raise

    def __enter__(self) -> NovaServer:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.__exit__()
            raise RuntimeError("the server that lists servers did not start")
        port, size = line.split()
        self.port = int(port)
        self.mean_size = int(size) / self.servers
        return self

    def __exit__(self, *exc_info: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()  # it ends with its input
        self._process.wait()
        self._process.stdout.close()
        self._directory.cleanup()

    def options(self) -> dict[str, dict[str, str]]:
        """Say the options by group under which our adapters find it."""
        return {
            "DEFAULT": {
                "os_auth_protocol": "http",
                "os_auth_host": "127.0.0.1",
                "os_auth_port": str(self.port),
                "os_auth_prefix": "identity",
                "os_auth_version": "v3",
                "os_admin_username": USER,
                "os_admin_password": PASSWORD,
                "os_admin_project_name": PROJECT,
                "os_admin_user_domain_name": "Default",
                "os_admin_project_domain_name": "Default",
                "os_region_name": REGION,
            },
            "nova": {"endpoint_type": "internal"},
            "vmexpire_intake": {"page_size": str(self.page_size)},
        }


class _Pages:
    """The pages in a file, each found by the marker that asks for it."""

    def __init__(self, servers: int, page_size: int, url: str, path: pathlib.Path) -> None:
        self.path = path
        self.size = 0
        self.projects = [_project(n) for n in range(-(-servers // _SERVERS_A_PROJECT))]
        # Marker -> offset and length; None asks for the first page.
        self.places: dict[str | None, tuple[int, int]] = {}
        chance = random.Random(servers)
        marker: str | None = None
        with path.open("wb") as file:
            for begin in range(0, servers, page_size):
                numbers = range(begin, min(begin + page_size, servers))
                page = [make_server(number, url, chance) for number in numbers]
                following = str(page[-1]["id"]) if len(page) == page_size else None
                self._add(file, marker, page, url, following)
                marker = str(page[-1]["id"])
            self._add(file, marker, [], url, None)

    def _add(
        self,
        file: Any,
        marker: str | None,
        page: list[dict[str, Any]],
        url: str,
        following: str | None,
    ) -> None:
        body: dict[str, Any] = {"servers": page}
        if following is not None:
            link = f"{url}/compute/v2.1/servers/detail?all_tenants=1&marker={following}"
            body["servers_links"] = [{"rel": "next", "href": link}]
        content = json.dumps(body).encode()
        self.places[marker] = (file.tell(), len(content))
        self.size += len(content)
        file.write(content)


def make_server(number: int, url: str, chance: random.Random) -> dict[str, Any]:
    """Make up a server in the shape of microversion 2.90, 2.3 kB of JSON."""
    server_id = str(uuid.UUID(int=chance.getrandbits(128), version=4))
    image_id = str(uuid.UUID(int=number % 7, version=4))
    volume_id = str(uuid.UUID(int=number << 64, version=4))
    project = _project_id(number // _SERVERS_A_PROJECT)
    user = uuid.UUID(int=(4 << 64) + number // (_SERVERS_A_PROJECT // 4)).hex
    host = f"compute-{number % _HOSTS:03}.example.org"
    # Newest first, as Nova lists.
    created = datetime.datetime(2026, 1, 1) - datetime.timedelta(minutes=number)
    stamp = f"{created:%Y-%m-%dT%H:%M:%SZ}"
    address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    mac = f"fa:16:3e:{number >> 16 & 255:02x}:{number >> 8 & 255:02x}:{number & 255:02x}"
    return {
        "id": server_id,
        "name": f"batch-worker-{number:06}",
        "status": "ACTIVE",
        "tenant_id": project,
        "user_id": user,
        "metadata": {"owner-group": "computing", "purpose": "batch processing"},
        "hostId": f"{number:056x}",
        "image": {
            "id": image_id,
            "links": [{"rel": "bookmark", "href": f"{url}/compute/images/{image_id}"}],
        },
        "flavor": {
            "vcpus": 4,
            "ram": 8192,
            "disk": 40,
            "ephemeral": 0,
            "swap": 0,
            "original_name": "m2.large",
            "extra_specs": {"hw:cpu_policy": "shared", "hw_rng:allowed": "true"},
        },
        "created": stamp,
        "updated": stamp,
        "addresses": {
            "internal-network": [
                {
                    "version": version,
                    "addr": found,
                    "OS-EXT-IPS:type": "fixed",
                    "OS-EXT-IPS-MAC:mac_addr": mac,
                }
                for version, found in ((4, address), (6, f"2001:db8::{number:x}"))
            ]
        },
        "accessIPv4": "",
        "accessIPv6": "",
        "links": [
            {"rel": "self", "href": f"{url}/compute/v2.1/servers/{server_id}"},
            {"rel": "bookmark", "href": f"{url}/compute/servers/{server_id}"},
        ],
        "OS-DCF:diskConfig": "AUTO",
        "progress": 0,
        "OS-EXT-AZ:availability_zone": f"zone-{number % 3}",
        "config_drive": "",
        "key_name": f"key-of-{user[-8:]}",
        "OS-SRV-USG:launched_at": f"{created:%Y-%m-%dT%H:%M:%S.000000}",
        "OS-SRV-USG:terminated_at": None,
        "OS-EXT-SRV-ATTR:host": host,
        "OS-EXT-SRV-ATTR:instance_name": f"instance-{number:08x}",
        "OS-EXT-SRV-ATTR:hypervisor_hostname": host,
        "OS-EXT-SRV-ATTR:reservation_id": f"r-{number:08x}",
        "OS-EXT-SRV-ATTR:launch_index": 0,
        "OS-EXT-SRV-ATTR:hostname": f"batch-worker-{number:06}",
        "OS-EXT-SRV-ATTR:kernel_id": "",
        "OS-EXT-SRV-ATTR:ramdisk_id": "",
        "OS-EXT-SRV-ATTR:root_device_name": "/dev/vda",
        "OS-EXT-SRV-ATTR:user_data": None,
        "OS-EXT-STS:task_state": None,
        "OS-EXT-STS:vm_state": "active",
        "OS-EXT-STS:power_state": 1,
        "os-extended-volumes:volumes_attached": [{"id": volume_id, "delete_on_termination": False}],
        "locked": False,
        "locked_reason": None,
        "description": None,
        "tags": ["batch"],
        "trusted_image_certificates": None,
        "host_status": "UP",
        "security_groups": [{"name": "default"}, {"name": "batch-farm"}],
    }


def _project_id(number: int) -> str:
    return uuid.UUID(int=(3 << 64) + number).hex


def _project(number: int) -> dict[str, Any]:
    """Make up a project as Keystone lists it."""
    return {
        "id": _project_id(number),
        "name": f"batch-{number:05}",
        "domain_id": "default",
        "parent_id": "default",
        "is_domain": False,
        "enabled": True,
        "description": "batch processing",
        "tags": ["batch"],
        "options": {},
        "links": {},
        "type": "shared",
    }


def _token(url: str) -> dict[str, Any]:
    def service(kind: str, path: str) -> dict[str, Any]:
        endpoint = {"region": REGION, "region_id": REGION, "url": f"{url}{path}"}
        endpoints = [
            {**endpoint, "id": uuid.uuid4().hex, "interface": interface}
            for interface in ("public", "internal")
        ]
        return {"type": kind, "name": kind, "id": uuid.uuid4().hex, "endpoints": endpoints}

    now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    domain = {"id": "default", "name": "Default"}
    return {
        "token": {
            "methods": ["password"],
            "user": {"id": uuid.UUID(int=2).hex, "name": USER, "domain": domain},
            "project": {"id": _SERVICE_PROJECT_ID, "name": PROJECT, "domain": domain},
            "roles": [{"id": "admin", "name": "admin"}],
            "audit_ids": ["benchmark"],
            "issued_at": f"{now:%Y-%m-%dT%H:%M:%S.%fZ}",
            "expires_at": f"{now + datetime.timedelta(hours=8):%Y-%m-%dT%H:%M:%S.%fZ}",
            "catalog": [service("identity", "/identity/v3"), service("compute", "/compute/v2.1")],
        }
    }


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    url: str
    pages: _Pages

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path.endswith("/auth/tokens"):
            self._answer(201, _token(self.url), {"X-Subject-Token": uuid.uuid4().hex})
        else:
            self._answer(404, _not_found(self.path))

    def do_GET(self) -> None:
        parsed = urllib.parse.urlsplit(self.path)
        if parsed.path.endswith("/servers/detail"):
            marker = urllib.parse.parse_qs(parsed.query).get("marker", [None])[-1]
            place = self.pages.places.get(marker)
            if place is None:
                message = f"marker [{marker}] not found"
                self._answer(400, {"badRequest": {"code": 400, "message": message}})
            else:
                self._send_page(*place)
        elif parsed.path.rstrip("/") == "/identity/v3/projects":
            self._answer(200, {"projects": self.pages.projects, "links": {}})
        elif parsed.path.endswith("/os-services"):
            self._answer(200, _services())
        elif parsed.path.rstrip("/") == "/identity/v3":
            self._answer(200, {"version": _version(self.url)})
        else:
            self._answer(404, _not_found(self.path))

    def _send_page(self, offset: int, length: int) -> None:
        self._head(200, length, {})
        with self.pages.path.open("rb") as file:
            self.connection.sendfile(file, offset, length)

    def _answer(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(body).encode()
        self._head(status, len(content), headers or {})
        self.wfile.write(content)

    def _head(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        headers = {"Content-Type": "application/json", "Content-Length": str(length), **headers}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _version(url: str) -> dict[str, Any]:
    return {
        "id": "v3.14",
        "status": "stable",
        "updated": "2020-04-07T00:00:00Z",
        "links": [{"rel": "self", "href": f"{url}/identity/v3/"}],
        "media-types": [
            {
                "base": "application/json",
                "type": "application/vnd.openstack.identity-v3+json",
            }
        ],
    }


def _not_found(path: str) -> dict[str, Any]:
    return {"itemNotFound": {"code": 404, "message": f"{path} is not part of this benchmark"}}


def _services() -> dict[str, Any]:
    return {
        "services": [
            {
                "id": str(uuid.UUID(int=number, version=4)),
                "binary": "nova-compute",
                "host": f"compute-{number:03}.example.org",
                "zone": f"zone-{number % 3}",
                "status": "enabled",
                "state": "up",
                "updated_at": "2026-01-01T00:00:00.000000",
                "disabled_reason": None,
                "forced_down": False,
            }
            for number in range(_HOSTS)
        ]
    }


def main() -> None:
    """Serve until the standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("servers", type=int)
    parser.add_argument("page_size", type=int)
    parser.add_argument("directory", type=pathlib.Path)
    arguments = parser.parse_args()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    _Handler.url = f"http://127.0.0.1:{server.server_address[1]}"
    _Handler.pages = _Pages(
        arguments.servers, arguments.page_size, _Handler.url, arguments.directory / "pages"
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write(f"{server.server_address[1]} {_Handler.pages.size}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
