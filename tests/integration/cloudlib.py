# SPDX-License-Identifier: Apache-2.0
"""A sandbox as the tests see it: its people, its VMs, their leases, mails and history."""

from __future__ import annotations

import contextvars
import datetime
import email
import email.policy
import json
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import requests
import sqlalchemy as sa
from keystoneauth1 import session as keystone_session
from keystoneauth1.identity import v3

from blazar_vmexpire import leases
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db.api import Expiration, NoticeRow
from blazar_vmexpire.db.models import chores, history
from tests import databases
from tests.integration.turns import Turns
from tests.integration.waiting import Stopwatch, utcnow, wait_for
from tools.sandbox import Sandbox

#: How Blazar's API takes dates.
DATE = "%Y-%m-%d %H:%M"
MINUTE = datetime.timedelta(minutes=1)

_PASSWORD = "secret"
#: Boots at a time; more of them would only wait for each other.
_BOOTS = 2
_PROXIES = {"http_proxy", "https_proxy", "all_proxy"}

#: The VMs that the scenario in this thread has booted: what is shown of if it fails.
booted: contextvars.ContextVar[list[Vm] | None] = contextvars.ContextVar("booted", default=None)


@dataclass(frozen=True)
class Answer:
    """An HTTP answer. ``body`` is its JSON, or its text if it is none."""

    status: int
    body: Any

    @property
    def message(self) -> str:
        """Blazar's words for what is wrong."""
        return str(self.body.get("error_message", "")) if isinstance(self.body, dict) else ""


class Account:
    """Somebody, in one project: what they can ask of the cloud."""

    def __init__(
        self,
        cloud: Cloud,
        name: str,
        project: str,
        *,
        domain: str = "Default",
    ) -> None:
        self._cloud = cloud
        self.name = name
        transport = requests.Session()
        transport.trust_env = False
        self.session = keystone_session.Session(
            v3.Password(
                auth_url=cloud.sandbox.url("keystone", "/v3"),
                username=name,
                password=_PASSWORD,
                user_domain_name=domain,
                project_name=project,
                project_domain_name=domain,
            ),
            session=transport,
            timeout=60,
        )

    @property
    def project_id(self) -> str:
        """The UUID of the project, as Keystone writes it."""
        return str(self.session.get_project_id())

    @property
    def user_id(self) -> str:
        """The UUID of the user, as Keystone writes it."""
        return str(self.session.get_user_id())

    def request(self, service: str, method: str, path: str, body: Any = None) -> Answer:
        """Ask a service; an error status is an answer like any other.

        :param service: its type in the catalogue, or the whole beginning of a URL.
        """
        filters: dict[str, Any] = {"endpoint_filter": {"service_type": service}}
        if service.startswith("http"):
            path, filters = service + path, {}
        answer = self.session.request(
            path,
            method,
            json=body,
            headers={"Accept": "application/json"},
            microversion={"compute": "2.96", "placement": "1.39"}.get(service),
            raise_exc=False,
            **filters,
        )
        try:
            return Answer(answer.status_code, answer.json())
        except ValueError:
            return Answer(answer.status_code, answer.text)

    def get(self, service: str, path: str) -> Any:
        """Ask for something that has to be there, and return its JSON."""
        answer = self.request(service, "GET", path)
        assert answer.status == 200, f"{self.name} GET {path}: {answer}"
        return answer.body

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command of ``DIR/bin`` as after sourcing this account's openrc."""
        env = self._cloud.sandbox.env(self.name)
        return subprocess.run(
            command,
            env={name: value for name, value in env.items() if name.lower() not in _PROXIES},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )


