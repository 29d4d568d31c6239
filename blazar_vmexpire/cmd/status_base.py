# SPDX-License-Identifier: Apache-2.0
"""What a check of ``blazar-vmexpire-status`` is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from oslo_config import cfg


class Doubt(Exception):
    """It works, or may work, but an operator should look at it; the message says what was found."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that is looked at. Texts are parts of sentences, without a full stop."""

    title: str
    why: str
    """What does not work without it: ends "It matters because …"."""
    right: str
    """What would be right, and what to do for it."""
    look: Callable[[cfg.ConfigOpts], str]
    """Look at it, and say what was found.

    :raises Doubt: that is worth a look.
    :raises Exception: one of the errors that commands tell in one sentence: it is not right.
    """
