# SPDX-License-Identifier: Apache-2.0
"""Requests, answers and faults of the fake cloud."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass
class Request:
    """A request as it came over the socket, and what it was answered (for the log)."""

    method: str
    path: str
    query: dict[str, list[str]]
    body: Any
    headers: dict[str, str]
    status: int | None = None

    def param(self, name: str, default: str | None = None) -> str | None:
        return self.query.get(name, [default])[-1]

    @property
    def token(self) -> str | None:
        return self.headers.get("x-auth-token")


@dataclasses.dataclass
class Response:
    """An answer: ``body`` is sent as JSON, a ``str`` as it is, None as nothing."""

    status: int
    body: Any = None
    headers: dict[str, str] = dataclasses.field(default_factory=dict)

    def encoded(self) -> bytes:
        if self.body is None:
            return b""
        if isinstance(self.body, str):
            return self.body.encode()
        return json.dumps(self.body).encode()


class HTTPError(Exception):
    """An answer that a handler gives up with."""

    def __init__(self, response: Response) -> None:
        super().__init__(response)
        self.response = response


HTML = (
    "<html><head><title>{status}</title></head><body><h1>{status}</h1>"
    "<p>Answered by the proxy.</p></body></html>"
)


@dataclasses.dataclass
class Fault:
    """What goes wrong with the requests that match; see :meth:`FakeCloud.fault`."""

    pattern: re.Pattern[str]
    method: str | None = None
    status: int | None = None
    message: str = "made to fail"
    body: Any = None
    html: bool = False
    empty: bool = False
    delay: float = 0.0
    hang: bool = False
    truncate: bool = False
    close: bool = False
    after: bool = False
    rewrite: Callable[[Any], Any] | None = None
    times: int | None = None
    hits: int = 0

    def matches(self, request: Request) -> bool:
        if self.times is not None and self.hits >= self.times:
            return False
        if self.method is not None and self.method != request.method:
            return False
        return self.pattern.search(request.path) is not None

    @property
    def replaces(self) -> bool:
        """Whether the answer is the fault's own."""
        return self.html or self.empty or self.status is not None or self.body is not None

    def remove(self) -> None:
        """End the fault."""
        self.times = 0