class Cloud:
    """A sandbox that runs."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.database = databases.connect(sandbox.database_url())
        self.admin = Account(self, "admin", "admin")
        self.alice = Account(self, "alice", "alpha")
        self.bob = Account(self, "bob", "beta", domain="partners")
        #: How long each VM's lease took to appear once the VM was ACTIVE, in seconds.
        self.latencies: dict[str, float] = {}
        #: For scenarios that break what others rely on.
        self.turns = Turns()
        self._services = threading.Lock()
        self._boots = threading.Semaphore(_BOOTS)
        self._flavor = self.admin.get("compute", "/flavors")["flavors"][0]["id"]
        self._image = self.admin.get("image", "/v2/images?name=cirros")["images"][0]["id"]

    # People

    def add_user(self, name: str, mail: str | None) -> Account:
        """Add a member of project alpha.

        :param mail: None for a user without a mail address.
        """
        identity = self.sandbox.url("keystone", "/v3")
        values = {"name": name, "password": _PASSWORD, "domain_id": "default"}
        if mail is not None:
            values["email"] = mail
        answer = self.admin.request(identity, "POST", "/users", {"user": values})
        assert answer.status == 201, answer
        self._let_in(answer.body["user"]["id"], self.alice.project_id)
        return Account(self, name, "alpha")

    def add_project(self, name: str, **properties: str) -> str:
        """Add a project, and return its name.

        :param properties: as an operator sets them.
        """
        identity = self.sandbox.url("keystone", "/v3")
        values = {"name": name, "domain_id": "default", **properties}
        answer = self.admin.request(identity, "POST", "/projects", {"project": values})
        assert answer.status == 201, answer
        return name

    def add_member(self, name: str, mail: str, project: str) -> Account:
        """Add a member of a project that a scenario has made."""
        identity = self.sandbox.url("keystone", "/v3")
        values = {"name": name, "password": _PASSWORD, "domain_id": "default", "email": mail}
        answer = self.admin.request(identity, "POST", "/users", {"user": values})
        assert answer.status == 201, answer
        (found,) = self.admin.get(identity, f"/projects?name={project}")["projects"]
        self._let_in(answer.body["user"]["id"], found["id"])
        return Account(self, name, project)

    def _let_in(self, user_id: str, project_id: str) -> None:
        """Make a user a member of a project."""
        identity = self.sandbox.url("keystone", "/v3")
        for role in self.admin.get(identity, "/roles")["roles"]:
            if role["name"] in ("member", "reader"):
                path = f"/projects/{project_id}/users/{user_id}/roles/{role['id']}"
                assert self.admin.request(identity, "PUT", path).status == 204

    def delete_user(self, account: Account) -> None:
        """Remove a user from Keystone."""
        identity = self.sandbox.url("keystone", "/v3")
        answer = self.admin.request(identity, "DELETE", f"/users/{account.user_id}")
        assert answer.status == 204, answer

    # VMs

    def boot(self, name: str, owner: Account | None = None, *, patience: float = 15) -> Vm:
        """Boot a VM, of Alice's unless said otherwise, and wait until its owner sees its lease.

        :param patience: seconds for the lease to appear once the VM is ACTIVE.
        """
        with self._boots:
            vm = self.ask_for_vm(name, owner or self.alice)
            vm.wait_for_status("ACTIVE", 60)
            watch = Stopwatch()
            wait_for(f"the lease of {vm}", vm.lease_in_list, patience, every=0.2)
            self.latencies[vm.id] = watch.read()
        return vm

    def ask_for_vm(self, name: str, owner: Account, **values: Any) -> Vm:
        """Ask Nova for a VM."""
        answer = owner.request("compute", "POST", "/servers", self.server_body(name, **values))
        assert answer.status == 202, answer
        vm = Vm(self, answer.body["server"]["id"], name, owner)
        vms = booted.get()
        if vms is not None:
            vms.append(vm)
        return vm

    def server_body(self, name: str, **values: Any) -> dict[str, Any]:
        """Make the body of a request for a server."""
        server = {"imageRef": self._image, "flavorRef": self._flavor, "networks": "none"}
        return {"server": {"name": name, **server, **values}}

    # Services

    def stop(self, service: str) -> None:
        """End a service in its own way."""
        with self._services:
            self.sandbox.stop(service)

    def start(self, service: str) -> None:
        """Start a service, and wait until it works."""
        with self._services:
            self.sandbox.start(service)

    def kill(self, service: str) -> None:
        """SIGKILL to all processes of a service."""
        with self._services:
            self.sandbox.kill(service)

    def configure(self, settings: list[str]) -> None:
        """Write blazar.conf anew; what is to read it has to be started again."""
        with self._services:
            self.sandbox.configure(settings)

    def mail_server(self, **orders: Any) -> None:
        """Have the mail server misbehave; without orders: behave."""
        new = self.sandbox.mail / ".control.json.new"
        new.write_text(json.dumps(orders))
        new.rename(self.sandbox.mail / ".control.json")

    # What is there

    def mails(self) -> Iterator[Mail]:
        """Read what the mail server took, oldest first."""
        for path in sorted(self.sandbox.mail.glob("*.eml")):
            yield Mail.read(path)

    def reconciliations(self) -> tuple[datetime.datetime | None, datetime.datetime | None]:
        """Say when the last reconciliation that came to its end did so, and when one last began."""
        with self.database.begin() as connection:
            row = connection.execute(
                sa.select(chores.c.last_finished_at, chores.c.last_started_at).where(
                    chores.c.name == "reconciliation"
                )
            ).one_or_none()
        return (None, None) if row is None else (row[0], row[1])

    def wait_for_reconciliation(self, within: float) -> None:
        """Wait until a reconciliation that began from now on came to its end."""
        now = utcnow()

        def finished() -> bool:
            ended, begun = self.reconciliations()
            return ended is not None and begun is not None and now <= begun <= ended

        wait_for("a whole reconciliation", finished, within)


@dataclass(frozen=True)
class Mail:
    """A mail that the mail server took."""

    recipients: str
    arrived_at: datetime.datetime
    message: EmailMessage = field(repr=False)

    @classmethod
    def read(cls, path: Path) -> Mail:
        """Read one from the sandbox's directory of mails."""
        message = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        return cls(
            recipients=str(message["X-Rcpt-To"]),
            arrived_at=datetime.datetime.strptime(path.name.split("-")[0], "%Y%m%dT%H%M%S.%fZ"),
            message=message,
        )

    @property
    def subject(self) -> str:
        """The subject, decoded."""
        return str(self.message["Subject"])

    @property
    def message_id(self) -> str:
        """The Message-ID, with its angle brackets."""
        return str(self.message["Message-ID"])

    @property
    def text(self) -> str:
        """The body, as text."""
        body = self.message.get_body(("plain",))
        assert isinstance(body, EmailMessage)
        return str(body.get_content())


