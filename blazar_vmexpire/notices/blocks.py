# SPDX-License-Identifier: Apache-2.0
"""The parts of a worded text, so that HTML can lay out the very words that the plain text has.

What a mail says is written once, in the template of its text. That text has a form: paragraphs, and
blocks that are indented by four spaces, which are commands, tables or links. Pure.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator, Sequence

from blazar_vmexpire import words

_INDENT = "    "
_COLUMNS = re.compile(r" {2,}")
_LINK = re.compile(r"https?://\S+")


@dataclasses.dataclass(frozen=True, slots=True)
class Block:
    """One part of a text: a paragraph, a command, a table or a link."""

    #: ``paragraph``, ``command``, ``table`` or ``link``.
    kind: str
    #: Of a paragraph or command: its lines. Of a link: its address alone.
    lines: Sequence[str] = ()
    #: Of a table: its rows, each with its cells.
    rows: Sequence[Sequence[str]] = ()


@functools.lru_cache(maxsize=256)  # Most paragraphs are the same in many mails.
def paragraph(text: str) -> str:
    """Wrap a text as :func:`words.paragraph` does, and mark the line breaks that this makes.

    The mark is a space at the end of the line, as in RFC 3676 (format=flowed): a mail reader, or
    :func:`read`, can tell such a line break from one that was meant.
    """
    wrapped = words.paragraph(text)
    return wrapped.rstrip("\n").replace("\n", " \n") + "\n\n" if wrapped else ""


def read(text: str) -> list[Block]:
    """Take a text apart, as a template makes it.

    Empty lines stand between the parts. One whose lines are all indented by four spaces is a table,
    where each line has two spaces or more between its columns, a link, where it is one web address,
    or else a command. Any other is a paragraph; line breaks in it count, except those that
    :func:`paragraph` made.
    """
    return [_block(lines) for lines in _parts(text)]


def _parts(text: str) -> Iterator[list[str]]:
    part: list[str] = []
    for line in text.splitlines():
        if line.strip():
            part.append(line)
        elif part:
            yield part
            part = []
    if part:
        yield part


def _block(lines: Sequence[str]) -> Block:
    if not all(line.startswith(_INDENT) for line in lines):
        return Block("paragraph", _unwrapped(lines))
    bare = [line.removeprefix(_INDENT).rstrip() for line in lines]
    rows = [_COLUMNS.split(line.strip()) for line in bare]
    if all(len(row) > 1 for row in rows):
        return Block("table", rows=rows)
    if len(bare) == 1 and _LINK.fullmatch(bare[0]):
        return Block("link", bare)
    return Block("command", bare)


def _unwrapped(lines: Sequence[str]) -> list[str]:
    """Join lines again that were only wrapped."""
    found = []
    begun = ""
    for line in lines:
        if line.endswith(" "):
            begun += line.strip() + " "
        else:
            found.append(begun + line.strip())
            begun = ""
    if begun:
        found.append(begun.strip())
    return found
