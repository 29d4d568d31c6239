# SPDX-License-Identifier: Apache-2.0
"""Keystone v3: passwords to tokens, a catalogue, users and projects."""

from __future__ import annotations

import datetime
import http
import uuid
from collections.abc import Iterator
from typing import Any

from tests.fakes import wire

SERVICE_USER = "blazar"
SERVICE_PASSWORD = "blazar-secret"
SERVICE_PROJECT = "service"
REGION = "RegionOne"
DOMAIN = "default"


def error(status: int, message: str) -> wire.Response:
    """Make an error as Keystone words it."""
    title = http.HTTPStatus(status).phrase
    return wire.Response(status, {"error": {"code": status, "message": message, "title": title}})


def role_id(name: str) -> str:
    """Say the id of the role with a name."""
    return uuid.uuid5(uuid.NAMESPACE_DNS, name).hex


class Identity:
    """Users, projects, domains and tokens.

    :ivar image_url: of the catalogue; write it with or without ``/v2``
    :ivar volume_url: likewise; None in a cloud without Cinder
    :ivar reservation_url: likewise; None unless a test serves Blazar
    :ivar list_limit: most projects in a list; None for all (Keystone's ``list_limit``)
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.image_url = f"{url}/image"
        self.compute_url = f"{url}/compute/v2.1"
        self.identity_url = f"{url}/identity"
        self.volume_url: str | None = f"{url}/volume/v3"
        self.reservation_url: str | None = None
        self.domains = {DOMAIN: {"id": DOMAIN, "name": "Default", "enabled": True}}
        self.users: dict[str, dict[str, Any]] = {}
        self.projects: dict[str, dict[str, Any]] = {}
        self.passwords: dict[str, str] = {}
        #: By user and project.
        self.roles: dict[tuple[str, str], list[str]] = {}
        #: Roles that others imply.
        self.implied: dict[str, list[str]] = {"admin": ["manager"]}
        self.tokens: dict[str, dict[str, Any]] = {}
        self.trusts: dict[str, dict[str, Any]] = {}
        self.list_limit: int | None = None
        self.service_user = self.add_user(SERVICE_USER, password=SERVICE_PASSWORD)
        self.service_project = self.add_project(SERVICE_PROJECT)
        self.roles[self.service_user, self.service_project] = ["admin", "service"]

    def add_user(
        self,
        name: str,
        *,
        email: str | None = None,
        enabled: bool = True,
        domain_id: str = DOMAIN,
        password: str = "secret",
        **more: Any,
    ) -> str:
        user_id = uuid.uuid4().hex
        user = {
            "id": user_id,
            "name": name,
            "domain_id": domain_id,
            "enabled": enabled,
            "password_expires_at": None,
            "options": {},
            "links": {"self": f"{self.url}/identity/v3/users/{user_id}"},
            **more,
        }
        if email is not None:
            user["email"] = email
        self.users[user_id] = user
        self.passwords[user_id] = password
        return user_id

    def add_project(
        self,
        name: str,
        *,
        enabled: bool = True,
        domain_id: str = DOMAIN,
        tags: list[str] | None = None,
        **properties: Any,
    ) -> str:
        project_id = uuid.uuid4().hex
        self.projects[project_id] = {
            "id": project_id,
            "name": name,
            "domain_id": domain_id,
            "description": "",
            "enabled": enabled,
            "parent_id": domain_id,
            "is_domain": False,
            "tags": tags or [],
            "options": {},
            "links": {"self": f"{self.url}/identity/v3/projects/{project_id}"},
            **properties,
        }
        return project_id

    def any_user(self) -> str:
        """Return some user who is not the service, made if need be."""
        return next((key for key in self.users if key != self.service_user), None) or self.add_user(
            "alice", email="alice@example.org"
        )

    def any_project(self) -> str:
        """Return some project that is not the service's, made if need be."""
        return next(
            (key for key in self.projects if key != self.service_project), None
        ) or self.add_project("web")

    def revoke_tokens(self) -> None:
        """Make all tokens invalid; the accounts still work."""
        self.tokens.clear()

    def authenticate(self, request: wire.Request) -> dict[str, Any]:
        """Return the token of a request to any service.

        :raises wire.HTTPError: 401, as keystonemiddleware says it
        """
        token = self.tokens.get(request.token or "")
        if token is None:
            raise wire.HTTPError(error(401, "The request you have made requires authentication."))
        return token

    def handle(self, path: str, request: wire.Request) -> wire.Response:
        parts = path.strip("/").split("/")
        if path.strip("/") in ("", "v3"):
            return self._versions(path)
        if parts[:3] == ["v3", "auth", "tokens"]:
            return self._issue(request) if request.method == "POST" else self._validate(request)
        caller = self.authenticate(request)
        if parts[:3] == ["v3", "OS-TRUST", "trusts"]:
            return self._trust(request, caller, parts[3:])
        kinds = {"users": self.users, "projects": self.projects, "domains": self.domains}
        if request.method == "GET" and parts[1:] == ["projects"]:
            listed = list(self.projects.values())
            if self.list_limit is None or len(listed) <= self.list_limit:
                return wire.Response(200, {"projects": listed, "links": {}})
            return wire.Response(
                200, {"projects": listed[: self.list_limit], "links": {}, "truncated": True}
            )
        if request.method == "GET" and parts[1:] == ["roles"]:
            named = {role for roles in self.roles.values() for role in roles}
            found = [{"id": role_id(name), "name": name} for name in sorted(named)]
            wanted = request.param("name")
            return wire.Response(200, {"roles": [r for r in found if r["name"] == wanted]})
        if request.method == "GET" and parts[1:] == ["role_assignments"]:
            return wire.Response(200, {"role_assignments": list(self._assignments(request))})
        if request.method == "GET" and len(parts) == 3 and parts[1] in kinds:
            kind = parts[1].removesuffix("s")
            found = kinds[parts[1]].get(parts[2])
            if found is None:
                return error(404, f"Could not find {kind}: {parts[2]}.")
            return wire.Response(200, {kind: found})
        return error(404, "The requested URL was not found on the server.")

    def _assignments(self, request: wire.Request) -> Iterator[dict[str, Any]]:
        """List who has a role in a project, by other roles that imply it too (``effective``)."""
        project_id = request.param("scope.project.id")
        wanted = request.param("role.id")
        for (user_id, scope), roles in self.roles.items():
            ways = [(role, None) for role in roles]
            ways += [(implied, role) for role in roles for implied in self.implied.get(role, ())]
            for role, prior in ways:
                if (scope, role_id(role)) == (project_id, wanted):
                    links = {"assignment": f"{self.url}/identity/v3/projects/{scope}/users"}
                    if prior is not None:
                        links["prior_role"] = f"{self.url}/identity/v3/prior_role/{prior}"
                    yield {
                        "role": {"id": wanted},
                        "user": {"id": user_id},
                        "scope": {"project": {"id": scope}},
                        "links": links,
                    }

    def _versions(self, path: str) -> wire.Response:
        version = {
            "id": "v3.14",
            "status": "stable",
            "updated": "2020-04-07T00:00:00Z",
            "links": [{"rel": "self", "href": f"{self.url}/identity/v3/"}],
            "media-types": [
                {
                    "base": "application/json",
                    "type": "application/vnd.openstack.identity-v3+json",
                }
            ],
        }
        if path.strip("/") == "v3":
            return wire.Response(200, {"version": version})
        return wire.Response(300, {"versions": {"values": [version]}})

    def _issue(self, request: wire.Request) -> wire.Response:
        auth = request.body["auth"]
        wanted = auth["identity"]["password"]["user"]
        user = self._named(self.users, wanted)
        if user is None or self.passwords[user["id"]] != wanted["password"]:
            return error(401, "The request you have made requires authentication.")
        scope = auth.get("scope", {})
        trust = self.trusts.get(scope.get("OS-TRUST:trust", {}).get("id", ""))
        if trust is not None and trust["trustee_user_id"] == user["id"]:
            # With impersonation, which Blazar asks for: the token is the trustor's.
            key = self.issue(
                trust["trustor_user_id"],
                trust["project_id"],
                [role["name"] for role in trust["roles"]],
            )
            self.tokens[key]["OS-TRUST:trust"] = {"id": trust["id"], "impersonation": True}
            return wire.Response(201, {"token": self.tokens[key]}, {"X-Subject-Token": key})
        project = self._named(self.projects, scope.get("project", {}))
        if not user["enabled"] or project is None:
            return error(401, "The request you have made requires authentication.")
        key = self.issue(user["id"], project["id"])
        return wire.Response(201, {"token": self.tokens[key]}, {"X-Subject-Token": key})

    def issue(self, user_id: str, project_id: str, roles: list[str] | None = None) -> str:
        """Make a token without being asked for one, and return its key.

        :param roles: instead of those that the user has in the project
        """
        user, project = self.users[user_id], self.projects[project_id]
        now = datetime.datetime.now(datetime.UTC)
        domain = {"id": DOMAIN, "name": "Default"}
        if roles is None:
            roles = self.roles.get((user["id"], project["id"]), ["member"])
        key = uuid.uuid4().hex
        self.tokens[key] = {
            "methods": ["password"],
            "user": {
                "domain": domain,
                "id": user["id"],
                "name": user["name"],
                "password_expires_at": None,
            },
            "audit_ids": [uuid.uuid4().hex[:22]],
            "issued_at": f"{now:%Y-%m-%dT%H:%M:%S.%fZ}",
            "expires_at": f"{now + datetime.timedelta(hours=1):%Y-%m-%dT%H:%M:%S.%fZ}",
            "project": {"domain": domain, "id": project["id"], "name": project["name"]},
            "is_domain": False,
            "roles": [{"id": role_id(name), "name": name} for name in roles],
            "catalog": [
                self._entry("identity", "keystone", self.identity_url),
                self._entry("compute", "nova", self.compute_url),
                self._entry("image", "glance", self.image_url),
                *([self._entry("volumev3", "cinder", self.volume_url)] if self.volume_url else []),
                *(
                    [self._entry("reservation", "blazar", self.reservation_url)]
                    if self.reservation_url
                    else []
                ),
            ],
        }
        return key

    def _trust(
        self, request: wire.Request, caller: dict[str, Any], parts: list[str]
    ) -> wire.Response:
        if request.method == "POST":
            trust = {**request.body["trust"], "id": uuid.uuid4().hex}
            if trust["trustor_user_id"] != caller["user"]["id"]:
                return error(403, "You are not authorized to perform the requested action.")
            held = {role["name"] for role in caller["roles"]}
            if not {role["name"] for role in trust["roles"]} <= held:
                return error(403, "Some of requested roles are not in redelegated trust.")
            self.trusts[trust["id"]] = trust
            return wire.Response(201, {"trust": trust})
        trust = self.trusts.get(parts[0]) if parts else None
        if trust is None:
            return error(404, "Could not find trust.")
        if request.method == "DELETE":
            del self.trusts[trust["id"]]
            return wire.Response(204)
        return wire.Response(200, {"trust": trust})

    def _validate(self, request: wire.Request) -> wire.Response:
        self.authenticate(request)
        key = request.headers.get("x-subject-token", "")
        if key not in self.tokens:
            return error(404, "Could not find token.")
        return wire.Response(200, {"token": self.tokens[key]}, {"X-Subject-Token": key})

    def _named(self, table: dict[str, Any], wanted: dict[str, Any]) -> Any:
        if "id" in wanted:
            return table.get(wanted["id"])
        return next(
            (entry for entry in table.values() if entry["name"] == wanted.get("name")), None
        )

    def _entry(self, kind: str, name: str, url: str) -> dict[str, Any]:
        return {
            "id": uuid.uuid5(uuid.NAMESPACE_DNS, kind).hex,
            "type": kind,
            "name": name,
            "endpoints": [
                {
                    "id": uuid.uuid5(uuid.NAMESPACE_DNS, kind + interface).hex,
                    "interface": interface,
                    "region": REGION,
                    "region_id": REGION,
                    "url": url,
                }
                for interface in ("public", "internal", "admin")
            ],
        }
