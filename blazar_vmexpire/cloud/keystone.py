# SPDX-License-Identifier: Apache-2.0
"""Keystone: whose a VM is."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from keystoneauth1 import session as ksa_session

from blazar_vmexpire.cloud import rest
from blazar_vmexpire.cloud.session import ANY, Endpoints

#: What every project has; all else are properties that operators set.
_PROJECT = frozenset(
    {
        "id",
        "name",
        "domain_id",
        "description",
        "enabled",
        "is_domain",
        "parent_id",
        "tags",
        "options",
        "links",
    }
)
_KEEP_SECONDS = 60.0
_KEEP_ENTRIES = 2000

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True, slots=True)
class User:
    """A user.

    :ivar email: None when there is none
    :ivar attributes: all that Keystone shows of them
    """

    id: str
    name: str
    domain_id: str
    email: str | None
    enabled: bool
    attributes: Mapping[str, Any]

    @classmethod
    def from_json(cls, raw: Any) -> User:
        """Read a user from Keystone's JSON.

        :raises Unavailable: when something is missing or is not of the right type
        """
        user_id = raw.get("id") if isinstance(raw, dict) else None
        fields = rest.Fields("keystone", f"read user {user_id}", raw)
        email = raw.get("email")
        return cls(
            id=fields.text("id"),
            name=fields.text("name"),
            domain_id=fields.text("domain_id"),
            email=email.strip() or None if isinstance(email, str) else None,
            enabled=fields.need("enabled", bool),
            attributes=raw,
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Project:
    """A project.

    :ivar properties: what operators set on it (``openstack project set --property``)
    """

    id: str
    name: str
    domain_id: str
    enabled: bool
    properties: dict[str, Any]
    tags: tuple[str, ...]

    @classmethod
    def from_json(cls, raw: Any) -> Project:
        """Read a project from Keystone's JSON.

        :raises Unavailable: when something is missing or is not of the right type
        """
        project_id = raw.get("id") if isinstance(raw, dict) else None
        fields = rest.Fields("keystone", f"read project {project_id}", raw)
        return cls(
            id=fields.text("id"),
            name=fields.text("name"),
            domain_id=fields.text("domain_id"),
            enabled=fields.need("enabled", bool),
            properties={key: value for key, value in raw.items() if key not in _PROJECT},
            tags=tuple(raw.get("tags") or ()),
        )


class Keystone:
    """Keystone's users and projects, asked with the service's own (administrator's) token.

    What was found is remembered for a minute, so that a page of VMs of one project costs one
    question. That something was not found is not remembered.

    :param clock: seconds that only ever grow
    """

    def __init__(
        self,
        session: ksa_session.Session,
        endpoints: Endpoints = ANY,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session = session
        self._rest = rest.Rest(
            session, endpoints, service="keystone", service_type="identity", version="/v3"
        )
        self._clock = clock
        self._known: dict[tuple[str, str], tuple[float, Any]] = {}
        self._guard = threading.Lock()

    def get_user(self, user_id: str) -> User:
        """Return the user with this id, as of a minute ago at most.

        :raises NotFound: there is no such user any more
        """
        return self._get("user", user_id, User.from_json)

    def get_project(self, project_id: str) -> Project:
        """Return the project with this id, as of a minute ago at most.

        :raises NotFound: there is no such project any more
        """
        return self._get("project", project_id, Project.from_json)

    def list_projects(self) -> list[Project]:
        """Return the projects of all domains, as they are now.

        Keystone answers with all of them at once, or, where it has a ``list_limit``, with some: so
        that a project is missing here says nothing about it.
        """
        what = "list projects"
        answer = self._rest.call("GET", "/projects", what, expected=(200,))
        listed = rest.Fields("keystone", what, answer).need("projects", list)
        return [Project.from_json(raw) for raw in listed]

    @property
    def service_project_id(self) -> str:
        """The project that our own token is for, hence the one that new images belong to.

        :raises Unavailable: no token could be had, or it is for no project
        """
        what = "get a token"
        try:
            project_id: str | None = self._session.get_project_id()
        except Exception as exc:
            # As in Rest.call: whatever keystoneauth raises, there is no answer.
            raise self._rest.unavailable(what, rest.in_words(exc)) from exc
        if not project_id:
            raise self._rest.unavailable(what, "our token is not for a project")
        return project_id

    def _get(self, kind: str, key: str, read: Callable[[Any], _T]) -> _T:
        now = self._clock()
        with self._guard:
            until, known = self._known.get((kind, key), (now, None))
        if until > now:
            result: _T = known
            return result
        what = f"get {kind} {key}"
        answer = self._rest.call(
            "GET", rest.path(f"{kind}s", key), what, expected=(200,), about=key
        )
        found = read(rest.Fields("keystone", what, answer).need(kind, dict))
        with self._guard:
            if len(self._known) >= _KEEP_ENTRIES:
                self._known.clear()
            self._known[kind, key] = (now + _KEEP_SECONDS, found)
        return found
