# SPDX-License-Identifier: Apache-2.0
"""Servers of Nova's that take their time, and the hosts that they are on."""

from __future__ import annotations

import dataclasses
import datetime
import uuid
from collections.abc import Callable
from typing import Any

from tests.fakes import identity, image, volume, wire

_FAULTS = {
    400: "badRequest",
    401: "unauthorized",
    403: "forbidden",
    404: "itemNotFound",
    405: "badMethod",
    409: "conflictingRequest",
    413: "overLimit",
    429: "overLimit",
    501: "notImplemented",
    503: "serviceUnavailable",
}
_STATUS = {
    "active": "ACTIVE",
    "building": "BUILD",
    "stopped": "SHUTOFF",
    "paused": "PAUSED",
    "suspended": "SUSPENDED",
    "rescued": "RESCUE",
    "resized": "VERIFY_RESIZE",
    "error": "ERROR",
    "soft-delete": "SOFT_DELETED",
    "deleted": "DELETED",
    "shelved": "SHELVED",
    "shelved_offloaded": "SHELVED_OFFLOADED",
}
#: What a server's status is called while something is done to it.
_BUSY = {"migrating": "MIGRATING", "resize_prep": "RESIZE", "resize_migrating": "RESIZE"}


def error(status: int, message: str) -> wire.Response:
    """Make an error as Nova words it."""
    key = _FAULTS.get(status, "computeFault")
    return wire.Response(status, {key: {"code": status, "message": message}})


@dataclasses.dataclass
class Attached:
    """How a volume is attached to a server."""

    device: str | None
    delete_on_termination: bool


@dataclasses.dataclass
class Vm:
    """A server.

    :ivar vm_state: ``active``, ``stopped``, ``error``, ``building``, … as in Nova
    :ivar image_id: None for a server that boots from a volume
    :ivar cell: name of its cell, for ``Compute.down_cells``
    :ivar volumes: those that are attached, by id; see ``FakeCloud.attach``
    """

    project_id: str
    user_id: str
    id: str = dataclasses.field(default_factory=lambda: str(uuid.uuid4()))
    name: str = "vm"
    vm_state: str = "active"
    task_state: str | None = None
    created_at: datetime.datetime = dataclasses.field(
        default_factory=lambda: datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    )
    image_id: str | None = "70a599e0-31e7-49b7-b260-868f441e862b"
    flavor: str = "m1.small"
    availability_zone: str = "nova"
    host: str | None = "compute1"
    cell: str = "cell1"
    locked: bool = False
    locked_reason: str | None = None
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)
    tags: list[str] = dataclasses.field(default_factory=list)
    volumes: dict[str, Attached] = dataclasses.field(default_factory=dict)
    snapshot: str | None = None
    shelved_image: str | None = None
    then: Callable[[], None] | None = None
    left: int = 0

    running: bool = True
    """Whether a ``resized`` one runs."""

    @property
    def power_state(self) -> int:
        running = self.vm_state in ("active", "rescued")
        running = running or (self.vm_state == "resized" and self.running)
        return {"paused": 3}.get(self.vm_state, 1 if running else 4)

    @property
    def status(self) -> str:
        busy = _BUSY.get(self.task_state or "")
        return busy or _STATUS[self.vm_state]


class Servers:
    """Servers.

    :ivar vms: by UUID; change them as you like
    :ivar deleted: those that Nova remembers as deleted, by UUID
    :ivar reads: how many reads of a server see it in transition (``powering-off``, ``deleting``)
    :ivar max_limit: most servers on a page, whatever was asked for
    :ivar down_cells: names of the cells that Nova cannot reach
    :ivar metadata_items: most metadata of a server (the quota of the same name)
    :ivar soft_delete: whether a deleted server stays, ``SOFT_DELETED`` (reclaim_instance_interval)
    :ivar shelved_offload_time: 0: a server that is shelved is taken off its host at once; -1: never
    :ivar full: no host has room for a server that is unshelved
    :ivar hosts: names of the hosts that there are beside those of the servers
    :ivar down_hosts: names of those whose nova-compute is down
    :ivar disabled_hosts: names of those that take no more servers
    :ivar full_hosts: names of those that the scheduler turns down
    :ivar aggregates: host aggregates: name, and its hosts
    :ivar migrations: as Nova records them, oldest first
    """

    def __init__(
        self, url: str, keystone: identity.Identity, glance: image.Image, cinder: volume.Volume
    ) -> None:
        self.url = f"{url}/compute/v2.1"
        self.identity = keystone
        self.glance = glance
        self.cinder = cinder
        self.vms: dict[str, Vm] = {}
        self.deleted: dict[str, Vm] = {}
        self.reads = 1
        self.max_limit = 1000
        self.down_cells: set[str] = set()
        self.metadata_items = 128
        self.soft_delete = False
        self.shelved_offload_time = 0
        self.full = False
        self.hosts = {"compute1", "compute2"}
        self.down_hosts: set[str] = set()
        self.disabled_hosts: set[str] = set()
        self.full_hosts: set[str] = set()
        self.aggregates: dict[str, list[str]] = {}
        self.migrations: list[dict[str, Any]] = []

    def add(self, **attributes: Any) -> str:
        vm = Vm(**attributes)
        self.vms[vm.id] = vm
        return vm.id

    def settle(self, server_id: str) -> None:
        """Finish at once what a server is in the middle of."""
        vm = self.vms.get(server_id)
        if vm is not None and vm.then is not None:
            then, vm.then, vm.left = vm.then, None, 0
            then()

    def vanish(self, server_id: str) -> None:
        """Delete a server without anybody having asked."""
        vm = self.deleted[server_id] = self.vms.pop(server_id)
        vm.vm_state, vm.task_state = "deleted", None
        for volume_id, attached in vm.volumes.items():
            disk = self.cinder.disks.get(volume_id)
            if disk is None or disk.status.startswith("error"):
                continue
            disk.status = "available"
            if attached.delete_on_termination:
                self.cinder.delete(volume_id)
        vm.volumes = {}

    def lose(self, server_id: str) -> Vm:
        """Know nothing of a server any more, as of one that is not in a restored database."""
        return self.vms.pop(server_id)

    def _all_hosts(self) -> set[str]:
        return self.hosts | {vm.host for vm in self.vms.values() if vm.host}

    # State

    def _demand(self, vm: Vm, action: str, *states: str) -> None:
        for attribute, allowed in (("vm_state", states), ("task_state", (None,))):
            value = getattr(vm, attribute)
            if value not in allowed:
                text = f"Cannot '{action}' instance {vm.id} while it is in {attribute} {value}"
                raise wire.HTTPError(error(409, text))

    def _begin(self, vm: Vm, task_state: str | None, then: Callable[[], None]) -> None:
        vm.task_state, vm.left, vm.then = task_state, self.reads, then
        if self.reads == 0:
            self.settle(vm.id)

    def _become(self, vm: Vm, vm_state: str) -> None:
        vm.vm_state, vm.task_state = vm_state, None

    def _looked_at(self, vm: Vm) -> None:
        """What is in transition gets on as it is looked at, after the answer was made."""
        if vm.snapshot is not None:
            self.glance.advance(vm.snapshot)
        if vm.then is not None:
            vm.left -= 1
            if vm.left <= 0:
                self.settle(vm.id)
