# SPDX-License-Identifier: Apache-2.0
"""What queries and bodies of requests have to be, and what answers are, as JSON schemas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jsonschema
from blazar import exceptions
from werkzeug.datastructures import MultiDict

#: As much of a sentence as is told: it repeats what was sent.
_LONGEST = 300

#: Of what takes nothing.
NOTHING: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}

#: Keywords of schemas whose own message says nothing to a reader.
_NO_SENTENCE = {
    "not": "it must have no control characters",
    "maxProperties": "it says too much: these exclude each other",
    "minProperties": "it says too little",
}

_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


def check(body: Any, schema: Mapping[str, Any], what: str = "the body") -> None:
    """Check a body against its schema.

    :param what: what is checked, where that is all of it.
    :raises blazar.exceptions.InvalidInput: 400, with a sentence that says where it is wrong.
    """
    validator = jsonschema.Draft202012Validator(schema)
    error = jsonschema.exceptions.best_match(validator.iter_errors(body))
    if error is None:
        return
    where = ".".join(map(str, error.absolute_path)) or what
    message = _NO_SENTENCE.get(error.validator, error.message)
    if len(message) > _LONGEST:
        message = f"{message[:_LONGEST]}…"
    raise exceptions.InvalidInput(f"{where}: {message}")


def query(arguments: MultiDict[str, str], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Read a query, in which everything is a text, and check it against its schema.

    :returns: what it says, as the schema has it: integers and booleans are such.
    :raises blazar.exceptions.InvalidInput: 400, with a sentence that says where it is wrong.
    """
    found: dict[str, Any] = {}
    for name, values in arguments.lists():
        if len(values) > 1:
            raise exceptions.InvalidInput(f"{name[:40]} is given {len(values)} times")
        kind = schema["properties"].get(name, {}).get("type")
        found[name] = _read(values[0], kind)
    check(found, schema, "the query")
    return found


def _read(text: str, kind: str | None) -> Any:
    if kind == "integer" and text.isascii() and text.isdecimal() and len(text) <= 18:
        return int(text)
    if kind == "boolean":
        return _BOOLEANS.get(text.lower(), text)
    return text


def thing(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Say the schema of an object that is answered: it always has all of its properties."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": sorted(properties),
        "additionalProperties": False,
    }
