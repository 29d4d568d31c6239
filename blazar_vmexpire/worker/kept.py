# SPDX-License-Identifier: Apache-2.0
"""What a row remembers of a VM that was kept at its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from blazar_vmexpire.actions.base import Action
from blazar_vmexpire.cloud.servers import Server

#: How it was ended, in a row's ``progress``.
ENDED = "ended"


def remembered(progress: Mapping[str, Any], action: str) -> dict[str, Any]:
    """Say what stays of a row's progress when its VM has been ended and is kept: what an extension
    has to undo.

    :param action: the name of the action that did it.
    """
    return {ENDED: {"action": action}, "undo": progress.get("undo", {})}


def as_left(actions: Mapping[str, Action], progress: Mapping[str, Any], server: Server) -> bool:
    """Say whether a VM that was kept is as it was left.

    :param progress: the row's.
    :param server: as Nova has it, which is doing nothing to it.
    """
    action = actions.get(progress[ENDED]["action"])
    # Of an action that is no longer installed nobody can say.
    return action is None or action.at_rest(server)
