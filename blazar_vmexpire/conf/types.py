# SPDX-License-Identifier: Apache-2.0
"""Option types of our own: durations and times of the day as people write them."""

from __future__ import annotations

import datetime
from typing import Any

from oslo_config import types

from blazar_vmexpire.daily import Daily
from blazar_vmexpire.durations import format_duration, parse_duration

__all__ = ["DailyOrOff", "Duration", "format_duration", "parse_duration"]

_OFF = "off"


class Duration(types.ConfigType):  # type: ignore[misc]
    """A duration option: ``60d``, ``36h``, ``5m``, ``30s``; its value is a ``timedelta``."""

    def __init__(
        self,
        minimum: datetime.timedelta | None = None,
        type_name: str = "duration value",
    ) -> None:
        super().__init__(type_name=type_name)
        self.minimum = minimum

    def __call__(self, value: Any) -> datetime.timedelta:
        duration = value if isinstance(value, datetime.timedelta) else parse_duration(str(value))
        if self.minimum is not None and duration < self.minimum:
            raise ValueError(
                f"{format_duration(duration)} is too short:"
                f" the least is {format_duration(self.minimum)}"
            )
        return duration

    def __repr__(self) -> str:
        return "Duration"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Duration) and self.minimum == other.minimum

    __hash__ = None  # type: ignore[assignment]

    def _formatter(self, value: Any) -> str:
        return format_duration(self(value))


class DailyOrOff(types.ConfigType):  # type: ignore[misc]
    """An option that is ``off``, or ``daily HH:MM ZONE``; its value is a ``Daily``, or None."""

    def __init__(self, type_name: str = "off, or daily HH:MM zone") -> None:
        super().__init__(type_name=type_name)

    def __call__(self, value: Any) -> Daily | None:
        if value is None or isinstance(value, Daily):
            return value
        text = str(value).strip()
        return None if text == _OFF else Daily.parse(text)

    def __repr__(self) -> str:
        return "DailyOrOff"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DailyOrOff)

    __hash__ = None  # type: ignore[assignment]

    def _formatter(self, value: Any) -> str:
        return str(self(value) or _OFF)
