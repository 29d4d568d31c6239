# SPDX-License-Identifier: Apache-2.0
"""``blazar-vmexpire-manage mail``: what the mails look like, and whether they arrive."""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
from typing import Any

from oslo_config import cfg
from oslo_utils import timeutils, uuidutils

from blazar_vmexpire.cmd import manage_recipients
from blazar_vmexpire.cmd.manage_base import CommandError, Commands
from blazar_vmexpire.notices import (
    DIGEST,
    KINDS,
    TEST,
    BadAddress,
    Mailer,
    MailUnavailable,
    Rendered,
    Renderer,
    TemplateError,
    Undeliverable,
    build_message,
    message_id_for,
    parse_recipient,
    samples,
)
from blazar_vmexpire.notices.language import languages
from blazar_vmexpire.worker import tools

#: What can be looked at.
_PREVIEWS = [*KINDS, DIGEST, *samples.ALARMS]


def add_commands(commands: Commands[Any]) -> None:
    """Add ``mail preview``, ``mail test`` and ``mail recipients``."""
    mail = commands.add_parser("mail", help="look at the mails, and try whether they arrive")
    parts = mail.add_subparsers(title="commands", metavar="COMMAND", required=True)
    preview = parts.add_parser(
        "preview",
        help="show what a mail looks like",
        description="Show a mail of a kind, about a VM that is made up, by the templates that are"
        " configured. Where one of your own fails, its file and line are named. Nothing is sent.",
    )
    preview.add_argument(
        "kind", metavar="KIND", choices=_PREVIEWS, help=f"one of {', '.join(_PREVIEWS)}"
    )
    preview.add_argument(
        "--html", metavar="FILE", type=pathlib.Path, help="write the HTML part to this file"
    )
    preview.add_argument(
        "--language",
        choices=languages(),
        help="instead of [vmexpire_mail] language; mails to operators are in English",
    )
    preview.set_defaults(run=_preview)
    test = parts.add_parser(
        "test",
        help="send a mail to see whether it arrives",
        description="Send one mail, a reminder that says that it is a test, and show what the mail"
        " server answered. That it was accepted does not mean that it has arrived: look there.",
    )
    test.add_argument("address", metavar="ADDRESS", type=_address, help="whom to send it to")
    test.set_defaults(run=_test)
    manage_recipients.add_command(parts)


def _address(text: str) -> str:
    try:
        return parse_recipient(text)
    except BadAddress as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _preview(conf: cfg.ConfigOpts, arguments: Any) -> None:
    rendered = _rendered(conf, arguments.kind, arguments.language)
    if arguments.html is None:
        print(f"Subject: {rendered.subject}\n\n{rendered.text}", end="")
        return
    if rendered.html is None:
        raise CommandError("[vmexpire_mail] html is false: mails have no HTML part")
    try:
        arguments.html.write_text(rendered.html, encoding="utf-8")
    except OSError as error:
        raise CommandError(f"{arguments.html} cannot be written: {error.strerror}") from error


def _rendered(conf: cfg.ConfigOpts, kind: str, said_in: str | None) -> Rendered:
    renderer = Renderer.from_conf(conf, strict=True)
    try:
        if kind in samples.ALARMS:
            return renderer.render_alarm(samples.ALARMS[kind])
        if kind == DIGEST:
            return renderer.render_digest(
                [dataclasses.replace(each, language=said_in) for each in samples.digest()]
            )
        return renderer.render(dataclasses.replace(samples.usual(kind), language=said_in))
    except TemplateError as error:
        raise CommandError(f"the template cannot be used: {error}") from error


def _test(conf: cfg.ConfigOpts, arguments: Any) -> None:
    tools.check(conf)
    mailer = Mailer(conf)
    now = timeutils.utcnow()
    # As new as any mail: mail servers and readers know what they have had already.
    notice = dataclasses.replace(samples.moved_to(now), server_id=uuidutils.generate_uuid())
    message = build_message(
        Renderer.from_conf(conf, preface=TEST).render(notice),
        notice=notice,
        recipient=arguments.address,
        from_address=conf.vmexpire_mail.from_address,
        message_id=message_id_for(notice.server_id, "test", 0, mailer.domain),
        date=now,
    )
    try:
        answer = mailer.send(message, arguments.address)
    except (MailUnavailable, Undeliverable) as error:
        raise CommandError(f"the mail was not sent: {error}") from error
    finally:
        mailer.rest()
    print(f"The mail server took the mail to {arguments.address}: {answer}")
