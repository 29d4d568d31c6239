# SPDX-License-Identifier: Apache-2.0
"""What somebody outside sees of us, in one order: what Nova was asked, what mails were taken.

The promises are judged by this, not by what our own tables say.
"""

from __future__ import annotations

import dataclasses
import datetime
import email
import email.policy
import re
from typing import Any

from aiosmtpd.smtp import SMTP, Envelope, Session
from oslo_utils import timeutils

from tests.fakes import wire
from tests.fakes.cloud import FakeCloud
from tests.mail_servers import MailServer

_DATE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d(?= UTC)")
_LINE = re.compile(r"^ {4}\d{4}-\S+ \S+ UTC  (?P<vm>\S{36}): .*$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Act:
    """Nova was asked to do something that the VM's owner would feel.

    :ivar what: ``lock``, ``stop``, ``shelve``, ``image`` (at the end) or ``delete``
    :ivar running: whether the VM ran at that moment
    :ivar images: of the VM, complete, and its project's at that moment
    """

    server_id: str
    at: datetime.datetime
    what: str
    running: bool
    images: int


@dataclasses.dataclass(frozen=True)
class Mail:
    """The mail server took a mail about a VM: ``dates`` are those that it names."""

    server_id: str
    at: datetime.datetime
    message_id: str
    dates: tuple[datetime.datetime, ...]


@dataclasses.dataclass(frozen=True)
class Changed:
    """Somebody moved the end of a VM's lease, or it began anew: what was told before is void."""

    server_id: str
    at: datetime.datetime


@dataclasses.dataclass(frozen=True)
class Held:
    """An administrator holds a VM: nothing at all may be done to it until then."""

    server_id: str
    at: datetime.datetime
    until: datetime.datetime


Story = list[Act | Mail | Changed | Held]


class WatchedCloud(FakeCloud):
    """A cloud that adds to a story what it is asked, before it does that."""

    def __init__(self, story: Story) -> None:
        super().__init__()
        self.story = story

    def serve(self, request: wire.Request, handler: Any) -> None:
        """Take note, then answer as usual."""
        with self.lock:
            what = _what(request)
            server_id = request.path.removeprefix("/compute/v2.1/servers/").split("/")[0]
            if what is not None and server_id in self.compute.vms:
                self.story.append(self._act(server_id, what))
        super().serve(request, handler)

    def _act(self, server_id: str, what: str) -> Act:
        vm = self.compute.vms[server_id]
        complete = [
            image
            for image in self.image.images.values()
            if (image["status"], image["owner"]) == ("active", vm.project_id)
            and image.get("vmexpire_server_id") == server_id
            and image["size"]
        ]
        running = vm.vm_state == "active"
        return Act(server_id, timeutils.utcnow(), what, running, len(complete))


def _what(request: wire.Request) -> str | None:
    """Say what a request would do to a VM; None: nothing that its owner would feel."""
    if not request.path.startswith("/compute/v2.1/servers/"):
        return None
    if "/metadata" in request.path:
        return None
    if request.method == "DELETE":
        return "delete"
    if request.method != "POST":
        return None
    ((action, arguments),) = request.body.items()
    if action == "createImage":
        # Of a running VM, before its end, it takes nothing away.
        return None if "-before-end-" in arguments["name"] else "image"
    return {"lock": "lock", "os-stop": "stop", "shelve": "shelve"}.get(action)


class WatchedMail(MailServer):
    """A mail server that adds to a story what it takes."""

    def __init__(self) -> None:
        super().__init__()
        self.story: Story = []

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Take note, and answer as usual."""
        answer = await super().handle_DATA(server, session, envelope)
        if answer.startswith("250"):
            mail: Any = email.message_from_bytes(
                envelope.content or b"", policy=email.policy.default
            )
            text = mail.get_body(("plain",)).get_content()
            # A digest tells of a VM in one line; the stories' VMs are named by their UUIDs.
            told = {mail["X-OpenStack-Server"]: text}
            if "X-OpenStack-Server" not in mail:
                told = {found["vm"]: found[0] for found in _LINE.finditer(text)}
            for server_id, said in told.items():
                dates = (
                    datetime.datetime.strptime(date, "%Y-%m-%d %H:%M")
                    for date in _DATE.findall(said)
                )
                self.story.append(
                    Mail(server_id, timeutils.utcnow(), mail["Message-ID"], tuple(sorted(dates)))
                )
        return answer
