# SPDX-License-Identifier: Apache-2.0
"""Comparing a file with the schema, in sentences."""

from __future__ import annotations

import datetime
import difflib
import math
from collections.abc import Iterator
from typing import Any

import jsonschema

from blazar_vmexpire.addresses import BadAddress, parse_recipient
from blazar_vmexpire.conf.types import format_duration, parse_duration
from blazar_vmexpire.rules.errors import Problem
from blazar_vmexpire.rules.reading import Document, Path, Place, must_be_quoted
from blazar_vmexpire.rules.schema import SCHEMA

_WANTED = {
    "string": "a text",
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "array": "a list",
    "object": "a mapping of keys to values",
}


def problems(document: Document) -> Iterator[Problem]:
    """Say all that the schema finds wrong with a file."""
    yield from document.problems
    for error in _VALIDATOR(SCHEMA).iter_errors(document.value):
        path = tuple(error.absolute_path)
        place = document.places[path]
        if not place.kind:
            continue
        rule = name_at(document, path)
        for at, sentence in _sentences(error, path, place):
            yield Problem(sentence, document.places[at].line, rule)


def name_at(document: Document, path: Path) -> str | None:
    """Say the name of the rule that a path leads into, if it has a proper one."""
    if len(path) < 2 or path[0] != "rules":
        return None
    rule = document.value["rules"][path[1]]
    name = rule.get("name") if isinstance(rule, dict) else None
    return name if isinstance(name, str) and name else None


def duration(value: Any) -> datetime.timedelta:
    """Read a duration; 0 need not be quoted.

    :raises ValueError: it is none; the sentence says what would be.
    """
    if value == 0 and not isinstance(value, bool):
        return datetime.timedelta(0)
    return parse_duration(str(value))


def _sentences(
    error: jsonschema.ValidationError, path: Path, place: Place
) -> Iterator[tuple[Path, str]]:
    """Say what an error means, and where; the place is the one of the value as a whole."""
    name, value, wanted = written(path), error.instance, error.validator_value
    match error.validator:
        case "additionalProperties":
            known = error.schema["properties"]
            for key in [key for key in value if key not in known]:
                yield (*path, key), f"{name and name + ': '}{unknown('key', key, known)}"
        case "required":
            yield path, f"{name and name + ': '}{error.message.split(' is ')[0]} is missing"
        case "type" if wanted == "string" and place.text:
            yield path, must_be_quoted(place.text, place.kind, f"{name}: ")
        case "type":
            text = f" {place.text}" if place.text else ""
            is_not = "is" if place.kind == "an empty value" else f"{text or ' this'} is".strip()
            what = name or ("a rule" if path[1:] else path[0] if path else "the file")
            yield path, f"{what}: {is_not} {place.kind}: it must be {_WANTED[wanted]}"
        case "minimum" | "maximum":
            bound = "least" if error.validator == "minimum" else "most"
            yield path, f"{name}: {place.text} is out of range: the {bound} is {wanted}"
        case "minLength":
            yield path, f"{name} is empty: it must be a text"
        case "maxLength":
            yield path, f"{name} has {len(value)} characters: the most is {wanted}"
        case "maxItems":
            yield path, f"{name} has {len(value)} entries: the most is {wanted}"
        case "minProperties":
            yield path, f"{name} is empty: leave it out, or say what has to match"
        case _:
            yield path, f"{name}: {error.message}" if name else error.message


def written(path: Path) -> str:
    """Write where in a rule, or beside them, a value stands: ``match.flavor``, ``contacts``."""
    inside = path[2:] if path[:1] == ("rules",) else path
    return ".".join(part for part in inside if isinstance(part, str))


def unknown(what: str, name: str, known: Any) -> str:
    """Say that a name is not known, and which one may have been meant."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"it must be one of {', '.join(known)}"
    return f"{what} {name!r} is not known: {hint}"


def _one_or_more(validator: Any, schema: Any, instance: Any, _: Any) -> Iterator[Any]:
    if not isinstance(instance, list):
        yield from validator.descend(instance, schema)
    elif not instance:
        yield jsonschema.ValidationError("is an empty list, which nothing matches: leave it out")
    else:
        for number, item in enumerate(instance):
            yield from validator.descend(item, schema, path=number)


def _duration(_: Any, least: str, instance: Any, __: Any) -> Iterator[Any]:
    try:
        found = duration(instance)
    except ValueError as error:
        yield jsonschema.ValidationError(str(error))
        return
    if found < parse_duration(least):
        yield jsonschema.ValidationError(
            f"{format_duration(found)} is too short: the least is {least}"
        )


def _identifier(_: Any, __: bool, instance: Any, ___: Any) -> Iterator[Any]:
    if isinstance(instance, str) and any(c in "*?[" or c.isspace() for c in instance):
        yield jsonschema.ValidationError(
            f"{instance!r} is not an ID: IDs are compared as they are, without patterns"
        )


def _mail_address(_: Any, __: bool, instance: Any, ___: Any) -> Iterator[Any]:
    if isinstance(instance, str) and instance:
        try:
            parse_recipient(instance)
        except BadAddress as error:
            yield jsonschema.ValidationError(str(error))


def _exactly_one(_: Any, keys: list[str], instance: Any, __: Any) -> Iterator[Any]:
    if isinstance(instance, dict) and len(instance.keys() & set(keys)) != 1:
        yield jsonschema.ValidationError(f"it must have exactly one of {', '.join(keys)}")


def _maximum(_: Any, most: float, instance: Any, __: Any) -> Iterator[Any]:
    # Not a number is neither above nor below anything.
    if isinstance(instance, (int, float)) and (math.isnan(instance) or instance > most):
        yield jsonschema.ValidationError("too great")


_VALIDATOR = jsonschema.validators.extend(
    jsonschema.Draft202012Validator,
    {
        "oneOrMore": _one_or_more,
        "duration": _duration,
        "identifier": _identifier,
        "mailAddress": _mail_address,
        "exactlyOne": _exactly_one,
        "maximum": _maximum,
    },
)
