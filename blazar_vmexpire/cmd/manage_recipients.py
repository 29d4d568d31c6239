# SPDX-License-Identifier: Apache-2.0
"""``blazar-vmexpire-manage mail recipients``: who gets a mail about a VM."""

from __future__ import annotations

from typing import Any

from oslo_config import cfg

from blazar_vmexpire.cloud import errors
from blazar_vmexpire.cmd.manage_base import (
    CommandError,
    Commands,
    add_format,
    prepared,
    print_json,
    server_id,
)
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.notices import KINDS, Kind, MailUnavailable, kinds_of
from blazar_vmexpire.worker.recipients import Recipient, Recipients
from blazar_vmexpire.worker.tools import Tools


def add_command(parts: Commands[Any]) -> None:
    """Add it to the commands of ``mail``."""
    recipients = parts.add_parser(
        "recipients",
        help="show who gets a mail about a VM",
        description="Show whom a mail about a VM would go to now, and who would get copies: what"
        " Keystone and the rules file say, without those whom the mail server has refused. Where"
        " that is not the owner, it says why. Nothing is sent.",
    )
    recipients.add_argument("server", metavar="UUID", type=server_id, help="the VM")
    recipients.add_argument(
        "--kind",
        choices=KINDS,
        default=Kind.REMINDER,
        help="of the mail, by which copies may differ (default: reminder)",
    )
    add_format(recipients)
    recipients.set_defaults(run=_recipients)


def _recipients(conf: cfg.ConfigOpts, arguments: Any) -> None:
    with prepared(conf) as tools:
        try:
            found = _find(tools, arguments.server, arguments.kind)
        except (errors.CloudError, MailUnavailable) as error:
            raise CommandError(f"nobody can be named: {error}") from error
    _print(found, arguments.format)


def _find(tools: Tools, server: str, kind: str) -> Recipient:
    """Say who would get a mail now.

    :raises errors.CloudError: Keystone does not answer.
    :raises MailUnavailable: nobody can be reached.
    """
    with tools.database.begin() as connection:
        row = db_api.get(connection, server)
        if row is None:
            raise CommandError(f"server {server} is not known: it has no lease of ours")
        mailing = tools.book.verdict(connection, row, tools.clock()).mailing
        waiting = [n for n in db_api.notices_of(connection, server) if n.due_at is not None]
    # Whom a notice was refused for counts for that one alone.
    refused = waiting[-1].refused if waiting else {}
    # Who looks writes nothing.
    recipients = Recipients(tools, report=lambda *_: None)
    found = recipients.find(row, refused, mailing)
    return recipients.with_copies(row, found, mailing, kinds_of(kind))


def _print(found: Recipient, format_: str) -> None:
    if format_ == "json":
        print_json(
            {
                "to": found.addresses,
                "cc": found.cc,
                "bcc": found.bcc,
                "is_owner": found.is_owner,
                "contact": None if found.contact is None else str(found.contact),
                "why_not_the_owner": found.why,
                "left_out": found.left_out,
                "language": found.language,
            }
        )
        return
    if found.is_owner:
        reached = "its owner"
    elif found.contact is not None:
        reached = str(found.contact)
    else:
        reached = "undeliverable_contact"
    print(f"To:   {found.shown} ({reached})")
    for name, addresses in (("Cc:", found.cc), ("Bcc:", found.bcc)):
        if addresses:
            print(f"{name:5} {', '.join(addresses)}")
    if found.why:
        print(f"Why:  {found.why}")
    if found.left_out:
        print(f"Left out, because there are too many with this role: {found.left_out}")
