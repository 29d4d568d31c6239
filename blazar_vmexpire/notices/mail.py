# SPDX-License-Identifier: Apache-2.0
"""Notices as mails: how one is built."""

from __future__ import annotations

import datetime
import hashlib
import re
import secrets
from collections.abc import Sequence
from email.headerregistry import Address
from email.message import EmailMessage, MIMEPart
from email.utils import format_datetime

import icalendar

from blazar_vmexpire import words
from blazar_vmexpire.addresses import parse_recipient, parse_sender
from blazar_vmexpire.notices.content import Notice
from blazar_vmexpire.notices.headers import POLICY
from blazar_vmexpire.notices.render import Rendered

#: Characters in a line of a body that needs no encoding (RFC 5322, 2.1.1). More than 78 should not
#: be where people see lines as they are sent; nobody sees those of HTML.
_LINE_LIMITS = {"plain": 78, "html": 998}

#: What parts the parts of mails: nobody knows it before they have got one.
_BOUNDARY = f"=_{secrets.token_hex(16)}"


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
    message["From"] = str(sender)
    message["To"] = [parse_recipient(text) for text in (recipient, *others)]
    if cc:
        message["Cc"] = [parse_recipient(text) for text in cc]
    message["Date"] = format_datetime(date.replace(tzinfo=datetime.UTC))
    message["Message-ID"] = message_id
    # RFC 3834: no holiday responder answers this.
    message["Auto-Submitted"] = "auto-generated"
    message["List-Id"] = _list_id(sender)
    if notice is not None:
        message["X-OpenStack-Server"] = words.one_line(notice.server_id)
        message["X-OpenStack-Project"] = words.one_line(notice.project_id)
    message["MIME-Version"] = "1.0"
    text = words.plain_body(rendered.text)
    html = None if rendered.html is None else words.plain_body(rendered.html)
    boundary = _boundary(text, html or "")
    if calendar is None:
        _word(message, text, html, f"{boundary}.1")
    else:
        worded = _word(MIMEPart(policy=POLICY), text, html, f"{boundary}.1")
        _join(message, "mixed", [worded, _attachment(calendar)], f"{boundary}.2")
    return message


def _word(part: MIMEPart, text: str, html: str | None, boundary: str) -> MIMEPart:
    """Put the words into a part of a mail, or into the mail itself: their text, or both forms."""
    if html is None:
        return _write(part, "plain", text)
    # The text first: of several forms, readers show the last that they can.
    forms = [
        _write(MIMEPart(policy=POLICY), subtype, content)
        for subtype, content in (("plain", text), ("html", html))
    ]
    return _join(part, "alternative", forms, boundary)


def _write(part: MIMEPart, subtype: str, content: str) -> MIMEPart:
    encoding = _encoding(content, _LINE_LIMITS[subtype])
    part.set_content(content, subtype=subtype, charset="utf-8", cte=encoding)
    return part


def _join(whole: MIMEPart, subtype: str, parts: Sequence[MIMEPart], boundary: str) -> MIMEPart:
    whole["Content-Type"] = f'multipart/{subtype}; boundary="{boundary}"'
    whole.set_payload(list(parts))
    return whole


def _attachment(calendar: icalendar.Calendar) -> MIMEPart:
    part = MIMEPart(policy=POLICY)
    part.set_content(
        calendar.to_ical(),
        "text",
        "calendar",
        disposition="attachment",
        filename="vm-expiration.ics",
        params={"method": str(calendar["METHOD"]), "charset": "utf-8"},
    )
    return part


def _boundary(*texts: str) -> str:
    """Choose what parts the parts of a mail: the same for all, so that its headers are known.

    Whoever has got a mail could have it in the name of a VM.
    """
    boundary = _BOUNDARY
    while any(boundary in text for text in texts):
        boundary = f"=_{secrets.token_hex(16)}"
    return boundary


def _encoding(text: str, limit: int) -> str:
    short = all(len(line) <= limit for line in text.split("\n"))
    return "7bit" if text.isascii() and short else "quoted-printable"


def _list_id(sender: Address) -> str:
    """Name the notices as RFC 2919 would have a mailing list named: for filters."""
    return f"<{sender.username}.{sender.domain}>"
