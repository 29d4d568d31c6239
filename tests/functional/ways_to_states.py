# SPDX-License-Identifier: Apache-2.0
"""How a VM gets to each state of the machine, by what happens to it outside."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from blazar_vmexpire import lifecycle
from blazar_vmexpire.lifecycle import State
from tests.functional.manage import Manage
from tests.functional.world import World

ACTION = r"/compute/v2.1/servers/[^/]+/action"
SERVER = r"/compute/v2.1/servers/[^/]+$"


@dataclasses.dataclass
class Stage:
    """A world, and what an operator has in hand."""

    world: World
    manage: Manage
    database_url: str

    def set(self, **options: Any) -> None:
        """Change options of ``[virtual:vm]``; durations as timedeltas."""
        for name, value in options.items():
            self.world.harness.conf.set_override(name, value, group="virtual:vm")

    def end_of(self, server_id: str) -> datetime.datetime:
        """Say when a VM's lease ends."""
        ends_at = self.world.row(server_id).ends_at
        assert ends_at is not None
        return ends_at

    def live(self, **duration: float) -> None:
        """Let time pass, with all that happens meanwhile."""
        self.world.live(self.world.clock.now() + timedelta(**duration))

    def live_until_end(self, server_id: str, **before: float) -> None:
        """Let time pass until so long before a VM's end."""
        self.world.live(self.end_of(server_id) - timedelta(**before))

    def extend(self, server_id: str, days: int = 30) -> None:
        """Have its owner move a VM's end."""
        end = lifecycle.floor_minute(self.world.clock.now()) + timedelta(days=days)
        answer = self.world.update(server_id, end_date=end)
        assert answer.status_code == 200, answer.json

    def exclude(self) -> None:
        """Have an operator exclude the VM's project."""
        self.set(excluded_projects=[self.world.alpha])

    def hold(self, server_id: str, days: int = 30) -> None:
        """Have an administrator stop a VM's clock."""
        until = f"{self.world.clock.now() + timedelta(days=days):%Y-%m-%dT%H:%M}"
        arguments = ("--until", until, "--reason", "it is looked into")
        done = self.manage(self.database_url, "hold", "add", server_id, *arguments)
        assert done.returncode == 0, done.stderr

    def gone(self, server_id: str) -> None:
        """Have the VM deleted in Nova by somebody else, and a notification say so."""
        self.world.cloud.compute.vanish(server_id)
        self.world.see(server_id)


REACH: dict[State, Callable[[Stage], str]] = {}


def reach(state: State) -> Callable[[Callable[[Stage], str]], Callable[[Stage], str]]:
    """Register the usual way to a state."""

    def register(way: Callable[[Stage], str]) -> Callable[[Stage], str]:
        REACH[state] = way
        return way

    return register


# How a VM gets to each state ----------------------------------------------------------------------


@reach(State.SEEN)
def seen(stage: Stage) -> str:
    """Nova spoke of it, and builds it."""
    server_id = stage.world.boot(vm_state="building")
    stage.world.see(server_id)
    return server_id


@reach(State.ACTIVE)
def active(stage: Stage) -> str:
    """It was taken in, forty days ago."""
    server_id = stage.world.adopt()
    stage.live(days=40)
    return server_id


@reach(State.NOTICED)
def noticed(stage: Stage) -> str:
    """Its owner was told ten days before the end."""
    server_id = stage.world.adopt()
    stage.live_until_end(server_id, days=8)
    return server_id


@reach(State.QUARANTINED)
def quarantined(stage: Stage) -> str:
    """Seven days before the end it was locked and stopped."""
    server_id = stage.world.adopt()
    stage.live_until_end(server_id, days=6)
    return server_id


@reach(State.ENDING)
def ending(stage: Stage) -> str:
    """Its image is being made."""
    stage.set(on_end_action="snapshot")
    stage.world.cloud.image.reads = None
    server_id = stage.world.adopt()
    stage.live_until_end(server_id, minutes=-5)
    return server_id


@reach(State.ENDED)
def ended(stage: Stage) -> str:
    """It was locked and stopped, three weeks ago."""
    stage.set(on_end_action="stop")
    server_id = stage.world.adopt()
    stage.live_until_end(server_id, days=-21)
    return server_id


@reach(State.REVIVING)
def reviving(stage: Stage) -> str:
    """It was extended in quarantine, a moment ago."""
    server_id = quarantined(stage)
    stage.extend(server_id, days=20)
    return server_id


@reach(State.HELD)
def held(stage: Stage) -> str:
    """An administrator has stopped its clock."""
    server_id = active(stage)
    stage.hold(server_id, days=10)
    return server_id


@reach(State.EXEMPT)
def exempt(stage: Stage) -> str:
    """Its project was excluded."""
    server_id = stage.world.adopt()
    stage.exclude()
    stage.live(hours=1)
    return server_id


