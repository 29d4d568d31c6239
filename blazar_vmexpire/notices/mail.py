# SPDX-License-Identifier: Apache-2.0
"""Notices as mails: how one is built."""

from __future__ import annotations

import datetime
import functools
import hashlib
import re
import secrets
from collections.abc import Sequence
from email.header import Header
from email.headerregistry import Address, BaseHeader, HeaderRegistry
from email.message import EmailMessage
from email.policy import EmailPolicy, Policy
from typing import Any

import icalendar

from blazar_vmexpire import words
from blazar_vmexpire.addresses import parse_recipient, parse_sender
from blazar_vmexpire.notices.content import Notice
from blazar_vmexpire.notices.render import Rendered

#: Characters in a line of a body that needs no encoding; RFC 5322 would have no more.
_LINE_LIMIT = 78
#: Characters in a word of a header that needs no encoding: more do not fit beside its name.
_WORD_LIMIT = 50
#: How many headers are kept that were made and written before.
_KNOWN_HEADERS = 256

#: What parts the parts of mails: nobody knows it before they have got one.
_BOUNDARY = f"=_{secrets.token_hex(16)}"


class _PlainText(BaseHeader):
    """A header whose value is text and nothing but text: a subject, an id.

    The email package would take what looks like an encoded word in it for one, decode it, and write
    out what it held, line breaks included; and it loses spaces between long words that are not
    ASCII. Here the value is encoded as a whole where it is not plain ASCII.
    """

    max_count = 1

    @classmethod
    def parse(cls, value: str, kwds: dict[str, Any]) -> None:
        """Take the value as it is."""
        kwds["decoded"] = value
        kwds["parse_tree"] = None

    def fold(self, *, policy: Policy) -> str:
        """Write the header, in lines as long as the policy allows."""
        value = str(self)
        plain = (
            value.isascii()
            and "=?" not in value
            and all(len(word) <= _WORD_LIMIT for word in value.split())
        )
        text = Header(
            value,
            charset="us-ascii" if plain else "utf-8",
            maxlinelen=policy.max_line_length,
            header_name=self.name,
        ).encode(splitchars=" ", linesep=policy.linesep)
        return f"{self.name}: {text}{policy.linesep}"


class _Registry(HeaderRegistry):
    """A registry that makes the class of a header once, and what is the same in all mails once.

    Taking apart a ``Content-Type`` takes the email package as long as wording the mail takes us.
    """

    def __init__(self) -> None:
        super().__init__()
        self._made: dict[str, type] = {}
        self._known = functools.lru_cache(maxsize=_KNOWN_HEADERS)(super().__call__)

    def __getitem__(self, name: str) -> type:
        """Return the class of a header."""
        key = name.lower()
        if key not in self._made:
            self._made[key] = super().__getitem__(name)
        return self._made[key]

    def __call__(self, name: str, value: Any) -> BaseHeader:
        """Make a header, which is not changed any more."""
        # Addresses and dates cannot be looked up.
        return self._known(name, value) if type(value) is str else super().__call__(name, value)


class _Policy(EmailPolicy):
    """Writes the header that it has written before as it did then."""

    def fold_binary(self, name: str, value: str) -> bytes:
        """Write a header."""
        return _folded(self, name, value)


@functools.lru_cache(maxsize=_KNOWN_HEADERS)
def _folded(policy: EmailPolicy[EmailMessage], name: str, value: str) -> bytes:
    return EmailPolicy.fold_binary(policy, name, value)


def _policy() -> _Policy:
    """Say how mails are written: as ASCII, so that no server on the way needs 8BITMIME."""
    registry = _Registry()
    for name in ("Subject", "List-Id", "X-OpenStack-Server", "X-OpenStack-Project"):
        registry.map_to_type(name, _PlainText)
    return _Policy(linesep="\r\n", cte_type="7bit", header_factory=registry)


#: How every mail is written, its bytes as well as its headers.
POLICY = _policy()


def message_id_for(server_id: str, kind: str, generation: int, domain: str) -> str:
    """Make the Message-ID of a notice: the same for the same notice, however often it is sent.

    :param server_id: UUID of the VM, or what else the mail is about.
    :param kind: the notice's kind with its suffix.
    :param generation: of the VM's expiration.
    :param domain: of the sender's address.
    """
    name = f"{kind}.{generation}.{server_id}"
    if not re.fullmatch(r"[\w/-]{1,40}\.\d+\.[\w-]{1,64}", name, re.ASCII):
        name = hashlib.sha256(name.encode("utf-8", "backslashreplace")).hexdigest()
    return f"<{name}@{domain}>"


def build_message(
    rendered: Rendered,
    *,
    recipient: str,
    others: Sequence[str] = (),
    cc: Sequence[str] = (),
    notice: Notice | None = None,
    from_address: str,
    message_id: str,
    date: datetime.datetime,
    calendar: icalendar.Calendar | None = None,
) -> EmailMessage:
    """Build the mail of a worded notice.

    :param notice: what it is about; None where that is not one VM.
    :param recipient: one address, as :func:`parse_recipient` gives it.
    :param others: more of them, to whom it is addressed as well.
    :param cc: more of them, to whom copies go that everybody may know of.
    :param from_address: the sender: an address, or ``Name <address>``.
    :param date: of the mail, naive UTC.
    :param calendar: attached, so that it takes the place of neither text nor HTML anywhere.
    :raises BadAddress: when an address is none.
    """
    message = EmailMessage(policy=POLICY)
    message["Subject"] = words.one_line(rendered.subject)
    sender = parse_sender(from_address)
    message["From"] = sender
    message["To"] = [_address(text) for text in (recipient, *others)]
    if cc:
        message["Cc"] = [_address(text) for text in cc]
    message["Date"] = date.replace(tzinfo=datetime.UTC)
    message["Message-ID"] = message_id
    # RFC 3834: no holiday responder answers this.
    message["Auto-Submitted"] = "auto-generated"
    message["List-Id"] = _list_id(sender)
    if notice is not None:
        message["X-OpenStack-Server"] = words.one_line(notice.server_id)
        message["X-OpenStack-Project"] = words.one_line(notice.project_id)
    text = words.plain_body(rendered.text)
    html = None if rendered.html is None else words.plain_body(rendered.html)
    boundary = _boundary(text, html or "")
    message.set_content(text, charset="utf-8", cte=_encoding(text))
    if html is not None:
        # After the text: of several forms, readers show the last that they can.
        message.make_alternative(f"{boundary}.1")
        message.add_alternative(html, subtype="html", charset="utf-8", cte=_encoding(html))
    if calendar is not None:
        message.make_mixed(f"{boundary}.2")
        message.add_attachment(
            calendar.to_ical(),
            maintype="text",
            subtype="calendar",
            filename="vm-expiration.ics",
            params={"method": str(calendar["METHOD"]), "charset": "utf-8"},
        )
    return message


def _boundary(*texts: str) -> str:
    """Choose what parts the parts of a mail: the same for all, so that its headers are known.

    Whoever has got a mail could have it in the name of a VM.
    """
    boundary = _BOUNDARY
    while any(boundary in text for text in texts):
        boundary = f"=_{secrets.token_hex(16)}"
    return boundary


def _address(text: str) -> Address:
    return Address(addr_spec=parse_recipient(text))


def _encoding(text: str) -> str:
    short = all(len(line) <= _LINE_LIMIT for line in text.split("\n"))
    return "7bit" if text.isascii() and short else "quoted-printable"


def _list_id(sender: Address) -> str:
    """Name the notices as RFC 2919 would have a mailing list named: for filters."""
    return f"<{sender.username}.{sender.domain}>"
