# SPDX-License-Identifier: Apache-2.0
"""How much longer Horizon's page of instances takes with our column and actions in it.

Two Horizons run side by side, one with our ``enabled`` files and one without. Both ask one small
HTTP server, which speaks as much of Keystone, Nova, Glance, Neutron and our API as that
page wants to hear. It answers at once: what differs is Horizon's work, and one question more.
"""

from __future__ import annotations

import contextlib
import datetime
import http.server
import json
import os
import pathlib
import random
import re
import statistics
import subprocess
import threading
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import requests

from tests.benchmarks import nova
from tests.benchmarks.report import Figure
from tools.sandbox import config, horizon, ports
from tools.sandbox.layout import HERE, Layout
from tools.sandbox.services import PYTHON

_PROJECT = uuid.UUID(int=0xA).hex
_USER = uuid.UUID(int=0xB).hex
_NEXT_YEAR = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=365)

#: Without a limit, and with nothing used.
_LIMITS = {
    **dict.fromkeys(("maxTotalInstances", "maxTotalCores", "maxTotalRAMSize"), -1),
    **dict.fromkeys(("totalInstancesUsed", "totalCoresUsed", "totalRAMUsed"), 0),
}

#: What the page may take more than without us: a tenth, or so many milliseconds where that is more.
SHARE, LEAST = 1.1, 50.0


class _Handler(http.server.BaseHTTPRequestHandler):
    """Answers what is asked by the first pattern that fits."""

    protocol_version = "HTTP/1.1"
    # Small answers are sent at once.
    disable_nagle_algorithm = True
    server: _Cloud

    def do_GET(self) -> None:
        """Answer a question."""
        path = urllib.parse.urlsplit(self.path).path
        for pattern, body in self.server.answers.items():
            if re.fullmatch(pattern, path):
                self.server.asked.append(path)
                self._send(200, body)
                return
        self._send(404, b'{"error": {"code": 404, "message": "not in this cloud"}}')

    def do_POST(self) -> None:
        """Give a token to everybody."""
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._send(201, self.server.token)

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Subject-Token", "bench")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


class _Cloud(http.server.ThreadingHTTPServer):
    """A project with a number of VMs.

    :ivar asked: the paths that were asked for, and answered.
    """

    daemon_threads = True

    def __init__(self, vms: int) -> None:
        super().__init__((ports.HOST, 0), _Handler)
        self.url = f"http://{ports.HOST}:{self.server_address[1]}"
        self.asked: list[str] = []
        self.token = json.dumps({"token": self._token()}).encode()
        chance = random.Random(vms)
        servers = [_server(number, self.url, chance) for number in range(vms)]
        answers: dict[str, Any] = {
            "/v3/?": {"version": {"id": "v3.14", "status": "stable", "links": _links(self.url)}},
            "/v3/auth/tokens": {"token": self._token()},
            "/v3/(auth|users/[^/]+)/projects": {"projects": [_named(_PROJECT, "web")]},
            "/v3/auth/domains": {"domains": []},
            "/compute/v2.1/?": {
                "version": {
                    "id": "v2.1",
                    "status": "CURRENT",
                    "version": "2.96",
                    "min_version": "2.1",
                    "links": _links(f"{self.url}/compute/v2.1"),
                }
            },
            "/compute/v2.1/servers/detail": {"servers": servers},
            "/compute/v2.1/flavors/detail": {"flavors": []},
            "/compute/v2.1/extensions": {"extensions": []},
            "/compute/v2.1/limits": {"limits": {"absolute": _LIMITS, "rate": []}},
            "/image/v2/images": {"images": []},
            "/network/v2.0/extensions": {"extensions": []},
            "/network/v2.0/ports": {"ports": []},
            "/network/v2.0/networks": {"networks": []},
            "/network/v2.0/subnets": {"subnets": []},
            "/network/v2.0/floatingips": {"floatingips": []},
            "/reservation/v1/vm-expirations": {
                "vm_expirations": [_expiration(server, n) for n, server in enumerate(servers)],
                "vm_expirations_links": [],
            },
        }
        self.answers = {path: json.dumps(body).encode() for path, body in answers.items()}

    def _token(self) -> dict[str, Any]:
        kinds = {
            "identity": "/v3",
            "compute": "/compute/v2.1",
            "image": "/image",
            "network": "/network",
            "reservation": "/reservation/v1",
        }
        domain = {"id": "default", "name": "Default"}
        return {
            "methods": ["password"],
            "user": {"id": _USER, "name": "alice", "domain": domain},
            "project": {"id": _PROJECT, "name": "web", "domain": domain},
            "roles": [{"id": uuid.UUID(int=1).hex, "name": "member"}],
            "issued_at": _stamp(datetime.datetime.now(datetime.UTC)),
            "expires_at": _stamp(_NEXT_YEAR),
            "catalog": [
                {
                    "id": kind,
                    "type": kind,
                    "name": kind,
                    "endpoints": [
                        {
                            "id": f"{kind}-{interface}",
                            "interface": interface,
                            "region": nova.REGION,
                            "region_id": nova.REGION,
                            "url": self.url + path,
                        }
                        for interface in ("public", "internal")
                    ],
                }
                for kind, path in kinds.items()
            ],
        }


def _links(url: str) -> list[dict[str, str]]:
    return [{"rel": "self", "href": f"{url}/"}]


def _named(identifier: str, name: str) -> dict[str, Any]:
    return {"id": identifier, "name": name, "domain_id": "default", "enabled": True}


def _stamp(moment: datetime.datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S}.000000Z"


