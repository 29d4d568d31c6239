# SPDX-License-Identifier: Apache-2.0
"""The id by which a step can be found in our log, and in Nova's, Glance's and Cinder's."""

from __future__ import annotations

from oslo_context import context


def begin() -> str:
    """Begin something in this thread, under a request id of its own.

    oslo.log puts it into every line that the thread logs from now on, where the format asks for it.
    """
    request_id: str = context.RequestContext(overwrite=True).request_id
    return request_id


def current() -> str | None:
    """Return the request id of what this thread is at; None where nothing was begun in it."""
    current = context.get_current()
    return None if current is None else current.request_id
