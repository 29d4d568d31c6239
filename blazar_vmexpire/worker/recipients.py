# SPDX-License-Identifier: Apache-2.0
"""Whom a notice goes to: the VM's owner, or who is told when the owner cannot be reached.

That is a chain: the owner, the contacts that the rules file names, and last
``undeliverable_contact``, which there is always. The first link that can be reached gets the mail.
One that is several people is one mail to all of them, and it is reached if any of them is.

No address is tried any more for a notice that was refused for it too often, wherever in the chain
it stands; so where a notice is in the chain follows from what is kept of it: whom it was refused
for, and how often.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence

from blazar_vmexpire import RESOURCE_TYPE
from blazar_vmexpire.addresses import BadAddress, parse_recipient
from blazar_vmexpire.cloud import errors
from blazar_vmexpire.cloud.keystone import User
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db.api import Expiration
from blazar_vmexpire.notices import MailUnavailable, UserAddress, language
from blazar_vmexpire.rules import Contact, Copy, Mailing, Way
from blazar_vmexpire.worker.tools import Tools

#: How many of the users with a role are written to, and how many are looked at to find these.
MOST_WRITTEN_TO = 10
MOST_LOOKED_AT = 50


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Recipient:
    """Who gets a notice, in one mail."""

    addresses: tuple[str, ...]
    owner_name: str | None
    is_owner: bool = False
    why: str | None = None
    """Why it is not the owner, nor anybody before in the chain."""
    contact: Contact | None = None
    """What the rules file says of it; None for the two ends of the chain."""
    left_out: int = 0
    """Users with the role who are not written to, because there are too many."""
    language: str | None = None
    """The code of the one that they read, if that is known."""
    cc: tuple[str, ...] = ()
    bcc: tuple[str, ...] = ()

    @property
    def is_last(self) -> bool:
        """Whether nobody comes after it in the chain."""
        return not self.is_owner and self.contact is None

    @property
    def shown(self) -> str:
        """All addresses, in one line."""
        return ", ".join(self.addresses)


class _Unreachable(Exception):
    """A link of the chain is passed over; the message says why."""


def report_orphan(tools: Tools, row: Expiration, kind: str, missing: str | None) -> None:
    """Have it said, once, that the VM's user or project is gone: a person has to look.

    Nothing follows from it: the VM ends when it would have ended, not earlier and not later.
    """
    with tools.database.begin() as connection:
        db_api.record_once(connection, row, "orphaned", tools.clock(), **{kind: missing})


class Recipients:
    """Finds who gets a notice.

    :param report: told of VMs whose user is gone.
    """

    def __init__(
        self,
        tools: Tools,
        report: Callable[[Tools, Expiration, str, str | None], None] = report_orphan,
    ) -> None:
        self._tools = tools
        self._report = report
        self._address = UserAddress(tools.conf.vmexpire_mail.mail_address_template)

    def find(self, row: Expiration, refused: Mapping[str, int], mailing: Mailing) -> Recipient:
        """Say who gets a notice.

        :param refused: how often it was refused for good, by address in small letters.
        :param mailing: what the rules file says of the VM.
        :raises errors.CloudError: Keystone does not answer; that says nothing about anybody.
        :raises MailUnavailable: nobody can be reached, and undeliverable_contact is not set.
        """
        if self._tools.conf[RESOURCE_TYPE].dry_run:
            return self._last(None, "this is a dry run")
        passed_over: list[str] = []
        owner = self._owner(row)
        name = None if owner is None else owner.name
        try:
            address = self._usable(owner, f"user {row.user_id}")
            return Recipient(
                addresses=self._not_refused(refused, [address]),
                owner_name=name,
                is_owner=True,
                language=None if owner is None else self._language(owner),
            )
        except _Unreachable as error:
            passed_over.append(str(error))
        for contact in mailing.contacts:
            try:
                addresses, left_out = self._resolve(row, contact)
                return Recipient(
                    addresses=self._not_refused(refused, addresses),
                    owner_name=name,
                    why="; ".join(passed_over),
                    contact=contact,
                    left_out=left_out,
                )
            except _Unreachable as error:
                passed_over.append(str(error))
        return self._last(name, "; ".join(passed_over))

    def _language(self, user: User) -> str | None:
        """Say which language a user reads, if Keystone has that."""
        attribute = self._tools.conf.vmexpire_mail.language_attribute
        return language.known(user.attributes.get(attribute)) if attribute else None

    def with_copies(
        self, row: Expiration, recipient: Recipient, mailing: Mailing, kinds: Collection[str]
    ) -> Recipient:
        """Add who gets copies of a mail; who cannot be found, or gets it anyway, gets none.

        :param kinds: that the mail is of, without a suffix.
        :raises errors.CloudError: Keystone does not answer.
        """
        if self._tools.conf[RESOURCE_TYPE].dry_run:
            return recipient
        told = {address.lower() for address in recipient.addresses}
        cc = self._copies(row, mailing.cc, kinds, told)
        bcc = self._copies(row, mailing.bcc, kinds, told | cc.keys())
        return dataclasses.replace(recipient, cc=tuple(cc.values()), bcc=tuple(bcc.values()))

    def _copies(
        self,
        row: Expiration,
        copies: Sequence[Copy],
        kinds: Collection[str],
        without: Collection[str],
    ) -> dict[str, str]:
        """Say who gets a copy: addresses by what they are in small letters."""
        found: dict[str, str] = {}
        for copy in copies:
            if not copy.kinds or not copy.kinds.isdisjoint(kinds):
                # Nobody waits for them: what cannot be found is left out.
                with contextlib.suppress(_Unreachable):
                    addresses, _ = self._resolve(row, copy.contact)
                    found |= {address.lower(): address for address in addresses}
        return {key: address for key, address in found.items() if key not in without}

    def _last(self, owner: str | None, why: str) -> Recipient:
        """Name who gets what nobody else gets.

        :param owner: the owner's name.
        :raises MailUnavailable: there is none.
        """
        contact = self._tools.conf[RESOURCE_TYPE].undeliverable_contact
        if not contact:
            raise MailUnavailable(f"{why}, and undeliverable_contact is not set")
        return Recipient(addresses=(contact,), owner_name=owner, why=why)

    def _owner(self, row: Expiration) -> User | None:
        """Ask for the VM's user; None where there is none any more."""
        if row.user_id:
            with contextlib.suppress(errors.NotFound):
                return self._tools.cloud.keystone.get_user(row.user_id)
        self._report(self._tools, row, "user", row.user_id)
        return None

    def _usable(self, user: User | None, name: str) -> str:
        """Say the address of a user who can be written to."""
        if user is None:
            raise _Unreachable(f"{name} does not exist any more")
        try:
            address = self._address.of(user)
        except BadAddress as error:
            raise _Unreachable(f"user {user.name} has no usable mail address: {error}") from error
        if not user.enabled:
            raise _Unreachable(f"user {user.name} is disabled")
        return address

    def _not_refused(self, refused: Mapping[str, int], addresses: Sequence[str]) -> tuple[str, ...]:
        """Leave out who was refused too often for this notice."""
        limit = self._tools.conf.vmexpire_mail.max_refusals
        times = {address: refused.get(address.lower(), 0) for address in addresses}
        left = tuple(address for address in addresses if times[address] < limit)
        if not left:
            said = [f"{address} was refused {times[address]} times" for address in addresses]
            raise _Unreachable(", ".join(said))
        return left

    def _resolve(self, row: Expiration, contact: Contact) -> tuple[list[str], int]:
        """Say the addresses of a contact, and how many were left out because there are too many."""
        match contact.way:
            case Way.ADDRESS:
                return [contact.value], 0
            case Way.PROPERTY:
                return [self._property(row, contact)], 0
            case Way.ROLE:
                return self._users(row, contact)

    def _property(self, row: Expiration, contact: Contact) -> str:
        try:
            project = self._tools.cloud.keystone.get_project(row.project_id or "")
        except errors.NotFound as error:
            raise _Unreachable(f"{contact}: the project does not exist any more") from error
        if contact.value not in project.properties:
            raise _Unreachable(f"{contact} is not set")
        try:
            return parse_recipient(str(project.properties[contact.value]))
        except BadAddress as error:
            raise _Unreachable(f"{contact}: {error}") from error

    def _users(self, row: Expiration, contact: Contact) -> tuple[list[str], int]:
        keystone = self._tools.cloud.keystone
        ids = keystone.users_with_role(row.project_id or "", contact.value)
        found: dict[str, str] = {}
        looked_at = 0
        for user_id in ids[:MOST_LOOKED_AT]:
            if len(found) == MOST_WRITTEN_TO:
                break
            looked_at += 1
            with contextlib.suppress(errors.NotFound, _Unreachable):
                address = self._usable(keystone.get_user(user_id), user_id)
                found[address.lower()] = address
        if not found:
            who = "no user has it" if not ids else f"none of {looked_at} users can be written to"
            raise _Unreachable(f"{contact}: {who}")
        return list(found.values()), len(ids) - looked_at
