# SPDX-License-Identifier: Apache-2.0
"""Handing mails to the mail server: many over one connection, at a pace."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import re
import smtplib
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from email.headerregistry import Address
from email.message import EmailMessage

from oslo_config import cfg

from blazar_vmexpire import words
from blazar_vmexpire.addresses import parse_recipient, parse_sender
from blazar_vmexpire.notices._smtp import Connection, Deadline
from blazar_vmexpire.notices.headers import POLICY
from blazar_vmexpire.notices.pace import Pace

#: How long to wait for the answer to QUIT, in seconds, when all mails are accepted already.
_QUIT_TIMEOUT = 1.0

#: The server closes the connection, whatever it was asked (RFC 5321, 4.2.2).
_CLOSING = 421

#: Codes of 5xx replies to RCPT or DATA that say something about us, not about the recipient:
#: syntax and order of commands (RFC 5321; 501 can mean the address and is not among them), a host
#: that takes no mail (RFC 7504), and encryption or login missing (RFC 3207, RFC 4954).
_OUR_FAULT = frozenset({500, 502, 503, 504, 521, 530, 534, 535, 538})
#: The same in enhanced status codes (RFC 3463): bad sender, mail system, protocol.
_OUR_FAULT_ENHANCED = re.compile(r"5\.(?:1\.[78]|3\.[0-35-9]|5\.\d{1,3})(?!\d)")


class Undeliverable(Exception):
    """The mail server refused the recipients, or this mail to them, for good."""


class MailUnavailable(Exception):
    """No mail can be sent now, whoever it is for: try the same mail again later."""


@dataclasses.dataclass(frozen=True, slots=True)
class Sent:
    """What became of a mail to one or more recipients."""

    answer: str
    """What the server said when it had taken the mail, one line."""
    refused: Mapping[str, str]
    """Recipients who do not get it, and why; never all of them."""


class Mailer:
    """Hands mails to the mail server of ``[vmexpire_mail]``; safe to share between threads.

    Connections stay open for the next mail, until :meth:`rest`. Each thread that sends has one.

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
        self._pace = Pace(group.max_per_minute) if group.max_per_minute else None
        self._clock = clock
        self._guard = threading.Lock()
        self._resting: list[Connection] = []

    @property
    def domain(self) -> str:
        """Domain of the sender's address, for :func:`message_id_for`."""
        return self._sender.domain

    def wait(self, what: object, now: datetime.datetime) -> datetime.timedelta:
        """Say how long a mail has to wait because of ``max_per_minute``; its turn is kept for it.

        :param what: the mail; asked again when the wait is over, it need not wait any more.
        """
        return self._pace.wait(what, now) if self._pace is not None else datetime.timedelta(0)

    def send(self, message: EmailMessage, recipient: str) -> str:
        """Send one mail to one recipient: see :meth:`send_to_any`.

        :returns: what the server answered, one line.
        """
        return self.send_to_any(message, [recipient]).answer

    def send_to_any(self, message: EmailMessage, recipients: Sequence[str]) -> Sent:
        """Send one mail to one or more recipients; it is sent if the server takes it for any.

        The mail counts as sent when the server has answered 250 to its content; whatever happens
        after that is ignored. The whole exchange ends within the configured timeout (see
        :mod:`._smtp` for the one exception). When it ends between content and answer, nobody
        knows whether the mail was taken: it counts as not sent, and a second copy has the same
        Message-ID.

        :raises Undeliverable: the server refused all recipients, or the mail, for good.
        :raises MailUnavailable: anything else; the mail may be sent again later.
        :raises BadAddress: when a recipient is no address.
        """
        addresses = [parse_recipient(recipient) for recipient in recipients]
        content = message.as_bytes(policy=POLICY)
        with self._translated():
            connection, refused = self._ready(addresses)
            to = ", ".join(address for address in addresses if address not in refused)
            with _closed_on_error(connection):
                try:
                    code, text = connection.data(content)
                except smtplib.SMTPDataError as error:
                    raise self._refused(to, error.smtp_code, error.smtp_error) from error
                if code != 250:
                    raise self._refused(to, code, text)
            with self._guard:
                self._resting.append(connection)
            return Sent(_answer(code, text), refused)

    def rest(self) -> None:
        """Hang up: for now there is no other mail to send."""
        with self._guard:
            connections, self._resting = self._resting, []
        for connection in connections:
            self._quit(connection)

    def try_out(self, recipient: str | None) -> None:
        """Do all that comes before the content of a mail: nothing is sent.

        :param recipient: whom the server is asked to take mail for; None: only about the sender.
        :raises: as :meth:`send`.
        """
        addresses = [] if recipient is None else [parse_recipient(recipient)]
        with self._translated():
            deadline = Deadline(self._clock, self._timeout)
            self._quit(self._opened(addresses, deadline)[0])

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

    def _ready(self, addresses: Sequence[str]) -> tuple[Connection, dict[str, str]]:
        """Get a connection whose server has taken sender and recipients; say whom it has not."""
        deadline = Deadline(self._clock, self._timeout)
        with self._guard:
            kept = self._resting.pop() if self._resting else None
        if kept is not None:
            kept.set_deadline(deadline)
            with _closed_on_error(kept):
                try:
                    if kept.mail(self._sender.addr_spec)[0] == 250:
                        return kept, self._offer(kept, addresses)
                except (smtplib.SMTPServerDisconnected, OSError):
                    # It has closed the connection, or wants no more mails over it: a new one is
                    # told of neither.
                    pass
            kept.close()
        return self._opened(addresses, deadline)

    def _offer(self, connection: Connection, addresses: Sequence[str]) -> dict[str, str]:
        """Have a server take recipients, and say whom it refuses, and why.

        :raises Undeliverable: it refuses all of them for good.
        :raises MailUnavailable: it refuses all of them, and some for the time being only.
        :raises smtplib.SMTPServerDisconnected: it closes the connection.
        """
        refused: dict[str, Undeliverable | MailUnavailable] = {}
        for address in addresses:
            code, text = connection.rcpt(address)
            if code == _CLOSING:
                raise smtplib.SMTPServerDisconnected(_answer(code, text))
            if code not in {250, 251}:
                refused[address] = self._refused(address, code, text)
        if refused and len(refused) == len(addresses):
            for_now = [e for e in refused.values() if isinstance(e, MailUnavailable)]
            why = "; ".join(map(str, for_now or refused.values()))
            raise MailUnavailable(why) if for_now else Undeliverable(why)
        return {address: str(error) for address, error in refused.items()}

    def _opened(
        self, addresses: Sequence[str], deadline: Deadline
    ) -> tuple[Connection, dict[str, str]]:
        """Connect, and have the server take the sender and the recipients, if there are any."""
        context = None
        if self._tls != "none":
            context = ssl.create_default_context(cafile=self._cafile)
        connection = Connection(
            self._host,
            self._port,
            deadline=deadline,
            tls=context if self._tls == "tls" else None,
        )
        with _closed_on_error(connection):
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
            return connection, self._offer(connection, addresses)

    def _quit(self, connection: Connection) -> None:
        connection.set_deadline(Deadline(self._clock, _QUIT_TIMEOUT))
        try:
            connection.quit()
        except (smtplib.SMTPException, OSError):
            # All was said: how the server says goodbye is its own affair.
            return
        finally:
            connection.close()

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


@contextlib.contextmanager
def _closed_on_error(connection: Connection) -> Iterator[None]:
    try:
        yield
    except BaseException:
        connection.close()
        raise


def _answer(code: int, text: bytes | str) -> str:
    shown = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return words.one_line(f"{code} {shown}")
