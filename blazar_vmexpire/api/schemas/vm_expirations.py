# SPDX-License-Identifier: Apache-2.0
"""Queries, bodies and answers of ``/v1/vm-expirations``."""

from __future__ import annotations

from typing import Any

from blazar_vmexpire.api.schemas import thing
from blazar_vmexpire.api.schemas.parts import (
    COUNT,
    LIMIT,
    LINKS,
    MOMENT,
    REASON,
    SENT,
    SENT_DATE,
    TEXT,
    maybe,
)
from blazar_vmexpire.db import listing
from blazar_vmexpire.lifecycle import State
from blazar_vmexpire.rules import Way

# Queries ---------------------------------------------------------------------------------------

#: The most VMs that can be named at once.
MOST_NAMED = 100

_UUID = "[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"

_FILTERS: dict[str, Any] = {
    "all_projects": {"type": "boolean", "description": "of all projects"},
    "project_id": {**SENT, "description": "of this project"},
    "user_id": {**SENT, "description": "of this user"},
    "state": {
        "type": "string",
        "enum": [state.value for state in State if state != State.SEEN],
        "description": "in this state; without it, those that are gone are left out",
    },
    "rule": {**SENT, "description": "whose terms come from this rule of the rules file"},
    "name": {**SENT, "description": "with exactly this name"},
    "server_ids": {
        "type": "string",
        "pattern": f"^{_UUID}(,{_UUID}){{0,{MOST_NAMED - 1}}}$",
        "description": f"with one of these UUIDs, {MOST_NAMED} at most, with commas between them",
    },
    "ends_before": {**SENT_DATE, "description": "that end before this date"},
    "ends_after": {**SENT_DATE, "description": "that end at this date or later"},
}

LIST: dict[str, Any] = {
    "type": "object",
    "properties": {
        **_FILTERS,
        "sort_key": {
            "type": "string",
            "enum": list(listing.SORT_KEYS),
            "description": "what they are sorted by; by ends_at unless said otherwise",
        },
        "sort_dir": {"type": "string", "enum": ["asc", "desc"]},
        "limit": LIMIT,
        "marker": {
            "type": "string",
            "maxLength": 400,
            "not": {"pattern": "\\u0000"},
            "description": "begin after this: a VM's UUID, or what a next link has",
        },
    },
    "additionalProperties": False,
}

SUMMARY: dict[str, Any] = {
    "type": "object",
    "properties": _FILTERS,
    "additionalProperties": False,
}

HISTORY: dict[str, Any] = {
    "type": "object",
    "properties": {
        "limit": LIMIT,
        "marker": {
            "type": "integer",
            "minimum": 0,
            "description": "begin after the entry with this id",
        },
    },
    "additionalProperties": False,
}

# Bodies ----------------------------------------------------------------------------------------

_UNTIL: dict[str, Any] = {
    "until": {**SENT_DATE, "description": "the new end; without it, the latest allowed"},
    "end_date": {**SENT_DATE, "description": "the same, as Blazar calls it"},
}

#: ``POST …/{server_id}/extend``.
EXTEND: dict[str, Any] = {
    "type": "object",
    "properties": _UNTIL,
    "maxProperties": 1,
    "additionalProperties": False,
}

#: ``POST /v1/vm-expirations/extend``.
EXTEND_MANY: dict[str, Any] = {
    "type": "object",
    "properties": {
        "server_ids": {
            "type": "array",
            "items": {"type": "string", "maxLength": 64},
            "minItems": 1,
            "maxItems": MOST_NAMED,
            "uniqueItems": True,
            "description": f"the VMs' UUIDs, {MOST_NAMED} at most",
        },
        "until": _UNTIL["until"],
    },
    "required": ["server_ids"],
    "additionalProperties": False,
}

#: ``PATCH …/{server_id}``.
UPDATE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "reason": REASON,
        "ends_at": {**SENT_DATE, "description": "the new end, wherever that is"},
        "hold": {
            **maybe(
                {
                    "type": "object",
                    "properties": {"until": SENT_DATE, "ticket": SENT},
                    "required": ["until"],
                    "additionalProperties": False,
                }
            ),
            "description": "stop its clock: ``until`` a date, with a ``ticket`` or without; null:"
            " let it go on",
        },
        "exempt": {
            "anyOf": [
                {"type": "boolean"},
                {
                    "type": "object",
                    "properties": {"until": SENT_DATE},
                    "required": ["until"],
                    "additionalProperties": False,
                },
            ],
            "description": "leave it out, for good or ``until`` a date; false: take it in again",
        },
        "on_end_action": {
            **maybe({"type": "string", "maxLength": 64, "minLength": 1}),
            "description": "what is done to it at its end, whatever its terms say; null: what they"
            " say",
        },
    },
    "required": ["reason"],
    "minProperties": 2,
    "additionalProperties": False,
}

