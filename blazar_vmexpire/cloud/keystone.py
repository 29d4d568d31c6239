# SPDX-License-Identifier: Apache-2.0
"""Keystone: whose a VM is, and who else has a say in its project."""

from __future__ import annotations

import dataclasses
import threading
import time
import urllib.parse
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
    :ivar unique_id: by which its identity provider knows a federated user; None for others
    :ivar attributes: all that Keystone shows of them
    """

    id: str
    name: str
    domain_id: str
    email: str | None
    enabled: bool
    unique_id: str | None
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
            unique_id=_unique_id(raw),
            attributes=raw,
        )


def _unique_id(raw: Mapping[str, Any]) -> str | None:
    """Find the first id that an identity provider gave a user, as that wrote it."""
    try:
        found = raw["federated"][0]["protocols"][0]["unique_id"]
    except (LookupError, TypeError):
        return None
    return urllib.parse.unquote(found) if isinstance(found, str) else None


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
        self._known: dict[tuple[str, ...], tuple[float, Any]] = {}
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

    def users_with_role(self, project_id: str, role: str) -> list[str]:
        """Return the ids of the users who have a role in a project, as of a minute ago at most.

        Members of groups that have it are among them, and those who inherit it from a project or
        domain above; but none who has it only because another role of theirs implies it: an
        administrator of the cloud has every role that way.

        :param role: its name; a role of no domain. Nobody has one that does not exist.
        """
        return self._remembered(
            ("role", project_id, role), lambda: self._users_with_role(project_id, role)
        )

    def _users_with_role(self, project_id: str, role: str) -> list[str]:
        what = f"get role {role}"
        answer = self._rest.call("GET", "/roles", what, expected=(200,), params={"name": role})
        listed = rest.Fields("keystone", what, answer).need("roles", list)
        ids = [rest.Fields("keystone", what, found).text("id") for found in listed]
        if not ids:
            return []
        what = f"list users with role {role} in project {project_id}"
        answer = self._rest.call(
            "GET",
            "/role_assignments",
            what,
            expected=(200,),
            params={"role.id": ids[0], "scope.project.id": project_id, "effective": "true"},
        )
        users = set()
        for raw in rest.Fields("keystone", what, answer).need("role_assignments", list):
            assignment = rest.Fields("keystone", what, raw)
            if "prior_role" not in assignment.need("links", dict):
                user = assignment.need("user", dict)
                users.add(rest.Fields("keystone", what, user).text("id"))
        return sorted(users)

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
        def ask() -> _T:
            what = f"get {kind} {key}"
            answer = self._rest.call(
                "GET", rest.path(f"{kind}s", key), what, expected=(200,), about=key
            )
            return read(rest.Fields("keystone", what, answer).need(kind, dict))

        return self._remembered((kind, key), ask)

    def _remembered(self, key: tuple[str, ...], ask: Callable[[], _T]) -> _T:
        now = self._clock()
        with self._guard:
            until, known = self._known.get(key, (now, None))
        if until > now:
            result: _T = known
            return result
        found = ask()
        with self._guard:
            if len(self._known) >= _KEEP_ENTRIES:
                self._known.clear()
            self._known[key] = (now + _KEEP_SECONDS, found)
        return found
