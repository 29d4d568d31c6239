# SPDX-License-Identifier: Apache-2.0
"""Whom a notice goes to: the VM's owner, or who is told when the owner cannot be reached."""

from __future__ import annotations

import dataclasses

from blazar_vmexpire import RESOURCE_TYPE
from blazar_vmexpire.cloud import errors
from blazar_vmexpire.cloud.keystone import User
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db.api import Expiration, NoticeRow
from blazar_vmexpire.notices import BadAddress, MailUnavailable, language, parse_recipient
from blazar_vmexpire.worker.tools import Tools


@dataclasses.dataclass(frozen=True, slots=True)
class Recipient:
    """Somebody who gets a notice.

    :ivar why: why it is not the owner
    :ivar language: the code of the one that they read, if that is known
    """

    address: str
    owner_name: str | None
    is_owner: bool
    why: str | None
    language: str | None = None


class Recipients:
    """Finds who gets a notice."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    def find(self, row: Expiration, notice: NoticeRow) -> Recipient:
        """Say who gets a notice: the owner, or the contact for those who cannot be reached.

        :raises errors.CloudError: Keystone does not answer; that says nothing about the owner.
        """
        if self._tools.conf[RESOURCE_TYPE].dry_run:
            return self._instead(None, "this is a dry run")
        why = name = None
        try:
            if not row.user_id:
                raise errors.NotFound("keystone", "get user", "the server has no user")
            user = self._tools.cloud.keystone.get_user(row.user_id)
        except errors.NotFound:
            why = f"user {row.user_id} does not exist any more"
            report_orphan(self._tools, row, "user", row.user_id)
        else:
            name = user.name
            try:
                address = parse_recipient(user.email or "")
            except BadAddress as error:
                why = f"user {user.name} has no usable mail address: {error}"
            else:
                if not user.enabled:
                    why = f"user {user.name} is disabled"
                elif notice.refusals >= self._tools.conf.vmexpire_mail.max_refusals:
                    why = f"{address} was refused {notice.refusals} times"
                else:
                    return Recipient(address, name, True, None, self._language(user))
        return self._instead(name, why)

    def _language(self, user: User) -> str | None:
        """Say which language a user reads, if Keystone has that."""
        attribute = self._tools.conf.vmexpire_mail.language_attribute
        return language.known(user.attributes.get(attribute)) if attribute else None

    def _instead(self, owner: str | None, why: str) -> Recipient:
        """Name the contact that gets what the owner does not.

        :param owner: the owner's name.
        :raises MailUnavailable: there is none.
        """
        contact = self._tools.conf[RESOURCE_TYPE].undeliverable_contact
        if not contact:
            raise MailUnavailable(f"{why}, and undeliverable_contact is not set")
        return Recipient(contact, owner, False, why)


def report_orphan(tools: Tools, row: Expiration, kind: str, missing: str | None) -> None:
    """Have it said, once, that the VM's user or project is gone: a person has to look.

    Nothing follows from it: the VM ends when it would have ended, not earlier and not later.
    """
    with tools.database.begin() as connection:
        db_api.record_once(connection, row, "orphaned", tools.clock(), **{kind: missing})