def _server(number: int, url: str, chance: random.Random) -> dict[str, Any]:
    return nova.make_server(number, url, chance) | {"tenant_id": _PROJECT, "user_id": _USER}


def _expiration(server: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Make up what our API says of a server: that it ends on some day of the next weeks."""
    sample = json.loads(_SAMPLE.read_text())["answer"]["vm_expirations"][0]
    ends_at = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1 + number % 30)
    return sample | {
        "server_id": server["id"],
        "server_name": server["name"],
        "project_id": _PROJECT,
        "user_id": _USER,
        "state": "noticed" if number % 30 < 10 else "active",
        "ends_at": f"{ends_at:%Y-%m-%dT%H:%M}:00Z",
        "latest_allowed_end": f"{ends_at + datetime.timedelta(days=30):%Y-%m-%dT%H:%M}:00Z",
    }


_SAMPLE = pathlib.Path(__file__).parents[2] / "doc/source/user/samples/list_vm_expirations.json"


class _Horizon:
    """A Horizon of its own that runs, and somebody who is logged in to it.

    :param enabled: the directory of what is enabled in it besides Horizon itself.
    """

    def __init__(self, directory: pathlib.Path, cloud: _Cloud, enabled: pathlib.Path) -> None:
        files = Layout(directory)
        files.state.mkdir(parents=True)
        known = {"etc": str(files.etc), "host": ports.HOST, "auth_url": f"{cloud.url}/v3"}
        known |= horizon.variables() | {"enabled": str(enabled)}
        local = files.etc / "horizon" / "local"
        local.mkdir(parents=True)
        (local / "__init__.py").touch()
        (local / "local_settings.py").write_text(config.fill(["horizon.py"], known))
        horizon.provide_static_files(files, _make_static_files)
        (self._port,) = ports.free_ports(1, avoid=[])
        self._url = f"http://{ports.HOST}:{self._port}"
        self._log = (directory / "horizon.log").open("wb")
        self._process = subprocess.Popen(
            [*PYTHON, str(HERE / "wsgi.py"), "openstack_dashboard.wsgi", str(self._port)],
            env={**os.environ, **horizon.environment(files)},
            stdout=self._log,
            stderr=subprocess.STDOUT,
            # Ctrl-C is for the one who measures.
            start_new_session=True,
        )
        self._session = requests.Session()
        self._session.trust_env = False

    def log_in(self) -> None:
        """Wait until it answers, and log in."""
        end = time.monotonic() + 120
        while not ports.is_listening(self._port):
            if self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"Horizon did not start, see {self._log.name}")
            time.sleep(0.1)
        address = f"{self._url}/auth/login/"
        self._session.get(address).raise_for_status()
        form = {
            "csrfmiddlewaretoken": self._session.cookies["csrftoken"],
            "region": "default",
            "domain": "Default",
            "username": "alice",
            "password": "any",
        }
        self._session.post(address, form, headers={"Referer": address}).raise_for_status()
        self._session.cookies.set("API_RESULT_PAGE_SIZE", "1000")

    def instances(self) -> tuple[float, str]:
        """Ask for the page of instances; returns the milliseconds that it took, and the page."""
        began = time.perf_counter()
        answer = self._session.get(f"{self._url}/project/instances/")
        took = time.perf_counter() - began
        answer.raise_for_status()
        return 1000 * took, answer.text

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self._session.close()
        self._log.close()


def _make_static_files(env: Mapping[str, str]) -> None:
    for command in (["collectstatic", "--noinput", "--verbosity=0"], ["compress", "--force"]):
        subprocess.run(
            [*PYTHON, "-m", "django", *command],
            env={**os.environ, **env},
            check=True,
            capture_output=True,
        )


@contextlib.contextmanager
def _cloud(vms: int) -> Iterator[_Cloud]:
    cloud = _Cloud(vms)
    thread = threading.Thread(target=cloud.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield cloud
    finally:
        cloud.shutdown()
        cloud.server_close()
        thread.join()


def measure(
    directory: pathlib.Path, vms: int, times: int, say: Callable[[str], None]
) -> list[Figure]:
    """Ask for the page with and without our part in it, in turns.

    :param directory: where the Horizons have their files.
    :param vms: how many instances are on it.
    :param times: how often each is asked.
    """
    without, ours = directory / "nothing-enabled", horizon.PLUGIN / "enabled"
    without.mkdir()
    with _cloud(vms) as cloud, contextlib.ExitStack() as stack:
        say("starting two Horizons, one with our pages")
        pair = {}
        for name, enabled in (("off", without), ("on", ours)):
            pair[name] = _Horizon(directory / name, cloud, enabled)
            stack.callback(pair[name].close)
        for name, dashboard in pair.items():
            dashboard.log_in()
            # Not measured: what is imported and compiled on first use.
            for _ in range(3):
                _, page = dashboard.instances()
            assert page.count("data-object-id=") == vms, page
            assert page.count("/extend?next=") == (vms if name == "on" else 0)
        cloud.asked.clear()
        say(f"asking for the page of {vms} instances, {times} times with our part and without")
        runs: dict[str, list[float]] = {"off": [], "on": []}
        for _ in range(times):
            for name, dashboard in pair.items():
                runs[name].append(dashboard.instances()[0])
        assert cloud.asked.count("/reservation/v1/vm-expirations") == times
    off, on = (statistics.median(runs[name]) for name in ("off", "on"))
    return [
        Figure(f"Horizon's page of {vms} instances without our part", off, "ms", raw=runs),
        Figure("  with it", on, "ms", at_most=max(SHARE * off, LEAST + off)),
    ]
