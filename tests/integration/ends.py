# SPDX-License-Identifier: Apache-2.0
"""When the VMs of a scenario end, and that they did."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator
from typing import Any

from tests.integration.cloudlib import MINUTE, Cloud, Vm, images_of
from tests.integration.waiting import wait_until

#: How long before an end somebody is ready for it.
_READY = datetime.timedelta(seconds=18)


def choose_end(vms: list[Vm], moment: datetime.datetime) -> None:
    """Shorten leases to end at a date, as owners may: they need no notice of that.

    The turn at that moment is booked, for :func:`turn_at_the_end`.
    """
    for vm in vms:
        vm.move_end(moment + 3 * MINUTE)
        vm.move_end(moment)
    vms[0].cloud.turns.book(moment - _READY)


@contextlib.contextmanager
def turn_at_the_end(cloud: Cloud, vms: list[Vm]) -> Iterator[None]:
    """Take a turn a moment before the end of VMs; move that if it is somebody else's."""
    while True:
        ready_at = vms[0].ends_at - _READY
        wait_until(ready_at)
        if cloud.turns.take_booked(ready_at, within=6):
            break
        choose_end(vms, vms[0].ends_at + 2 * MINUTE)
    try:
        yield
    finally:
        cloud.turns.give_back()


def ended_once(cloud: Cloud, vm: Vm) -> dict[str, Any]:
    """See that a VM ended, and that nothing about its end is there twice, or left over.

    :returns: its image.
    """
    vm.wait_for_end()
    assert vm.done_in_nova().count("delete") == 1
    (image,) = images_of(cloud, vm)
    assert (image["status"], image["owner"]) == ("active", cloud.alice.project_id)
    assert image["size"] > 0
    (mail,) = vm.mails("ended")
    assert image["id"] in mail.text
    assert vm.events().count("deleted") == 1
    assert vm.lease()["status"] == "TERMINATED"
    return image
