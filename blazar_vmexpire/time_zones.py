# SPDX-License-Identifier: Apache-2.0
"""Names of time zones: which text is one."""

from __future__ import annotations

import zoneinfo


def parse(name: str) -> str:
    """Check that a time zone is known.

    :param name: as the IANA database has it: ``Europe/Zurich``, ``UTC``.
    :raises ValueError: it is not; the sentence says what would be right.
    """
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            f"time zone {name!r} is not known: it must be a name of the IANA database,"
            " such as UTC or Europe/Zurich"
        ) from None
    return name
