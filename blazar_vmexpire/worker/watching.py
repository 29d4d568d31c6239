# SPDX-License-Identifier: Apache-2.0
"""Watching the brake: whether it has to trip, and that its operator learns of it."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from oslo_log import log as logging

from blazar_vmexpire import brake
from blazar_vmexpire.brake import Status
from blazar_vmexpire.db.engine import retried
from blazar_vmexpire.notices import Alarm, Group, Named, message_id_for
from blazar_vmexpire.worker import alarming
from blazar_vmexpire.worker.tools import Tools

LOG = logging.getLogger(__name__)

#: How long it is kept what was counted: an hour is needed, the rest is for who looks.
_KEEP = datetime.timedelta(days=1)


class Watching:
    """What the chore does at each of its runs. One object a worker, from its start to its end."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._tripped_at: datetime.datetime | None = None
        """As this worker last saw it."""

    def run(self) -> None:
        """Trip the brake if there is reason to, tell the operator, forget what counts no more."""
        status = self._look()
        tripped_at = status.tripped_at
        if self._tripped_at is not None and tripped_at is None:
            LOG.warning(
                "The brake was released by %s: %s",
                status.released_by,
                status.release_reason or "no reason given",
            )
        if tripped_at is not None and tripped_at != self._tripped_at:
            _log(status)
        self._tripped_at = tripped_at
        if status.enabled and tripped_at is not None and status.told_at is None:
            self._tell(status, tripped_at)

    @retried
    def _look(self) -> Status:
        tools = self._tools
        now = tools.clock()
        with tools.database.begin() as connection:
            tools.brake.watch(connection, now)
            brake.forget_passes(connection, now - _KEEP)
            return tools.brake.status(connection, now)

    def _tell(self, status: Status, tripped_at: datetime.datetime) -> None:
        """Send the mail; what is not accepted is tried again at the next run."""
        tools = self._tools
        contact = tools.operators
        if contact is None:
            return
        moment = f"{tripped_at:%Y%m%d%H%M%S%f}"
        told = alarming.tell(
            tools,
            contact,
            _alarm(status, tripped_at),
            what="That the brake has tripped",
            message_id=message_id_for(moment, "brake", 0, tools.mailer.domain),
        )
        if told:
            with tools.database.begin() as connection:
                tools.brake.told(connection, tripped_at, tools.clock())


def _alarm(status: Status, tripped_at: datetime.datetime) -> Alarm:
    return Alarm(
        tripped_at=tripped_at,
        tripped_by=status.tripped_by,
        reason=status.reason or "no reason given",
        known=status.known,
        pace=status.pace,
        ending=_group(status.details, "ending"),
        vanished=_group(status.details, "vanished"),
    )


def _group(details: Mapping[str, Any], name: str) -> Group:
    found = details[name]
    return Group(
        count=found["count"],
        servers=[
            Named(id=server_id, name=server_name, project_id=project_id or "")
            for server_id, server_name, project_id in found["servers"]
        ],
    )


def _log(status: Status) -> None:
    """Log a trip with what would have gone, a line a VM."""
    LOG.error(
        "The brake has tripped%s: %s. Nothing is deleted until an administrator releases it:"
        " blazar-vmexpire-manage brake show, blazar-vmexpire-manage brake release",
        f" by {status.tripped_by}" if status.tripped_by else "",
        status.reason,
    )
    for name, said in (("ending", "would have been ended"), ("vanished", "vanished")):
        group = _group(status.details, name)
        for server in group.servers:
            LOG.error(
                "Server %s (%s) of project %s %s",
                server.id,
                server.name,
                server.project_id,
                said,
            )
        if group.count > len(group.servers):
            LOG.error("%d more servers %s", group.count - len(group.servers), said)
