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
from collections.abc import Sequence

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
from blazar_vmexpire.worker.recipients import Recipient, Recipients, report_orphan
from blazar_vmexpire.worker.tools import Tools

LOG = logging.getLogger(__name__)


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
        self.recipients = Recipients(tools)

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
            recipient = self.recipients.find(row, notice)
            content = self.content(row, notice, recipient)
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
                recipient=recipient.address,
                from_address=tools.conf.vmexpire_mail.from_address,
                message_id=told[0][1].message_id,
                date=tools.clock(),
                calendar=self._calendar(pieces),
            )
            answer = tools.mailer.send(message, recipient.address)
        except Undeliverable as error:
            tools.metrics.notice("refused", len(told))
            for row, notice in told:
                self._refused(row, notice, recipient, str(error))
            return False
        except MailUnavailable as error:
            self.put_off(told, error)
            return False
        now = tools.clock()

        @retried
        def accepted() -> None:
            with tools.database.begin() as connection:
                for row, notice in told:
                    self._accepted(connection, row, notice, recipient, now)

        accepted()
        tools.metrics.notice("accepted", len(told))
        for row, notice in told:
            # Its address is in the history; what is logged beyond debug has none.
            LOG.debug(
                "Server %s: notice %s was accepted for %s: %s",
                row.server_id,
                notice.kind,
                recipient.address,
                answer,
            )
        return True

    @staticmethod
    def _accepted(
        connection: sa.Connection,
        row: Expiration,
        notice: NoticeRow,
        recipient: Recipient,
        now: datetime.datetime,
    ) -> None:
        db_api.update_notice(
            connection,
            notice.id,
            accepted_at=now,
            due_at=None,
            recipient=recipient.address,
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
            recipient=recipient.address,
            message_id=notice.message_id,
            ends_at=row.ends_at,
            **({"instead_of_owner": recipient.why} if recipient.why else {}),
        )

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

    def content(self, row: Expiration, notice: NoticeRow, recipient: Recipient) -> Notice:
        """Gather what a notice says.

        :raises errors.CloudError: Keystone does not answer.
        """
        tools = self._tools
        now = tools.clock()
        with tools.database.begin() as connection:
            terms = tools.book.verdict(connection, row, now).terms
            reminds = notice.kind.startswith("reminder/")
            told = db_api.kinds_told(connection, row) if reminds else set()
        # What a mail about a VM that ended says of its end must not change with the options.
        said = notice.details
        kind, quarantine_at, room = notice.kind, None, None
        if row.ends_at is not None and row.state in lifecycle.LEASED:
            plan = lifecycle.agenda(row.ends_at, terms)
            quarantine_at = plan.quarantine_at
            if reminds and plan.is_last(now, told):
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
            language=(recipient.language or terms.language) if recipient.is_owner else None,
            latest_allowed=room.latest if room else None,
            extendable_from=room.opens_at if room else None,
            extensions_used=row.extensions if room and room.used_up else None,
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
        refusals = notice.refusals + (1 if recipient.is_owner else 0)
        LOG.debug(
            "Server %s: notice %s was refused for %s: %s",
            row.server_id,
            notice.kind,
            recipient.address,
            error,
        )
        with self._tools.database.begin() as connection:
            db_api.update_notice(
                connection,
                notice.id,
                refusals=refusals,
                attempts=notice.attempts + 1,
                recipient=recipient.address,
                due_at=self._tools.retry_at(notice.attempts + 1),
                last_error=error,
            )
            db_api.record(
                connection,
                row,
                "notice_refused",
                self._tools.clock(),
                kind=notice.kind,
                recipient=recipient.address,
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
