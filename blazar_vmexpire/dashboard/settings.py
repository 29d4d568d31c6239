# SPDX-License-Identifier: Apache-2.0
"""Our settings: ``VMEXPIRE_DASHBOARD``, a dictionary in Horizon's ``local_settings.py``."""

from __future__ import annotations

from typing import Any

from django.conf import settings

#: Each of them with what it is where an operator has not set it.
DEFAULTS: dict[str, Any] = {
    # Whether Horizon's own tables and pages of instances show when they end.
    "instances_table": True,
    # Seconds for which these wait for our API; when it takes longer they are shown without it.
    "instances_timeout": 3,
    # Seconds for which our own pages wait for an answer.
    "timeout": 30,
}


def get(name: str) -> Any:
    """Return a setting, by its name in :data:`DEFAULTS`."""
    return {**DEFAULTS, **getattr(settings, "VMEXPIRE_DASHBOARD", {})}[name]
