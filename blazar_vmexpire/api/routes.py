# SPDX-License-Identifier: Apache-2.0
"""Declaring routes: what goes in and who may, in one place, where tests and documents find it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flask
from blazar import context as blazar_context
from blazar import exceptions
from blazar.api.v1 import utils

from blazar_vmexpire import extension
from blazar_vmexpire.api import requests, schemas
from blazar_vmexpire.api.errors import GenerationMoved
from blazar_vmexpire.api.reading import Reading

#: A part of a path that stands for something, with or without a converter of Flask's.
_VARIABLE = re.compile(r"<(?:\w+:)?(\w+)>")

_Function = Callable[..., flask.Response]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """A route."""

    method: str
    path: str
    """As Flask writes it, from the root: ``/v1/vm-expirations/<server_id>``."""
    name: str
    summary: str
    """The first line of the function's docstring."""
    rules: tuple[str, ...]
    """Rules of the policy that decide about it."""
    query: Mapping[str, Any] | None
    """JSON schema of its query; None: it takes none."""
    body: Mapping[str, Any] | None
    """JSON schema of its body; None: it takes none."""
    answer: Mapping[str, Any] | None
    """JSON schema of what it answers; None: nothing."""
    status: int

    @property
    def shown_path(self) -> str:
        """As documents write it: ``/v1/vm-expirations/{server_id}``."""
        return _VARIABLE.sub(r"{\1}", self.path)


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """A request whose query and body were found to be as they have to be."""

    query: Mapping[str, Any]
    body: Mapping[str, Any]

    @property
    def context(self) -> Any:
        """Who asks: a ``BlazarContext``."""
        return blazar_context.current()

    @property
    def if_match(self) -> list[str] | None:
        """The generations of which one is meant, as ``If-Match`` says; None: any."""
        tags = flask.request.if_match
        if tags.star_tag or "If-Match" not in flask.request.headers:
            return None
        # A weak one matches nothing; an empty one is None here.
        return sorted(tag or "" for tag in tags.as_set())

    @property
    def reading(self) -> Reading:
        """What is read with."""
        return Reading.of(flask.current_app)


class Routes(utils.Rest):  # type: ignore[misc]
    """Blazar's helper for routes, with schemas, and with our refusals told as its API tells them.

    :param name: of the blueprint.
    :param path: what all paths begin with, below ``/v1``.
    """

    def __init__(self, name: str, module: str, path: str) -> None:
        super().__init__(name, module, url_prefix=path)
        self.declared: list[Declared] = []
        self.before_request(requests.prepare)

    def serve(
        self,
        method: str,
        path: str,
        *,
        rules: tuple[str, ...],
        query: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        answer: Mapping[str, Any] | None = None,
        status: int = 200,
    ) -> Callable[[_Function], _Function]:
        """Have a function answer a route: with a :class:`Call`, and what is in the path.

        What it may raise beside Blazar's own errors: :class:`blazar_vmexpire.extension.Refused`.
        """

        def decorate(function: _Function) -> _Function:
            self.declared.append(
                Declared(
                    method=method,
                    path=f"/v1{self.url_prefix}{path}",
                    name=function.__name__,
                    summary=(inspect.getdoc(function) or "").partition("\n")[0],
                    rules=rules,
                    query=query,
                    body=body,
                    answer=answer,
                    status=status,
                )
            )

            @functools.wraps(function)
            def handle(request: flask.Request, data: Any = None, **ids: str) -> flask.Response:
                asked = schemas.query(request.args, query or schemas.NOTHING)
                if method in ("POST", "PUT", "PATCH"):
                    schemas.check(data, body or schemas.NOTHING)
                try:
                    with refusals():
                        return function(Call(asked, data or {}), **ids)
                except GenerationMoved as error:
                    # With a name: Blazar's own errors have but their status for one.
                    return utils.render_error_message(  # type: ignore[no-any-return]
                        error.code, str(error), error.name
                    )

            self.route(path, methods=[method], status_code=status)(handle)
            return function

        return decorate


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Raise a refusal of ours as one that Blazar's API knows how to tell."""
    try:
        yield
    except extension.NotFound as error:
        raise exceptions.NotFound(str(error)) from error
    except extension.NotAllowed as error:
        raise exceptions.InvalidInput(str(error)) from error
