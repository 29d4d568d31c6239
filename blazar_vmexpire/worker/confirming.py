# SPDX-License-Identifier: Apache-2.0
"""Telling an owner that an end which they had been told of is off, because it was extended."""

from __future__ import annotations

import datetime

from oslo_log import log as logging

from blazar_vmexpire.cloud import errors
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.notices import Kind
from blazar_vmexpire.worker.case import Case
from blazar_vmexpire.worker.telling import Telling
from blazar_vmexpire.worker.tools import Tools

LOG = logging.getLogger(__name__)

#: What tells an owner of an end to come.
_TOLD = (Kind.REMINDER, Kind.QUARANTINED, Kind.EARLIER)
#: An extension that is older is no news, as after an upgrade; and whoever extends again and again
#: is told once in this time.
_NEWS = datetime.timedelta(days=1)


class Confirming:
    """Resolves to tell of extensions; who was told of no end, need not be told that it is off."""

    def __init__(self, tools: Tools, telling: Telling) -> None:
        self._tools = tools
        self._telling = telling

    def resolve(self, case: Case) -> None:
        """Have it told, once an extension and once a day; the notice is among the case's then."""
        row = case.row
        if not self._tools.conf.vmexpire_mail.tell_extensions or not self._is_off(case):
            return
        with self._tools.database.begin() as connection:
            found = db_api.extended_by(connection, row.server_id, row.generation, case.now - _NEWS)
        if found is None:
            return
        details = {"reason": self._who(found)}
        with self._tools.database.begin() as connection:
            db_api.add_notice(
                connection,
                row,
                Kind.EXTENDED,
                case.now,
                message_id=self._telling.message_id(row, Kind.EXTENDED),
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
        told = [n for n in case.notices if n.told_end is not None and n.kind.startswith(_TOLD)]
        if not told or row.ends_at is None:
            return False
        last = max(told, key=lambda notice: notice.id)
        return last.generation < row.generation and (last.told_end or row.ends_at) < row.ends_at

    def _who(self, by: db_api.Extended) -> str:
        """Say who did it, by their name where Keystone knows it."""
        name = by.user_id or "unknown"
        try:
            name = self._tools.cloud.keystone.get_user(name).name
        except errors.CloudError as error:
            # It may be an account of the machine, or an edit of metadata; or Keystone is away.
            LOG.debug("Who extended is named by their id, %s: %s", name, error)
        return f'{"administrator" if by.by_admin else "user"} "{name}"'
