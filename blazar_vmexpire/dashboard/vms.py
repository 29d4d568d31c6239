# SPDX-License-Identifier: Apache-2.0
"""An instance's expiration, as tables and templates read it."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping
from typing import Any

from django.utils import timezone

from blazar_vmexpire import words

#: States in which something was done to an instance that an extension undoes.
RESTORABLE = frozenset({"quarantined", "ending", "ended", "failed"})

#: States in which an end is yet to come.
_WAITING = frozenset({"active", "noticed"})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Vm:
    """What the API says of an instance. Dates have a time zone; names are one line."""

    id: str
    name: str
    project_id: str
    user_id: str | None
    state: str
    rule: str | None
    on_end_action: str
    ends_at: datetime.datetime | None
    quarantine_at: datetime.datetime | None
    next_notice_at: datetime.datetime | None
    latest_allowed_end: datetime.datetime | None
    extendable_from: datetime.datetime | None
    extensions: int
    extensions_left: int | None
    """None: as often as they like."""

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Vm:
        """Read what the API answers.

        :raises KeyError, TypeError, ValueError: it is something else.
        """
        dates: dict[str, Any] = {name: moment(answer[name]) for name in _DATES}
        if answer["state"] in _ENDLESS:
            # What is shown of these is the end that they had.
            dates["ends_at"] = None
        return cls(
            id=answer["server_id"],
            name=words.one_line(answer["server_name"]) or answer["server_id"],
            **{name: answer[name] for name in _AS_THEY_ARE},
            **dates,
        )

    @property
    def can_be_restored(self) -> bool:
        """Whether something was done to it that an extension undoes."""
        return self.state in RESTORABLE

    @property
    def can_be_extended(self) -> bool:
        """Whether its owner can move its end to a later date now."""
        if self.ends_at is None or self.latest_allowed_end is None or self.can_be_restored:
            return False
        return self.latest_allowed_end > self.ends_at

    @property
    def has_been_told_last(self) -> bool:
        """Whether its end is near, and no reminder comes any more."""
        return self.state in _WAITING and self.ends_at is not None and self.next_notice_at is None

    @property
    def time_left(self) -> datetime.timedelta | None:
        """How long it is until its end; None: it has none."""
        return None if self.ends_at is None else self.ends_at - timezone.now()


_ENDLESS = frozenset({"exempt", "deleted"})
_DATES = ("ends_at", "quarantine_at", "next_notice_at", "latest_allowed_end", "extendable_from")
_AS_THEY_ARE = (
    "project_id",
    "user_id",
    "state",
    "rule",
    "on_end_action",
    "extensions",
    "extensions_left",
)


def moment(text: str | None) -> datetime.datetime | None:
    """Read a date that the API answers."""
    return None if text is None else datetime.datetime.fromisoformat(text)
