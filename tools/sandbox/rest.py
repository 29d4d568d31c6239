# SPDX-License-Identifier: Apache-2.0
"""A very small JSON-over-HTTP client for the services, with the standard library only."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from typing import Any

from tools.sandbox.errors import SandboxError

# The services are on the loopback: a proxy in the caller's environment is none of their business.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def answers(url: str) -> bool:
    """Whether an HTTP server at `url` answers with anything but a failure of its own."""
    try:
        with _OPENER.open(url, timeout=10):
            return True
    except urllib.error.HTTPError as error:
        return error.code < 500
    except (OSError, http.client.HTTPException):
        return False


class Session:
    """Requests with a token of Keystone's."""

    def __init__(self, auth_url: str, username: str, password: str, project: str) -> None:
        domain = {"name": "Default"}
        user = {"name": username, "password": password, "domain": domain}
        scope = {"project": {"name": project, "domain": domain}}
        identity = {"methods": ["password"], "password": {"user": user}}
        self.auth_url = auth_url
        self._headers: dict[str, str] = {}
        body = {"auth": {"identity": identity, "scope": scope}}
        headers, _ = self._send("POST", f"{auth_url}/auth/tokens", body, {})
        self._headers = {"X-Auth-Token": headers["X-Subject-Token"]}

    def get(self, url: str, **headers: str) -> Any:
        return self._send("GET", url, None, headers)[1]

    def post(self, url: str, body: Any, **headers: str) -> Any:
        return self._send("POST", url, body, headers)[1]

    def patch(self, url: str, body: Any) -> Any:
        return self._send("PATCH", url, body, {})[1]

    def put(self, url: str, body: Any = None, **headers: str) -> Any:
        return self._send("PUT", url, body, headers)[1]

    def _send(
        self, method: str, url: str, body: Any, headers: dict[str, str]
    ) -> tuple[http.client.HTTPMessage, Any]:
        raw = isinstance(body, bytes)
        data = body if raw or body is None else json.dumps(body).encode()
        content_type = "application/octet-stream" if raw else "application/json"
        request = urllib.request.Request(
            url,
            data,
            {
                "Content-Type": content_type,
                "Accept": "application/json",
                **self._headers,
                **{name.replace("_", "-"): value for name, value in headers.items()},
            },
            method=method,
        )
        try:
            with _OPENER.open(request, timeout=60) as answer:
                content = answer.read()
                return answer.headers, json.loads(content) if content else None
        except urllib.error.HTTPError as error:
            detail = error.read().decode(errors="replace")[:500]
            raise SandboxError(f"{method} {url}: HTTP {error.code}: {detail}") from error
        except OSError as error:
            raise SandboxError(f"{method} {url}: {error}") from error


def wait_until_answers(url: str, seconds: float) -> bool:
    """Ask `url` until it answers; False if it did not within `seconds`."""
    end = time.monotonic() + seconds
    while not answers(url):
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True
