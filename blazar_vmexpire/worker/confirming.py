# SPDX-License-Identifier: Apache-2.0
"""Telling an owner that their new VM will end, and that an end that they were told of is off."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from oslo_log import log as logging

from blazar_vmexpire import adoption
from blazar_vmexpire.cloud import errors
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db.api import NoticeRow
from blazar_vmexpire.notices import Kind, Saying
from blazar_vmexpire.worker.case import Case
from blazar_vmexpire.worker.telling import Telling
from blazar_vmexpire.worker.tools import Tools

LOG = logging.getLogger(__name__)

#: What tells an owner of an end to come.
_OF_AN_END = (
    Kind.ADOPTED,
    Kind.REMINDER,
    Kind.QUARANTINED,
    Kind.REVIVED,
    Kind.MOVED,
    Kind.EXTENDED,
    Kind.EARLIER,
)
#: And of those, what an extension makes void that is told nowhere else.
_TOLD = (Kind.ADOPTED, Kind.REMINDER, Kind.QUARANTINED, Kind.EARLIER)
#: An extension that is older is no news, as after an upgrade; and whoever extends again and again
#: is told once in this time.
_NEWS = datetime.timedelta(days=1)


class Confirming:
    """Resolves to tell what is no reminder: that a VM was taken in, that it was extended.

    Whoever was told of no end, need not be told that it is off.
    """

    def __init__(self, tools: Tools, telling: Telling) -> None:
        self._tools = tools
        self._telling = telling

    def resolve(self, case: Case) -> None:
        """Have it told: the notice is among the case's then."""
        if self._is_to_know_of_the_adoption(case):
            self._add(case, Kind.ADOPTED)
        elif self._tools.conf.vmexpire_mail.tell_extensions and self._is_off(case):
            self._tell_of_the_extension(case)

    def resolve_held(self, case: Case, held_until: datetime.datetime) -> None:
        """Have it told that an end is off for a while, if its owner was told of one."""
        told_end = end_told(case.notices)
        if told_end is not None:
            self._add(case, Kind.EXEMPTED, off(told_end, held_until))

    def _is_to_know_of_the_adoption(self, case: Case) -> bool:
        """Whether the VM is new, and its owner has been told nothing yet."""
        row = case.row
        return (
            self._tools.conf.vmexpire_mail.tell_adoptions
            and adoption.new_at(row.adopted_at, row.server_created_at)
            and row.adopted_at is not None
            and case.now <= row.adopted_at + _NEWS
            and not any(notice.created_at >= row.adopted_at for notice in case.notices)
        )

    def _tell_of_the_extension(self, case: Case) -> None:
        """Once an extension and once a day."""
        row = case.row
        with self._tools.database.begin() as connection:
            found = db_api.extended_by(connection, row.server_id, row.generation, case.now - _NEWS)
        if found is not None:
            self._add(case, Kind.EXTENDED, who(self._tools, found).as_details())

    def _add(self, case: Case, kind: Kind, details: Mapping[str, Any] | None = None) -> None:
        row = case.row
        with self._tools.database.begin() as connection:
            db_api.add_notice(
                connection,
                row,
                kind,
                case.now,
                message_id=self._telling.message_id(row, kind),
                details=details,
            )
            case.notices = db_api.notices_of(connection, row.server_id)

    def _is_off(self, case: Case) -> bool:
        """Whether the last that was told is an end before an extension, and nothing since."""
        row = case.row
        for notice in case.notices:
            if notice.kind == Kind.EXTENDED and (
                notice.generation == row.generation or notice.created_at > case.now - _NEWS
            ):
                return False
            if notice.kind == Kind.REVIVED and notice.generation == row.generation:
                return False
        told = [n for n in case.notices if n.told_end is not None and n.kind.startswith(_TOLD)]
        if not told or row.ends_at is None:
            return False
        last = max(told, key=lambda notice: notice.id)
        return last.generation < row.generation and (last.told_end or row.ends_at) < row.ends_at


def end_told(notices: Sequence[NoticeRow]) -> datetime.datetime | None:
    """Say the end to come that an owner was told last; None if of none, or that it is over or off.

    :param notices: of their VM, oldest first.
    """
    said = [n for n in notices if n.accepted_at is not None and n.told_end is not None]
    for notice in reversed(said):
        if notice.kind.startswith(_OF_AN_END):
            return notice.told_end
        if notice.kind in (Kind.ENDED, Kind.EXEMPTED, Kind.GONE):
            return None
    return None


def off(told_end: datetime.datetime, held_until: datetime.datetime | None = None) -> dict[str, str]:
    """Say what is kept with the notice that an end is off."""
    details = {"told_end": told_end.isoformat()}
    if held_until is not None:
        details["held_until"] = held_until.isoformat()
    return details


def who(tools: Tools, by: db_api.Extended) -> Saying:
    """Say who extended a VM, by their name where Keystone knows it."""
    name = by.user_id or "unknown"
    try:
        name = tools.cloud.keystone.get_user(name).name
    except errors.CloudError as error:
        # It may be an account of the machine, or an edit of metadata; or Keystone is away.
        LOG.debug("Who extended is named by their id, %s: %s", name, error)
    if by.by_admin:
        return Saying('administrator "%(name)s"', {"name": name})
    return Saying('user "%(name)s"', {"name": name})
