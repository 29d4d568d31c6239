# SPDX-License-Identifier: Apache-2.0
"""What a step has to find. The first thing that is not so ends the demonstration."""

from __future__ import annotations

from typing import Any


class NotSo(Exception):
    """A claim that did not hold; the message says which, and what was found instead."""

    def __init__(self, claim: str, found: Any) -> None:
        super().__init__(f"not so: {claim}\nfound: {found}")


def require(holds: Any, claim: str, found: Any) -> None:
    """Raise NotSo unless `holds`."""
    if not holds:
        raise NotSo(claim, found)


def in_order(wanted: list[str], seen: list[str]) -> bool:
    """Whether all of `wanted` are in `seen` in this order, whatever stands between them."""
    rest = iter(seen)
    return all(item in rest for item in wanted)