def not_found_once(stage: Stage, server_id: str) -> str:
    """Have Nova answer 404 when a VM is looked at next."""
    text = f"Instance {server_id} could not be found."
    stage.world.cloud.fault(SERVER, method="GET", times=1, status=404, message=text)
    stage.world.see(server_id)
    return server_id


@reach(State.VANISHED)
def vanished(stage: Stage) -> str:
    """Nova answered 404, once."""
    server_id = active(stage)
    return not_found_once(stage, server_id)


@reach(State.FAILED)
def failed(stage: Stage) -> str:
    """Nova would not lock it, for its quarantine."""
    fault = stage.world.cloud.fault(ACTION, status=403, message="Policy doesn't allow it")
    server_id = quarantined(stage)
    fault.remove()
    return server_id


@reach(State.DELETED)
def deleted(stage: Stage) -> str:
    """Its owner deleted it; Nova would still have it for a while."""
    server_id = stage.world.adopt()
    stage.world.cloud.compute.vms[server_id].vm_state = "soft-delete"
    stage.world.see(server_id)
    stage.live(minutes=1)
    return server_id


def at_rest_in_quarantine(stage: Stage) -> str:
    """In quarantine, which had nothing to do: somebody else had locked and stopped the VM."""
    server_id = stage.world.adopt()
    vm = stage.world.cloud.compute.vms[server_id]
    vm.locked, vm.vm_state = True, "stopped"
    stage.live_until_end(server_id, days=6)
    return server_id


def reviving_at_rest(stage: Stage) -> str:
    """It was extended in such a quarantine, a moment ago."""
    server_id = at_rest_in_quarantine(stage)
    stage.extend(server_id, days=20)
    return server_id


def quarantine_begun(stage: Stage) -> str:
    """Its quarantine has begun, and nothing has been done to it yet."""
    server_id = stage.world.adopt()
    stage.live_until_end(server_id, days=7, minutes=1)
    stage.world.clock.advance(minutes=1)
    for _ in range(10):
        if stage.world.state(server_id) == State.QUARANTINED:
            break
        stage.world.harness.plugin.service.worker.work_off(1)
    return server_id


def imaged(stage: Stage) -> str:
    """An image of it is being made, before its end."""
    stage.set(before_end_action="snapshot")
    stage.world.cloud.image.reads = None
    server_id = stage.world.adopt()
    stage.live_until_end(server_id, days=10, minutes=-1)
    return server_id


def imaged_untold(stage: Stage) -> str:
    """The same, while the mail server takes nothing."""
    stage.world.mail.answers["DATA"] = "451 later"
    return imaged(stage)


def ended_untouched(stage: Stage) -> str:
    """It was to be shelved, and its owner had done that."""
    stage.set(quarantine=timedelta(0), on_end_action="shelve")
    server_id = stage.world.adopt()
    stage.world.cloud.compute.vms[server_id].vm_state = "shelved_offloaded"
    stage.live_until_end(server_id, days=-21)
    return server_id


def vanished_at_rest(stage: Stage) -> str:
    """Nova answered 404, once, when it had been stopped at its end."""
    server_id = ended(stage)
    return not_found_once(stage, server_id)


def being_stopped(stage: Stage) -> str:
    """Nova takes its time to stop it at its end."""
    stage.set(quarantine=timedelta(0), on_end_action="stop")
    server_id = stage.world.adopt()
    stage.live_until_end(server_id, minutes=1)
    stage.world.cloud.compute.reads = 10**6
    stage.live(minutes=2)
    return server_id


def vanished_in_quarantine(stage: Stage) -> str:
    """Nova answered 404, once, when it was locked and stopped."""
    server_id = quarantined(stage)
    return not_found_once(stage, server_id)


def noticed_without_quarantine(stage: Stage) -> str:
    """It runs until its end, and there is a second notice."""
    stage.set(quarantine=timedelta(0))
    return noticed(stage)


def noticed_at_its_end(stage: Stage) -> str:
    """A minute before its end, without a quarantine."""
    stage.set(quarantine=timedelta(0))
    server_id = stage.world.adopt()
    stage.live_until_end(server_id, minutes=1)
    return server_id


def end_begun(stage: Stage) -> str:
    """Its lease is over, and nothing has been done to it yet."""
    return begin_end(stage, noticed_at_its_end(stage))


def begin_end(stage: Stage, server_id: str) -> str:
    """Go on, step by step, until the end has begun."""
    stage.world.clock.set(stage.end_of(server_id))
    for _ in range(10):
        if stage.world.state(server_id) == State.ENDING:
            break
        stage.world.harness.plugin.service.worker.work_off(1)
    return server_id


def failed_untouched(stage: Stage) -> str:
    """Its disk is a volume, and it has none."""
    stage.set(quarantine=timedelta(0), on_end_action="snapshot")
    server_id = stage.world.adopt(image_id=None)
    stage.live_until_end(server_id, minutes=-5)
    return server_id
