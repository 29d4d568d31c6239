# SPDX-License-Identifier: Apache-2.0
"""One HTTP call to an OpenStack service, and what its answer is worth."""

from __future__ import annotations

import datetime
import re
import urllib.parse
from collections.abc import Collection, Mapping
from typing import Any

from keystoneauth1 import adapter
from keystoneauth1 import session as ksa_session

from blazar_vmexpire import tracing
from blazar_vmexpire.cloud import errors
from blazar_vmexpire.cloud.session import Endpoints

_VERSION = re.compile(r"/v\d+(\.\d+)?$")
_TAGS = re.compile(r"<[^>]*>")


class Rest:
    """A service's REST API, reached through the catalogue.

    :param service: ``nova``, ``glance``, ``cinder`` or ``keystone``, for the messages
    :param service_type: its type in the catalogue
    :param version: path of the API version (``/v3``) that is put behind the service's root, for
        services whose catalogue entry may be written with or without it; None means that the entry
        is used as it is
    :param microversion: sent with every request, if any
    """

    def __init__(
        self,
        session: ksa_session.Session,
        endpoints: Endpoints,
        *,
        service: str,
        service_type: str,
        version: str | None = None,
        microversion: str | None = None,
    ) -> None:
        self.service = service
        self._version = version
        self._adapter = adapter.Adapter(
            session,
            service_type=service_type,
            interface=list(endpoints.interfaces),
            region_name=endpoints.region_name,
            default_microversion=microversion,
            connect_retries=0,
            status_code_retries=0,
        )

    def call(
        self,
        method: str,
        path: str,
        what: str,
        *,
        expected: Collection[int],
        about: str | None = None,
        params: Mapping[str, Any] | list[tuple[str, str]] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Make one call and return the JSON of its answer; None if the answer has no body.

        :param path: below the endpoint, such as ``/servers/1234``
        :param what: the call in words, for the messages
        :param expected: the statuses that mean success; any other below 400 is no answer of this
            API, hence Unavailable
        :param about: id of the one thing the call is about. Only a 404 that names it becomes
            NotFound: a service that is reached under a wrong path also says 404, in its own JSON,
            about anything
        :raises CloudError: one of its subclasses
        """
        if about == "":
            # The path would be that of the whole collection.
            raise errors.Refused(self.service, what, "there is no id to ask for")
        try:
            response = self._adapter.request(
                self._url(path),
                method,
                raise_exc=False,
                params=params or {},
                json=body,
                headers={"Accept": "application/json", **(headers or {})},
                # The service logs it beside the id of its own.
                global_request_id=tracing.current(),
            )
        except Exception as exc:
            # keystoneauth, requests and urllib3 raise all sorts, down to KeyError for a token
            # without a catalogue. Whatever it is, there is no answer.
            raise self.unavailable(what, in_words(exc)) from exc
        return self.judge(response, what, expected=expected, about=about)

    def judge(
        self, response: Any, what: str, *, expected: Collection[int], about: str | None = None
    ) -> Any:
        """Return the JSON of an answer, None if it has no body, or raise what it is worth.

        :param response: of the ``requests`` library; for the other parameters see :meth:`call`
        :raises CloudError: one of its subclasses
        """
        status: int = response.status_code
        request_id: str | None = response.headers.get("x-openstack-request-id")
        try:
            answer = response.json() if response.text else None
            is_json = True
        except (ValueError, RecursionError):
            answer, is_json = None, False
        if status in expected:
            if not is_json:
                raise self.unavailable(what, "the answer is not JSON", status, request_id)
            return answer
        message = _error_message(self.service, status, answer)
        if status in (401, 429) or not 400 <= status < 500:
            detail = message or "is no answer of this API"
            raise self.unavailable(what, detail, status, request_id)
        if message is None:
            detail = f"without an error message of {self.service}'s own: something else answered"
            raise self.unavailable(what, detail, status, request_id)
        kind: type[errors.CloudError] = errors.Refused
        if status == 409:
            kind = errors.Conflict
        elif status == 404:
            kind = errors.NotFound if self._is_about(about, message) else errors.Unavailable
        raise kind(self.service, what, message, status=status, request_id=request_id)

    def unavailable(
        self, what: str, detail: str, status: int | None = None, request_id: str | None = None
    ) -> errors.Unavailable:
        """Make (not raise) an Unavailable of this service."""
        return errors.Unavailable(self.service, what, detail, status=status, request_id=request_id)

    def _url(self, path: str) -> str:
        if self._version is None:
            return path
        root = self._adapter.get_endpoint()
        if root is None:
            # The session finds out the same, and says so in its own words.
            return path
        return _VERSION.sub("", root.rstrip("/")) + self._version + path

    def _is_about(self, about: str | None, message: str) -> bool:
        if about is None:
            return False
        if self.service == "keystone":
            # With a directory behind it, Keystone names the directory's id, not its own.
            return about in message or message.startswith("Could not find")
        return about in message


def path(*segments: str) -> str:
    """Join segments to a path: an id that came from outside stays one segment of it."""
    return "".join("/" + urllib.parse.quote(segment, safe="") for segment in segments)


def next_marker(links_or_href: Any) -> str | None:
    """Find the marker of the next page.

    :param links_or_href: Nova's list of links, or Glance's ``next``: only the marker is taken from
        it, since the host in it may be one that cannot be reached from here
    """
    if isinstance(links_or_href, list):
        for link in links_or_href:
            if isinstance(link, dict) and link.get("rel") == "next":
                return next_marker(link.get("href"))
    if not isinstance(links_or_href, str):
        return None
    query = urllib.parse.parse_qs(urllib.parse.urlsplit(links_or_href).query)
    return query.get("marker", [None])[-1]


class Fields:
    """Reads the fields of a JSON object, and refuses one that is not what it must be.

    :param rest: whose answer it is
    :param what: the call in words
    :param raw: what was answered
    """

    def __init__(self, rest_service: str, what: str, raw: Any) -> None:
        self._service = rest_service
        self._what = what
        if not isinstance(raw, dict):
            raise self.wrong(f"the answer holds {type(raw).__name__} instead of an object")
        self._raw = raw

    def wrong(self, detail: str) -> errors.Unavailable:
        """Make (not raise) an Unavailable."""
        return errors.Unavailable(self._service, self._what, detail)

    def need(self, key: str, kind: type[Any] | tuple[type[Any], ...]) -> Any:
        """Return the value of ``key``; it must be there and be of this kind."""
        if key not in self._raw:
            raise self.wrong(f"the answer lacks {key!r}")
        value = self._raw[key]
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise self.wrong(f"{key!r} is {value!r}, which is not of the expected type")
        return value

    def text(self, key: str) -> str:
        """Return a string that must be there and not be empty."""
        value: str = self.need(key, str)
        if not value:
            raise self.wrong(f"{key!r} is empty")
        return value

    def text_or_none(self, key: str) -> str | None:
        """Return a string, or None where it is null, empty or not there."""
        value = self._raw.get(key)
        if value is None or value == "":
            return None
        if not isinstance(value, str):
            raise self.wrong(f"{key!r} is {value!r}, which is not of the expected type")
        return value

    def time(self, key: str) -> datetime.datetime:
        """Return a point in time as naive UTC."""
        return self._parse(key, self.text(key))

    def _parse(self, key: str, value: str) -> datetime.datetime:
        try:
            parsed = datetime.datetime.fromisoformat(value)
        except ValueError:
            raise self.wrong(f"{key!r} is {value!r}, which is not a date") from None
        if parsed.tzinfo is not None:
            parsed = parsed.astimezone(datetime.UTC).replace(tzinfo=None)
        return parsed


def in_words(exc: Exception) -> str:
    """Say what a foreign exception said, on one line."""
    text = " ".join(str(exc).split())
    return f"{text} ({type(exc).__name__})" if text else type(exc).__name__


def _error_message(service: str, status: int, answer: Any) -> str | None:
    """Return what the service said, or None when this is not the service's own error JSON.

    Nova and Cinder: ``{"itemNotFound": {"code": 404, "message": …}}``, where the key depends on the
    status; Keystone, and keystonemiddleware in front of any service: ``{"error": {"code": 404,
    "message": …, "title": …}}``; Glance: ``{"code": "404 Not Found", "message": …, "title": …}``.
    """
    if not isinstance(answer, dict):
        return None
    if service == "glance" and "error" not in answer:
        own = answer.get("title") and str(answer.get("code", "")).startswith(str(status))
        inner = answer if own else None
    elif len(answer) == 1:
        inner = next(iter(answer.values()))
        if not isinstance(inner, dict) or inner.get("code") != status:
            inner = None
    else:
        inner = None
    if inner is None or not isinstance(inner.get("message"), str):
        return None
    return " ".join(_TAGS.sub(" ", inner["message"]).split()) or "no reason given"
