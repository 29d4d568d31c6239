# SPDX-License-Identifier: Apache-2.0
"""Mails handed to real mail servers: those that work, and those that do not."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import email.policy
import time
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from oslo_config import cfg

from blazar_vmexpire.conf import mail as mail_options
from blazar_vmexpire.notices import (
    BadAddress,
    Mailer,
    MailUnavailable,
    Rendered,
    Renderer,
    Undeliverable,
    build_message,
    message_id_for,
    samples,
)
from tests.mail_servers import (
    DROP,
    HANG,
    HOST,
    Certificates,
    MailServer,
    OddServer,
    Trickle,
    listening_socket,
    make_certificates,
    running,
)

ALICE = "alice@example.org"
SENDER = "vm-expiration@cloud.example.org"
#: The shortest timeout that the option takes, and what a send may take on top of it, in seconds.
SHORT = "1s"
AT_MOST = 5.0

pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")


def mailer(port: int, *, clock: Callable[[], float] = time.monotonic, **options: Any) -> Mailer:
    conf = cfg.ConfigOpts()
    # By its name: a group object would keep the overrides of one test for the next.
    conf.register_opts(mail_options.OPTS, group=mail_options.GROUP.name)
    conf([], default_config_files=[], default_config_dirs=[])
    values = {"host": HOST, "port": port, "timeout": "20s", "from_address": SENDER} | options
    for name, value in values.items():
        conf.set_override(name, value, group=mail_options.GROUP.name)
    return Mailer(conf, clock)


def mail(text: str | None = None) -> EmailMessage:
    notice = dataclasses.replace(samples.REMINDER, server_name="wéb-1")
    rendered = Renderer().render(notice)
    if text is not None:
        rendered = Rendered(subject=rendered.subject, text=text)
    return build_message(
        rendered,
        notice=notice,
        recipient=ALICE,
        from_address=SENDER,
        message_id=message_id_for(notice.server_id, notice.kind, 1, "cloud.example.org"),
        date=notice.now,
    )


@pytest.fixture(scope="module")
def shared_server() -> Iterator[MailServer]:
    with running(MailServer()) as server:
        yield server


@pytest.fixture
def server(shared_server: MailServer) -> MailServer:
    """A plain mail server that has seen nothing yet."""
    shared_server.forget()
    return shared_server


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def test_mail_arrives(server: MailServer) -> None:
    answer = mailer(server.port).send(mail(), ALICE)

    assert answer == "250 2.0.0 queued as 4711"
    (envelope,) = server.mails
    assert (envelope.mail_from, envelope.rcpt_tos) == (SENDER, [ALICE])
    assert isinstance(envelope.content, bytes)
    got = email.message_from_bytes(envelope.content, policy=email.policy.default)
    assert isinstance(got, EmailMessage)
    forms = {part.get_content_subtype(): part.get_content() for part in got.iter_parts()}
    assert list(forms) == ["plain", "html"]
    assert 'Your VM "wéb-1" in project "physics"' in forms["plain"]
    assert "Your VM &#34;wéb-1&#34; in project &#34;physics&#34;" in forms["html"]
    assert got["To"] == ALICE
    assert str(got["Subject"]).startswith('VM "wéb-1" (physics) will be deleted in 9 days')


def test_envelope_sender_is_the_address_without_its_name(server: MailServer) -> None:
    sender = mailer(server.port, from_address=f"Cloud VMs <{SENDER}>")
    sender.send(mail(), ALICE)
    assert server.mails[0].mail_from == SENDER
    assert sender.domain == "cloud.example.org"


def test_lines_that_begin_with_a_dot_arrive(server: MailServer) -> None:
    text = ".\n..\n.x\n\nend\n"
    mailer(server.port).send(mail(text), ALICE)
    content = server.mails[0].content
    assert isinstance(content, bytes)
    assert content.endswith(b"\r\n\r\n.\r\n..\r\n.x\r\n\r\nend\r\n")


def test_starttls(certificates: Certificates) -> None:
    context = certificates.server_context()
    with running(MailServer(tls_context=context, require_starttls=True)) as server:
        mailer(server.port, tls="starttls", cafile=str(certificates.ca)).send(mail(), ALICE)
        assert server.encrypted == [True]


def test_tls_from_the_first_byte(certificates: Certificates) -> None:
    with running(MailServer(tls=certificates.server_context())) as server:
        mailer(server.port, tls="tls", cafile=str(certificates.ca)).send(mail(), ALICE)
        assert server.encrypted == [True]


@pytest.mark.parametrize("tls", ["starttls", "tls"])
def test_no_mail_to_a_server_that_cannot_be_trusted(tls: str, certificates: Certificates) -> None:
    context = certificates.server_context()
    options: dict[str, Any] = {"tls": context} if tls == "tls" else {"tls_context": context}
    with running(MailServer(**options)) as server:
        with pytest.raises(MailUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
            mailer(server.port, tls=tls).send(mail(), ALICE)
        assert server.mails == []


def test_no_mail_to_a_server_with_another_ones_certificate(tmp_path: Path) -> None:
    other = make_certificates(tmp_path, "192.0.2.1")
    with running(MailServer(tls=other.server_context())) as server:
        with pytest.raises(MailUnavailable, match="not valid for"):
            mailer(server.port, tls="tls", cafile=str(other.ca)).send(mail(), ALICE)
        assert server.mails == []


def test_no_mail_in_the_clear_where_starttls_is_asked_for(server: MailServer) -> None:
    with pytest.raises(MailUnavailable, match="STARTTLS extension not supported"):
        mailer(server.port, tls="starttls").send(mail(), ALICE)
    assert server.mails == []


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_useless_cafile(content: str | None, server: MailServer, tmp_path: Path) -> None:
    cafile = tmp_path / "ca.pem"
    if content is not None:
        cafile.write_text(content)
    with pytest.raises(MailUnavailable):
        mailer(server.port, tls="starttls", cafile=str(cafile)).send(mail(), ALICE)


def test_login() -> None:
    with running(MailServer(username="blazar", auth_required=True)) as server:
        mailer(server.port, username="blazar", password="secret").send(mail(), ALICE)
        assert len(server.mails) == 1


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"username": "blazar", "password": "wrong"}, "535"),
        ({"username": "bläzar", "password": "secret"}, "ascii|535"),
        ({"username": "blazar"}, "535"),
        ({}, "530"),
    ],
)
def test_login_refused(options: dict[str, str], why: str) -> None:
    with running(MailServer(username="blazar", auth_required=True)) as server:
        with pytest.raises(MailUnavailable, match=why) as raised:
            mailer(server.port, **options).send(mail(), ALICE)
        assert server.mails == []
        assert "wrong" not in str(raised.value)


def test_login_where_none_is_offered(server: MailServer) -> None:
    with pytest.raises(MailUnavailable, match="AUTH extension not supported"):
        mailer(server.port, username="blazar", password="secret").send(mail(), ALICE)


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("RCPT", "550 5.1.1 no such user"),
        ("RCPT", "550 no such user"),
        ("RCPT", "550 5.7.1 relaying denied"),
        ("RCPT", "556 5.1.10 domain takes no mail"),
        ("RCPT", "501 5.1.3 bad address"),
        ("DATA", "552 5.2.2 mailbox is full"),
        ("DATA", "554 5.7.1 looks like spam"),
    ],
)
def test_refusal_of_the_recipient(command: str, answer: str, server: MailServer) -> None:
    server.answers[command] = answer
    with pytest.raises(Undeliverable) as raised:
        mailer(server.port).send(mail(), ALICE)
    assert str(raised.value) == (
        f"mail server {HOST}:{server.port} did not take the mail to {ALICE}: {answer}"
    )
    assert server.mails == []


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("MAIL", "550 5.7.1 sender refused"),
        ("MAIL", "451 try later"),
        ("RCPT", "450 4.2.0 greylisted"),
        ("RCPT", "451 4.3.0 try later"),
        ("RCPT", "452 4.5.3 too many recipients"),
        ("RCPT", "421 closing"),
        ("RCPT", "530 5.7.0 must issue STARTTLS first"),
        ("RCPT", "503 bad sequence"),
        ("RCPT", "550 5.1.8 bad sender's system address"),
        ("RCPT", "550 5.3.5 system incorrectly configured"),
        ("DATA", "451 4.3.0 try later"),
        ("DATA", "452 4.3.1 disk full"),
        ("DATA", "252 well"),
    ],
)
def test_refusal_that_says_nothing_about_the_recipient(
    command: str, answer: str, server: MailServer
) -> None:
    server.answers[command] = answer
    with pytest.raises(MailUnavailable) as raised:
        mailer(server.port).send(mail(), ALICE)
    assert answer in str(raised.value)
    assert server.mails == []


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ({"connect": "554 no service"}, MailUnavailable),
        ({"connect": "HTTP/1.1 400 Bad Request"}, MailUnavailable),
        ({"DATA": "554 5.1.1 no valid recipients"}, Undeliverable),
        ({"DATA": "451 try later"}, MailUnavailable),
        ({"content": "550-5.1.1 no\r\n550 5.1.1 such user"}, Undeliverable),
        ({"content": "what?"}, MailUnavailable),
        ({"RCPT": "550 " + "x" * 100_000}, MailUnavailable),
        ({"RCPT": "250-x\r\n" * 200_000}, MailUnavailable),
    ],
)
def test_odd_answers(script: dict[str, Any], error: type[Exception]) -> None:
    with OddServer(script) as server, pytest.raises(error) as raised:
        mailer(server.port).send(mail(), ALICE)
    assert len(str(raised.value)) < 500
    assert len(str(raised.value).splitlines()) == 1


def assert_unavailable_in_time(
    port: int, message: EmailMessage | None = None, **options: Any
) -> None:
    began = time.monotonic()
    with pytest.raises(MailUnavailable):
        mailer(port, timeout=SHORT, **options).send(message or mail(), ALICE)
    assert time.monotonic() - began < AT_MOST


@pytest.mark.parametrize("at", ["connect", "EHLO", "MAIL", "RCPT", "DATA", "content"])
def test_server_that_hangs(at: str) -> None:
    with OddServer({at: HANG}) as server:
        assert_unavailable_in_time(server.port)
        assert server.asked[-1] == at


@pytest.mark.parametrize("at", ["connect", "EHLO", "MAIL", "RCPT", "DATA", "content"])
def test_server_that_hangs_up(at: str) -> None:
    with OddServer({at: DROP}) as server:
        assert_unavailable_in_time(server.port)


@pytest.mark.parametrize(
    "script",
    [
        {"connect": Trickle(b"220 " + b"x" * 1000)},
        {"EHLO": Trickle(b"250-x\r\n" * 200)},
        {"content": Trickle(b"250 " + b"x" * 1000)},
    ],
)
def test_server_that_trickles(script: dict[str, Any]) -> None:
    with OddServer(script) as server:
        assert_unavailable_in_time(server.port)


@pytest.mark.parametrize("greeting", [HANG, Trickle(b"\x16\x03\x03\x40\x00" + b"x" * 1000)])
def test_server_that_never_finishes_the_tls_handshake(greeting: object) -> None:
    with OddServer({"connect": greeting}) as server:
        assert_unavailable_in_time(server.port, tls="tls")


def test_server_that_never_finishes_starttls() -> None:
    script = {"EHLO": "250-x\r\n250 STARTTLS", "STARTTLS": "220 go on\r\n\x16\x03\x03"}
    with OddServer(script) as server:
        assert_unavailable_in_time(server.port, tls="starttls")


def test_server_that_stops_reading() -> None:
    long = mail("x")
    long.set_payload("x" * 8_000_000)
    with OddServer({}, deaf_to_content=True) as server:
        assert_unavailable_in_time(server.port, long)


def test_server_that_never_accepts_the_connection() -> None:
    with listening_socket() as sock:
        assert_unavailable_in_time(sock.getsockname()[1])


def test_nothing_listens() -> None:
    with listening_socket() as sock:
        port = sock.getsockname()[1]
    with pytest.raises(MailUnavailable, match=f"mail server {HOST}:{port}: .*refused"):
        mailer(port).send(mail(), ALICE)


def test_unknown_host() -> None:
    with pytest.raises(MailUnavailable, match=r"mail server mail\.invalid:25: "):
        mailer(25, host="mail.invalid").send(mail(), ALICE)


@pytest.mark.parametrize("goodbye", [DROP, HANG, "554 no", Trickle(b"221 " + b"x" * 1000)])
def test_acceptance_counts_whatever_comes_after(goodbye: object) -> None:
    began = time.monotonic()
    with OddServer({"QUIT": goodbye}) as server:
        sender = mailer(server.port)
        assert sender.send(mail(), ALICE) == "250 2.0.0 queued as 4711"
        sender.rest()
        assert server.asked[-1] == "QUIT"
    assert time.monotonic() - began < AT_MOST


# Many mails.


def test_a_batch_goes_over_one_connection_and_the_next_over_another(server: MailServer) -> None:
    sender = mailer(server.port)
    for _ in range(50):
        sender.send(mail(), ALICE)
    assert (len(server.mails), server.connections) == (50, 1)
    sender.rest()
    sender.rest()
    sender.send(mail(), ALICE)
    assert (len(server.mails), server.connections) == (51, 2)
    sender.rest()


def test_threads_do_not_share_a_connection(server: MailServer) -> None:
    sender = mailer(server.port)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: sender.send(mail(), ALICE), range(100)))
    sender.rest()
    assert set(answers) == {"250 2.0.0 queued as 4711"}
    assert len(server.mails) == 100
    assert 1 <= server.connections <= 4


@pytest.mark.parametrize(
    "script",
    [
        {"MAIL": ["250 OK", "421 4.7.0 too many mails"]},
        {"MAIL": ["250 OK", "451 4.7.0 slow down"]},
        {"MAIL": ["250 OK", DROP]},
        {"RCPT": ["250 OK", "421 4.3.2 shutting down"]},
        {"RCPT": ["250 OK", DROP]},
    ],
)
def test_a_connection_that_the_server_gives_up_is_replaced(script: dict[str, Any]) -> None:
    with OddServer(script) as server:
        sender = mailer(server.port)
        for _ in range(2):
            assert sender.send(mail(), ALICE) == "250 2.0.0 queued as 4711"
        sender.rest()
        assert server.asked.count("connect") == 2
        assert server.asked.count("content") == 2


def test_what_was_said_of_the_content_is_final(server: MailServer) -> None:
    """A second try of the mail could be a second mail."""
    with OddServer({"content": ["250 2.0.0 queued as 4711", DROP]}) as odd:
        sender = mailer(odd.port)
        sender.send(mail(), ALICE)
        with pytest.raises(MailUnavailable):
            sender.send(mail(), ALICE)
    assert odd.asked.count("content") == 2


def test_a_refused_recipient_says_nothing_about_the_next(server: MailServer) -> None:
    sender = mailer(server.port)
    server.refused["bob@example.org"] = "550 5.1.1 no such user"
    sender.send(mail(), ALICE)
    with pytest.raises(Undeliverable):
        sender.send(mail(), "bob@example.org")
    sender.send(mail(), ALICE)
    sender.rest()
    assert [envelope.rcpt_tos for envelope in server.mails] == [[ALICE], [ALICE]]


def test_a_resting_connection_does_not_outlive_the_timeout_of_a_mail() -> None:
    with OddServer({"MAIL": ["250 OK", HANG]}) as server:
        sender = mailer(server.port, timeout=SHORT)
        sender.send(mail(), ALICE)
        began = time.monotonic()
        with pytest.raises(MailUnavailable):
            sender.send(mail(), ALICE)
        assert time.monotonic() - began < AT_MOST


def test_a_server_may_say_as_much_in_all_as_it_likes() -> None:
    """What it may say in one exchange is limited; over one connection there are many."""
    with OddServer({"RCPT": "250-x\r\n" * 60_000 + "250 OK"}) as server:
        sender = mailer(server.port)
        for _ in range(4):
            sender.send(mail(), ALICE)
        sender.rest()
        assert server.asked.count("connect") == 1


def test_bad_recipient_is_refused_before_anybody_is_asked() -> None:
    with pytest.raises(BadAddress):
        mailer(1).send(mail(), f"{ALICE}, bob@example.org")


def test_bad_sender_is_refused_at_once() -> None:
    with pytest.raises(BadAddress, match="'nobody' is not a usable mail address"):
        mailer(25, from_address="nobody")


def test_mailer_waits_by_the_clock_it_was_given() -> None:
    """A clock that runs away ends the exchange at the next wait."""
    seconds = iter(range(0, 10_000, 10))
    with OddServer({}) as server:
        hasty = mailer(server.port, clock=lambda: float(next(seconds)))
        with pytest.raises(MailUnavailable, match="took longer than timeout allows"):
            hasty.send(mail(), ALICE)


# One mail to several people.

BOB = "bob@example.org"


def test_a_mail_to_several_is_sent_when_any_of_them_gets_it(server: MailServer) -> None:
    sender = mailer(server.port)
    for _ in range(2):
        sent = sender.send_to_any(mail(), [ALICE, BOB])
        assert (sent.answer, sent.refused) == ("250 2.0.0 queued as 4711", {})
    server.refused[ALICE] = "550 5.1.1 no such user"
    for answer in ("550 5.1.1 no such user", "450 4.2.0 greylisted"):
        server.refused[ALICE] = answer
        sent = sender.send_to_any(mail(), [ALICE, BOB])
        assert list(sent.refused) == [ALICE]
        assert sent.refused[ALICE].endswith(f"did not take the mail to {ALICE}: {answer}")
    sender.rest()
    assert [m.rcpt_tos for m in server.mails] == [[ALICE, BOB]] * 2 + [[BOB]] * 2
    assert server.connections == 1


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        (["550 5.1.1 no", "550 5.1.1 no"], Undeliverable),
        (["550 5.1.1 no", "450 4.2.0 later"], MailUnavailable),
    ],
)
def test_a_mail_that_nobody_gets_is_given_up_only_if_nobody_ever_will(
    server: MailServer, answers: list[str], error: type[Exception]
) -> None:
    server.refused.update(zip([ALICE, BOB], answers, strict=True))
    with pytest.raises(error, match=answers[1]):
        mailer(server.port).send_to_any(mail(), [ALICE, BOB])
    assert server.mails == []
