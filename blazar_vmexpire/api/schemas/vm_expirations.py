# SPDX-License-Identifier: Apache-2.0
"""Bodies of ``/v1/vm-expirations``."""

from __future__ import annotations

from typing import Any

#: ``POST …/{server_id}/extend``. What a date has to look like is said better by the code that reads
#: it: a regular expression is no sentence.
EXTEND: dict[str, Any] = {
    "type": "object",
    "properties": {"end_date": {"type": "string"}},
    "additionalProperties": False,
}
