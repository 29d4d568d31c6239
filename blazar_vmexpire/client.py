# SPDX-License-Identifier: Apache-2.0
"""The client of our API: for programs, and for the commands of the OpenStack client.

::

    from keystoneauth1.identity import v3
    from keystoneauth1.session import Session
    from blazar_vmexpire.client import Client

    client = Client(session=Session(auth=v3.Password(auth_url="https://…", username="alice", …)))
    for vm in client.vm_expirations.list(state="noticed"):
        client.vm_expirations.extend(vm["server_id"])

What is returned is what the API answers: dictionaries, with dates such as ``2027-01-10T04:50:00Z``.
Dates that are sent are datetimes (naive ones are UTC) or such texts. Every method can raise what
keystoneauth1 raises: ``keystoneauth1.exceptions.http.NotFound``, ``Forbidden``, ``Conflict``,
``ServiceUnavailable``, …, with the API's own sentence and the request's id; ``EndpointNotFound`` if
the cloud has no reservation service; ``ConnectFailure`` and the like if it does not answer;
``InvalidResponse`` if what answers is not this API.
"""

from __future__ import annotations

import datetime
import re
import urllib.parse
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypedDict, Unpack

import requests
from keystoneauth1 import adapter, exceptions
from keystoneauth1.session import Session

#: The most VMs of a page, and of one extension of several: what the API allows.
_PAGE = 1000
_BATCH = 100

#: How the catalogue may write the end of the service's address.
_VERSION = re.compile(r"/v[0-9]+$")

#: What is answered of a thing.
Answer = dict[str, Any]
Date = datetime.datetime | str


class GenerationMoved(exceptions.http.Conflict):  # type: ignore[misc]
    """The VM's expiration has been changed by somebody else since it was looked at."""


class NotFound(LookupError):
    """No VM that expires has this name, as far as the caller may see."""

    def __init__(self, name: str) -> None:
        super().__init__(f"No expiration of a VM with a name or ID of {name!r} exists.")


class NotUnique(LookupError):
    """Several VMs have this name."""

    def __init__(self, name: str, server_ids: Sequence[str]) -> None:
        super().__init__(
            f"More than one VM that expires has the name {name!r}; use an ID:"
            f" {', '.join(server_ids)}"
        )
        self.server_ids = list(server_ids)


class Client:
    """The API of one region, as somebody with credentials sees it.

    :param session: with the credentials.
    :param region_name: None: the only region, or any.
    :param interface: which of the service's addresses; None: the public one.
    :param endpoint_override: its address instead of the catalogue's, with or without ``/v1``.

    :ivar vm_expirations: VMs that expire
    :ivar exclusions: who is left out
    :ivar brake: the brake
    """

    def __init__(
        self,
        session: Session,
        *,
        region_name: str | None = None,
        interface: str | None = None,
        endpoint_override: str | None = None,
    ) -> None:
        api = _Api(
            adapter.Adapter(
                session,
                service_type="reservation",
                region_name=region_name,
                interface=interface,
                endpoint_override=endpoint_override,
            )
        )
        self.vm_expirations = VmExpirations(api)
        self.exclusions = Exclusions(api)
        self.brake = Brake(api)


class Filters(TypedDict, total=False):
    """Which VMs are meant; with neither of the first two, those of the own project."""

    project_id: str | None
    all_projects: bool
    """For administrators."""
    user_id: str | None
    state: str | None
    """Without it, those that are gone are left out."""
    rule: str | None
    name: str | None
    server_ids: Sequence[str]
    """100 at most."""
    ends_before: Date | None
    ends_after: Date | None


