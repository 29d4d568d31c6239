# SPDX-License-Identifier: Apache-2.0
"""Whom the mails about a VM go to, beside its owner: as the rules file says it."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


class Way(enum.StrEnum):
    """How somebody is found; the key in the file."""

    ADDRESS = "address"
    """By a mail address."""
    PROPERTY = "project_property"
    """By the mail address that a property of the VM's project holds."""
    ROLE = "role"
    """By a role in the VM's project: all users who have it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Contact:
    """Somebody to write to."""

    way: Way
    value: str

    def __str__(self) -> str:
        """Say who it is, in words that can follow "because" or stand in a history."""
        return self.value if self.way is Way.ADDRESS else f"{_WORDS[self.way]} {self.value}"


_WORDS = {Way.PROPERTY: "project property", Way.ROLE: "role"}


@dataclasses.dataclass(frozen=True, slots=True)
class Copy:
    """Somebody who gets a copy."""

    contact: Contact
    kinds: frozenset[str]
    """Of mails of these kinds; empty: of all."""
    line: int
    """Where it stands in the file."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Mailing:
    """Whom the mails about a VM go to, beside its owner."""

    contacts: tuple[Contact, ...] = ()
    """Who is written to in place of an owner who cannot be reached: the first who can."""
    cc: tuple[Copy, ...] = ()
    bcc: tuple[Copy, ...] = ()

    @property
    def copies(self) -> Iterator[tuple[str, Copy]]:
        """All copies, each with its key in the file."""
        for key in ("cc", "bcc"):
            yield from ((key, copy) for copy in getattr(self, key))


#: The keys that a rule can have, and the file as a whole.
KEYS = tuple(field.name for field in dataclasses.fields(Mailing))

NOBODY = Mailing()


def read(raw: Mapping[str, Any], lines: Mapping[str, Sequence[int]], base: Mailing) -> Mailing:
    """Read what a rule says, or the file as a whole, once it has been validated.

    :param raw: the rule, or the file.
    :param lines: where the items of each key stand.
    :param base: what counts where it says nothing.
    """
    found: dict[str, Any] = {}
    for key in KEYS:
        if key not in raw:
            continue
        contacts = [_contact(item) for item in raw[key]]
        found[key] = (
            tuple(contacts)
            if key == "contacts"
            else tuple(
                Copy(contact, frozenset(item.get("kinds", ())), line)
                for contact, item, line in zip(contacts, raw[key], lines[key], strict=True)
            )
        )
    return dataclasses.replace(base, **found)


def _contact(item: Mapping[str, Any]) -> Contact:
    (way,) = [way for way in Way if way in item]
    return Contact(way, item[way])
