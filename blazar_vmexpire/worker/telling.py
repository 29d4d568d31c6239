# SPDX-License-Identifier: Apache-2.0
"""Telling people: from a resolved notice to one that the mail server has accepted.

A notice is resolved (a row, committed) before it is sent, and accepted (its row, committed) after.
A crash between the mail server's 250 and that commit repeats one mail, with the same Message-ID; no
crash loses one. A connection to the database that breaks there repeats none, unless the database
stays away.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Collection, Mapping, Sequence
from email.message import EmailMessage
from typing import Any

import icalendar
import sqlalchemy as sa
from oslo_log import log as logging

from blazar_vmexpire import RESOURCE_TYPE, extension, lifecycle, words
from blazar_vmexpire.cloud import errors
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db.api import Expiration, NoticeRow
from blazar_vmexpire.db.engine import retried
from blazar_vmexpire.lifecycle import State
from blazar_vmexpire.notices import (
    KeptVolume,
    MailUnavailable,
    Notice,
    Saying,
    Undeliverable,
    build_message,
    invitation,
    message_id_for,
    parse_sender,
)
from blazar_vmexpire.rules import Way
from blazar_vmexpire.terms import Verdict
from blazar_vmexpire.worker.recipients import Recipient, Recipients, report_orphan
from blazar_vmexpire.worker.tools import Tools

LOG = logging.getLogger(__name__)

#: Characters of the column that says who got a notice; its history says it in full.
_LONGEST = 320


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """What a mail says of one VM."""

    row: Expiration
    notices: Sequence[NoticeRow]
    """Those that it is sent for, one at least."""
    content: Notice


class Telling:
    """Sends notices, and keeps their rows."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._recipients = Recipients(tools)

    def message_id(self, row: Expiration, kind: str) -> str:
        """Say the Message-ID of a notice: the same however often it is sent."""
        return message_id_for(row.server_id, kind, row.generation, self._tools.mailer.domain)

    def deliver(self, row: Expiration, notice: NoticeRow) -> bool:
        """Try to send a notice, and commit how that went.

        :returns: whether the mail server accepted it. If not, its row says when it is tried again.
        """
        if self.has_to_wait([notice]):
            return False
        try:
            recipient, content = self.compose(row, notice)
        except (MailUnavailable, errors.CloudError) as error:
            self.put_off([(row, notice)], error)
            return False
        return self.send(recipient, [Piece(row, [notice], content)])

    def send(self, recipient: Recipient, pieces: Sequence[Piece]) -> bool:
        """Try to send notices of one or several VMs as one mail, and commit how that went.

        :param recipient: of all of them.
        :returns: as :meth:`deliver`.
        """
        tools = self._tools
        told = [(piece.row, notice) for piece in pieces for notice in piece.notices]
        contents = [piece.content for piece in pieces]
        alone = len(contents) == 1
        try:
            message = build_message(
                tools.renderer.render(contents[0])
                if alone
                else tools.renderer.render_digest(contents),
                notice=contents[0] if alone else None,
                recipient=recipient.addresses[0],
                others=recipient.addresses[1:],
                cc=recipient.cc,
                from_address=tools.conf.vmexpire_mail.from_address,
                message_id=told[0][1].message_id,
                date=tools.clock(),
                calendar=self._calendar(pieces),
            )
            sent = tools.mailer.send_to_any(message, recipient.addresses)
        except Undeliverable as error:
            tools.metrics.notice("refused", len(told))
            for row, notice in told:
                self._refused(row, notice, recipient, str(error))
            return False
        except MailUnavailable as error:
            self.put_off(told, error)
            return False
        became = _became(
            recipient,
            {**sent.refused, **self._copy(message, recipient.cc)},
            # By itself: what the server says of it may name everybody who was to get it.
            self._copy(message, recipient.bcc),
        )
        now = tools.clock()

        @retried
        def accepted() -> None:
            with tools.database.begin() as connection:
                for row, notice in told:
                    self._accepted(connection, row, notice, recipient, now, became)

        accepted()
        tools.metrics.notice("accepted", len(told))
        for row, notice in told:
            # Its address is in the history; what is logged beyond debug has none.
            LOG.debug(
                "Server %s: notice %s was accepted for %s: %s",
                row.server_id,
                notice.kind,
                ", ".join((recipient.shown, *recipient.cc, *recipient.bcc)),
                sent.answer,
            )
        return True

    @staticmethod
    def _accepted(
        connection: sa.Connection,
        row: Expiration,
        notice: NoticeRow,
        recipient: Recipient,
        now: datetime.datetime,
        became: Mapping[str, Any],
    ) -> None:
        db_api.update_notice(
            connection,
            notice.id,
            accepted_at=now,
            due_at=None,
            recipient=db_api.storable(recipient.shown, _LONGEST),
            told_end=row.ends_at,
            last_error=None,
            attempts=notice.attempts + 1,
        )
        # Once: of the try before, only the answer may have been lost.
        db_api.record_once(
            connection,
            row,
            "notice_accepted",
            now,
            kind=notice.kind,
            recipient=recipient.shown,
            message_id=notice.message_id,
            ends_at=row.ends_at,
            **became,
        )

    def _copy(self, message: EmailMessage, addresses: Sequence[str]) -> Mapping[str, str]:
        """Send copies of a mail that was accepted, and say who does not get one, and why.

        By a mail of their own: whatever the server thinks of them, the notice is accepted.
        """
        if not addresses:
            return {}
        try:
            return self._tools.mailer.send_to_any(message, addresses).refused
        except (Undeliverable, MailUnavailable) as error:
            return dict.fromkeys(addresses, str(error))

    def has_to_wait(self, notices: Sequence[NoticeRow]) -> bool:
        """Let notices of one mail wait for its turn, where ``max_per_minute`` says so.

        That is no failure. When the turn has come, they need not wait again.
        """
        now = self._tools.clock()
        wait = self._tools.mailer.wait(notices[0].id, now)
        if not wait:
            return False
        with self._tools.database.begin() as connection:
            for notice in notices:
                db_api.update_notice(
                    connection, notice.id, due_at=now + wait, last_error="it waits: max_per_minute"
                )
        for notice in notices:
            LOG.debug(
                "Server %s: notice %s waits until %s UTC", notice.server_id, notice.kind, now + wait
            )
        return True

    def put_off(
        self,
        told: Sequence[tuple[Expiration, NoticeRow]],
        error: MailUnavailable | errors.CloudError,
    ) -> None:
        """Have notices tried again that could not be sent now, whoever they are for."""
        service = error.service if isinstance(error, errors.CloudError) else "smtp"
        self._tools.metrics.error(service, "unavailable")
        self._tools.metrics.notice("put_off", len(told))
        for row, notice in told:
            self._failed(row, notice, str(error))

    def give_up(self, notices: Sequence[NoticeRow], why: str) -> None:
        """Let notices rest that need not be sent any more."""
        with self._tools.database.begin() as connection:
            for notice in notices:
                db_api.update_notice(connection, notice.id, due_at=None, last_error=why)

    def _calendar(self, pieces: Sequence[Piece]) -> icalendar.Calendar | None:
        """Make the calendar entries that go with a mail; not for who gets those of many owners."""
        options = self._tools.conf.vmexpire_mail
        if not options.calendar:
            return None
        return invitation.together(
            invitation.entry(
                piece.content,
                generation=piece.row.generation,
                sender=parse_sender(options.from_address),
                said_in=self._tools.renderer.said_in(piece.content),
                link=self._tools.renderer.dashboard_link(piece.content),
            )
            for piece in pieces
            if piece.content.recipient_is_owner
        )

    def compose(self, row: Expiration, notice: NoticeRow) -> tuple[Recipient, Notice]:
        """Say who gets a notice, and gather what it says.

        :raises errors.CloudError: Keystone does not answer.
        :raises MailUnavailable: there is nobody who could get it.
        """
        tools = self._tools
        with tools.database.begin() as connection:
            verdict = tools.book.verdict(connection, row, tools.clock())
            reminds = notice.kind.startswith("reminder/")
            told = db_api.kinds_told(connection, row) if reminds else set()
        recipient = self._recipients.find(row, notice.refused, verdict.mailing)
        content = self._content(row, notice, recipient, verdict, told)
        copied = self._recipients.with_copies(row, recipient, verdict.mailing, content.kinds)
        return copied, content

    def _content(
        self,
        row: Expiration,
        notice: NoticeRow,
        recipient: Recipient,
        verdict: Verdict,
        told: Collection[str],
    ) -> Notice:
        tools, terms = self._tools, verdict.terms
        now = tools.clock()
        contact = recipient.contact
        # What a mail about a VM that ended says of its end must not change with the options.
        said = notice.details
        kind, quarantine_at, room = notice.kind, None, None
        if row.ends_at is not None and row.state in lifecycle.LEASED:
            plan = lifecycle.agenda(row.ends_at, terms)
            quarantine_at = plan.quarantine_at
            if kind.startswith("reminder/") and plan.is_last(now, told):
                kind = f"last_{kind}"
        if row.ends_at is not None and row.state in lifecycle.LEASED | {State.ENDED}:
            room = extension.room(row, terms, now)
        return Notice(
            kind=kind,
            server_id=row.server_id,
            server_name=row.server_name,
            project_id=row.project_id or "",
            project_name=self._project_name(row),
            lease_id=row.lease_id,
            ends_at=_date(said.get("told_end")) or row.ends_at,
            now=now,
            on_end_action=said.get("on_end_action", terms.on_end_action),
            quarantine_at=quarantine_at,
            recipient_is_owner=recipient.is_owner,
            owner_name=recipient.owner_name,
            image_id=said.get("image_id"),
            image_name=said.get("image_name"),
            keep_volumes=tools.conf[RESOURCE_TYPE].keep_volumes,
            volumes=[
                KeptVolume(id=volume["id"], name=volume["name"], boot=volume["boot"])
                for volume in said.get("volumes", [])
            ],
            reason=Saying.of_details(said),
            undone=said.get("undone", ()),
            held_until=_date(said.get("held_until")),
            language=None if recipient.is_last else recipient.language or terms.language,
            latest_allowed=room.latest if room else None,
            extendable_from=room.opens_at if room else None,
            extensions_used=row.extensions if room and room.used_up else None,
            contact_property=contact.value if contact and contact.way is Way.PROPERTY else None,
            contact_role=contact.value if contact and contact.way is Way.ROLE else None,
        )

    def _project_name(self, row: Expiration) -> str:
        try:
            return self._tools.cloud.keystone.get_project(row.project_id or "").name
        except errors.NotFound:
            report_orphan(self._tools, row, "project", row.project_id)
            return row.project_id or ""

    def _refused(
        self, row: Expiration, notice: NoticeRow, recipient: Recipient, error: str
    ) -> None:
        counts = {
            address.lower(): notice.refused.get(address.lower(), 0) + 1
            for address in recipient.addresses
        }
        limit = self._tools.conf.vmexpire_mail.max_refusals
        if recipient.is_last:
            due_at = self._tools.retry_at(notice.attempts + 1)
        elif min(counts.values()) < limit:
            due_at = self._tools.retry_at(min(counts.values()))
        else:
            # The next in the chain need not wait.
            due_at = self._tools.clock()
        LOG.debug(
            "Server %s: notice %s was refused for %s: %s",
            row.server_id,
            notice.kind,
            recipient.shown,
            error,
        )
        with self._tools.database.begin() as connection:
            db_api.update_notice(
                connection,
                notice.id,
                refused=db_api.as_json({**notice.refused, **counts}),
                attempts=notice.attempts + 1,
                recipient=db_api.storable(recipient.shown, _LONGEST),
                due_at=due_at,
                last_error=error,
            )
            db_api.record(
                connection,
                row,
                "notice_refused",
                self._tools.clock(),
                kind=notice.kind,
                recipient=recipient.shown,
                reason=error,
            )

    def _failed(self, row: Expiration, notice: NoticeRow, error: str) -> None:
        due_at = self._tools.retry_at(notice.attempts + 1)
        LOG.warning(
            "Server %s: notice %s could not be sent, next try at %s UTC: %s",
            row.server_id,
            notice.kind,
            due_at.isoformat(" ", "seconds"),
            words.without_addresses(error),
        )
        with self._tools.database.begin() as connection:
            db_api.update_notice(
                connection,
                notice.id,
                attempts=notice.attempts + 1,
                due_at=due_at,
                last_error=error,
            )


def _date(text: str | None) -> datetime.datetime | None:
    """Read a date that is kept with a notice."""
    return None if text is None else datetime.datetime.fromisoformat(text)


def _became(
    recipient: Recipient, refused: Mapping[str, str], bcc_refused: Mapping[str, str]
) -> dict[str, Any]:
    """Say for the history how a mail came to who got it, who else did, and who did not.

    Of blind copies no more than how many there are: owners read this.
    """
    became: dict[str, Any] = {
        "instead_of_owner": recipient.why,
        "reached_as": str(recipient.contact) if recipient.contact else None,
        "left_out": recipient.left_out,
        "cc": ", ".join(recipient.cc),
        "bcc": len(recipient.bcc),
        "not_to": list(dict.fromkeys(refused.values())),
        "bcc_refused": len(bcc_refused),
    }
    return {name: value for name, value in became.items() if value}
