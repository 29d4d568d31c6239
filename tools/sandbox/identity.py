# SPDX-License-Identifier: Apache-2.0
"""Who is in Keystone: the services' users, the catalogue, and the people of the sandbox."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tools.sandbox.layout import PASSWORD
from tools.sandbox.rest import Session


class Person(NamedTuple):
    """An account; user and project are in the same domain."""

    name: str
    project: str
    domain: str
    mail: str


ADMIN = Person("admin", "admin", "Default", "admin@example.org")
ALICE = Person("alice", "alpha", "Default", "alice@example.org")
# A second domain, so that whatever looks names up in `Default` only is found out.
BOB = Person("bob", "beta", "partners", "bob@example.org")
PEOPLE = (ADMIN, ALICE, BOB)


def make_keys(repository: Path) -> None:
    """A key repository as `keystone-manage fernet_setup` makes it, without its start-up time."""
    repository.mkdir(parents=True, mode=0o700, exist_ok=True)
    for name in ("0", "1"):
        key = repository / name
        key.write_bytes(base64.urlsafe_b64encode(os.urandom(32)))
        key.chmod(0o600)


def fill(session: Session, endpoints: Mapping[str, tuple[str, str]], region: str) -> None:
    """Add to a freshly bootstrapped Keystone all that the sandbox needs.

    endpoints: name of the service and of its user -> (type, URL)
    """
    url = session.auth_url
    roles = {role["name"]: role["id"] for role in session.get(f"{url}/roles")["roles"]}
    for name in {"service", "member", "reader"} - set(roles):
        roles[name] = _create(session, "role", name=name)

    service_project = _create(session, "project", name="service", domain_id="default")
    for name, (kind, endpoint) in endpoints.items():
        user = _user(session, name, "default", service_project)
        for role in ("admin", "service"):
            _grant(session, service_project, user, roles[role])
        service = _create(session, "service", name=name, type=kind)
        for interface in ("public", "internal"):
            _create(
                session,
                "endpoint",
                service_id=service,
                interface=interface,
                region_id=region,
                url=endpoint,
            )

    for person in (ALICE, BOB):
        domain = "default"
        if person.domain != "Default":
            domain = _create(session, "domain", name=person.domain)
        project = _create(session, "project", name=person.project, domain_id=domain)
        user = _user(session, person.name, domain, project, email=person.mail)
        for role in ("member", "reader"):
            _grant(session, project, user, roles[role])
    admin = session.get(f"{url}/users?name={ADMIN.name}&domain_id=default")["users"][0]["id"]
    session.patch(f"{url}/users/{admin}", {"user": {"email": ADMIN.mail}})


def _create(session: Session, kind: str, **values: Any) -> str:
    answer = session.post(f"{session.auth_url}/{kind}s", {kind: values})
    identifier: str = answer[kind]["id"]
    return identifier


def _user(session: Session, name: str, domain: str, project: str, **more: str) -> str:
    return _create(
        session,
        "user",
        name=name,
        domain_id=domain,
        default_project_id=project,
        password=PASSWORD,
        **more,
    )


def _grant(session: Session, project: str, user: str, role: str) -> None:
    session.put(f"{session.auth_url}/projects/{project}/users/{user}/roles/{role}")
