# SPDX-License-Identifier: Apache-2.0
"""All that a rules file can hold: the one place where match keys and terms are listed.

The schema is a JSON schema with five keywords of our own: ``oneOrMore`` (a value, or a list of at
least one), ``duration`` (the least one), ``identifier``, ``mailAddress``, and ``exactlyOne`` (of
these keys).
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Any

from blazar_vmexpire.conf.mail import LANGUAGES
from blazar_vmexpire.rules.mailing import Way


class Kind(enum.Enum):
    """How a match key is compared."""

    ID = "is one of these IDs"
    NAME = "matches one of these patterns"
    FLAG = "is so"
    MAP = "has each of these keys, with a value that matches"
    TAGS = "has all of these tags"


@dataclasses.dataclass(frozen=True, slots=True)
class MatchKey:
    """What a rule can ask about a VM."""

    kind: Kind
    of_owner: bool = False
    """Whether the VM's owner can change it."""


#: By name; a :class:`blazar_vmexpire.rules.Subject` has a field for each.
MATCH_KEYS = {
    "domain": MatchKey(Kind.ID),
    "project": MatchKey(Kind.ID),
    "project_name": MatchKey(Kind.NAME),
    "project_enabled": MatchKey(Kind.FLAG),
    "project_properties": MatchKey(Kind.MAP),
    "project_tags": MatchKey(Kind.TAGS),
    "user": MatchKey(Kind.ID),
    "flavor": MatchKey(Kind.NAME),
    "flavor_extra_specs": MatchKey(Kind.MAP),
    "availability_zone": MatchKey(Kind.NAME),
    "image": MatchKey(Kind.ID, of_owner=True),
    "server_name": MatchKey(Kind.NAME, of_owner=True),
    "server_metadata": MatchKey(Kind.MAP, of_owner=True),
    "server_tags": MatchKey(Kind.TAGS, of_owner=True),
}


class Tighter(enum.Enum):
    """Which of two values of a term is tighter."""

    SMALLER = "the smaller"
    LIMIT = "the smaller; 0 is the greatest"
    GREATER = "the greater"
    HARSHER = "the harsher"
    ANY = "neither"
    UNKNOWN = "not to be said"
    """It cannot stand in a rule that may only tighten."""


@dataclasses.dataclass(frozen=True, slots=True)
class Term:
    """What a rule can set."""

    schema: dict[str, Any]
    tighter: Tighter
    field: str | None = None
    """Of :class:`blazar_vmexpire.lifecycle.Terms`; None: the same name."""


_TEXT = {"type": "string", "minLength": 1}

#: By name, as the options of ``[virtual:vm]`` have them.
TERMS = {
    "expire": Term({"type": "boolean"}, Tighter.UNKNOWN),
    "lease_duration": Term({"duration": "1m"}, Tighter.SMALLER),
    "extension_duration": Term({"duration": "1m"}, Tighter.SMALLER),
    "max_total_duration": Term({"duration": "0"}, Tighter.LIMIT),
    "max_extensions": Term({"type": "integer", "minimum": 0}, Tighter.LIMIT),
    "extension_window": Term({"duration": "0"}, Tighter.LIMIT),
    "reminders": Term({"type": "array", "items": {"duration": "1m"}}, Tighter.ANY),
    "hours_before_end_lease": Term(
        {"type": "number", "minimum": 0, "maximum": 876_000}, Tighter.ANY, "first_notice"
    ),
    "quarantine": Term({"duration": "0"}, Tighter.GREATER),
    "minimum_notice": Term({"duration": "1m"}, Tighter.SMALLER),
    "before_end_action": Term(_TEXT, Tighter.UNKNOWN),
    "on_end_action": Term(_TEXT, Tighter.HARSHER),
    "allowed_actions": Term({"type": "array", "items": _TEXT}, Tighter.UNKNOWN),
    "calendar": Term(
        {
            "type": "object",
            "properties": {"closed": {"type": "array", "items": _TEXT}, "time_zone": _TEXT},
            "required": ["closed", "time_zone"],
            "additionalProperties": False,
        },
        Tighter.UNKNOWN,
    ),
    "language": Term({"enum": list(LANGUAGES)}, Tighter.ANY),
}

#: What can be done at the end, from the gentlest to the harshest.
HARSHNESS = ("stop", "shelve", "snapshot", "delete")

_VALUES: dict[Kind, dict[str, Any]] = {
    Kind.ID: {"oneOrMore": _TEXT | {"identifier": True}},
    Kind.NAME: {"oneOrMore": _TEXT},
    Kind.FLAG: {"type": "boolean"},
    Kind.MAP: {
        "type": "object",
        "minProperties": 1,
        "additionalProperties": {"oneOrMore": {"type": "string"}},
    },
    Kind.TAGS: {"oneOrMore": _TEXT},
}

_WAYS: dict[str, Any] = {
    way.value: _TEXT | ({"mailAddress": True} if way is Way.ADDRESS else {}) for way in Way
}
_CONTACT: dict[str, Any] = {
    "type": "object",
    "properties": _WAYS,
    "additionalProperties": False,
    "exactlyOne": list(_WAYS),
}
_COPY = _CONTACT | {"properties": _WAYS | {"kinds": {"type": "array", "items": _TEXT}}}

#: More than that is a mailing list, which has an address.
MOST_CONTACTS = 10

_MAILING: dict[str, Any] = {
    key: {"type": "array", "items": item, "maxItems": MOST_CONTACTS}
    for key, item in {"contacts": _CONTACT, "cc": _COPY, "bcc": _COPY}.items()
}

_RULE = {
    "type": "object",
    "properties": {
        # As long as the column that it is kept in.
        "name": _TEXT | {"maxLength": 255},
        "match": {
            "type": "object",
            "minProperties": 1,
            "properties": {name: _VALUES[key.kind] for name, key in MATCH_KEYS.items()},
            "additionalProperties": False,
        },
        "set": {
            "type": "object",
            "properties": {name: term.schema for name, term in TERMS.items()},
            "additionalProperties": False,
        },
        "trust_owner": {"type": "boolean"},
        **_MAILING,
    },
    "required": ["name"],
    "additionalProperties": False,
}

SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {"rules": {"type": "array", "items": _RULE}, **_MAILING},
    "required": ["rules"],
    "additionalProperties": False,
}
