# SPDX-License-Identifier: Apache-2.0
"""Telling people: from a resolved notice to one that the mail server has accepted.

A notice is resolved (a row, committed) before it is sent, and accepted (its row, committed) after.
A crash between the mail server's 250 and that commit repeats one mail, with the same Message-ID; no
crash loses one. A connection to the database that breaks there repeats none, unless the database
stays away.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence

import icalendar
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
    Undeliverable,
    build_message,
    invitation,
    message_id_for,
    parse_sender,
)
from blazar_vmexpire.worker.recipients import Recipient, Recipients, report_orphan
from blazar_vmexpire.worker.tools import Tools

LOG = logging.getLogger(__name__)


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
        tools = self._tools
        if wait := tools.mailer.wait(notice.id, tools.clock()):
            self._let_wait(row, notice, wait)
            return False
        try:
            recipient = self._recipients.find(row, notice)
            content = self._content(row, notice, recipient)
            message = build_message(
                tools.renderer.render(content),
                notice=content,
                recipient=recipient.address,
                from_address=tools.conf.vmexpire_mail.from_address,
                message_id=notice.message_id,
                date=tools.clock(),
                calendar=self._calendar(row, content),
            )
            answer = tools.mailer.send(message, recipient.address)
        except Undeliverable as error:
            tools.metrics.notice("refused")
            self._refused(row, notice, recipient, str(error))
            return False
        except (MailUnavailable, errors.CloudError) as error:
            service = error.service if isinstance(error, errors.CloudError) else "smtp"
            tools.metrics.error(service, "unavailable")
            tools.metrics.notice("put_off")
            self._failed(row, notice, str(error))
            return False
        now = tools.clock()

        @retried
        def accepted() -> None:
            with tools.database.begin() as connection:
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

        accepted()
        tools.metrics.notice("accepted")
        # Its address is in the history; what is logged beyond debug has none.
        LOG.debug(
            "Server %s: notice %s was accepted for %s: %s",
            row.server_id,
            notice.kind,
            recipient.address,
            answer,
        )
        return True

    def _let_wait(self, row: Expiration, notice: NoticeRow, wait: datetime.timedelta) -> None:
        """Let a notice wait for its turn at the pace of ``max_per_minute``: that is no failure."""
        due_at = self._tools.clock() + wait
        LOG.debug("Server %s: notice %s waits until %s UTC", row.server_id, notice.kind, due_at)
        with self._tools.database.begin() as connection:
            db_api.update_notice(
                connection, notice.id, due_at=due_at, last_error="it waits: max_per_minute"
            )

    def give_up(self, notices: Sequence[NoticeRow], why: str) -> None:
        """Let notices rest that need not be sent any more."""
        with self._tools.database.begin() as connection:
            for notice in notices:
                db_api.update_notice(connection, notice.id, due_at=None, last_error=why)

    def _calendar(self, row: Expiration, content: Notice) -> icalendar.Calendar | None:
        """Make the calendar entry that goes with a notice; not for who gets those of many VMs."""
        options = self._tools.conf.vmexpire_mail
        if not options.calendar or not content.recipient_is_owner:
            return None
        return invitation.entry(
            content,
            generation=row.generation,
            sender=parse_sender(options.from_address),
            link=self._tools.renderer.dashboard_link(content),
        )

    def _content(self, row: Expiration, notice: NoticeRow, recipient: Recipient) -> Notice:
        tools = self._tools
        now = tools.clock()
        with tools.database.begin() as connection:
            terms = tools.book.verdict(connection, row, now).terms
        # What a mail about a VM that ended says of its end must not change with the options.
        said = notice.details
        quarantine_at = room = None
        if row.ends_at is not None and row.state in lifecycle.LEASED:
            quarantine_at = lifecycle.agenda(row.ends_at, terms).quarantine_at
        if row.ends_at is not None and row.state in lifecycle.LEASED | {State.ENDED}:
            room = extension.room(row, terms, now)
        return Notice(
            kind=notice.kind,
            server_id=row.server_id,
            server_name=row.server_name,
            project_id=row.project_id or "",
            project_name=self._project_name(row),
            lease_id=row.lease_id,
            ends_at=row.ends_at,
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
            reason=said.get("reason"),
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
