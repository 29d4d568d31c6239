# SPDX-License-Identifier: Apache-2.0
"""What a notice is about: the facts, before anything is worded."""

from __future__ import annotations

import dataclasses
import datetime
import enum
from collections.abc import Sequence


class Kind(enum.StrEnum):
    """What a notice tells; each has a template of this name."""

    #: The VM will end; the first notice and the further ones.
    REMINDER = "reminder"
    #: The VM was locked and stopped; how to get it back.
    QUARANTINED = "quarantined"
    #: The end was moved by the service itself.
    MOVED = "moved"
    #: Somebody extended it, after its owner had been told of the end before.
    EXTENDED = "extended"
    #: The end was moved to an earlier date, because the terms have changed.
    EARLIER = "earlier"
    #: The lease was deleted or damaged and has been put back.
    RESTORED = "restored"
    #: The end in the VM's metadata was edited, which was not allowed, and has been put back.
    PUT_BACK = "put_back"
    #: What was announced has happened.
    ENDED = "ended"


#: Every kind there is a template for.
KINDS: tuple[Kind, ...] = tuple(Kind)

#: What can wait for a digest: what tells of an end that is to come. Other mails answer what has
#: just been done to a VM, or to its lease.
DIGESTED = frozenset({Kind.REMINDER, Kind.EARLIER, Kind.MOVED, Kind.EXTENDED})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A VM in a list."""

    id: str
    name: str
    project_id: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Some VMs, not all of which need be named."""

    count: int
    servers: Sequence[Named]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """What the operator is told when the brake has tripped. Dates are naive UTC."""

    tripped_at: datetime.datetime
    #: The administrator who did it by hand; None where it tripped by itself.
    tripped_by: str | None
    reason: str
    #: VMs that have a lease.
    known: int
    #: How many may end in an hour.
    pace: int
    #: Whose end was due or under way.
    ending: Group
    #: Whom Nova does not know any more, with nothing to explain it.
    vanished: Group


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class KeptVolume:
    """A volume that stayed when its VM was deleted."""

    id: str
    name: str
    #: Whether the VM booted from it.
    boot: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """The facts of one notice. Dates are naive UTC; texts are as foreign systems gave them.

    :raises ValueError: when a date carries a time zone.
    """

    #: A :class:`Kind`, with a suffix after a slash where one kind is sent more than once for one
    #: end: ``reminder/2d``.
    kind: str
    #: UUID of the VM.
    server_id: str
    server_name: str
    project_id: str
    project_name: str
    #: The live lease, which the recipient can extend; None where there is none.
    lease_id: str | None
    #: When the lease ends; None where it has no end (any more).
    ends_at: datetime.datetime | None
    #: When the notice is written: what "in 9 days" counts from.
    now: datetime.datetime
    #: What happens at the end, by its name in the configuration: ``delete``, ``snapshot``, …
    on_end_action: str
    #: When the VM is locked and stopped ahead of the end; None where that is not done.
    quarantine_at: datetime.datetime | None
    #: False where the owner cannot be reached and ``undeliverable_contact`` gets the notice.
    recipient_is_owner: bool
    #: Name of the VM's user, None where unknown.
    owner_name: str | None
    #: The image that was taken of the VM.
    image_id: str | None
    image_name: str | None
    #: The option: which volumes stay when the VM is deleted, ``all``, ``boot`` or ``none``.
    keep_volumes: str
    #: The volumes that stayed, in a notice that the VM is gone.
    volumes: Sequence[KeptVolume]
    #: Why something was done, in words that a user understands.
    reason: str | None
    #: The latest end that the owner may choose now; None where that is not known.
    latest_allowed: datetime.datetime | None
    #: From when on the owner may extend, where that is yet to come.
    extendable_from: datetime.datetime | None
    #: How often the owner has extended, where that is as often as they may.
    extensions_used: int | None

    def __post_init__(self) -> None:
        for name in ("ends_at", "now", "quarantine_at", "latest_allowed", "extendable_from"):
            date = getattr(self, name)
            if date is not None and date.tzinfo is not None:
                raise ValueError(f"{name} {date} has a time zone: give naive UTC")

    @property
    def template(self) -> str:
        """The kind without its suffix: the name of the template that words it."""
        return self.kind.partition("/")[0]
