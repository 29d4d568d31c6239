# SPDX-License-Identifier: Apache-2.0
"""Commands and requests as one of the cloud's accounts."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import requests
from keystoneauth1 import session as keystone_session
from keystoneauth1.identity import v3

from tools.sandbox import Sandbox

# python-blazarclient registers a command that it does not have; openstackclient says so each time.
_NOISE = "Could not load 'reservation_host_unset'"
_PROXIES = {"http_proxy", "https_proxy", "all_proxy"}
_COMMAND_LIMIT = 120.0


@dataclass(frozen=True)
class Said:
    """How a command ended, and its two outputs."""

    code: int
    output: str
    errors: str

    @property
    def text(self) -> str:
        """All that it said, errors last."""
        return self.output + self.errors


@dataclass(frozen=True)
class Answer:
    """An HTTP answer. body: its JSON, or its text if it is none."""

    status: int
    body: Any

    def __str__(self) -> str:
        return f"HTTP {self.status}: {self.body}"


def without_noise(text: str) -> str:
    """Leave out the one line that every command prints and nobody can do anything about."""
    return "".join(line for line in text.splitlines(True) if not line.startswith(_NOISE))


def direct(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment without proxies: the cloud is on this machine's loopback."""
    return {name: value for name, value in environ.items() if name.lower() not in _PROXIES}


class Account:
    """One of the people of the sandbox: `admin`, `alice` or `bob`."""

    def __init__(self, cloud: Sandbox, name: str) -> None:
        self.name = name
        self._env = direct(cloud.env(name))
        auth = v3.Password(
            auth_url=self._env["OS_AUTH_URL"],
            username=self._env["OS_USERNAME"],
            password=self._env["OS_PASSWORD"],
            user_domain_name=self._env["OS_USER_DOMAIN_NAME"],
            project_name=self._env["OS_PROJECT_NAME"],
            project_domain_name=self._env["OS_PROJECT_DOMAIN_NAME"],
        )
        transport = requests.Session()
        transport.trust_env = False
        self._session = keystone_session.Session(auth, session=transport, timeout=30)

    def run(self, argv: Sequence[str]) -> Said:
        """Run a command as after sourcing this account's openrc."""
        done = subprocess.run(
            argv,
            env=self._env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=_COMMAND_LIMIT,
        )
        return Said(done.returncode, done.stdout, without_noise(done.stderr))

    @property
    def project_id(self) -> str:
        return str(self._session.get_project_id())

    @property
    def user_id(self) -> str:
        return str(self._session.get_user_id())

    def request(self, service: str, method: str, path: str, json: Any = None) -> Answer:
        """Ask a service of the catalogue; an error status is an answer like any other."""
        answer = self._session.request(
            path,
            method,
            json=json,
            headers={"Accept": "application/json"},
            endpoint_filter={"service_type": service, "interface": "public"},
            microversion="2.96" if service == "compute" else None,
            raise_exc=False,
            retriable_status_codes=[],
        )
        try:
            return Answer(answer.status_code, answer.json())
        except ValueError:
            return Answer(answer.status_code, answer.text)

    def get(self, service: str, path: str) -> Answer:
        return self.request(service, "GET", path)
