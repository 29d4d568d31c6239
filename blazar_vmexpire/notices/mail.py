# SPDX-License-Identifier: Apache-2.0
"""Notices as mails: how one is built, and how it is handed to the mail server."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import re
import smtplib
import ssl
import time
from collections.abc import Callable, Iterator
from email.header import Header
from email.headerregistry import Address, BaseHeader, HeaderRegistry
from email.message import EmailMessage
from email.policy import SMTP, EmailPolicy, Policy
from typing import Any

from oslo_config import cfg

from blazar_vmexpire import words
from blazar_vmexpire.notices._smtp import Connection, Deadline
from blazar_vmexpire.notices.addresses import BadAddress, parse_recipient, parse_sender
from blazar_vmexpire.notices.content import Notice
from blazar_vmexpire.notices.render import Rendered

__all__ = [
    "BadAddress",
    "MailUnavailable",
    "Mailer",
    "Undeliverable",
    "build_message",
    "message_id_for",
    "parse_recipient",
    "parse_sender",
]

#: Characters in a line of a body that needs no encoding; RFC 5322 would have no more.
_LINE_LIMIT = 78
#: How long to wait for the answer to QUIT, in seconds, when the mail is accepted already.
_QUIT_TIMEOUT = 1.0

#: Codes of 5xx replies to RCPT or DATA that say something about us, not about the recipient:
#: syntax and order of commands (RFC 5321; 501 can mean the address and is not among them), a host
#: that takes no mail (RFC 7504), and encryption or login missing (RFC 3207, RFC 4954).
_OUR_FAULT = frozenset({500, 502, 503, 504, 521, 530, 534, 535, 538})
#: The same in enhanced status codes (RFC 3463): bad sender, mail system, protocol.
_OUR_FAULT_ENHANCED = re.compile(r"5\.(?:1\.[78]|3\.[0-35-9]|5\.\d{1,3})(?!\d)")
#: Characters in a word of a header that needs no encoding: more do not fit beside its name.
_WORD_LIMIT = 50


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


def _policy() -> EmailPolicy[EmailMessage]:
    """Say how mails are written: as ASCII, so that no server on the way needs 8BITMIME."""
    registry = HeaderRegistry()
    for name in ("Subject", "List-Id", "X-OpenStack-Server", "X-OpenStack-Project"):
        registry.map_to_type(name, _PlainText)
    return SMTP.clone(cte_type="7bit", header_factory=registry)


_POLICY = _policy()


class Undeliverable(Exception):
    """The mail server refused this recipient, or this mail to them, for good."""


class MailUnavailable(Exception):
    """No mail can be sent now, whoever it is for: try the same mail again later."""


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
    notice: Notice | None = None,
    from_address: str,
    message_id: str,
    date: datetime.datetime,
) -> EmailMessage:
    """Build the mail of a worded notice.

    :param notice: what it is about; None where that is not one VM.
    :param recipient: one address, as :func:`parse_recipient` gives it.
    :param from_address: the sender: an address, or ``Name <address>``.
    :param date: of the mail, naive UTC.
    :raises BadAddress: when an address is none.
    """
    message = EmailMessage(policy=_POLICY)
    message["Subject"] = words.one_line(rendered.subject)
    sender = parse_sender(from_address)
    message["From"] = sender
    message["To"] = Address(addr_spec=parse_recipient(recipient))
    message["Date"] = date.replace(tzinfo=datetime.UTC)
    message["Message-ID"] = message_id
    # RFC 3834: no holiday responder answers this.
    message["Auto-Submitted"] = "auto-generated"
    message["List-Id"] = _list_id(sender)
    if notice is not None:
        message["X-OpenStack-Server"] = words.one_line(notice.server_id)
        message["X-OpenStack-Project"] = words.one_line(notice.project_id)
    text = words.plain_body(rendered.text)
    message.set_content(text, charset="utf-8", cte=_encoding(text))
    if rendered.html is not None:
        # After the text: of several forms, readers show the last that they can.
        html = words.plain_body(rendered.html)
        message.add_alternative(html, subtype="html", charset="utf-8", cte=_encoding(html))
    return message


def _encoding(text: str) -> str:
    short = all(len(line) <= _LINE_LIMIT for line in text.split("\n"))
    return "7bit" if text.isascii() and short else "quoted-printable"


def _list_id(sender: Address) -> str:
    """Name the notices as RFC 2919 would have a mailing list named: for filters."""
    return f"<{sender.username}.{sender.domain}>"


class Mailer:
    """Hands mails to the mail server of ``[vmexpire_mail]``; safe to share between threads.

    :param conf: where the group is registered. It is read once.
    :param clock: seconds for the timeout, going up only.
    :raises BadAddress: when ``from_address`` is no sender.
    """

    def __init__(self, conf: cfg.ConfigOpts, clock: Callable[[], float] = time.monotonic) -> None:
        group = conf.vmexpire_mail
        self._host: str = str(group.host)
        self._port: int = group.port
        self._tls: str = group.tls
        self._cafile: str | None = group.cafile
        self._username: str | None = group.username
        self._password: str = group.password or ""
        self._timeout: float = group.timeout.total_seconds()
        self._sender: Address = parse_sender(group.from_address)
        self._clock = clock

    @property
    def domain(self) -> str:
        """Domain of the sender's address, for :func:`message_id_for`."""
        return self._sender.domain

    def send(self, message: EmailMessage, recipient: str) -> str:
        """Send one mail to one recipient over a connection of its own.

        The mail counts as sent when the server has answered 250 to its content; whatever happens
        after that is ignored. The whole exchange ends within the configured timeout (see
        :mod:`._smtp` for the one exception). When it ends between content and answer, nobody
        knows whether the mail was taken: it counts as not sent, and a second copy has the same
        Message-ID.

        :returns: what the server answered, one line.
        :raises Undeliverable: the server refused the recipient, or the mail to them, for good.
        :raises MailUnavailable: anything else; the mail may be sent again later.
        :raises BadAddress: when ``recipient`` is no address.
        """
        address = parse_recipient(recipient)
        content = message.as_bytes(policy=_POLICY)
        with self._translated(), self._ready(address) as connection:
            try:
                code, text = connection.data(content)
            except smtplib.SMTPDataError as error:
                raise self._refused(address, error.smtp_code, error.smtp_error) from error
            if code != 250:
                raise self._refused(address, code, text)
            self._quit(connection)
            return _answer(code, text)

    def try_out(self, recipient: str | None) -> None:
        """Do all that comes before the content of a mail: nothing is sent.

        :param recipient: whom the server is asked to take mail for; None: only about the sender.
        :raises: as :meth:`send`.
        """
        address = None if recipient is None else parse_recipient(recipient)
        with self._translated(), self._ready(address) as connection:
            self._quit(connection)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Raise what smtplib and the system raise as an error of ours."""
        try:
            yield
        except smtplib.SMTPResponseException as error:
            raise MailUnavailable(
                f"{self._name}: {_answer(error.smtp_code, error.smtp_error)}"
            ) from error
        except (smtplib.SMTPException, OSError, ValueError) as error:
            # ValueError: credentials that cannot be encoded, a host name that cannot be looked up.
            raise MailUnavailable(
                f"{self._name}: {words.one_line(str(error)) or type(error).__name__}"
            ) from error

    @property
    def _name(self) -> str:
        return f"mail server {self._host}:{self._port}"

    @contextlib.contextmanager
    def _ready(self, address: str | None) -> Iterator[Connection]:
        """Connect, and have the server take the sender and, if there is one, the recipient."""
        deadline = Deadline(self._clock, self._timeout)
        context = None
        if self._tls != "none":
            context = ssl.create_default_context(cafile=self._cafile)
        connection = Connection(
            self._host,
            self._port,
            deadline=deadline,
            tls=context if self._tls == "tls" else None,
        )
        try:
            connection.ehlo_or_helo_if_needed()
            if self._tls == "starttls":
                connection.starttls(context=context)
                connection.ehlo_or_helo_if_needed()
            if self._username is not None:
                connection.login(self._username, self._password)
            code, text = connection.mail(self._sender.addr_spec)
            if code != 250:
                raise MailUnavailable(
                    f"{self._name} refused the sender {self._sender.addr_spec}:"
                    f" {_answer(code, text)}"
                )
            if address is not None:
                code, text = connection.rcpt(address)
                if code not in {250, 251}:
                    raise self._refused(address, code, text)
            yield connection
        finally:
            connection.close()

    def _quit(self, connection: Connection) -> None:
        connection.set_deadline(Deadline(self._clock, _QUIT_TIMEOUT))
        try:
            connection.quit()
        except (smtplib.SMTPException, OSError):
            # All was said: how the server says goodbye is its own affair.
            return

    def _refused(
        self, address: str, code: int, text: bytes | str
    ) -> Undeliverable | MailUnavailable:
        answer = _answer(code, text)
        sentence = f"{self._name} did not take the mail to {address}: {answer}"
        ours = code in _OUR_FAULT or _OUR_FAULT_ENHANCED.match(answer.partition(" ")[2])
        return (
            Undeliverable(sentence)
            if 500 <= code <= 599 and not ours
            else MailUnavailable(sentence)
        )


def _answer(code: int, text: bytes | str) -> str:
    shown = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return words.one_line(f"{code} {shown}")
