# SPDX-License-Identifier: Apache-2.0
"""What a notice is about: the facts, before anything is worded."""

from __future__ import annotations

import dataclasses
import datetime
import enum
from collections.abc import Mapping, Sequence
from typing import Any


class Kind(enum.StrEnum):
    """What a notice tells; each has a template of this name, but for the last reminder."""

    #: The VM was taken in, and will end one day; no reminder of that yet.
    ADOPTED = "adopted"
    #: The VM will end; the first notice and the further ones.
    REMINDER = "reminder"
    #: The same, when no other reminder comes before something is done. Its rows are of the kind
    #: before, because only the moment of sending shows that it is the last.
    LAST_REMINDER = "last_reminder"
    #: The VM was locked and stopped; how to get it back.
    QUARANTINED = "quarantined"
    #: It was given back, because somebody extended it.
    REVIVED = "revived"
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
    #: What was announced will not happen: the VM is let go, or held for a while.
    EXEMPTED = "exempted"
    #: The VM is gone before its end, whoever deleted it.
    GONE = "gone"


@dataclasses.dataclass(frozen=True, slots=True)
class Saying:
    """A text of ours about a VM that can be said in each language.

    Catalogues have the message: whoever extracts them looks for this name.
    """

    #: English, with places for the values: ``a first term is %(term)s now``.
    message: str
    values: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        """Say it in English."""
        return self.message % self.values

    def as_details(self) -> dict[str, Any]:
        """Say what is kept of it with a notice whose reason it is."""
        return {
            "reason": str(self),
            "said": {"message": self.message, "values": dict(self.values)},
        }

    @classmethod
    def of_details(cls, details: Mapping[str, Any]) -> Saying | str | None:
        """Read the reason that is kept with a notice; one of other words than ours is a text."""
        if "said" in details:
            return cls(details["said"]["message"], details["said"]["values"])
        reason: str | None = details.get("reason")
        return reason


def template_of(kind: str) -> str:
    """Say which template words a kind: that of all reminders is the same."""
    return Kind.REMINDER.value if kind == Kind.LAST_REMINDER else kind


def kinds_of(kind: str) -> frozenset[str]:
    """Say of which kinds a mail of this one is: a last reminder is a reminder, too."""
    return frozenset({kind, template_of(kind)})


#: Every kind there is a template for.
KINDS: tuple[Kind, ...] = tuple(Kind)

#: What can wait for a digest: what tells of an end that is to come. Other mails answer what has
#: just been done to a VM, or to its lease.
DIGESTED = frozenset({Kind.ADOPTED, Kind.REMINDER, Kind.EARLIER, Kind.MOVED, Kind.EXTENDED})


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
class Failure:
    """A VM of which a step has failed for good."""

    server: Named
    #: When that was, naive UTC.
    at: datetime.datetime
    reason: str
    #: What would help.
    remedy: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """What the operator is told when steps have failed for good."""

    count: int
    #: The first of them, not all of which need be listed.
    listed: Sequence[Failure]


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
    #: False where the owner cannot be reached, and somebody else gets the notice.
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
    #: Why something was done, in words that a user understands; of an extension, who did it.
    reason: str | Saying | None
    #: What was undone when a VM was given back: ``unlock``, ``start``, ``unshelve``.
    undone: Sequence[str] = ()
    #: Until when an administrator holds the VM, in a notice that its end is off because of that.
    held_until: datetime.datetime | None = None
    #: The code of the language that it is written in; None: that of the options.
    language: str | None = None
    #: The latest end that the owner may choose now; None where that is not known.
    latest_allowed: datetime.datetime | None
    #: From when on the owner may extend, where that is yet to come.
    extendable_from: datetime.datetime | None
    #: How often the owner has extended, where that is as often as they may.
    extensions_used: int | None
    #: The property of the project whose address gets the notice in place of the owner.
    contact_property: str | None = None
    #: The role in the project whose users get the notice in place of the owner.
    contact_role: str | None = None

    def __post_init__(self) -> None:
        for name in (
            "ends_at",
            "now",
            "quarantine_at",
            "held_until",
            "latest_allowed",
            "extendable_from",
        ):
            date = getattr(self, name)
            if date is not None and date.tzinfo is not None:
                raise ValueError(f"{name} {date} has a time zone: give naive UTC")

    @property
    def bare_kind(self) -> str:
        """The kind without its suffix."""
        return self.kind.partition("/")[0]

    @property
    def kinds(self) -> frozenset[str]:
        """Of which kinds it is, for who wants some: a last reminder is a reminder, too."""
        return kinds_of(self.bare_kind)

    @property
    def template(self) -> str:
        """The name of the template that words it: its kind, but every reminder has the same."""
        return template_of(self.bare_kind)
