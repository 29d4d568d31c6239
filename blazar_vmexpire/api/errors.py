# SPDX-License-Identifier: Apache-2.0
"""Errors of our API that Blazar has none for."""

from __future__ import annotations

from blazar import exceptions


class Unavailable(exceptions.BlazarException):  # type: ignore[misc]
    """The database, or blazar-manager, does not answer."""

    code = 503


class GenerationMoved(exceptions.BlazarException):  # type: ignore[misc]
    """The VM's expiration is no longer the one that was named by ``If-Match``."""

    code = 409
    #: What the answer has as ``error_name``.
    name = "vm_expiration.concurrent_update"
