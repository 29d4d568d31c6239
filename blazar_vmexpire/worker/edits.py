# SPDX-License-Identifier: Apache-2.0
"""What an owner writes where their VM's metadata tell its end: a request to move it, no more.

It is put to the same checks as any other. What they refuse is put back, and the owner is told: once
for each end, because nobody needs the same mail for each try.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from oslo_log import log as logging

from blazar_vmexpire import extension, labels, lifecycle
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db.api import Expiration
from blazar_vmexpire.db.models import expirations
from blazar_vmexpire.labels import Labels
from blazar_vmexpire.worker.telling import Telling
from blazar_vmexpire.worker.tools import Tools

LOG = logging.getLogger(__name__)

#: Who moved an end by metadata, as the history has it: Nova does not say whose edit it was.
ACTOR = "metadata"
_KIND = "put_back"


class Edits:
    """Takes what is found in metadata for what it is."""

    def __init__(self, tools: Tools, telling: Telling) -> None:
        self._tools = tools
        self._telling = telling

    def take(
        self, connection: sa.Connection, before: Expiration, metadata: Mapping[str, str]
    ) -> None:
        """Move the end as the metadata ask for, or have them put back.

        :param connection: of a transaction that holds the VM's row.
        :param before: the row as it was before Nova was asked: what was written meanwhile cannot
            be told from an edit.
        :param metadata: as Nova showed them.
        """
        keys = Labels.of(self._tools.conf)
        row = db_api.get(connection, before.server_id, for_update=True)
        if (
            row is None
            or row.state not in lifecycle.LEASED
            or _shown(row) != _shown(before)
            or not keys.edited(metadata, row)
        ):
            return
        now = self._tools.clock()
        assert row.shown_end is not None  # noqa: S101 - else it is not edited
        value = metadata.get(keys.end_key)
        # What is there has to be written anew. Until it is no edit is read out of it: this one
        # counts once.
        columns: dict[str, Any] = {"show_after": now}
        if value not in (labels.text(row.shown_end), row.ends_at and labels.text(row.ends_at)):
            try:
                new_end = self._move(connection, row, keys.end_key, value, now)
            except extension.Refused as error:
                self._put_back(connection, row, keys.end_key, value, str(error), now)
            else:
                if keys.tell(metadata, new_end, row.shown_state):
                    # It is as we would write it, so that the owner's next edit counts at once.
                    columns = {"shown_end": new_end}
        connection.execute(
            sa.update(expirations).where(expirations.c.server_id == row.server_id).values(**columns)
        )

    def _move(
        self,
        connection: sa.Connection,
        row: Expiration,
        key: str,
        value: str | None,
        now: datetime.datetime,
    ) -> datetime.datetime:
        """Move the end.

        :returns: the end it has then.
        :raises extension.Refused: it stays where it is.
        """
        if value is None:
            raise extension.NotAllowed(f"{key} was removed: it only tells when the end is")
        new_end = extension.parse_date(value)
        if new_end == row.ends_at:
            # The same, in other words.
            return new_end
        extension.extend(
            connection,
            row.server_id,
            end_date=new_end,
            # Of no project: nobody knows whether it was the owner who wrote it, so that an earlier
            # end is not taken for known to them. They are told of it like of any other.
            caller=extension.Caller(
                user_id=ACTOR, project_id=None, request_id=None, is_admin=False
            ),
            terms=self._tools.book.verdict(connection, row, now).terms,
            now=now,
        )
        return new_end

    def _put_back(
        self,
        connection: sa.Connection,
        row: Expiration,
        key: str,
        value: str | None,
        why: str,
        now: datetime.datetime,
    ) -> None:
        written = None if value is None else db_api.storable(value, 255)
        told = db_api.add_notice(
            connection,
            row,
            _KIND,
            now,
            message_id=self._telling.message_id(row, _KIND),
            details={"reason": why},
        )
        if told:
            db_api.record(
                connection, row, "metadata_put_back", now, key=key, value=written, reason=why
            )
        else:
            LOG.debug("Server %s: its %s is put back again: %s", row.server_id, key, why)


def _shown(row: Expiration) -> tuple[object, ...]:
    return row.shown_end, row.shown_state, row.show_after
