# SPDX-License-Identifier: Apache-2.0
"""What the bodies of requests have to be, as JSON schemas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jsonschema
from blazar import exceptions

#: As much of a sentence as is told: it repeats what was sent.
_LONGEST = 300


def check(body: Any, schema: Mapping[str, Any]) -> None:
    """Check a body against its schema.

    :raises blazar.exceptions.InvalidInput: 400, with a sentence that says where it is wrong.
    """
    validator = jsonschema.Draft202012Validator(schema)
    error = jsonschema.exceptions.best_match(validator.iter_errors(body))
    if error is None:
        return
    where = ".".join(map(str, error.absolute_path)) or "the body"
    message = error.message
    if len(message) > _LONGEST:
        message = f"{message[:_LONGEST]}…"
    raise exceptions.InvalidInput(f"{where}: {message}")
