# SPDX-License-Identifier: Apache-2.0
"""Reading a request before Blazar's helper for routes does.

Blazar's ``Rest`` reads the body where its errors are not dealt with: without a length, or with
broken JSON, the answer is a 500. And without an ``Accept`` header it answers 400, after what was
asked has been done. Both are settled here, before a route is entered.
"""

from __future__ import annotations

import json
from typing import Any

import flask
from blazar.api.v1 import utils

#: Bytes that a body may have: none of ours needs more.
LONGEST_BODY = 65536


def prepare() -> flask.Response | None:
    """Read the body, and refuse what cannot be read: for ``before_request``."""
    request = flask.request
    request.accept_mimetypes = utils.RT_JSON
    body = request.stream.read(LONGEST_BODY + 1)
    if len(body) > LONGEST_BODY:
        return _refuse(413, f"the body has more than {LONGEST_BODY} bytes")
    if not body.strip():
        _parsed({})
        return None
    if request.mimetype not in ("", "application/json"):
        return _refuse(400, f"the body is {request.mimetype[:100]!r}: it must be application/json")
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        return _refuse(400, f"the body is no JSON: {error}")
    try:
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        # JSON can write them, and no database takes them.
        return _refuse(400, "the body has halves of characters (lone surrogates) in it")
    _parsed(found)
    return None


def _parsed(body: Any) -> None:
    # Where Blazar's helper looks first.
    flask.request.parsed_data = body  # type: ignore[attr-defined]


def _refuse(status: int, sentence: str) -> flask.Response:
    response: flask.Response = utils.render_error_message(status, sentence, status)
    return response
