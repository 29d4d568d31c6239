# SPDX-License-Identifier: Apache-2.0
"""Queries, bodies and answers of ``/v1/vm-expiration-exclusions``."""

from __future__ import annotations

from typing import Any

from blazar_vmexpire.api.schemas import thing
from blazar_vmexpire.api.schemas.parts import COUNT, MOMENT, REASON, SENT, SENT_DATE, TEXT, maybe
from blazar_vmexpire.exclusions import Kind

_KINDS = [kind.value for kind in Kind]

LIST: dict[str, Any] = {
    "type": "object",
    "properties": {
        "kind": {"type": "string", "enum": _KINDS, "description": "of this kind"},
        "value": {**SENT, "description": "of exactly this one"},
        "all": {"type": "boolean", "description": "those that are over, too"},
    },
    "additionalProperties": False,
}

CREATE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "kind": {"type": "string", "enum": _KINDS, "description": "what is left out"},
        "value": {**SENT, "minLength": 1, "description": "its id; of a flavor its name"},
        "reason": REASON,
        "expires_at": {**SENT_DATE, "description": "when that is over; without it, never"},
    },
    "required": ["kind", "value", "reason"],
    "additionalProperties": False,
}

DELETE: dict[str, Any] = {
    "type": "object",
    "properties": {"reason": REASON},
    "additionalProperties": False,
}

_EXCLUSION = thing(
    {
        "id": COUNT,
        "kind": {"enum": _KINDS},
        "value": TEXT,
        "reason": TEXT,
        "author": TEXT,
        "created_at": MOMENT,
        "expires_at": maybe(MOMENT),
    }
)

EXCLUSION = thing({"vm_expiration_exclusion": _EXCLUSION})
EXCLUSIONS = thing({"vm_expiration_exclusions": {"type": "array", "items": _EXCLUSION}})
