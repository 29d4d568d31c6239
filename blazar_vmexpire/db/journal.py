# SPDX-License-Identifier: Apache-2.0
"""What a transaction did to VMs, for those who are told of it once it is committed.

What is rolled back, or done again after a deadlock, was never done: nobody hears of it.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

_KEY = "blazar_vmexpire.journal"

#: Details that are not for everybody who reads logs or notifications: the history has them.
PRIVATE = frozenset({"recipient", "cc", "message_id"})


@dataclasses.dataclass(frozen=True, slots=True)
class Happening:
    """An entry of a VM's history."""

    server_id: str
    event: str
    details: Mapping[str, Any]
    actor: str | None = None
    """Id of the user who caused it; None for the service itself."""
    request_id: str | None = None
    """Of the request by which they did."""


@dataclasses.dataclass(frozen=True, slots=True)
class Finish:
    """How a step left a VM's row."""

    before: str
    """Its state when the step began."""
    after: str
    next_at: datetime.datetime | None
    """When it is due again, naive UTC; None lets it rest."""


class Journal:
    """Of one transaction."""

    def __init__(self) -> None:
        self.happenings: list[Happening] = []
        """Of VMs one by one."""
        self.finishes: dict[str, Finish] = {}
        """By the VM's UUID."""
        self.pages: collections.Counter[str] = collections.Counter()
        """To how many VMs the same happened together, by event: there are too many to name."""

    def __bool__(self) -> bool:
        return bool(self.happenings or self.finishes or self.pages)


def begin(connection: sa.Connection) -> Journal:
    """Begin the journal of a connection's transaction."""
    journal = Journal()
    connection.info[_KEY] = journal
    return journal


def of(connection: sa.Connection) -> Journal:
    """Return the journal of the transaction under way; of a foreign one, one that nobody reads."""
    journal: Journal | None = connection.info.get(_KEY)
    return Journal() if journal is None else journal
