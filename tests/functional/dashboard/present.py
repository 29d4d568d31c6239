# SPDX-License-Identifier: Apache-2.0
"""Horizon lives in the present, and so has the cloud to."""

from __future__ import annotations

import datetime

from blazar_vmexpire.lifecycle import floor_minute
from tests.functional.world import World


def days(world: World, count: float) -> datetime.datetime:
    """Return the date that is so many days from now, to the minute."""
    return floor_minute(world.clock.now()) + datetime.timedelta(days=count)


def written(moment: datetime.datetime) -> str:
    """Write a naive UTC date as the pages do."""
    return f"{moment:%Y-%m-%d %H:%M} UTC"
