# SPDX-License-Identifier: Apache-2.0
"""The headers of our mails: as the email package's own, safe with any text, and written quickly.

A mail has a dozen headers, most of which are the same in all mails or are made by us of parts that
were checked. Taking each of them apart by the grammar of RFC 5322, and writing it by what came of
that, takes the email package as long as wording the mail takes us.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from email.header import Header
from email.headerregistry import Address, AddressHeader, BaseHeader, Group, HeaderRegistry
from email.message import EmailMessage
from email.policy import EmailPolicy, Policy
from typing import Any, Self

#: How many headers are kept that were made and written before.
_KNOWN = 256


class _PlainText(BaseHeader):
    """A header whose value is text and nothing but text, such as a subject.

    The email package would take what looks like an encoded word in it for one, decode it, and write
    out what it held, line breaks included; and it loses spaces between long words that are not
    ASCII. Here the value is encoded as a whole where it is not plain ASCII.
    """

    max_count = 1

    @classmethod
    def parse(cls, value: str, kwds: dict[str, Any]) -> None:
        """Take the value as it is."""
        kwds["decoded"] = value
        kwds["parse_tree"] = None

    def fold(self, *, policy: Policy) -> str:
        """Write the header, in lines as long as the policy allows."""
        value = str(self)
        words = value.split(" ")
        if (
            value.isascii()
            and value.isprintable()
            and "=?" not in value
            and all(0 < len(word) < _limit(policy) for word in words)
        ):
            return _in_lines(self.name, words, policy)
        text = Header(
            value, charset="utf-8", maxlinelen=_limit(policy), header_name=self.name
        ).encode(splitchars=" ", linesep=policy.linesep)
        return f"{self.name}: {text}{policy.linesep}"


class _Id(_PlainText):
    """A header whose value is one word that we made, ASCII, and never encoded, however long."""

    def fold(self, *, policy: Policy) -> str:
        """Write the header."""
        return _in_lines(self.name, [str(self)], policy)


# The package's registry joins its own classes in the same way.
class _Addresses(AddressHeader, BaseHeader):  # type: ignore[misc]
    """A header of plain mail addresses, as :func:`.parse_recipient` gives them."""

    max_count = 1

    @classmethod
    def parse(cls, value: Sequence[str], kwds: dict[str, Any]) -> None:
        """Take the addresses as they are: some of them, or one line."""
        addresses = value.split(", ") if isinstance(value, str) else value
        parted = (address.rpartition("@") for address in addresses)
        kwds["groups"] = [
            Group(None, (Address(username=local, domain=domain),)) for local, _, domain in parted
        ]
        kwds["decoded"] = ", ".join(addresses)
        kwds["parse_tree"] = None

    def fold(self, *, policy: Policy) -> str:
        """Write the header."""
        return _in_lines(self.name, str(self).split(" "), policy)


def _limit(policy: Policy) -> int:
    """Say how many characters a line may have."""
    return policy.max_line_length or sys.maxsize


def _in_lines(name: str, words: Sequence[str], policy: Policy) -> str:
    """Write a header in lines as long as the policy allows; a longer word has a line to itself."""
    lines = []
    line = f"{name}:"
    for word in words:
        if len(line) + 1 + len(word) > _limit(policy):
            lines.append(line)
            line = ""
        line += f" {word}"
    return policy.linesep.join([*lines, line, ""])


class _Registry(HeaderRegistry):
    """A registry that makes the class of a header once, and what is the same in all mails once."""

    def __init__(self) -> None:
        super().__init__()
        self._made: dict[str, type] = {}
        self._known = functools.lru_cache(maxsize=_KNOWN)(super().__call__)

    def __getitem__(self, name: str) -> type:
        """Return the class of a header."""
        key = name.lower()
        if key not in self._made:
            self._made[key] = super().__getitem__(name)
        return self._made[key]

    def __call__(self, name: str, value: Any) -> BaseHeader:
        """Make a header, which is not changed any more."""
        # Lists of addresses cannot be looked up.
        return self._known(name, value) if type(value) is str else super().__call__(name, value)


class _Policy(EmailPolicy):
    """Writes the header that it has written before as it did then."""

    def clone(self, **kw: Any) -> Self:
        """Return this policy, changed; where nothing changes, itself, which remembers.

        Each part of a mail is written by a clone.
        """
        if all(getattr(self, name) == value for name, value in kw.items()):
            return self
        return super().clone(**kw)

    def fold_binary(self, name: str, value: str) -> bytes:
        """Write a header."""
        return _folded(self, name, value)


@functools.lru_cache(maxsize=_KNOWN)
def _folded(policy: EmailPolicy[EmailMessage], name: str, value: str) -> bytes:
    return EmailPolicy.fold_binary(policy, name, value)


def _policy() -> _Policy:
    registry = _Registry()
    for name in ("Subject", "X-OpenStack-Server", "X-OpenStack-Project"):
        registry.map_to_type(name, _PlainText)
    for name in ("Message-ID", "List-Id"):
        registry.map_to_type(name, _Id)
    for name in ("To", "Cc"):
        registry.map_to_type(name, _Addresses)
    return _Policy(linesep="\r\n", cte_type="7bit", header_factory=registry)


#: How every mail is written, its bytes as well as its headers: as ASCII, so that no server on the
#: way needs 8BITMIME.
POLICY = _policy()
