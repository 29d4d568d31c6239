# SPDX-License-Identifier: Apache-2.0
"""Mails as they leave, whatever the names in them are; and which text is an address."""

from __future__ import annotations

import dataclasses
import datetime
import email
import email.policy
import re
from email.message import EmailMessage

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from blazar_vmexpire import words
from blazar_vmexpire.notices import (
    BadAddress,
    Notice,
    Rendered,
    Renderer,
    build_message,
    message_id_for,
    parse_recipient,
    parse_sender,
    samples,
)

RENDERER = Renderer()
HEADERS = [
    "Subject",
    "From",
    "To",
    "Date",
    "Message-ID",
    "Auto-Submitted",
    "List-Id",
    "X-OpenStack-Server",
    "X-OpenStack-Project",
    "MIME-Version",
    "Content-Type",
]
#: Of one form, the body's encoding is the mail's.
TEXT_HEADERS = [*HEADERS, "Content-Transfer-Encoding"]
MESSAGE_ID = message_id_for(samples.REMINDER.server_id, "reminder/2d", 3, "cloud.example.org")
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=300)
NASTY = [
    "x\r\nBcc: victim@example.org",
    "x\n\nbody",
    "x\r\n.\r\nMAIL FROM:<a@b>",
    "=?utf-8?q?=0D=0ABcc:_victim@example.org?=",
    "=?utf-8?b?DQpCY2M6IHhAeQ==?= =?utf-8?q?x?=",
    "= ?=\u200b?utf-8?q?=0D=0AX:_y?=",
    "\x00\x01\x7f\x9f",
    "\N{ROCKET}" * 255,
    "\u202eשרת\u2069",
    "é" * 255,
    "\ud800",
    '",;:<>()@[]\\',
    " " * 200,
    "Subject: x",
    "a" * 1000,
    "\n.\n..\n",
]


def build(notice: Notice, rendered: Rendered | None = None) -> EmailMessage:
    return build_message(
        rendered or RENDERER.render(notice),
        notice=notice,
        recipient="alice@example.org",
        from_address="Cloud VMs <vm-expiration@cloud.example.org>",
        message_id=MESSAGE_ID,
        date=datetime.datetime(2026, 12, 11, 4, 50, 7),
    )


def parse(message: EmailMessage) -> EmailMessage:
    return email.message_from_bytes(message.as_bytes(), policy=email.policy.default)


def test_headers() -> None:
    message = build(samples.REMINDER, Renderer(html=False).render(samples.REMINDER))
    lines = message.as_bytes().decode("ascii").split("\r\n\r\n")[0].split("\r\n")
    assert lines == [
        'Subject: VM "web-1" (physics) will be deleted in 9 days and 4 hours, on',
        " 2026-12-20 09:14 UTC",
        "From: Cloud VMs <vm-expiration@cloud.example.org>",
        "To: alice@example.org",
        "Date: Fri, 11 Dec 2026 04:50:07 +0000",
        "Message-ID:",
        " <reminder/2d.3.7d2c1f0e-58a4-4b6e-9a3f-0c1d2e3f4a5b@cloud.example.org>",
        "Auto-Submitted: auto-generated",
        "List-Id: <vm-expiration.cloud.example.org>",
        "X-OpenStack-Server: 7d2c1f0e-58a4-4b6e-9a3f-0c1d2e3f4a5b",
        "X-OpenStack-Project: 3f1e5c7a9b2d4f60818293a4b5c6d7e8",
        "MIME-Version: 1.0",
        'Content-Type: text/plain; charset="utf-8"',
        "Content-Transfer-Encoding: quoted-printable",
    ]


def test_many_long_addresses_and_ids_stand_in_lines_and_read_back() -> None:
    domain = ".".join(["a-long-name-of-a-faculty"] * 4 + ["example.org"])
    to = [f"owner-{number}@{domain if number % 3 else 'example.org'}" for number in range(10)]
    message = build_message(
        Rendered(subject="x", text="x"),
        recipient=to[0],
        others=to[1:],
        cc=to[:2],
        from_address=f"vms@{domain}",
        message_id=message_id_for(samples.REMINDER.server_id, "reminder/2d", 3, domain),
        date=datetime.datetime(2026, 12, 11),
    )
    head = message.as_bytes().decode("ascii").split("\r\n\r\n")[0].split("\r\n")
    long = [line for line in head if len(line) > 78 and not line.startswith("From: ")]
    assert [line for line in long if " " in line.strip()] == []
    parsed = parse(message)
    assert [address.addr_spec for address in parsed["To"].addresses] == to
    assert [address.addr_spec for address in parsed["Cc"].addresses] == to[:2]
    assert parsed["List-Id"].strip() == f"<vms.{domain}>"
    assert parsed["Message-ID"].strip() == message["Message-ID"]
    assert f" {message['Message-ID']}" in head
    message.replace_header("Cc", ", ".join(to))
    assert [address.addr_spec for address in parse(message)["Cc"].addresses] == to