#: ``POST …/{server_id}/expire-now``.
EXPIRE_NOW: dict[str, Any] = {
    "type": "object",
    "properties": {
        "reason": REASON,
        "force": {"type": "boolean", "description": "without waiting for any notice"},
    },
    "required": ["reason"],
    "additionalProperties": False,
}

#: ``POST /v1/vm-expirations``.
ADOPT: dict[str, Any] = {
    "type": "object",
    "properties": {
        "server_id": {
            "type": "string",
            "format": "uuid",
            "maxLength": 64,
            "description": "the VM's UUID",
        }
    },
    "required": ["server_id"],
    "additionalProperties": False,
}

# Answers ---------------------------------------------------------------------------------------

_VM: dict[str, Any] = {
    "server_id": TEXT,
    "server_name": TEXT,
    "project_id": TEXT,
    "user_id": maybe(TEXT),
    "lease_id": maybe(TEXT),
    "state": {"enum": [state.value for state in State]},
    "rule": maybe(TEXT),
    "before_end_action": TEXT,
    "on_end_action": TEXT,
    "ends_at": maybe(MOMENT),
    "quarantine_at": maybe(MOMENT),
    "next_notice_at": maybe(MOMENT),
    "latest_allowed_end": maybe(MOMENT),
    "extendable_from": maybe(MOMENT),
    "waiting_since": maybe(MOMENT),
    "extensions": COUNT,
    "extensions_left": maybe(COUNT),
    "generation": COUNT,
}

_HOLD = thing(
    {
        "until": MOMENT,
        "reason": TEXT,
        "ticket": maybe(TEXT),
        "author": TEXT,
        "created_at": MOMENT,
        "end_without_it": MOMENT,
    }
)
_EXEMPTION = thing({"reason": maybe(TEXT), "until": maybe(MOMENT)})
_CHOSEN = thing({"before_end_action": maybe(TEXT), "on_end_action": maybe(TEXT)})
_CONTACT = thing(
    {
        "kind": {"enum": ["owner", *(way.value for way in Way), "undeliverable_contact"]},
        "value": maybe(TEXT),
    }
)
_NOTICE = thing(
    {
        "kind": TEXT,
        "generation": COUNT,
        "accepted_at": MOMENT,
        "recipient": maybe(TEXT),
        "message_id": TEXT,
        "told_end": maybe(MOMENT),
    }
)

VM_EXPIRATION = thing({"vm_expiration": thing(_VM)})
ADOPTED = thing({"vm_expiration": thing({"server_id": TEXT, "state": _VM["state"]})})
RESULTS = thing(
    {
        "results": {
            "type": "array",
            "items": thing(
                {
                    "server_id": TEXT,
                    "status": COUNT,
                    "vm_expiration": maybe(thing(_VM)),
                    "error": maybe(TEXT),
                }
            ),
        }
    }
)
VM_EXPIRATION_DETAIL = thing(
    {
        "vm_expiration": thing(
            {
                **_VM,
                "hold": maybe(_HOLD),
                "exemption": maybe(_EXEMPTION),
                "notices": {"type": "array", "items": _NOTICE},
                "contacts": {"type": "array", "items": _CONTACT},
                "chosen_actions": _CHOSEN,
                "imposed_on_end_action": maybe(TEXT),
                "last_error": maybe(TEXT),
            }
        )
    }
)
VM_EXPIRATIONS = thing(
    {
        "vm_expirations": {"type": "array", "items": thing(_VM)},
        "vm_expirations_links": LINKS,
    }
)
VM_EXPIRATION_HISTORY = thing(
    {
        "vm_expiration_history": {
            "type": "array",
            "items": thing(
                {
                    "id": COUNT,
                    "at": MOMENT,
                    "event": TEXT,
                    "generation": COUNT,
                    "actor": maybe(TEXT),
                    "request_id": maybe(TEXT),
                    "details": {"type": "object"},
                }
            ),
        },
        "vm_expiration_history_links": LINKS,
    }
)
VM_EXPIRATIONS_SUMMARY = thing(
    {
        "vm_expirations_summary": {
            "type": "array",
            "items": thing(
                {
                    "day": maybe({"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"}),
                    "project_id": TEXT,
                    "rule": maybe(TEXT),
                    "servers": COUNT,
                    "vcpus": COUNT,
                    "ram_mb": COUNT,
                }
            ),
        }
    }
)