class VmExpirations:
    """VMs that expire."""

    def __init__(self, api: _Api) -> None:
        self._api = api

    def list(
        self,
        *,
        sort_key: str | None = None,
        sort_dir: str | None = None,
        limit: int | None = None,
        marker: str | None = None,
        **filters: Unpack[Filters],
    ) -> Iterator[Answer]:
        """List VMs by their end, those of the own project unless said otherwise.

        Pages are asked for as they are needed.

        :param sort_key: ``ends_at``, ``server_name``, ``server_id``, ``state``.
        :param limit: the most that are listed; None: all.
        :param marker: begin after this VM, a UUID.
        """
        query = _query(filters) | _filled(sort_key=sort_key, sort_dir=sort_dir, marker=marker)
        return self._api.pages("/vm-expirations", "vm_expirations", query, limit)

    def page(
        self, *, limit: int, marker: str | None = None, **filters: Unpack[Filters]
    ) -> tuple[Sequence[Answer], str | None]:
        """Read one page of the list of VMs by their end, for who turns pages.

        :param limit: the most that are listed, up to 1000.
        :param marker: where it begins, as the page before it said; None: at the first.
        :returns: the VMs, and the marker of the next page; None: this is the last.
        """
        query = _query(filters) | _filled(marker=marker)
        return self._api.page("/vm-expirations", "vm_expirations", query, limit)

    def get(self, server_id: str) -> Answer:
        """Return all that is known of a VM's expiration.

        :param server_id: the VM's UUID.
        """
        return self._api.ask("GET", _path(server_id))["vm_expiration"]  # type: ignore[no-any-return]

    def find(
        self, name_or_id: str, *, all_projects: bool = False, state: str | None = None
    ) -> Answer:
        """Return the one VM that has this name or UUID.

        A UUID is asked for as it is, whatever the project and the state.

        :param all_projects: look for the name in all projects; for administrators.
        :param state: see :meth:`list`.
        :raises NotFound: no VM has that name.
        :raises NotUnique: several have.
        """
        if _is_uuid(name_or_id):
            return self.get(name_or_id)
        # Some databases do not tell capital letters from small ones.
        named = [
            vm
            for vm in self.list(name=name_or_id, all_projects=all_projects, state=state)
            if vm["server_name"] == name_or_id
        ]
        if not named:
            raise NotFound(name_or_id)
        if len(named) > 1:
            raise NotUnique(name_or_id, [vm["server_id"] for vm in named])
        return named[0]

    def extend(
        self, server_id: str, until: Date | None = None, *, if_match: int | None = None
    ) -> Answer:
        """Give a VM a later end, and give it back if anything was done to it.

        :param until: None: the latest that is allowed.
        :param if_match: only if the VM's ``generation`` is this one.
        :raises GenerationMoved: it is another one.
        """
        body = _filled(until=until)
        return self._changed("POST", f"{_path(server_id)}/extend", body, if_match)

    def extend_all(
        self, server_ids: Sequence[str], until: Date | None = None
    ) -> Iterator[Mapping[str, Any]]:
        """Extend several VMs, each by itself: one that cannot be keeps no other from it.

        They are sent as their results are asked for.

        :returns: for each, in this order: ``server_id``, ``status`` (as HTTP has it),
            ``vm_expiration`` or None, ``error`` or None.
        """
        for first in range(0, len(server_ids), _BATCH):
            body = _filled(server_ids=server_ids[first : first + _BATCH], until=until)
            yield from self._api.ask("POST", "/vm-expirations/extend", body)["results"]

    def update(
        self, server_id: str, *, reason: str, if_match: int | None = None, **changes: Any
    ) -> Answer:
        """Change a VM's expiration, as an administrator: all changes together, or none.

        :param reason: why; its owner can read it.
        :param if_match: only if the VM's ``generation`` is this one.
        :param changes: ``ends_at`` (a date), ``hold`` (``{"until": …, "ticket": …}``, or None),
            ``exempt`` (True, ``{"until": …}``, or False), ``on_end_action`` (a name, or None).
        :raises GenerationMoved: it is another one.
        """
        body = {"reason": reason, **{name: _sent(value) for name, value in changes.items()}}
        return self._changed("PATCH", _path(server_id), body, if_match)

    def expire(
        self, server_id: str, *, reason: str, force: bool = False, if_match: int | None = None
    ) -> Answer:
        """Have a VM end as soon as its owner has had notice, as an administrator.

        :param force: at once, without any notice.
        :param if_match: only if the VM's ``generation`` is this one.
        :raises GenerationMoved: it is another one.
        """
        body = {"reason": reason, "force": force}
        return self._changed("POST", f"{_path(server_id)}/expire-now", body, if_match)

    def adopt(self, server_id: str) -> Answer:
        """Have a VM looked at in Nova now, as an administrator; that takes some seconds.

        :returns: its ``server_id``, and the ``state`` it is in so far.
        """
        body = {"server_id": server_id}
        answer = self._api.ask("POST", "/vm-expirations", body)
        return answer["vm_expiration"]  # type: ignore[no-any-return]

    def history(self, server_id: str, limit: int | None = None) -> Iterator[Answer]:
        """Tell what happened to a VM, oldest first; also to one that is gone.

        :param limit: the most entries; None: all.
        """
        path = f"{_path(server_id)}/history"
        return self._api.pages(path, "vm_expiration_history", {}, limit)

    def summary(self, **filters: Unpack[Filters]) -> Sequence[Answer]:
        """Count what ends, by day, project and rule."""
        query = _query(filters)
        answer = self._api.ask("GET", "/vm-expirations/summary", query=query)
        return answer["vm_expirations_summary"]  # type: ignore[no-any-return]

    def _changed(
        self, method: str, path: str, body: Mapping[str, Any], if_match: int | None
    ) -> Answer:
        headers = {} if if_match is None else {"If-Match": f'"{if_match}"'}
        answer = self._api.ask(method, path, body, headers=headers)
        return answer["vm_expiration"]  # type: ignore[no-any-return]


