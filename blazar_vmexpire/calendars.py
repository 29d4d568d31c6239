# SPDX-License-Identifier: Apache-2.0
"""Days on which nothing is done to a VM: weekdays, dates, and times of the year.

Nothing here does I/O or looks at a clock, but for the time zones that Python knows.
"""

from __future__ import annotations

import dataclasses
import datetime
import re
import zoneinfo
from collections.abc import Sequence

from blazar_vmexpire import time_zones

_DAY = datetime.timedelta(days=1)
#: From every day on, an open one has to come within so many.
_AT_MOST = 366
#: Twice that is looked through: on some days the clocks are changed.
_SEARCHED = 2 * _AT_MOST
#: Weekdays and days of the year meet in all ways within 28 years: these, for example.
_CYCLE = (datetime.date(2000, 1, 1), datetime.date(2027, 12, 31))

_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_NUMBERS = {name[:length]: n for n, name in enumerate(_WEEKDAYS) for length in (3, len(name))}
_DATE = re.compile(r"(?P<year>\d{4})-(?P<month>\d{2})-(?P<day>\d{2})", re.ASCII)
_YEARLY = re.compile(r"(?P<month>\d{2})-(?P<day>\d{2})", re.ASCII)

_WRITTEN_AS = (
    "write a weekday (sat), a date (2026-12-24), a day of each year (12-25), or two of the last"
    " kinds with .. between them (12-20..01-05)"
)

#: Month and day: they are compared as a tuple, whatever the year.
YearDay = tuple[int, int]


