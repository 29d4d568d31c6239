# SPDX-License-Identifier: Apache-2.0
"""The terms of the demonstration, in minutes where a cloud has days; its dates and its ports.

Blazar's dates are whole minutes. A VM that boots at second s of a minute ends with the first whole
minute that leaves it LEASE; the reminder is two minutes before the end, because `minimum_notice`
has to fit in with time for a second try of the mail. Alice then takes one minute more. So it is
three to four minutes from the boot to the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

from tools.sandbox import SandboxError, ports

MINUTE = timedelta(minutes=1)

LEASE = 2 * MINUTE
EXTENSION = 10 * MINUTE
FIRST_NOTICE = 2 * MINUTE
MINIMUM_NOTICE = MINUTE
#: Far from the minutes of a demonstration: its digests come early.
DIGEST = "daily 08:00 UTC"
#: What Alice asks for beyond the end that she has.
MORE = MINUTE
#: What she asks for next: more than EXTENSION allows.
TOO_FAR = timedelta(days=365)


def minutes(duration: timedelta) -> str:
    """Write a duration as the options do: `2m`."""
    return f"{duration // MINUTE}m"


def settings() -> list[str]:
    """What the sandbox puts into blazar.conf."""
    return [
        f"virtual:vm.lease_duration={minutes(LEASE)}",
        f"virtual:vm.extension_duration={minutes(EXTENSION)}",
        f"virtual:vm.hours_before_end_lease={FIRST_NOTICE / timedelta(hours=1):.4f}",
        f"virtual:vm.minimum_notice={minutes(MINIMUM_NOTICE)}",
        "virtual:vm.on_end_action=snapshot",
        "virtual:vm.adoption_spread=0",
        f"vmexpire_mail.digest={DIGEST}",
    ]


def now() -> datetime:
    """Naive UTC, as all dates here."""
    return datetime.now(UTC).replace(tzinfo=None)


def from_blazar(text: str) -> datetime:
    """Read a date of Blazar's or Nova's API, such as `2026-11-20T11:17:00.000000`."""
    return datetime.fromisoformat(text)


def from_glance(text: str) -> datetime:
    """Read a date of Glance's API, such as `2026-11-20T11:17:00Z`."""
    return datetime.fromisoformat(text).replace(tzinfo=None)


def to_blazar(moment: datetime) -> str:
    """Write a date as `openstack reservation lease set --end-date` takes it."""
    return f"{moment:%Y-%m-%d %H:%M}"


#: Tried in this order; away from the sandbox's own default, where another one may be.
PORT_OFFSETS = (15500, *range(13100, 19500, 400))


def free_offset(
    offsets: Iterable[int] = PORT_OFFSETS, is_free: Callable[[int], bool] = ports.is_free
) -> int:
    """Find an offset at which every port of the sandbox is free."""
    for offset in offsets:
        if all(is_free(port) for port in ports.service_ports(offset).values()):
            return offset
    raise SandboxError("found no free ports for the cloud: what listens there? See `ss -ltnp`")
