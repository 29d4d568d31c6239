# SPDX-License-Identifier: Apache-2.0
"""What our API shows of an expiration."""

from __future__ import annotations

import datetime
from typing import Any

from blazar_vmexpire import extension, lifecycle
from blazar_vmexpire.db.api import Expiration


def vm_expiration(
    row: Expiration, terms: lifecycle.Terms, now: datetime.datetime
) -> dict[str, Any]:
    """Show one VM's expiration.

    Dates are ISO 8601 in UTC, with a Z. ``latest_allowed_end`` is where its owner could move the
    end at this moment: to the end that it has, if they may not extend now, be it that they have
    done so as often as they may, be it that ``extendable_from`` is yet to come. Both are None for a
    VM that has no end.
    """
    room = None if row.ends_at is None else extension.room(row, terms, now)
    return {
        "server_id": row.server_id,
        "server_name": row.server_name,
        "project_id": row.project_id,
        "user_id": row.user_id,
        "lease_id": row.lease_id,
        "state": row.state,
        "ends_at": _date(row.ends_at),
        "latest_allowed_end": _date(room.latest if room else None),
        "extendable_from": _date(room.opens_at if room else None),
        "extensions": row.extensions,
        "generation": row.generation,
    }


def _date(moment: datetime.datetime | None) -> str | None:
    return None if moment is None else f"{moment:%Y-%m-%dT%H:%M:%SZ}"
