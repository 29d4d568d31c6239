# SPDX-License-Identifier: Apache-2.0
"""The mails that the sandbox's mail server took, read from where it files them."""

from __future__ import annotations

import email
import email.policy
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from email.message import EmailMessage
from pathlib import Path

#: Headers that are shown, in this order.
_SHOWN = ("From", "To", "Subject", "Date", "X-OpenStack-Server")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Mail:
    """One mail. arrived_at: naive UTC, when the server took it."""

    recipients: str
    arrived_at: datetime
    server_id: str
    subject: str
    headers: tuple[tuple[str, str], ...]
    text: str


def parse(name: str, content: bytes) -> Mail:
    """Read a mail.

    name: of its file, which begins with the UTC time of its arrival
    """
    message = email.message_from_bytes(content, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    body = message.get_body(("plain",))
    text = body.get_content() if body else ""
    return Mail(
        recipients=str(message["X-Rcpt-To"] or ""),
        arrived_at=datetime.strptime(name.partition("-")[0], "%Y%m%dT%H%M%S.%fZ"),
        server_id=str(message["X-OpenStack-Server"] or ""),
        subject=str(message["Subject"] or ""),
        headers=tuple((key, _shown(str(message[key]))) for key in _SHOWN if message[key]),
        text=_CONTROL.sub("?", text.replace("\r\n", "\n")).strip("\n"),
    )


def _shown(value: str) -> str:
    return _CONTROL.sub("?", " ".join(value.split()))


def mails_to(directory: Path, recipient: str) -> list[Mail]:
    """All mails to one person, in the order in which they arrived."""
    return [mail for mail in _all(directory) if mail.recipients == recipient]


def mails(directory: Path, server_id: str) -> list[Mail]:
    """All mails about one server, in the order in which they arrived."""
    return [mail for mail in _all(directory) if mail.server_id == server_id]


def _all(directory: Path) -> Iterator[Mail]:
    return (parse(path.name, path.read_bytes()) for path in sorted(directory.glob("*.eml")))