def test_html_goes_as_it_is_while_its_lines_are_no_longer_than_any_may_be() -> None:
    for length, encoding in ((998, "7bit"), (999, "quoted-printable")):
        html = f"<p>{'x' * (length - 3)}\n"
        mail = parse(build(samples.REMINDER, Rendered(subject="x", text="x", html=html)))
        (_, part) = mail.iter_parts()
        assert part["Content-Transfer-Encoding"] == encoding
        assert part.get_content().splitlines() == html.splitlines()


def test_body_of_short_ascii_lines_goes_as_it_is() -> None:
    message = build(samples.REMINDER, Rendered(subject="x", text="one\n.two\n"))
    assert message["Content-Transfer-Encoding"] == "7bit"
    assert message.as_bytes().endswith(b"\r\n\r\none\r\n.two\r\n")


def test_a_name_cannot_part_a_mail_where_another_mail_was_parted() -> None:
    boundary = parse(build(samples.REMINDER)).get_boundary()
    text = f"--{boundary}\nContent-Type: text/plain\n\nforged\n"
    forged = parse(build(samples.REMINDER, Rendered(subject="x", text=text, html=f"<p>{text}")))
    plain, html = forged.iter_parts()
    assert plain.get_content().splitlines() == text.splitlines()
    assert html.get_content().splitlines() == f"<p>{text}".splitlines()


@given(ANY_TEXT, ANY_TEXT, ANY_TEXT)
@example(*NASTY[:3])
@example(*NASTY[3:6])
@example(*NASTY[6:9])
@example(*NASTY[9:12])
@example(*NASTY[12:15])
@example(NASTY[15], NASTY[3], "")
def test_names_change_nothing_but_the_names(server: str, project: str, owner: str) -> None:
    notice = dataclasses.replace(
        samples.REMINDER,
        kind="moved",
        server_name=server,
        project_name=project,
        owner_name=owner,
        reason=server,
        recipient_is_owner=False,
    )
    rendered = RENDERER.render(notice)
    raw = build(notice, rendered).as_bytes()

    assert raw.isascii()
    assert not re.search(rb"(?<!\r)\n|\r(?!\n)", raw)
    assert max(len(line) for line in raw.split(b"\r\n")) <= 998
    head = raw.split(b"\r\n\r\n")[0]
    assert [line.split(b":")[0].decode() for line in re.split(rb"\r\n(?!\s)", head)] == HEADERS

    parsed = email.message_from_bytes(raw, policy=email.policy.default)
    assert parsed.keys() == HEADERS
    assert not parsed.defects
    assert str(parsed["Subject"]) == rendered.subject
    assert parsed["To"].addresses[0].addr_spec == "alice@example.org"
    assert len(parsed["To"].addresses) == 1
    assert parsed["Message-ID"].strip() == MESSAGE_ID
    assert parsed.get_content_type() == "multipart/alternative"
    text, html = (part.get_content().replace("\r\n", "\n") for part in parsed.iter_parts())
    assert (text, html) == (rendered.text, rendered.html)
    assert samples.REMINDER.server_id in text


@given(ANY_TEXT)
@example(NASTY[3])
@example(NASTY[4])
@example(NASTY[5])
def test_any_subject_survives(subject: str) -> None:
    """The templates are an operator's, and a subject may be anything they make of a name."""
    parsed = parse(build(samples.REMINDER, Rendered(subject=subject, text="x")))
    assert parsed.keys() == TEXT_HEADERS
    assert str(parsed["Subject"]) == words.one_line(subject)


@pytest.mark.parametrize("subject", ["Wéb \N{ROCKET} " * 20, "日本語" * 60, "x" * 200, "שרת"])
def test_subject_reads_back(subject: str) -> None:
    parsed = parse(build(samples.REMINDER, Rendered(subject=subject, text="x")))
    assert str(parsed["Subject"]) == subject.strip()


def test_ids_from_outside_cannot_inject_headers() -> None:
    notice = dataclasses.replace(
        samples.REMINDER, server_id="x\r\nBcc: a@b", project_id="=?utf-8?q?=0D=0ABcc:_a@b?="
    )
    parsed = parse(build(notice))
    assert parsed.keys() == HEADERS
    assert parsed["X-OpenStack-Server"] == "x Bcc: a@b"


