# SPDX-License-Identifier: Apache-2.0
"""YAML as plain data, with the line of each value, and without YAML's surprises.

PyYAML is only asked for the tree of nodes: what they mean is decided here. Nothing is left out or
put in the place of something else in silence, as YAML would have it for keys that stand there
twice; and a file cannot grow by references to its own parts.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import yaml

from blazar_vmexpire.rules.errors import Problem, RulesError

#: How deep lists and mappings may be nested: rules need six levels.
DEEPEST = 12

Path = tuple[str | int, ...]

_YAML = "tag:yaml.org,2002:"
_KINDS = {
    f"{_YAML}str": "a text",
    f"{_YAML}bool": "a boolean",
    f"{_YAML}int": "a number",
    f"{_YAML}float": "a number",
    f"{_YAML}null": "an empty value",
    f"{_YAML}timestamp": "a date",
    f"{_YAML}merge": "a merge key",
    f"{_YAML}value": "a default key",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Untyped:
    """What YAML takes for something that no rule has a use for: a date, a merge key."""

    text: str

    def __str__(self) -> str:
        return self.text


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands, and as what."""

    line: int
    """Of its key, if it has one."""
    kind: str
    """What YAML takes it for; empty: something that was complained of already."""
    text: str
    """As it is written, if it is neither list nor mapping."""


@dataclasses.dataclass(frozen=True, slots=True)
class Document:
    """A file's content."""

    value: Any
    places: dict[Path, Place]
    problems: list[Problem]
    """What can be said without knowing what the file is about."""


def read(text: str, source: str) -> Document:
    """Read YAML.

    :param source: the file's path, for messages.
    :raises RulesError: the text is not YAML, or holds what no rules file needs.
    """
    try:
        loader = _Composer(text)
        try:
            root = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise RulesError(source, [_not_yaml(error, text)]) from error
    if root is None:
        raise RulesError(source, [Problem("the file is empty: it must be a mapping with 'rules'")])
    document = Document(None, {}, [])
    return dataclasses.replace(document, value=_Reader(loader, document).value(root, ()))


class _Refused(yaml.YAMLError):  # type: ignore[misc]
    """Something that is YAML, but not for us."""

    def __init__(self, sentence: str, mark: yaml.Mark) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.mark = mark


class _Composer(yaml.SafeLoader):  # type: ignore[misc]
    """Composes nodes that refer to no others, and are not nested without end."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise _Refused(
                f"*{event.anchor} refers to another part of the file: write the value out",
                event.start_mark,
            )
        if self._depth == DEEPEST:
            raise _Refused(
                f"lists and mappings are nested more than {DEEPEST} deep", event.start_mark
            )
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


def _not_yaml(error: yaml.YAMLError, text: str) -> Problem:
    if isinstance(error, _Refused):
        return Problem(error.sentence, error.mark.line + 1)
    if isinstance(error, yaml.MarkedYAMLError):
        context = f" {error.context}" if error.context else ""
        mark = error.problem_mark or error.context_mark
        return Problem(f"this is not YAML:{context} {error.problem}", mark and mark.line + 1)
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return Problem(f"this is not YAML: character {error.character!r} is not allowed", line)
    return Problem(f"this is not YAML: {error}")


class _Reader:
    def __init__(self, loader: yaml.SafeLoader, document: Document) -> None:
        self._loader = loader
        self._document = document

    def value(self, node: yaml.Node, path: Path, line: int | None = None) -> Any:
        """Say what a node holds, and note its place."""
        line = line or node.start_mark.line + 1
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_YAML}map":
            self._document.places[path] = Place(line, "a mapping", "")
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_YAML}seq":
            self._document.places[path] = Place(line, "a list", "")
            return [self.value(item, (*path, n)) for n, item in enumerate(node.value)]
        text = node.value if isinstance(node, yaml.ScalarNode) else ""
        self._document.places[path] = Place(line, _KINDS.get(node.tag, ""), text)
        return self._scalar(node, text, line)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self._complain("a key must be a text, not a list or a mapping", line)
                continue
            key = key_node.value
            if key_node.tag != f"{_YAML}str":
                kind = _KINDS.get(key_node.tag, "something else")
                self._complain(must_be_quoted(key, kind, "key "), line)
            if key in found:
                self._complain(f"key {key!r} stands there twice, first in line {lines[key]}", line)
                continue
            lines[key] = line
            found[key] = self.value(value_node, (*path, key), line)
        return found

    def _scalar(self, node: yaml.Node, text: str, line: int) -> Any:
        if node.tag not in _KINDS:
            tag = node.tag.replace(_YAML, "!!")
            self._complain(f"tag {tag} is not taken: write a text, a list or a mapping", line)
        elif node.tag == f"{_YAML}str":
            return text
        elif node.tag == f"{_YAML}null":
            return None
        elif node.tag in (f"{_YAML}bool", f"{_YAML}int", f"{_YAML}float"):
            try:
                return self._loader.construct_object(node)
            except (ValueError, KeyError):
                self._complain(f"{text!r} is not {_KINDS[node.tag]}", line)
        return Untyped(text)

    def _complain(self, sentence: str, line: int) -> None:
        self._document.problems.append(Problem(sentence, line))


def must_be_quoted(text: str, kind: str, what: str = "") -> str:
    """Say that a text must be quoted, because YAML takes it for something else."""
    return f'{what}{text} without quotes is {kind} in YAML: write "{text}", with the quotes'