class NoOpenDay(ValueError):
    """A calendar leaves no day on which a VM could end."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Calendar:
    """Which days are closed, as local days of a time zone. Both ends of a range are closed."""

    weekdays: frozenset[int]
    """0 is Monday."""
    ranges: tuple[tuple[datetime.date, datetime.date], ...]
    yearly: tuple[tuple[YearDay, YearDay], ...]
    """One whose end comes first in the year goes on over the turn of the year."""
    time_zone: str
    """As the IANA database names it: ``Europe/Zurich``."""

    @classmethod
    def parse(cls, closed: Sequence[str], time_zone: str) -> Calendar:
        """Read a calendar.

        :param closed: weekdays (``sat``), dates (``2026-12-24``), days of each year (``12-25``),
            and ranges of the last two kinds (``12-20..01-05``); upper and lower case are the same.
        :param time_zone: a name of the IANA database, ``UTC`` among them.
        :raises ValueError: something cannot be read, or no day is left; the sentence says what is
            wrong, with the value, and what would be right.
        """
        time_zones.parse(time_zone)
        weekdays: set[int] = set()
        ranges: list[tuple[datetime.date, datetime.date]] = []
        yearly: list[tuple[YearDay, YearDay]] = []
        for text in closed:
            entry = text.strip().lower()
            if entry in _NUMBERS:
                weekdays.add(_NUMBERS[entry])
                continue
            begin, dots, end = (part.strip() for part in entry.partition(".."))
            if not dots:
                end = begin
            if _DATE.fullmatch(begin) and _DATE.fullmatch(end):
                ranges.append(_range(text, _date(text, begin), _date(text, end)))
            elif _YEARLY.fullmatch(begin) and _YEARLY.fullmatch(end):
                yearly.append((_year_day(text, begin), _year_day(text, end)))
            else:
                raise ValueError(f"closed day {text!r} is not known: {_WRITTEN_AS}")
        calendar = cls(
            weekdays=frozenset(weekdays),
            ranges=tuple(sorted(set(ranges))),
            yearly=tuple(sorted(set(yearly))),
            time_zone=time_zone,
        )
        calendar.check(datetime.timedelta(0))
        return calendar

    def closed_on(self, day: datetime.date) -> bool:
        """Say whether a local day is closed."""
        if day.weekday() in self.weekdays:
            return True
        if any(begin <= day <= end for begin, end in self.ranges):
            return True
        at = (day.month, day.day)
        return any(
            begin <= at <= end if begin <= end else at >= begin or at <= end
            for begin, end in self.yearly
        )

    def closed_at(self, moment: datetime.datetime) -> bool:
        """Say whether a moment, naive UTC, falls on a closed day."""
        return self.closed_on(self._local(moment).date())

    def open_end(
        self,
        end: datetime.datetime,
        before: datetime.timedelta = datetime.timedelta(0),
        earliest: datetime.datetime | None = None,
    ) -> datetime.datetime:
        """Move an end to the first day that will do, at the same local time of day.

        :param end: naive UTC; it stays where it is if it will do.
        :param before: how long before the end something is done for which the day has to be open,
            too; zero for nothing.
        :param earliest: where it moves at least; None for nowhere.
        :raises NoOpenDay: there is none, which :meth:`check` would have said before.
        """
        wall = self._local(end).replace(tzinfo=None)
        first = 0 if earliest is None else max((earliest - end) // _DAY, 0)
        for days in range(first, first + _SEARCHED + 1):
            moved = end if not days else self._utc(wall.replace(fold=0) + days * _DAY)
            if earliest is not None and moved < earliest:
                continue
            if not self.closed_at(moved) and not (before and self.closed_at(moved - before)):
                return moved
        raise NoOpenDay(f"{self} leaves no day after {end:%Y-%m-%d %H:%M} UTC")

    def check(self, before: datetime.timedelta) -> None:
        """See that an end never has to move by more than a year.

        :param before: as for :meth:`open_end`.
        :raises NoOpenDay: it may have to; the sentence says why.
        """
        if not (self.weekdays or self.ranges or self.yearly):
            return
        # Of a day and a half, one or two nights lie between: that depends on the time of day.
        for nights in {before // _DAY, -(-before // _DAY)}:
            if not self._is_open_often(nights):
                raise NoOpenDay(
                    f"{self} leaves no day within a year on which a server could end"
                    + (f" that is also open {nights} days earlier" if nights else "")
                    + ": it must leave more days open"
                )

    def __str__(self) -> str:
        """Write it as it would be configured."""
        entries = [
            *(_WEEKDAYS[number][:3] for number in sorted(self.weekdays)),
            *(_written(begin, end) for begin, end in self.ranges),
            *(_written(*(f"{month:02}-{day:02}" for month, day in both)) for both in self.yearly),
        ]
        return f"the calendar ({', '.join(entries)}; {self.time_zone})"

    def _is_open_often(self, nights: int) -> bool:
        margin = _AT_MOST * _DAY
        spans = [_CYCLE]
        for begin, end in self.ranges:
            first = max(begin, datetime.date.min + margin + nights * _DAY) - margin
            last = min(end, datetime.date.max - margin) + margin
            spans.append((first, last))
        return all(self._longest_wait(begin, end, nights) <= _AT_MOST for begin, end in spans)

    def _longest_wait(self, begin: datetime.date, end: datetime.date, nights: int) -> int:
        """Say how many days lie at most between two on which a server could end."""
        longest = wait = 0
        for number in range((end - begin).days + 1):
            day = begin + number * _DAY
            if self.closed_on(day) or self.closed_on(day - nights * _DAY):
                wait += 1
                longest = max(longest, wait)
            else:
                wait = 0
        return longest

    def _local(self, moment: datetime.datetime) -> datetime.datetime:
        zone = zoneinfo.ZoneInfo(self.time_zone)
        return moment.replace(tzinfo=datetime.UTC).astimezone(zone)

    def _utc(self, wall: datetime.datetime) -> datetime.datetime:
        """Say when the clocks on the wall show a time; one that they skip comes an hour later."""
        zone = zoneinfo.ZoneInfo(self.time_zone)
        return wall.replace(tzinfo=zone).astimezone(datetime.UTC).replace(tzinfo=None)


def _date(text: str, part: str) -> datetime.date:
    try:
        return datetime.date.fromisoformat(part)
    except ValueError:
        raise ValueError(f"closed day {text!r} is no date: there is no {part}") from None


def _year_day(text: str, part: str) -> YearDay:
    # Of a leap year: 02-29 is closed in the years that have it.
    day = _date(text, f"2000-{part}")
    return day.month, day.day


def _range(
    text: str, begin: datetime.date, end: datetime.date
) -> tuple[datetime.date, datetime.date]:
    if end < begin:
        raise ValueError(f"closed days {text!r} end before they begin: write the earlier day first")
    if (end - begin).days >= _AT_MOST:
        raise ValueError(f"closed days {text!r} are too many: at most {_AT_MOST} in a row")
    return begin, end


def _written(begin: object, end: object) -> str:
    return f"{begin}" if begin == end else f"{begin}..{end}"
