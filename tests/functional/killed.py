# SPDX-License-Identifier: Apache-2.0
"""A worker that dies in the middle of its work, as a killed process does."""

from __future__ import annotations

import contextlib
from typing import Any

from tests.functional.world import World


class Killed(BaseException):
    """Not an error, which the worker would deal with."""


def die_at_request(world: World, number: int) -> None:
    """Have a worker do what is due, until it dies at its Nth request to the cloud.

    That request is done; its answer reaches nobody, and nothing is written after it. A worker that
    has done all it has to do before its Nth request lives on.
    """
    harness = world.harness
    session = harness.plugin.tools.cloud.nova._rest._adapter.session
    request, left = session.request, number

    def killing(*args: Any, **kwargs: Any) -> Any:
        nonlocal left
        answer = request(*args, **kwargs)
        left -= 1
        if left == 0:
            raise Killed
        return answer

    session.request = killing
    try:
        for _ in range(40):
            with contextlib.suppress(Killed):
                harness.plugin.service.worker.work_off(1)
            if left <= 0:
                break
            world.clock.advance(seconds=3)
    finally:
        session.request = request
