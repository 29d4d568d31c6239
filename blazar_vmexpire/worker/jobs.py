# SPDX-License-Identifier: Apache-2.0
"""Running one step of an action on a claimed VM, its notes committed under the claim's fence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from blazar_vmexpire.actions.base import Action, Job, Outcome
from blazar_vmexpire.cloud.servers import Server
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db.api import Expiration
from blazar_vmexpire.worker import claims
from blazar_vmexpire.worker.tools import Tools

#: That the brake has counted what is paced without being irreversible, in a row's ``progress``.
_COUNTED = "counted"


class Jobs:
    """Gives actions what they work with."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    def advance(
        self,
        row: Expiration,
        server: Server,
        action: Action,
        place: str,
        notes: Mapping[str, Any],
    ) -> tuple[Outcome, dict[str, Any]]:
        """Run the next step of an action.

        :param place: where in the row's progress its notes are.
        :param notes: as the row has them.
        :returns: what the action says, and the row's whole progress as it is committed now.
        :raises: what :meth:`Action.advance` raises.
        """
        tools = self._tools
        progress = dict(row.progress)

        def ledger(
            notes: Mapping[str, Any],
            *,
            irreversible: bool | None = None,
            paced: bool = False,
            undo: Mapping[str, Any] | None = None,
        ) -> None:
            repeated = bool(progress.get("irreversible") or progress.get(_COUNTED))
            progress[place] = dict(notes)
            if irreversible is not None:
                progress["irreversible"] = irreversible
            if paced:
                progress[_COUNTED] = True
            if undo:
                added = _added(progress.get("undo", {}), undo)
                progress["undo"] = {key: it for key, it in added.items() if it is not None}
            with tools.database.begin() as connection:
                if irreversible or paced:
                    tools.brake.begin_deletion(
                        connection, row.server_id, tools.clock(), repeated=repeated
                    )
                claims.write(connection, row, progress=progress)

        def report(event: str, **details: Any) -> None:
            with tools.database.begin() as connection:
                db_api.record(connection, row, event, tools.clock(), **details)

        job = Job(
            server=server,
            project_id=server.project_id,
            lease_id=row.lease_id,
            now=tools.clock(),
            at_end=place == "end",
            conf=tools.conf,
            cloud=tools.cloud,
            notes=dict(notes),
            ledger=ledger,
            undo=dict(progress.get("undo", {})),
            report=report,
        )
        return action.advance(job), progress


def _added(there: Mapping[str, Any], undo: Mapping[str, Any]) -> dict[str, Any]:
    """Add to what has to be undone; of what is several things, one to the others."""
    return {
        **there,
        **{
            key: {**there.get(key, {}), **value} if isinstance(value, Mapping) else value
            for key, value in undo.items()
        },
    }