class Exclusions:
    """Who is left out: for administrators."""

    def __init__(self, api: _Api) -> None:
        self._api = api

    def list(
        self, *, kind: str | None = None, value: str | None = None, over: bool = False
    ) -> Sequence[Answer]:
        """List exclusions, oldest first.

        :param kind: ``domain``, ``project``, ``user``, ``flavor`` or ``server``.
        :param value: of exactly this one.
        :param over: those that are over, too.
        """
        query = _filled(kind=kind, value=value, all=over or None)
        answer = self._api.ask("GET", "/vm-expiration-exclusions", query=query)
        return answer["vm_expiration_exclusions"]  # type: ignore[no-any-return]

    def create(
        self, kind: str, value: str, *, reason: str, expires_at: Date | None = None
    ) -> Answer:
        """Leave somebody out: what they have is let go of.

        :param kind: see :meth:`list`.
        :param value: an id; of a flavor its name.
        :param expires_at: when that is over; None: never.
        """
        body = _filled(kind=kind, value=value, reason=reason, expires_at=expires_at)
        answer = self._api.ask("POST", "/vm-expiration-exclusions", body)
        return answer["vm_expiration_exclusion"]  # type: ignore[no-any-return]

    def delete(self, exclusion_id: int, *, reason: str | None = None) -> None:
        """Take an exclusion back."""
        path = f"/vm-expiration-exclusions/{int(exclusion_id)}"
        self._api.ask("DELETE", path, query=_filled(reason=reason))


class Brake:
    """The brake on mass deletion: for administrators."""

    def __init__(self, api: _Api) -> None:
        self._api = api

    def get(self) -> Answer:
        """Return how it stands, and what would go if it were released."""
        answer = self._api.ask("GET", "/vm-expiration-brake")
        return answer["vm_expiration_brake"]  # type: ignore[no-any-return]

    def trip(self, *, reason: str) -> Answer:
        """Stop all that cannot be undone."""
        return self._change("trip", reason)

    def release(self, *, reason: str) -> Answer:
        """Let it go on, at its pace."""
        return self._change("release", reason)

    def _change(self, action: str, reason: str) -> Answer:
        body = {"action": action, "reason": reason}
        answer = self._api.ask("POST", "/vm-expiration-brake", body)
        return answer["vm_expiration_brake"]  # type: ignore[no-any-return]


# -------------------------------------------------------------------------------------------------


