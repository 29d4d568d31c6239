# SPDX-License-Identifier: Apache-2.0
"""What schemas are made of."""

from __future__ import annotations

from typing import Any

from blazar_vmexpire.api.schemas import thing

#: The most that is shown at once.
MOST = 1000

#: No line breaks and the like: what is sent ends up in logs, mails and tables.
_PRINTABLE: dict[str, Any] = {"not": {"pattern": "[\\u0000-\\u001f\\u007f-\\u009f\\u2028\\u2029]"}}

#: A date that is answered. What is sent is read by code, which says better what is wrong with it
#: than a schema could.
MOMENT: dict[str, Any] = {
    "type": "string",
    "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$",
}
TEXT: dict[str, Any] = {"type": "string"}
COUNT: dict[str, Any] = {"type": "integer", "minimum": 0}
SENT: dict[str, Any] = {"type": "string", "maxLength": 255, **_PRINTABLE}
REASON: dict[str, Any] = {
    "type": "string",
    "minLength": 1,
    "maxLength": 1000,
    "pattern": "\\S",
    **_PRINTABLE,
    "description": "why; the history has it",
}
SENT_DATE: dict[str, Any] = {
    "type": "string",
    # For programs that read the schema; more is taken.
    "format": "date-time",
    "description": "a date such as 2027-01-10T04:50Z or 2027-01-10 04:50; UTC unless it says",
}
LIMIT: dict[str, Any] = {
    "type": "integer",
    "minimum": 1,
    "maximum": MOST,
    "description": "how many are shown at most",
}
LINKS: dict[str, Any] = {
    "type": "array",
    "items": thing({"rel": {"enum": ["next"]}, "href": TEXT}),
    "description": "where the next page is, if there is one",
}


def maybe(schema: dict[str, Any]) -> dict[str, Any]:
    """Say a schema that takes null as well."""
    return {"anyOf": [schema, {"type": "null"}]}
