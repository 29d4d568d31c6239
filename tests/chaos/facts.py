# SPDX-License-Identifier: Apache-2.0
"""What a run leaves behind, as plain data: what ``evidence`` gathers, and ``verdict`` judges.

All dates are naive UTC.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping
from typing import Any

Moment = datetime.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """A line of a VM's history."""

    name: str
    at: Moment
    generation: int
    details: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Notice:
    """Something its owner was told, as our table has it."""

    kind: str
    generation: int
    message_id: str
    accepted_at: Moment | None
    due_at: Moment | None


@dataclasses.dataclass(frozen=True, slots=True)
class Mail:
    """A mail that the mail server took."""

    message_id: str
    arrived_at: Moment


@dataclasses.dataclass(frozen=True, slots=True)
class Action:
    """Something that was done to a VM, as Nova recorded it, in whole seconds."""

    name: str
    at: Moment


@dataclasses.dataclass(frozen=True, slots=True)
class Image:
    """An image in Glance that says which VM it was made of."""

    id: str
    status: str
    size: int
    owner: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class Lease:
    """A lease in Blazar's tables, with the statuses of its events."""

    id: str
    status: str
    events: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VmFacts:
    """All that is known of one VM when everything is over."""

    name: str
    server_id: str
    project_id: str
    #: Just before it was asked for.
    asked_at: Moment
    #: The ends that Blazar has granted its owner.
    granted: tuple[Moment, ...]
    #: Nova's status; None: it is gone.
    status: str | None
    #: Its row: None of these when it has none.
    state: str | None
    next_at: Moment | None
    claimed_by: str | None
    last_error: str | None
    history: tuple[Event, ...]
    notices: tuple[Notice, ...]
    mails: tuple[Mail, ...]
    actions: tuple[Action, ...]
    images: tuple[Image, ...]
    leases: tuple[Lease, ...]

    def events(self, name: str) -> list[Event]:
        """List the lines of its history of one name."""
        return [event for event in self.history if event.name == name]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that is known when everything is over."""

    lease_duration: datetime.timedelta
    minimum_notice: datetime.timedelta
    vms: tuple[VmFacts, ...]
    #: Chores that are claimed by nobody who lives: name and by whom.
    dead_claims: tuple[str, ...]
    #: Why the brake stands still; None: it does not.
    braked: str | None
    #: Images beyond those of these VMs and the one that they were booted from.
    other_images: tuple[str, ...]
    #: Leases with a reservation of ours for no VM of these.
    other_leases: tuple[str, ...]
