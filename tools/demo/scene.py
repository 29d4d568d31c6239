# SPDX-License-Identifier: Apache-2.0
"""What the steps of the story share: the accounts, the VM and its lease, and what is said of them.

Commands are shown and run as an account; whether what they did is so is asked of the services
themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from tools.demo import terms
from tools.demo.accounts import Account, Answer, Said
from tools.demo.checks import require
from tools.demo.mailbox import Mail, mails
from tools.demo.narrator import Narrator
from tools.demo.waiting import wait_for
from tools.sandbox import Sandbox

#: Alice's.
ADDRESS = "alice@example.org"

_LEASE = ("openstack", "reservation", "lease")
_MAIL_PATIENCE = timedelta(seconds=60)


class Scene:
    """One VM in one cloud. What a step finds out, those after it use."""

    #: Our own command.
    EXPIRATION = ("openstack", "vm", "expiration")

    def __init__(self, cloud: Sandbox, narrator: Narrator) -> None:
        self.cloud = cloud
        self.narrator = narrator
        self.admin = Account(cloud, "admin")
        self.alice = Account(cloud, "alice")
        self.bob = Account(cloud, "bob")
        self.server_id = ""
        self.lease_id = ""
        #: Of the lease, naive UTC.
        self.end = datetime.min
        self.image_id = ""

    # --- commands ---

    def run(self, account: Account, *argv: str, show: Callable[[str], str] = str) -> Said:
        """Run a command before the reader's eyes.

        show: what of its output the reader sees
        """
        self.narrator.command(account.name, argv)
        said = account.run(argv)
        self.narrator.output(show(said.text) if said.text.strip() else "(nothing)")
        return said

    def show_lease(self, account: Account) -> Said:
        """Run `lease show`, with the few columns that matter here."""
        columns = ("-c", "id", "-c", "status", "-c", "end_date")
        return self.run(account, *_LEASE, "show", *columns, self.lease_id)

    def set_end(self, account: Account, end: datetime) -> Said:
        """Run `lease set --end-date`, as the mail says it."""
        return self.run(account, *_LEASE, "set", "--end-date", terms.to_blazar(end), self.lease_id)

    # --- claims ---

    def require(self, holds: Any, claim: str, found: Any) -> None:
        """Tell the reader of a claim that holds; else raise NotSo."""
        require(holds, claim, found)
        self.narrator.held(claim)

    def require_lease(self, end: datetime, claim: str) -> None:
        """Require that the lease is ACTIVE and ends at `end`."""
        lease = self.lease()
        self.require(
            lease["status"] == "ACTIVE" and terms.from_blazar(lease["end_date"]) == end,
            f"Blazar: {claim} {end:%H:%M} UTC",
            lease,
        )

    def require_forbidden(self, account: Account, method: str, body: Any = None) -> None:
        """Require that Blazar refuses an account's request about the lease."""
        answer = account.request("reservation", method, f"/leases/{self.lease_id}", json=body)
        self.require(
            answer.status == 403,
            f"Blazar: {method} of the lease by {account.name} gets 403",
            answer,
        )

    def require_reminder(self, mail: Mail) -> None:
        """Require that a reminder went to the right person, in time, with the right date."""
        self.require(
            mail.recipients == ADDRESS and f"{self.end:%Y-%m-%d %H:%M} UTC" in mail.text,
            f"it went to {ADDRESS} and names the end, {self.end:%H:%M} UTC",
            mail,
        )
        ahead = self.end - mail.arrived_at
        self.require(
            ahead >= terms.MINIMUM_NOTICE,
            f"it arrived {ahead.total_seconds():.0f} s before the end",
            mail,
        )

    # --- what the services say ---

    def server(self) -> Answer:
        """What Nova says of the VM."""
        return self.admin.get("compute", f"/servers/{self.server_id}")

    def leases(self, account: Account) -> list[dict[str, Any]]:
        """The leases for the VM, of those that Blazar shows to an account."""
        answer = account.get("reservation", "/leases")
        require(answer.status == 200, f"Blazar lists {account.name}'s leases", answer)
        return [
            lease
            for lease in answer.body["leases"]
            if any(one["resource_id"] == self.server_id for one in lease["reservations"])
        ]

    def lease(self) -> dict[str, Any]:
        """The VM's lease, as Blazar shows it to Alice."""
        answer = self.alice.get("reservation", f"/leases/{self.lease_id}")
        require(answer.status == 200, "Blazar shows alice the lease", answer)
        return dict(answer.body["lease"])

    def images(self) -> list[dict[str, Any]]:
        """The images of the VM that Glance shows to Alice."""
        answer = self.alice.get("image", f"/v2/images?vmexpire_server_id={self.server_id}")
        require(answer.status == 200, "Glance lists alice's images", answer)
        return list(answer.body["images"])

    def mails(self) -> list[Mail]:
        """The mails about the VM, in the order in which they arrived."""
        return mails(self.cloud.mail, self.server_id)

    def await_mail(self, what: str, number: int, due: datetime | None = None) -> Mail:
        """Wait for the n-th mail about the VM."""

        def look() -> Mail | None:
            found = self.mails()
            return found[number - 1] if len(found) >= number else None

        return wait_for(self.narrator, what, look, _MAIL_PATIENCE, due)
