# SPDX-License-Identifier: Apache-2.0
"""Mail servers for tests: real ones that behave, and one that does what it is told, however odd.

All listen on a port that the system chose, on 127.0.0.1.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import ipaddress
import pathlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HOST = "127.0.0.1"


def listening_socket() -> socket.socket:
    """Listen on a free port."""
    sock = socket.socket()
    sock.bind((HOST, 0))
    sock.listen()
    return sock


class MailServer(Controller):
    """An aiosmtpd server that keeps what it takes and refuses what it is told to.

    :param username: the only account, whose password is ``secret``; None offers no login.
    :param options: for :class:`aiosmtpd.smtp.SMTP`.
    """

    def __init__(
        self,
        *,
        tls: ssl.SSLContext | None = None,
        username: str | None = None,
        **options: Any,
    ) -> None:
        self._sock = listening_socket()
        self.mails: list[Envelope] = []
        self.encrypted: list[bool] = []
        #: How many connections were made.
        self.connections = 0
        #: Answers by command (MAIL, RCPT, DATA) in the place of the usual ones.
        self.answers: dict[str, str] = {}
        #: Answers to RCPT by address.
        self.refused: dict[str, str] = {}
        if username is not None:
            options.update(auth_require_tls=False, authenticator=self._authenticator(username))
        super().__init__(
            self, hostname=HOST, port=self._sock.getsockname()[1], ssl_context=tls, **options
        )

    def forget(self) -> None:
        """Be as at the start."""
        self.mails.clear()
        self.encrypted.clear()
        self.connections = 0
        self.answers.clear()
        self.refused.clear()

    @staticmethod
    def _authenticator(username: str) -> Callable[..., AuthResult]:
        def authenticate(
            server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any
        ) -> AuthResult:
            right = LoginPassword(username.encode(), b"secret")
            return AuthResult(success=data == right, handled=False)

        return authenticate

    def _create_server(self) -> Any:
        return self.loop.create_server(self._factory_invoker, sock=self._sock, ssl=self.ssl_context)

    async def handle_EHLO(
        self,
        server: SMTP,
        session: Session,
        envelope: Envelope,
        hostname: str,
        responses: list[str],
    ) -> list[str]:
        self.connections += 1
        session.host_name = hostname
        return responses

    async def handle_MAIL(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if "MAIL" in self.answers:
            return self.answers["MAIL"]
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if "RCPT" in self.answers:
            return self.answers["RCPT"]
        if address in self.refused:
            return self.refused[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if "DATA" in self.answers:
            return self.answers["DATA"]
        self.mails.append(envelope)
        self.encrypted.append(server.transport.get_extra_info("ssl_object") is not None)
        return "250 2.0.0 queued as 4711"


@contextlib.contextmanager
def running(server: MailServer) -> Iterator[MailServer]:
    """Run a server, and stop it."""
    server.start()
    try:
        yield server
    finally:
        server.stop()


@dataclasses.dataclass(frozen=True)
class Trickle:
    """An answer of which one byte is sent every twentieth of a second."""

    text: bytes


#: In the place of an answer: say nothing, and keep the connection.
HANG = object()
#: In the place of an answer: close the connection.
DROP = object()


class OddServer:
    """A mail server that answers each command by a script.

    :param script: answers by what they answer: ``connect``, ``EHLO``, ``MAIL``, ``RCPT``, ``DATA``,
        ``content``, ``QUIT``: a line, :data:`HANG`, :data:`DROP` or a :class:`Trickle`. What is not
        named is answered as a server that works would. A list has one answer for each time,
        and the usual one after that.
    :param deaf_to_content: whether the content of a mail is left unread.
    """

    USUAL = {
        "connect": "220 odd.example.org",
        "EHLO": "250 odd.example.org",
        "MAIL": "250 OK",
        "RCPT": "250 OK",
        "DATA": "354 go on",
        "content": "250 2.0.0 queued as 4711",
        "QUIT": "221 bye",
    }

    def __init__(self, script: dict[str, Any], *, deaf_to_content: bool = False) -> None:
        self._script = self.USUAL | script
        self._deaf = deaf_to_content
        self._released = threading.Event()
        self._sock = listening_socket()
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self.port: int = self._sock.getsockname()[1]
        #: What was asked, in order.
        self.asked: list[str] = []

    def __enter__(self) -> OddServer:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._released.set()
        with contextlib.suppress(OSError):
            # Wakes accept(), where nobody has connected.
            socket.create_connection((HOST, self.port), 1).close()
        self._thread.join(10)
        self._sock.close()

    def _serve(self) -> None:
        while not self._released.is_set():
            connection, _ = self._sock.accept()
            with connection, contextlib.suppress(OSError):
                self._talk(connection)

    def _talk(self, connection: socket.socket) -> None:
        stream = connection.makefile("rb")
        if not self._answer(connection, "connect"):
            return
        for line in stream:
            command = line.split()[0].decode("ascii", "replace").upper()
            if not self._answer(connection, command):
                return
            if command == "QUIT":
                return
            if command == "DATA" and self._script["DATA"] == self.USUAL["DATA"]:
                if self._deaf:
                    self._released.wait()
                    return
                if self._script["content"] is DROP:
                    stream.readline()
                    return
                while stream.readline() not in {b".\r\n", b""}:
                    pass
                if not self._answer(connection, "content"):
                    return

    def _answer(self, connection: socket.socket, command: str) -> bool:
        """Answer a command; False ends the conversation."""
        self.asked.append(command)
        answer = self._script.get(command, "502 what?")
        if isinstance(answer, list):
            answer = answer.pop(0) if answer else self.USUAL[command]
        if answer is DROP:
            return False
        if answer is HANG:
            self._released.wait()
            return False
        if isinstance(answer, Trickle):
            for byte in answer.text:
                connection.sendall(bytes([byte]))
                if self._released.wait(0.05):
                    return False
            return True
        connection.sendall(answer.encode() + b"\r\n")
        return True


@dataclasses.dataclass(frozen=True)
class Certificates:
    """Files of a certificate authority, and of a server certificate that it signed."""

    ca: pathlib.Path
    chain: pathlib.Path

    def server_context(self) -> ssl.SSLContext:
        """Make what a server needs to encrypt."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.chain)
        return context


def _usage(*, is_ca: bool) -> x509.KeyUsage:
    """Say what a key is for; Python 3.13 takes no authority whose certificate does not."""
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def make_certificates(directory: pathlib.Path, address: str = HOST) -> Certificates:
    """Make an authority and a certificate for a server at an IP address."""
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca_name, name = (
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in ("CA", "server")
    )

    def certificate(
        subject: x509.Name, public_key: ec.EllipticCurvePublicKey, *, is_ca: bool
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(ca_name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
            .add_extension(_usage(is_ca=is_ca), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()),
                critical=False,
            )
        )

    ca = certificate(ca_name, ca_key.public_key(), is_ca=True).sign(ca_key, hashes.SHA256())
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
    server = (
        certificate(name, key.public_key(), is_ca=False)
        .add_extension(names, critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    made = Certificates(ca=directory / "ca.pem", chain=directory / "server.pem")
    made.ca.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    made.chain.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + server.public_bytes(serialization.Encoding.PEM)
    )
    return made
