# SPDX-License-Identifier: Apache-2.0
"""A cloud with two people in it, its Blazar, and its mail: what a test of the life of a VM sees."""

from __future__ import annotations

import datetime
import email
import email.policy
import json
from email.message import EmailMessage
from typing import Any

import requests
import sqlalchemy as sa
from aiosmtpd.smtp import Envelope
from blazar import status as blazar_status

from blazar_vmexpire import leases
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db.api import Expiration
from blazar_vmexpire.db.models import expirations, history, notices
from tests.blazar_harness import Api, Harness
from tests.mail_servers import MailServer

DATE = "%Y-%m-%d %H:%M"


class Mail(EmailMessage):
    """A mail as its reader sees it: of its forms, the plain text."""

    def get_content(self, *args: Any, **kw: Any) -> Any:
        """Return the content; of a mail in several parts, that of the text."""
        text = self.get_body(("plain",)) if self.is_multipart() else None
        return super().get_content(*args, **kw) if text is None else text.get_content()


def parsed(envelope: Envelope) -> Mail:
    """Read what a mail server took."""
    assert isinstance(envelope.content, bytes)
    return email.message_from_bytes(envelope.content, Mail, policy=email.policy.default)


def calendar_of(mail: EmailMessage) -> str | None:
    """Return the calendar entry that is attached to a mail, if there is one."""
    parts = [part for part in mail.iter_attachments() if part.get_content_subtype() == "calendar"]
    (text,) = [part.get_content() for part in parts] or [None]
    return text


