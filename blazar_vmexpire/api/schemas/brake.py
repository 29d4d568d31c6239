# SPDX-License-Identifier: Apache-2.0
"""Bodies and answers of ``/v1/vm-expiration-brake``."""

from __future__ import annotations

from typing import Any

from blazar_vmexpire.api.schemas import thing
from blazar_vmexpire.api.schemas.parts import COUNT, MOMENT, REASON, TEXT, maybe

CHANGE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "action": {
            "type": "string",
            "enum": ["trip", "release"],
            "description": "stop all that cannot be undone, or let it go on",
        },
        "reason": REASON,
    },
    "required": ["action", "reason"],
    "additionalProperties": False,
}

_GROUP = thing(
    {
        "count": COUNT,
        "servers": {
            "type": "array",
            "items": thing({"server_id": TEXT, "server_name": TEXT, "project_id": maybe(TEXT)}),
        },
    }
)
_GOING = thing({"ending": _GROUP, "vanished": _GROUP})

BRAKE = thing(
    {
        "vm_expiration_brake": thing(
            {
                "enabled": {"type": "boolean"},
                "tripped_at": maybe(MOMENT),
                "tripped_by": maybe(TEXT),
                "reason": maybe(TEXT),
                "told_at": maybe(MOMENT),
                "released_at": maybe(MOMENT),
                "released_by": maybe(TEXT),
                "release_reason": maybe(TEXT),
                **dict.fromkeys(
                    (
                        "known",
                        "pace",
                        "ended",
                        "deleted",
                        "waiting",
                        "vanished",
                        "most_waiting",
                        "most_vanished",
                    ),
                    COUNT,
                ),
                "at_trip": _GOING,
                "now": _GOING,
            }
        )
    }
)
