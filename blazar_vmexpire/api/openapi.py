# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI document of our routes, made from what they declare.

``python -m blazar_vmexpire.api.openapi`` prints it.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from typing import Any

from blazar_vmexpire.api import v1
from blazar_vmexpire.api.routes import Declared
from blazar_vmexpire.api.schemas import thing

_ERROR = "Error"

#: What paths have in them.
_IDS: dict[str, dict[str, Any]] = {
    "server_id": {"type": "string", "format": "uuid"},
    "exclusion_id": {"type": "integer", "minimum": 1, "maximum": 10**18 - 1},
}


def document() -> dict[str, Any]:
    """Make the document: OpenAPI 3.1, whose schemas are JSON schemas as ours are."""
    paths: dict[str, dict[str, Any]] = {}
    for route in v1.declared():
        paths.setdefault(route.shown_path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Expiration of virtual machines, in Blazar's API",
            "version": "1.0",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "token": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "X-Auth-Token",
                    "description": "Keystone's",
                }
            },
            "schemas": {
                _ERROR: {
                    "anyOf": [
                        thing(
                            {
                                "error_code": {"type": "integer"},
                                "error_message": {"type": "string"},
                                "error_name": {"type": ["integer", "string"]},
                            }
                        ),
                        # Blazar's own, where a path leads to no route.
                        thing({"error": {"type": "integer"}, "error_message": {"type": "string"}}),
                    ]
                }
            },
        },
    }


#: What an operation can answer beside what it is there for.
_REFUSALS = {
    400: "the query or the body is wrong, or says what is not allowed",
    401: "there is no valid token",
    403: "the role does not suffice",
    404: "there is no such thing, or it is none of the caller's",
    409: "it cannot be done in the state that there is, or somebody else was first",
    413: "the body is too long",
    503: "the database, or blazar-manager, does not answer",
}


def _operation(route: Declared) -> dict[str, Any]:
    success: dict[str, Any] = {"description": route.summary}
    if route.answer is not None:
        success["content"] = _json(route.answer)
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "parameters": list(_parameters(route)),
        "responses": {str(route.status): success}
        | {str(status): _refusal(status, why) for status, why in _REFUSALS.items()},
        "x-policy-rules": list(route.rules),
    }
    if route.body is not None:
        operation["requestBody"] = {
            "content": _json(route.body),
            "required": bool(route.body.get("required")),
        }
    return operation


def _parameters(route: Declared) -> Iterator[dict[str, Any]]:
    for name in re.findall(r"{(\w+)}", route.shown_path):
        yield {
            "name": name,
            "in": "path",
            "required": True,
            "schema": _IDS[name],
        }
    query = route.query or {}
    for name, schema in query.get("properties", {}).items():
        described = dict(schema)
        parameter = {"name": name, "in": "query", "required": name in query.get("required", ())}
        if "description" in described:
            parameter["description"] = described.pop("description")
        yield parameter | {"schema": described}
    if route.method != "GET" and "{server_id}" in route.shown_path:
        yield {
            "name": "If-Match",
            "in": "header",
            "required": False,
            "schema": {"type": "string"},
            "description": "the generation that is meant, as ETag has it",
        }


def _refusal(status: int, why: str) -> dict[str, Any]:
    refusal: dict[str, Any] = {"description": why}
    if status != 401:
        # That one is keystonemiddleware's, which has another shape for it.
        refusal["content"] = _json({"$ref": f"#/components/schemas/{_ERROR}"})
    return refusal


def _json(schema: Any) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def text() -> str:
    """Write the document as it is in the documentation."""
    return json.dumps(document(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