class World:
    """Alice of project alpha, Bob of project beta, and whatever VMs a test adds."""

    def __init__(self, harness: Harness, mail: MailServer) -> None:
        self.harness = harness
        self.cloud = harness.cloud
        self.clock = harness.clock
        self.mail = mail
        self.alpha = self.cloud.add_project("alpha")
        self.beta = self.cloud.add_project("beta")
        self.alice = self.cloud.add_user("alice", email="alice@example.org")
        self.bob = self.cloud.add_user("bob", email="bob@example.org")

    # Who asks

    @property
    def as_alice(self) -> Api:
        """Blazar's API as the owner sees it."""
        return self.harness.api.as_user(self.alice, self.alpha)

    @property
    def as_bob(self) -> Api:
        """Blazar's API as a stranger sees it."""
        return self.harness.api.as_user(self.bob, self.beta)

    @property
    def as_admin(self) -> Api:
        """Blazar's API as an administrator sees it."""
        return self.harness.api.as_admin()

    # What happens

    def boot(self, name: str = "web1", **attributes: Any) -> str:
        """Add a VM of Alice's to Nova, created now; nobody is told."""
        attributes = {
            "project_id": self.alpha,
            "user_id": self.alice,
            "created_at": self.clock.now(),
            **attributes,
        }
        return self.cloud.add_server(name=name, **attributes)

    def adopt(self, name: str = "web1", **attributes: Any) -> str:
        """Add a VM of Alice's and have it taken in, as by a notification."""
        server_id = self.boot(name, **attributes)
        self.see(server_id)
        return server_id

    def see(self, server_id: str) -> None:
        """Have a VM looked at, as by a notification."""
        with self.harness.database.begin() as connection:
            db_api.see(connection, server_id, self.clock.now())
        self.harness.work()

    def live(self, until: datetime.datetime) -> None:
        """Let time pass, from one date on which something is due to the next."""
        while (now := self.clock.now()) < until:
            self.clock.set(min([until, *(date for date in self._due_dates() if date > now)]))
            self.settle()

    def watch(self, **duration: float) -> None:
        """Let time pass with all its audits of the leases, which come every half a minute."""
        until = self.clock.now() + datetime.timedelta(**duration)
        while self.clock.now() < until:
            self.clock.set(min(until, self.clock.now() + datetime.timedelta(seconds=30)))
            self.settle()

    def settle(self) -> None:
        """Let everything happen that is due now, and in the few seconds that it takes."""
        for _ in range(20):
            steps = self.harness.work()
            self.harness.tick()
            steps += self.harness.work()
            soon = self.clock.now() + datetime.timedelta(seconds=10)
            coming = [d for d in self._due_dates() if d <= soon]
            if not coming:
                return
            self.clock.set(max(min(coming), self.clock.now() + datetime.timedelta(seconds=1)))
        raise AssertionError("there is no end to it")

    def _due_dates(self) -> list[datetime.datetime]:
        """Return when our worker and Blazar's engine will have something to do."""
        x, events = expirations.c, leases.EVENTS.c
        with self.harness.database.begin() as connection:
            ours = connection.execute(
                sa.select(x.next_at, x.claimed_until).where(x.next_at.is_not(None))
            ).all()
            digests = connection.scalars(
                sa.select(notices.c.due_at).where(
                    notices.c.digest.is_not(None), notices.c.due_at.is_not(None)
                )
            ).all()
            # Those of a lease that a dead manager left behind come when that has been mended.
            blazars = connection.scalars(
                sa.select(events.time)
                .outerjoin(leases.LEASES, leases.LEASES.c.id == events.lease_id)
                .where(
                    events.status == "UNDONE",
                    sa.func.coalesce(leases.LEASES.c.status, "").not_in(
                        blazar_status.lease.TRANSITIONAL
                    ),
                )
            ).all()
        just_after = datetime.timedelta(seconds=1)
        return [
            # What somebody claimed and did not finish is due when that claim is over.
            *(max(due, until + just_after) if until else due for due, until in ours),
            *blazars,
            *digests,
        ]

    def update(self, server_id: str, api: Api | None = None, **values: Any) -> Any:
        """PUT a VM's lease; dates may be datetimes."""
        values = {
            key: value.strftime(DATE) if isinstance(value, datetime.datetime) else value
            for key, value in values.items()
        }
        lease_id = self.row(server_id).lease_id
        return (api or self.as_alice).put(f"/v1/leases/{lease_id}", json=values)

    def extend(self, server_id: str, api: Api | None = None, **body: Any) -> Any:
        """Extend a VM by our own API, which reaches it past its end, too."""
        return (api or self.as_alice).post(f"/v1/vm-expirations/{server_id}/extend", json=body)

    def act(self, server_id: str, action: str, *, admin: bool = False) -> int:
        """Have Alice, or an administrator, do something to a VM by Nova's API.

        :param action: ``os-start``, ``unshelve``, ``unlock``, …
        :returns: the HTTP status of the answer.
        """
        identity = self.cloud.identity
        whose = (self.alice, self.alpha, ["member", "reader"])
        if admin:
            whose = (identity.any_user(), identity.any_project(), ["admin", "member", "reader"])
        answer = requests.post(
            f"{self.cloud.url}/compute/v2.1/servers/{server_id}/action",
            json={action: None},
            headers={
                "X-Auth-Token": identity.issue(*whose),
                "OpenStack-API-Version": "compute 2.90",
            },
            timeout=60,
        )
        return answer.status_code

    # What is there

    def row(self, server_id: str) -> Expiration:
        """Return a VM's row, which has to be there."""
        found = self.row_or_none(server_id)
        assert found is not None, f"server {server_id} has no row"
        return found

    def row_or_none(self, server_id: str) -> Expiration | None:
        """Return a VM's row, if there is one."""
        with self.harness.database.begin() as connection:
            return db_api.get(connection, server_id)

    def rows(self) -> list[Expiration]:
        """Return all rows."""
        with self.harness.database.begin() as connection:
            return [Expiration.of(row) for row in connection.execute(sa.select(expirations))]

    def lease(self, server_id: str) -> leases.Facts:
        """Return a VM's lease, which has to be there."""
        lease_id = self.row(server_id).lease_id
        with self.harness.database.begin() as connection:
            found = leases.read(connection, str(lease_id))
        assert found is not None, f"lease {lease_id} of server {server_id} is not there"
        return found

    def all_leases(self) -> list[str]:
        """Return the ids of all leases there are."""
        with self.harness.database.begin() as connection:
            return list(connection.scalars(sa.select(leases.LEASES.c.id)))

    def events(self, server_id: str) -> list[str]:
        """Return the names of a VM's history, oldest first."""
        return [event for event, _ in self.history(server_id)]

    def history(self, server_id: str) -> list[tuple[str, dict[str, Any]]]:
        """Return a VM's history: names and details, oldest first."""
        with self.harness.database.begin() as connection:
            return [
                (row.event, json.loads(row.details))
                for row in connection.execute(
                    sa.select(history.c.event, history.c.details)
                    .where(history.c.server_id == server_id)
                    .order_by(history.c.id)
                )
            ]

    def notices(self, server_id: str) -> list[db_api.NoticeRow]:
        """Return a VM's notices, oldest first."""
        with self.harness.database.begin() as connection:
            return db_api.notices_of(connection, server_id)

    def wreck(self, table: sa.Table, where: Any, **columns: Any) -> int:
        """Write into a table behind everybody's back."""
        with self.harness.database.begin() as connection:
            return connection.execute(sa.update(table).where(where).values(**columns)).rowcount

    @property
    def mails(self) -> list[Mail]:
        """What the mail server took, oldest first."""
        return [parsed(envelope) for envelope in self.mail.mails]

    def recipients(self) -> list[str]:
        """Who got what the mail server took."""
        return [rcpt for m in self.mail.mails for rcpt in m.rcpt_tos]

    def state(self, server_id: str) -> str:
        """Return the state of a VM's expiration."""
        return self.row(server_id).state


__all__ = ["DATE", "World", "notices"]
