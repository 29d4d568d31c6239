# SPDX-License-Identifier: Apache-2.0
"""What is known of a VM, and whether a rule is about it."""

from __future__ import annotations

import dataclasses
import fnmatch
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from blazar_vmexpire.rules.schema import MATCH_KEYS, Kind


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A VM, as rules see it.

    Where Keystone does not know the project, the facts about it are None or empty; a rule that
    asks for them does not match.
    """

    server_id: str
    """UUID."""
    server_name: str
    server_metadata: Mapping[str, str]
    server_tags: tuple[str, ...]
    image: str | None
    """UUID of the image it was booted from; None: from a volume."""
    flavor: str
    """Its name."""
    flavor_extra_specs: Mapping[str, str]
    availability_zone: str | None
    user: str | None
    """ID."""
    project: str
    """ID."""
    domain: str | None
    """ID of the project's domain."""
    project_name: str | None
    project_enabled: bool | None
    project_properties: Mapping[str, str]
    project_tags: tuple[str, ...]


Test = Callable[[Subject], bool]

#: What is cheap to see comes first.
_ORDER = (Kind.FLAG, Kind.ID, Kind.TAGS, Kind.NAME, Kind.MAP)


def compile_match(match: Mapping[str, Any]) -> Test:
    """Make a test of a rule's ``match``, which has been validated: all of its keys must hold."""
    keys = sorted(match, key=lambda key: _ORDER.index(MATCH_KEYS[key].kind))
    tests = [(operator.attrgetter(key), _TESTS[MATCH_KEYS[key].kind](match[key])) for key in keys]

    def matches(subject: Subject) -> bool:
        # A loop: a generator for all() would take most of the time.
        for get, test in tests:  # noqa: SIM110
            if not test(get(subject)):
                return False
        return True

    return matches


def _listed(wanted: str | list[str]) -> list[str]:
    return wanted if isinstance(wanted, list) else [wanted]


def _flag(wanted: bool) -> Callable[[bool | None], bool]:
    return lambda value: value is wanted


def _id(wanted: str | list[str]) -> Callable[[str | None], bool]:
    ids = frozenset(_listed(wanted))
    return lambda value: value in ids


def _name(wanted: str | list[str]) -> Callable[[str | None], bool]:
    texts = _listed(wanted)
    if not any(character in text for text in texts for character in "*?["):
        return _id(texts)
    # Translated here, because fnmatch keeps only the last few hundred patterns.
    match = re.compile("|".join(fnmatch.translate(text) for text in texts)).match
    return lambda value: value is not None and match(value) is not None


def _map(wanted: Mapping[str, str | list[str]]) -> Callable[[Mapping[str, str]], bool]:
    tests = [(key, _name(value)) for key, value in wanted.items()]

    def has_all(found: Mapping[str, str]) -> bool:
        for key, test in tests:  # noqa: SIM110
            if not test(found.get(key)):
                return False
        return True

    return has_all


def _tags(wanted: str | list[str]) -> Callable[[tuple[str, ...]], bool]:
    tags = frozenset(_listed(wanted))
    return lambda found: tags.issubset(found)


_TESTS: Mapping[Kind, Callable[[Any], Callable[[Any], bool]]] = {
    Kind.FLAG: _flag,
    Kind.ID: _id,
    Kind.NAME: _name,
    Kind.MAP: _map,
    Kind.TAGS: _tags,
}
