# SPDX-License-Identifier: Apache-2.0
"""A time of each day, by the clocks of a place.

Nothing here does I/O or looks at a clock, but for the time zones that Python knows.
"""

from __future__ import annotations

import dataclasses
import datetime
import re
import zoneinfo

from blazar_vmexpire import time_zones

_DAY = datetime.timedelta(days=1)
_WRITTEN = re.compile(r"daily +(?P<hour>\d{2}):(?P<minute>\d{2}) +(?P<zone>\S+)", re.ASCII)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Daily:
    """Once each local day, on days on which the clocks are changed as well."""

    time: datetime.time
    time_zone: str
    """As the IANA database names it: ``Europe/Zurich``."""

    @classmethod
    def parse(cls, text: str) -> Daily:
        """Read one that is written ``daily HH:MM ZONE``, such as ``daily 08:00 Europe/Zurich``.

        :raises ValueError: it is not; the sentence says what would be right.
        """
        found = _WRITTEN.fullmatch(text.strip())
        if found is None:
            raise ValueError(f"{text!r} must be daily HH:MM ZONE, such as daily 08:00 UTC")
        hour, minute = int(found["hour"]), int(found["minute"])
        if hour > 23 or minute > 59:
            raise ValueError(f"{text!r} has no time of day: it must be 00:00 to 23:59")
        return cls(time=datetime.time(hour, minute), time_zone=time_zones.parse(found["zone"]))

    def next_after(self, moment: datetime.datetime) -> datetime.datetime:
        """Say when it comes next.

        :param moment: naive UTC, as the result, which is later.
        """
        day = self.day(moment)
        # The day before and the day after next, too: a time that clocks skip comes later.
        coming = (self._on(day + days * _DAY) for days in range(-1, 3))
        return min(date for date in coming if date > moment)

    def day(self, moment: datetime.datetime) -> datetime.date:
        """Say which day it is there, at a moment in naive UTC."""
        zone = zoneinfo.ZoneInfo(self.time_zone)
        return moment.replace(tzinfo=datetime.UTC).astimezone(zone).date()

    def __str__(self) -> str:
        """Write it as it would be configured."""
        return f"daily {self.time:%H:%M} {self.time_zone}"

    def _on(self, day: datetime.date) -> datetime.datetime:
        """Say when it comes on a local day: at a time that comes twice, the first of them."""
        zone = zoneinfo.ZoneInfo(self.time_zone)
        wall = datetime.datetime.combine(day, self.time, zone)
        return wall.astimezone(datetime.UTC).replace(tzinfo=None)
