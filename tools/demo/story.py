# SPDX-License-Identifier: Apache-2.0
"""The story: the steps of one VM's life, each checked by what the real services say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from tools.demo import terms
from tools.demo.accounts import Account, Answer, Said
from tools.demo.checks import NotSo, in_order, require
from tools.demo.mailbox import Mail, mails
from tools.demo.narrator import Narrator
from tools.demo.timing import Timings
from tools.demo.waiting import wait_for
from tools.sandbox import Sandbox

NAME = "web1"
ALICES_MAIL = "alice@example.org"
LEASE_COLUMNS = ("-c", "id", "-c", "status", "-c", "end_date")

#: What the history has to tell, in this order.
CHAPTERS = ["adopted", "extended", "end_begun", "image_given", "deleted"]

_SECONDS = timedelta(seconds=1)


class Story:
    """One VM's life. What a step finds out, those after it use."""

    def __init__(self, cloud: Sandbox, narrator: Narrator, timings: Timings) -> None:
        self._cloud = cloud
        self._narrator = narrator
        self._timings = timings
        self._admin = Account(cloud, "admin")
        self._alice = Account(cloud, "alice")
        self._bob = Account(cloud, "bob")
        self.server_id = ""
        self._lease_id = ""
        self._end = datetime.min
        self._image_id = ""

    def tell(self) -> None:
        """Live it, step by step.

        :raises NotSo: something was not as it has to be.
        """
        steps: list[tuple[str, Callable[[], None]]] = [
            ("Alice boots a VM", self._boot),
            ("Its lease appears", self._lease_appears),
            ("The reminder arrives", self._reminder),
            ("Alice extends the lease", self._extend),
            ("A date too far is refused", self._too_far),
            ("Bob may not touch it", self._stranger),
            ("The new end is announced too", self._reminder_again),
            ("The end comes", self._end_comes),
            ("The last mail arrives", self._last_mail),
            ("The history of it all", self._history),
        ]
        for number, (title, step) in enumerate(steps, 2):
            with self._timings.step(f"{number:>2}  {title}"):
                self._narrator.heading(f"{number}  {title}")
                step()

    # --- the steps ---

    def _boot(self) -> None:
        self._narrator.say(
            "Alice is a member of project alpha. She boots a VM as always; nothing about the "
            "command has to do with expiration."
        )
        said = self._as(
            self._alice,
            *("openstack", "server", "create", "--flavor", "m1.tiny", "--image", "cirros"),
            *("--nic", "none", "--wait", "-c", "id", "-c", "name", "-c", "status", NAME),
        )
        require(said.code == 0, "the command succeeds", said.text)
        listed = self._alice.get("compute", f"/servers?name={NAME}")
        servers = listed.body.get("servers", []) if listed.status == 200 else []
        require(len(servers) == 1, f"Nova lists one server {NAME} for alice", listed)
        self.server_id = servers[0]["id"]
        server = self._server()
        status = server.body.get("server", {}).get("status")
        self._require(status == "ACTIVE", f"Nova: server {self.server_id} is ACTIVE", server)

    def _lease_appears(self) -> None:
        self._narrator.say(
            "The plug-in hears of the new VM from Nova and gives it a lease: a real Blazar lease, "
            "owned by Alice's project, with one reservation whose resource is the VM."
        )
        lease = self._wait("the lease", self._find_lease, 30 * _SECONDS)
        self._lease_id, self._end = lease["id"], terms.from_blazar(lease["end_date"])
        self._as(
            self._alice, *("openstack", "reservation", "lease", "list", "-c", "id", "-c", "name")
        )
        self._as(self._alice, *self._lease_command("show"), *LEASE_COLUMNS, self._lease_id)
        reservations = [
            (one["resource_type"], one["resource_id"]) for one in lease.get("reservations", [])
        ]
        self._require(
            reservations == [("virtual:vm", self.server_id)],
            "Blazar: the lease has one reservation, of type virtual:vm, for this VM",
            lease,
        )
        self._require(
            lease["status"] == "ACTIVE" and lease["project_id"] == self._alice.project_id,
            "Blazar: the lease is ACTIVE and belongs to project alpha",
            lease,
        )
        started = terms.from_blazar(lease["start_date"])
        self._require(
            terms.LEASE <= self._end - started <= terms.LEASE + 2 * terms.MINUTE,
            f"Blazar: it ends at {self._end:%H:%M} UTC, lease_duration"
            f" {terms.minutes(terms.LEASE)} from now in whole minutes",
            lease,
        )

    def _reminder(self) -> None:
        self._narrator.say(
            "Well before the end its owner is told. Here that is two minutes, on a real cloud ten "
            "days. The mail says what will happen, when, and how to prevent it."
        )
        mail = self._await_mail("the reminder", 1, self._end - terms.FIRST_NOTICE)
        self._narrator.mail(mail)
        self._check_reminder(mail)
        command = f"openstack reservation lease set --end-date {'{}'} {self._lease_id}"
        head, tail = command.split("{}")
        self._require(
            any(head in line and line.endswith(tail) for line in mail.text.splitlines()),
            "the command that extends the lease is in the mail",
            mail.text,
        )

    def _extend(self) -> None:
        new_end = self._end + terms.MORE
        self._narrator.say(
            "Alice still needs the VM. She takes the command from the mail, with a date of her "
            f"own: {self._end:%H:%M} becomes {new_end:%H:%M}, one minute more, so that we need "
            "not wait for long."
        )
        said = self._set_end(self._alice, new_end)
        require(said.code == 0, "the command succeeds", said.text)
        self._require_lease(new_end, "the lease is ACTIVE and ends at")
        self._end = new_end

    def _too_far(self) -> None:
        self._narrator.say(
            "Extending is unlimited in number, not in reach: here extension_duration is "
            f"{terms.minutes(terms.EXTENSION)}, so an owner can have at most "
            f"{terms.minutes(terms.EXTENSION)} from now. Alice tries a whole year."
        )
        said = self._set_end(self._alice, self._end + terms.TOO_FAR)
        self._require(
            said.code != 0 and "past the latest allowed" in said.text,
            "it is refused, and the message names the latest allowed date",
            said.text,
        )
        self._require_lease(self._end, "the lease is ACTIVE still, and ends as before, at")

    def _stranger(self) -> None:
        self._narrator.say(
            "Bob works in another project. He has got hold of the lease's id and tries to see it, "
            "and to move its end."
        )
        said = self._as(self._bob, *self._lease_command("show"), *LEASE_COLUMNS, self._lease_id)
        require(said.code != 0, "bob's command fails", said.text)
        self._bob_is_refused("GET", None)
        self._set_end(self._bob, self._end + terms.MINUTE)
        self._bob_is_refused("PUT", {"end_date": terms.to_blazar(self._end + terms.MINUTE)})
        self._bob_is_refused("DELETE", None)
        self._require_lease(self._end, "the lease is untouched, and ends at")

    def _reminder_again(self) -> None:
        self._narrator.say(
            "A new end is a new promise: nothing disruptive happens to a VM whose owner has not "
            f"been told of this very end, at least {terms.minutes(terms.MINIMUM_NOTICE)} before "
            "(minimum_notice). So a second reminder goes out."
        )
        mail = self._await_mail("the second reminder", 2, self._end - terms.FIRST_NOTICE)
        self._narrator.output(f"Subject: {mail.subject}")
        self._check_reminder(mail)

    def _end_comes(self) -> None:
        self._narrator.say(
            "This time Alice does nothing. At the end the VM is locked and stopped, an image is "
            "made of it and verified, the image is given to project alpha, and only then is the "
            "VM deleted (on_end_action = snapshot)."
        )
        wait_for(
            self._narrator,
            "the VM's end",
            lambda: self._server() if self._server().status == 404 else None,
            120 * _SECONDS,
            due=self._end,
        )
        self._check_record()
        images = self._alice.get("image", f"/v2/images?vmexpire_server_id={self.server_id}")
        found = images.body.get("images", []) if images.status == 200 else []
        require(len(found) == 1, "Glance shows alice one image of this VM", images)
        image = found[0]
        self._image_id = image["id"]
        self._narrator.say("What Alice finds:")
        self._as(self._alice, "openstack", "server", "list", "-c", "ID", "-c", "Name")
        self._as(
            self._alice,
            *("openstack", "image", "show", "-c", "name", "-c", "status", "-c", "size"),
            *("-c", "owner", self._image_id),
        )
        gone = self._server()
        self._require(gone.status == 404, "Nova: the VM is gone (404)", gone)
        self._require(
            image["status"] == "active" and image["size"],
            f"Glance: image {image['name']} is active, {image['size']} bytes",
            image,
        )
        self._require(
            image["owner"] == self._alice.project_id, "Glance: it is owned by project alpha", image
        )
        lease = self._lease()
        self._require(lease["status"] == "TERMINATED", "Blazar: the lease is TERMINATED", lease)

    def _check_record(self) -> None:
        """Nova's own record of what was done to the VM, kept beyond its deletion."""
        record = self._admin.get("compute", f"/servers/{self.server_id}/os-instance-actions")
        actions = record.body.get("instanceActions", []) if record.status == 200 else []
        # The newest comes first.
        names = [action["action"] for action in reversed(actions)]
        self._require(
            in_order(["create", "stop", "createImage", "delete"], names),
            f"Nova's record of the VM: {', '.join(names)}",
            record,
        )
        deleted = terms.from_blazar(actions[0]["start_time"])
        self._require(
            deleted >= self._end,
            f"Nova: deleted at {deleted:%H:%M:%S} UTC, not before its lease's end at"
            f" {self._end:%H:%M}",
            record,
        )

    def _last_mail(self) -> None:
        self._narrator.say("The owner is told what became of the VM, and where its image is.")
        mail = self._await_mail("the last mail", 3, None)
        self._narrator.mail(mail)
        self._require(mail.recipients == ALICES_MAIL, f"it went to {ALICES_MAIL}", mail)
        self._require(self._image_id in mail.text, "it names the image", mail.text)
        count = len(self._mails())
        self._require(count == 3, "there were three mails in all, none twice", count)

    def _history(self) -> None:
        self._narrator.say(
            "The VM is gone; what happened to it, when, and on whose word, is not. The cloud's "
            "operator asks:"
        )
        said = self._as(self._admin, "blazar-vmexpire-manage", "history", self.server_id)
        require(said.code == 0, "the command succeeds", said.text)
        words = said.text.replace("|", " ").split()
        self._require(in_order(CHAPTERS, words), f"it tells of: {', '.join(CHAPTERS)}", said.text)
        told = words.count("notice_accepted")
        self._require(told == 3, "and of the three mails that the mail server took", said.text)

    # --- what the steps share ---

    def _as(self, account: Account, *argv: str) -> Said:
        """Run a command before the reader's eyes."""
        self._narrator.command(account.name, argv)
        said = account.run(argv)
        self._narrator.output(said.text if said.text.strip() else "(nothing)")
        return said

    def _lease_command(self, verb: str) -> tuple[str, ...]:
        return ("openstack", "reservation", "lease", verb)

    def _set_end(self, account: Account, end: datetime) -> Said:
        return self._as(
            account,
            *self._lease_command("set"),
            *("--end-date", terms.to_blazar(end), self._lease_id),
        )

    def _require(self, holds: Any, claim: str, found: Any) -> None:
        require(holds, claim, found)
        self._narrator.held(claim)

    def _wait(self, what: str, look: Callable[[], Any], patience: timedelta) -> Any:
        return wait_for(self._narrator, what, look, patience)

    def _server(self) -> Answer:
        return self._admin.get("compute", f"/servers/{self.server_id}")

    def _find_lease(self) -> dict[str, Any] | None:
        answer = self._alice.get("reservation", "/leases")
        require(answer.status == 200, "Blazar lists alice's leases", answer)
        for lease in answer.body["leases"]:
            if any(one["resource_id"] == self.server_id for one in lease["reservations"]):
                return dict(lease)
        return None

    def _lease(self) -> dict[str, Any]:
        answer = self._alice.get("reservation", f"/leases/{self._lease_id}")
        require(answer.status == 200, "Blazar shows alice the lease", answer)
        return dict(answer.body["lease"])

    def _require_lease(self, end: datetime, claim: str) -> None:
        lease = self._lease()
        self._require(
            lease["status"] == "ACTIVE" and terms.from_blazar(lease["end_date"]) == end,
            f"Blazar: {claim} {end:%H:%M} UTC",
            lease,
        )

    def _bob_is_refused(self, method: str, body: Any) -> None:
        answer = self._bob.request("reservation", method, f"/leases/{self._lease_id}", json=body)
        self._require(answer.status == 403, f"Blazar: {method} by bob gets 403", answer)

    def _mails(self) -> Sequence[Mail]:
        return mails(self._cloud.mail, self.server_id)

    def _await_mail(self, what: str, number: int, due: datetime | None) -> Mail:
        """Wait for the n-th mail about this VM."""

        def look() -> Mail | None:
            found = self._mails()
            return found[number - 1] if len(found) >= number else None

        return wait_for(self._narrator, what, look, 60 * _SECONDS, due)

    def _check_reminder(self, mail: Mail) -> None:
        self._require(
            mail.recipients == ALICES_MAIL and f"{self._end:%Y-%m-%d %H:%M} UTC" in mail.text,
            f"it went to {ALICES_MAIL} and names the end, {self._end:%H:%M} UTC",
            mail,
        )
        ahead = self._end - mail.arrived_at
        self._require(
            ahead >= terms.MINIMUM_NOTICE,
            f"it arrived {round(ahead.total_seconds())} s before the end",
            mail,
        )


__all__ = ["NotSo", "Story"]