class Vm:
    """A VM, its lease, and what is known of its expiration."""

    def __init__(self, cloud: Cloud, server_id: str, name: str, owner: Account) -> None:
        self.cloud = cloud
        self.id = server_id
        self.name = name
        self.owner = owner

    def __repr__(self) -> str:
        return f"<{self.name!r} {self.id}>"

    # In Nova

    def server(self, account: Account | None = None) -> dict[str, Any] | None:
        """Return Nova's view of it; None when Nova says 404."""
        answer = (account or self.cloud.admin).request("compute", "GET", f"/servers/{self.id}")
        if answer.status == 404:
            return None
        assert answer.status == 200, answer
        found: dict[str, Any] = answer.body["server"]
        return found

    @property
    def status(self) -> str | None:
        """Nova's status; None when it is gone."""
        server = self.server()
        return server["status"] if server else None

    def wait_for_status(self, status: str, within: float = 30) -> None:
        """Wait until it has this status, and nothing is being done to it."""

        def look() -> bool:
            server = self.server()
            assert server, f"{self} is gone"
            return server["status"] == status and server["OS-EXT-STS:task_state"] is None

        wait_for(f"status {status} of {self}", look, within)

    def act(self, action: str, account: Account | None = None, body: Any = None) -> None:
        """Ask Nova to do something to it, as its owner unless said otherwise."""
        path = f"/servers/{self.id}/action"
        answer = (account or self.owner).request("compute", "POST", path, {action: body})
        assert answer.status in (200, 202), f"{action} of {self}: {answer}"

    def delete(self) -> None:
        """Delete it, as its owner does."""
        answer = self.owner.request("compute", "DELETE", f"/servers/{self.id}")
        assert answer.status == 204, answer

    def done_in_nova(self) -> list[str]:
        """List what was done to it, as Nova recorded that, oldest first."""
        path = f"/servers/{self.id}/os-instance-actions"
        actions = self.cloud.admin.get("compute", path)["instanceActions"]
        return [action["action"] for action in reversed(actions)]

    def allocations(self) -> dict[str, Any]:
        """Return what it takes up, according to Placement."""
        return dict(self.cloud.admin.get("placement", f"/allocations/{self.id}")["allocations"])

    # Its lease

    def lease_in_list(self, account: Account | None = None) -> dict[str, Any] | None:
        """Find its lease among those that somebody sees, its owner unless said otherwise."""
        for lease in (account or self.owner).get("reservation", "/leases")["leases"]:
            if self.id in [r["resource_id"] for r in lease["reservations"]]:
                return dict(lease)
        return None

    def lease(self) -> dict[str, Any]:
        """Return its lease, as an administrator sees it."""
        row = self.row()
        return dict(self.cloud.admin.get("reservation", f"/leases/{row.lease_id}")["lease"])

    def stored_lease(self) -> leases.Facts | None:
        """Return its lease as Blazar's tables have it, which needs no service."""
        row = self.row_or_none()
        if row is None or row.lease_id is None:
            return None
        with self.cloud.database.begin() as connection:
            return leases.read(connection, row.lease_id)

    def put_lease(self, account: Account | None = None, **values: Any) -> Answer:
        """PUT its lease, as its owner unless said otherwise; dates may be datetimes."""
        path = f"/leases/{self.row().lease_id}"
        return (account or self.owner).request("reservation", "PUT", path, dates_written(values))

    def move_end(self, moment: datetime.datetime, account: Account | None = None) -> None:
        """Move its end, which has to be taken."""
        answer = self.put_lease(account, end_date=moment)
        assert answer.status == 200, answer
        assert self.ends_at == moment

    # What the plug-in knows

    def row_or_none(self) -> Expiration | None:
        """Return its row, if there is one."""
        with self.cloud.database.begin() as connection:
            return db_api.get(connection, self.id)

    def row(self) -> Expiration:
        """Return its row, which has to be there."""
        found = self.row_or_none()
        assert found is not None, f"{self} has no row"
        return found

    @property
    def ends_at(self) -> datetime.datetime:
        """When its lease ends."""
        ends_at = self.row().ends_at
        assert ends_at is not None
        return ends_at

    def lease_rows(self) -> int:
        """Count the rows that Blazar's tables have of it: of leases, reservations, events."""
        row = self.row()
        with self.cloud.database.begin() as connection:
            return sum(
                connection.scalars(
                    sa.select(sa.func.count()).select_from(table).where(column == row.lease_id)
                ).one()
                for table, column in (
                    (leases.LEASES, leases.LEASES.c.id),
                    (leases.RESERVATIONS, leases.RESERVATIONS.c.lease_id),
                    (leases.EVENTS, leases.EVENTS.c.lease_id),
                )
            )

    def history(self) -> list[tuple[str, dict[str, Any]]]:
        """Return its history: names and details, oldest first."""
        h = history.c
        with self.cloud.database.begin() as connection:
            return [
                (row.event, json.loads(row.details))
                for row in connection.execute(
                    sa.select(h.event, h.details).where(h.server_id == self.id).order_by(h.id)
                )
            ]

    def when(self, event: str) -> datetime.datetime:
        """Say when an event of its history first was, which has to be there."""
        h = history.c
        with self.cloud.database.begin() as connection:
            found = connection.scalar(
                sa.select(sa.func.min(h.at)).where(h.server_id == self.id, h.event == event)
            )
        assert found is not None, f"no {event!r} in the history of {self}"
        return found  # type: ignore[no-any-return]

    def events(self) -> list[str]:
        """Return the names of its history, oldest first."""
        return [event for event, _ in self.history()]

    def notices(self) -> list[NoticeRow]:
        """Return its notices, oldest first."""
        with self.cloud.database.begin() as connection:
            return db_api.notices_of(connection, self.id)

    def mails(self, kind: str = "") -> list[Mail]:
        """Return the mails about it, oldest first.

        :param kind: only those of notices whose kind begins so.
        """
        wanted = {n.message_id for n in self.notices() if n.kind.startswith(kind)}
        return [
            mail
            for mail in self.cloud.mails()
            if mail.message["X-OpenStack-Server"] == self.id and mail.message_id in wanted
        ]

    # Waiting

    def wait_for_event(
        self, event: str, within: float, after: datetime.datetime | None = None, every: float = 0.5
    ) -> dict[str, Any]:
        """Wait until its history has an event, and return the details of the last such one."""

        def look() -> dict[str, Any] | None:
            return dict(reversed(self.history())).get(event) if event in self.events() else None

        return wait_for(
            f"{event!r} of {self}", look, within, after=after, every=every, shown=self.events
        )

    def wait_for_mail(
        self, kind: str, within: float, after: datetime.datetime | None = None
    ) -> Mail:
        """Wait for the first mail about it of a kind."""
        return wait_for(
            f"mail {kind!r} about {self}",
            lambda: next(iter(self.mails(kind)), None),
            within,
            after=after,
            shown=self.events,
        )

    def wait_for_end(self, within: float = 60) -> None:
        """Wait for its end: until it is gone, and that was mailed."""

        def told() -> bool:
            return any(n.kind == "ended" and n.accepted_at for n in self.notices())

        wait_for(f"the end of {self}", told, within, after=self.ends_at, every=1, shown=self.events)
        # Nova shows it as DELETED for a moment, before it does not know it any more.
        wait_for(f"Nova's 404 for {self}", lambda: self.server() is None, 10)

    def facts(self) -> str:
        """Describe all that is known of it, for who wants to know why a test failed."""
        lines = [
            f"{self} of {self.owner.name}",
            f"  {self.row_or_none()}",
            f"  {self.stored_lease()}",
        ]
        lines += [f"  history: {event} {details}" for event, details in self.history()]
        lines += [f"  {notice}" for notice in self.notices()]
        lines += [f"  mail to {mail.recipients}: {mail.subject}" for mail in self.mails()]
        return "\n".join(lines)


def dates_written(values: dict[str, Any]) -> dict[str, Any]:
    """Write dates as Blazar's API takes them."""
    return {
        key: value.strftime(DATE) if isinstance(value, datetime.datetime) else value
        for key, value in values.items()
    }


def in_minutes(minutes: float) -> datetime.datetime:
    """Say the first whole minute that is at least so far from now."""
    moment = utcnow() + minutes * MINUTE
    floor = moment.replace(second=0, microsecond=0)
    return floor if floor == moment else floor + MINUTE


def images_of(cloud: Cloud, vm: Vm) -> list[dict[str, Any]]:
    """List every image in the cloud that was made of a VM, whoever it belongs to."""
    path = f"/v2/images?vmexpire_server_id={vm.id}&visibility=all"
    found: list[dict[str, Any]] = cloud.admin.get("image", path)["images"]
    return found