class _Api:
    """Requests, pages and errors."""

    def __init__(self, service: adapter.Adapter) -> None:
        self._service = service

    def ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Send a request and return what is answered; None for nothing.

        :param path: below ``/v1``.
        :raises keystoneauth1.exceptions.ClientException: see the module.
        """
        url = self._root() + path
        response = self._service.request(
            url,
            method,
            params=dict(query or {}),
            json=body,
            headers={"Accept": "application/json", **(headers or {})},
            raise_exc=False,
        )
        if response.status_code >= 300:
            raise _error(response, method, url)
        if not response.content:
            return None
        try:
            return response.json()
        except requests.JSONDecodeError:
            # Something else answers at this address: a proxy's login page, say.
            raise exceptions.InvalidResponse(response=response) from None

    def pages(
        self, path: str, name: str, query: Mapping[str, Any], limit: int | None
    ) -> Iterator[Answer]:
        """List what is answered as ``name``, page by page."""
        left, query = limit, dict(query)
        while left is None or left > 0:
            found, marker = self.page(path, name, query, min(_PAGE, left or _PAGE))
            yield from found
            if left is not None:
                left -= len(found)
            if marker is None:
                return
            query["marker"] = marker

    def page(
        self, path: str, name: str, query: Mapping[str, Any], limit: int
    ) -> tuple[Sequence[Answer], str | None]:
        """Read a page of what is answered as ``name``, and the marker of the next; None: no next.

        :raises keystoneauth1.exceptions.ClientException: see the module.
        """
        answer = self.ask("GET", path, query={**query, "limit": limit})
        if not (links := answer[f"{name}_links"]):
            return answer[name], None
        # Where the link leads is not looked at: the token is for nobody else, and a service
        # behind a proxy does not always know its own address.
        link = urllib.parse.urlsplit(links[0]["href"])
        (marker,) = urllib.parse.parse_qs(link.query)["marker"]
        return answer[name], marker

    def _root(self) -> str:
        endpoint = self._service.get_endpoint()
        if endpoint is None:
            raise exceptions.EndpointNotFound(
                "The service catalog has no endpoint of a reservation service"
            )
        return f"{_VERSION.sub('', endpoint.rstrip('/'))}/v1"


def sentence_of(error: exceptions.HttpError) -> str | None:
    """Return what the API says of an error, alone; None: something else has answered, a proxy say.

    The error's own text has the HTTP status and the request's id beside it.
    """
    answer = None if error.response is None else _refusal(error.response)
    return None if answer is None else str(answer["error_message"])


def _refusal(response: requests.Response) -> Answer | None:
    try:
        answer = response.json()
    except ValueError:
        return None
    return answer if isinstance(answer, dict) and "error_message" in answer else None


def _error(response: requests.Response, method: str, url: str) -> Exception:
    """Make an error of an answer: keystoneauth's own, with the API's sentence."""
    error: Exception = exceptions.from_response(response, method, url)
    answer = _refusal(response)
    if answer is None:
        return error
    kind: Any = type(error)
    if answer.get("error_name") == "vm_expiration.concurrent_update":
        kind = GenerationMoved
    told: Exception = kind(
        message=answer["error_message"],
        response=response,
        request_id=response.headers.get("x-openstack-request-id"),
        url=url,
        method=method,
        http_status=response.status_code,
    )
    return told


def _path(server_id: str) -> str:
    """Say where a VM is.

    :raises ValueError: it has no UUID.
    """
    return f"/vm-expirations/{uuid.UUID(server_id)}"


def _is_uuid(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True


def _query(filters: Filters) -> dict[str, Any]:
    # No is what is meant without a word: it is not sent, as only administrators may say anything.
    query = {name: value for name, value in filters.items() if value is not False}
    if "server_ids" in filters:
        query["server_ids"] = ",".join(filters["server_ids"])
    return _filled(**query)


def _filled(**values: Any) -> dict[str, Any]:
    """Leave out what is None, and write the rest as it is sent."""
    return {name: _sent(value) for name, value in values.items() if value is not None}


def _sent(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _filled(**value)
    if isinstance(value, datetime.datetime):
        if value.tzinfo is not None:
            value = value.astimezone(datetime.UTC)
        return f"{value:%Y-%m-%dT%H:%M:%SZ}"
    return value