def test_message_id_is_stable_and_tells_notices_apart() -> None:
    server, other = samples.REMINDER.server_id, "00000000-58a4-4b6e-9a3f-0c1d2e3f4a5b"
    variants = [
        (server, "reminder", 1),
        (server, "reminder/2d", 1),
        (server, "reminder", 2),
        (other, "reminder", 1),
        (server, "reminder/2d 6h", 1),
        (server, "reminder/\r\n>", 1),
    ]
    ids = [message_id_for(*variant, "example.org") for variant in variants]
    assert len(set(ids)) == len(variants)
    assert ids == [message_id_for(*variant, "example.org") for variant in variants]
    for message_id in ids:
        assert re.fullmatch(r"<[\w/.-]+@example\.org>", message_id, re.ASCII)


@pytest.mark.parametrize(
    "text",
    [
        "alice@example.org",
        "o'brien+vm@mail.example.org",
        "a.b-c_d@x-y.example",
        "root@localhost",
        "a@xn--mller-kva.example",
        "-x@example.org",
        f"{'a' * 64}@example.org",
    ],
)
def test_plain_addresses_are_taken(text: str) -> None:
    assert parse_recipient(text) == text
    assert parse_recipient(f" \t{text} ") == text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is empty"),
        ("  ", "is empty"),
        ("alice", "write one plain address"),
        ("alice@", "write one plain address"),
        ("@example.org", "write one plain address"),
        ("a@b@c.example", "write one plain address"),
        ("a@example.org,b@example.org", "write one plain address"),
        ("a@example.org; b@example.org", "write one plain address"),
        ("a@example.org b@example.org", "write one plain address"),
        ("Alice <a@example.org>", "write one plain address"),
        ("<a@example.org>", "write one plain address"),
        ('"Doe, Alice" <a@example.org>', "write one plain address"),
        ("Us: a@example.org, b@example.org;", "write one plain address"),
        ("undisclosed-recipients:;", "write one plain address"),
        ('"a b"@example.org', "write one plain address"),
        ("a(comment)@example.org", "write one plain address"),
        ("a@[192.0.2.1]", "write one plain address"),
        ("a..b@example.org", "write one plain address"),
        (".a@example.org", "write one plain address"),
        ("a@example..org", "write one plain address"),
        ("a@-example.org", "write one plain address"),
        ("a@example.org.", "write one plain address"),
        ("a@exa_mple.org", "write one plain address"),
        (f"a@{'x' * 64}.org", "write one plain address"),
        ("a@example.org\n", "write one plain address"),
        ("a@example.org\r\nBcc: b@example.org", "write one plain address"),
        ("a@example.org\x00", "write one plain address"),
        ("a@example.org>\r\nRCPT TO:<b@example.org", "write one plain address"),
        ("müller@example.org", "not ASCII"),
        ("a@müller.example", "xn-- form"),
        ("a@example.org\u200b", "not ASCII"),
        (f"{'a' * 65}@example.org", "before the @ it has 65 characters"),
        (f"a@{'.'.join(['x' * 60] * 5)}", "it has 306 characters, and 254 are the most"),
    ],
)
def test_anything_else_is_refused_with_a_sentence(text: str, why: str) -> None:
    with pytest.raises(BadAddress) as raised:
        parse_recipient(text)
    assert why in str(raised.value)
    assert str(raised.value).isprintable()
    assert str(raised.value).isascii()


@given(
    st.text(st.characters(exclude_categories=()), max_size=80) | st.from_regex(r"\A[^@]+@[^@]+\Z")
)
def test_what_is_taken_is_one_address_of_one_line(text: str) -> None:
    try:
        address = parse_recipient(text)
    except BadAddress:
        return
    assert re.fullmatch(r"[!-~]+@[A-Za-z0-9.-]+", address)
    header = email.policy.SMTP.header_factory("To", address)
    assert [found.addr_spec for found in header.addresses] == [address]
    assert not header.defects


@pytest.mark.parametrize(
    ("text", "name", "address"),
    [
        ("vm@example.org", "", "vm@example.org"),
        ("vm@localhost", "", "vm@localhost"),
        ("Cloud VMs <vm@example.org>", "Cloud VMs", "vm@example.org"),
        ('"VMs, our" <vm@example.org>', "VMs, our", "vm@example.org"),
        ("Wölkchen <vm@example.org>", "Wölkchen", "vm@example.org"),
    ],
)
def test_sender_may_have_a_name(text: str, name: str, address: str) -> None:
    sender = parse_sender(text)
    assert (sender.display_name, sender.addr_spec) == (name, address)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "a@b.example, c@d.example",
        "Us: a@b.example;",
        "a@b.example\r\nBcc: c@d.example",
        "a <b>",
    ],
)
def test_sender_is_one(text: str) -> None:
    with pytest.raises(BadAddress):
        parse_sender(text)
