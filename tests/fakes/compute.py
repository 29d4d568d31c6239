# SPDX-License-Identifier: Apache-2.0
"""Nova at microversion 2.90: servers that take their time."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import urllib.parse
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
_QUERY = {"all_tenants", "limit", "marker", "sort_key", "sort_dir", "project_id", "status"}
_QUERY |= {"deleted", "uuid"}
_PAGING = {"limit", "marker", "sort_key", "sort_dir"}


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


class Compute:
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

    # Requests

    def handle(self, path: str, request: wire.Request) -> wire.Response:
        token = self.identity.authenticate(request)
        version = request.headers.get("openstack-api-version")
        if version != "compute 2.90":
            return error(400, f"The fake cloud speaks compute 2.90, not {version}.")
        parts = path.strip("/").split("/")
        admin = "admin" in [role["name"] for role in token["roles"]]
        if not admin and "all_tenants" in request.query:
            return error(403, "Policy doesn't allow os_compute_api:servers:detail:get_all_tenants")
        if parts == ["servers", "detail"]:
            return self._list(request, None if admin else token["project"]["id"])
        if parts == ["os-services"]:
            return self._services()
        if parts == ["os-aggregates"]:
            return wire.Response(200, {"aggregates": self._aggregates()})
        if parts == ["os-migrations"]:
            wanted = request.param("instance_uuid")
            found = [m for m in self.migrations if wanted in (None, m["instance_uuid"])]
            return wire.Response(200, {"migrations": found[::-1]})
        attached = len(parts) >= 3 and parts[2] == "os-volume_attachments"
        most = 4 if attached or parts[2:3] == ["metadata"] else 3
        if parts[0] != "servers" or not 2 <= len(parts) <= most:
            return error(404, "The resource could not be found.")
        vm = self.vms.get(parts[1])
        if vm is None or not (admin or vm.project_id == token["project"]["id"]):
            return error(404, f"Instance {parts[1]} could not be found.")
        if request.method == "GET" and not attached:
            if vm.cell in self.down_cells:
                return wire.Response(200, {"server": self._brief(vm, show=True)})
            answer = wire.Response(200, {"server": self._view(vm, show=True)})
            self._looked_at(vm)
            return answer
        if vm.cell in self.down_cells:
            return error(500, "Unexpected API Error. Please report this.")
        if attached:
            return self._attachments(vm, request, parts[3:])
        if vm.locked and not admin:
            return error(409, f"Instance {vm.id} is locked")
        if parts[2:3] == ["metadata"]:
            return self._metadata(vm, parts[3:], request)
        if request.method == "DELETE":
            return self._delete(vm, token)
        ((action, arguments),) = request.body.items()
        do = {
            "os-stop": self._stop,
            "os-start": self._start,
            "lock": self._lock,
            "unlock": self._unlock,
            "createImage": self._create_image,
            "shelve": self._shelve,
            "shelveOffload": self._shelve_offload,
            "unshelve": self._unshelve,
            "unrescue": self._unrescue,
            "os-migrateLive": self._live_migrate,
            "migrate": self._migrate,
            "confirmResize": self._confirm_resize,
        }.get(action)
        if do is None:
            return error(400, f"There is no such action: {action}")
        return do(vm, arguments, token)

    def _metadata(self, vm: Vm, keys: list[str], request: wire.Request) -> wire.Response:
        """Write some of a server's metadata, or delete one, as nova/compute/api.py allows it."""
        action = "delete_instance_metadata" if keys else "update_instance_metadata"
        if (request.method, bool(keys)) not in (("POST", False), ("DELETE", True)):
            return error(405, "The method is not allowed for this resource.")
        if keys and urllib.parse.unquote(keys[0]) not in vm.metadata:
            return error(404, "Metadata item was not found")
        self._demand(vm, action, "active", "paused", "suspended", "stopped")
        if keys:
            del vm.metadata[urllib.parse.unquote(keys[0])]
            return wire.Response(204)
        merged = vm.metadata | request.body["metadata"]
        if len(merged) > self.metadata_items:
            return error(403, f"Maximum number of metadata items exceeds {self.metadata_items}")
        vm.metadata = merged
        return wire.Response(200, {"metadata": merged})

    def _attachments(self, vm: Vm, request: wire.Request, parts: list[str]) -> wire.Response:
        """What is attached to a server; one can be changed in any state, locked or not."""
        if not parts:
            views = [self._attachment(vm, volume_id) for volume_id in vm.volumes]
            return wire.Response(200, {"volumeAttachments": views})
        (volume_id,) = parts
        if volume_id not in vm.volumes:
            return error(404, f"No volume Block Device Mapping with id {volume_id}.")
        if request.method == "GET":
            return wire.Response(200, {"volumeAttachment": self._attachment(vm, volume_id)})
        change = request.body["volumeAttachment"]
        if change["volumeId"] != volume_id:
            return error(409, "Swapping volumes is not for administrators.")
        vm.volumes[volume_id].delete_on_termination = change["delete_on_termination"]
        return wire.Response(202)

    def _attachment(self, vm: Vm, volume_id: str) -> dict[str, Any]:
        attached = vm.volumes[volume_id]
        return {
            "volumeId": volume_id,
            "serverId": vm.id,
            "device": attached.device,
            "tag": None,
            "delete_on_termination": attached.delete_on_termination,
            "attachment_id": str(uuid.uuid5(uuid.NAMESPACE_DNS, vm.id + volume_id)),
            "bdm_uuid": str(uuid.uuid5(uuid.NAMESPACE_DNS, volume_id + vm.id)),
        }

    def _stop(self, vm: Vm, arguments: Any, token: Any) -> wire.Response:
        self._demand(vm, "stop", "active", "error")
        self._begin(vm, "powering-off", lambda: self._become(vm, "stopped"))
        return wire.Response(202)

    def _start(self, vm: Vm, arguments: Any, token: Any) -> wire.Response:
        self._demand(vm, "start", "stopped")
        self._begin(vm, "powering-on", lambda: self._become(vm, "active"))
        return wire.Response(202)

    def _unrescue(self, vm: Vm, arguments: Any, token: Any) -> wire.Response:
        self._demand(vm, "unrescue", "rescued")
        self._begin(vm, "unrescuing", lambda: self._become(vm, "active"))
        return wire.Response(202)

    def _lock(self, vm: Vm, arguments: Any, token: Any) -> wire.Response:
        vm.locked = True
        reason = (arguments or {}).get("locked_reason")
        vm.locked_reason = reason or vm.locked_reason
        return wire.Response(202)

    def _unlock(self, vm: Vm, arguments: Any, token: Any) -> wire.Response:
        vm.locked, vm.locked_reason = False, None
        return wire.Response(202)

    def _create_image(self, vm: Vm, arguments: Any, token: Any) -> wire.Response:
        self._demand(vm, "createImage", "active", "stopped", "paused", "suspended")
        project = token["project"]["id"]
        properties = {
            "image_type": "snapshot",
            "instance_uuid": vm.id,
            "user_id": token["user"]["id"],
            **arguments.get("metadata", {}),
        }
        if vm.image_id is None:
            mapping = []
            for number, volume_id in enumerate(vm.volumes):
                mapping.append({"snapshot_id": str(uuid.uuid4()), "boot_index": -number})
                self.cinder.disks[volume_id].snapshots.append(mapping[-1]["snapshot_id"])
            image_id = self.glance.add(
                name=arguments["name"],
                size=0,
                owner=project,
                bdm_v2="True",
                root_device_name="/dev/vda",
                block_device_mapping=json.dumps(mapping),
                **properties,
            )
        else:
            vm.task_state = "image_snapshot"
            image_id = self.glance.begin(
                arguments["name"],
                project,
                lambda: self._snapshot_done(vm),
                base_image_ref=vm.image_id,
                **properties,
            )
            vm.snapshot = image_id if vm.task_state else None
        return wire.Response(202, {"image_id": image_id})

    def _snapshot_done(self, vm: Vm) -> None:
        if vm.task_state == "image_snapshot":
            vm.task_state = None
        vm.snapshot = None

    def _live_migrate(self, vm: Vm, arguments: Any, token: Any) -> wire.Response:
        self._demand(vm, "os-migrateLive", "active", "paused")
        if arguments.keys() != {"host", "block_migration"}:
            return error(400, "Invalid input for field/attribute os-migrateLive.")
        host = arguments["host"]
        if host is not None and host not in self._all_hosts():
            return error(400, f"Compute host {host} could not be found.")
        migration = self._new_migration(vm, "live-migration", "accepted", token)
        self._begin(vm, "migrating", lambda: self._schedule(vm, migration, host, "completed"))
        return wire.Response(202)

    def _migrate(self, vm: Vm, arguments: Any, token: Any) -> wire.Response:
        self._demand(vm, "migrate", "active", "stopped")
        host = (arguments or {}).get("host")
        if host == vm.host:
            return error(400, "Cannot migrate to the host where the server exists.")
        if host is not None and host not in self._all_hosts():
            return error(400, f"Compute host {host} could not be found.")
        migration = self._new_migration(vm, "migration", "pre-migrating", token)
        self._begin(vm, "resize_prep", lambda: self._schedule(vm, migration, host, "finished"))
        return wire.Response(202)

    def _schedule(self, vm: Vm, migration: dict[str, Any], host: str | None, over: str) -> None:
        """Move a server at once, or give it up where no host takes it."""
        vm.task_state = None
        fit = self._all_hosts() - self.down_hosts - self.disabled_hosts - self.full_hosts
        fit = (fit - {vm.host}) & ({host} if host else fit)
        if not fit:
            migration["status"] = "error"
            return
        (target, *_) = sorted(fit)
        migration.update(status=over, dest_compute=target, dest_node=target)
        vm.host = target
        if over == "finished":
            vm.running, vm.vm_state = vm.vm_state == "active", "resized"

    def _confirm_resize(self, vm: Vm, arguments: Any, token: Any) -> wire.Response:
        self._demand(vm, "confirmResize", "resized")
        last = next((m for m in self.migrations[::-1] if m["instance_uuid"] == vm.id), None)
        if last is None or last["status"] != "finished":
            return error(400, "Instance has not been resized.")
        if last["source_compute"] in self.down_hosts:
            return error(409, "Service is unavailable at this time.")
        last["status"] = "confirming"

        def confirmed() -> None:
            last["status"] = "confirmed"
            self._become(vm, "active" if vm.running else "stopped")

        # Nothing tells of it but the migration.
        self._begin(vm, None, confirmed)
        return wire.Response(204)

    def _new_migration(self, vm: Vm, kind: str, status: str, token: Any) -> dict[str, Any]:
        now = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H:%M:%S.%f}"
        migration = {
            "id": len(self.migrations) + 1,
            "uuid": str(uuid.uuid4()),
            "instance_uuid": vm.id,
            "migration_type": kind,
            "status": status,
            "source_compute": vm.host,
            "source_node": vm.host,
            "dest_compute": None,
            "dest_node": None,
            "dest_host": None,
            "old_instance_type_id": 1,
            "new_instance_type_id": 1,
            "user_id": token["user"]["id"],
            "project_id": token["project"]["id"],
            "created_at": now,
            "updated_at": None,
        }
        self.migrations.append(migration)
        return migration

    def resize(self, server_id: str, project_id: str) -> dict[str, Any]:
        """Bring a server to VERIFY_RESIZE, as somebody of a project has resized it."""
        vm = self.vms[server_id]
        token = {"user": {"id": vm.user_id}, "project": {"id": project_id}}
        migration = self._new_migration(vm, "resize", "finished", token)
        migration.update(dest_compute=vm.host, dest_node=vm.host)
        vm.running, vm.vm_state = vm.vm_state == "active", "resized"
        return migration

    def _shelve(self, vm: Vm, arguments: Any, token: Any) -> wire.Response:
        self._demand(vm, "shelve", "active", "stopped", "paused", "suspended")
        if vm.image_id is None:
            # Its volume is all there is: it is off its host at once, whatever the configuration.
            self._begin(vm, "shelving", lambda: self._off_its_host(vm))
            return wire.Response(202)
        vm.task_state = "shelving"
        image_id = self.glance.begin(
            f"{vm.name}-shelved",
            token["project"]["id"],
            lambda: self._shelving_done(vm),
            base_image_ref=vm.image_id,
            image_type="snapshot",
            instance_uuid=vm.id,
            user_id=token["user"]["id"],
        )
        if vm.task_state:
            vm.task_state = "shelving_image_uploading"
            vm.snapshot = vm.shelved_image = image_id
        else:
            vm.shelved_image = image_id
        return wire.Response(202)

    def _shelving_done(self, vm: Vm) -> None:
        lost = vm.snapshot is not None and vm.snapshot not in self.glance.images
        vm.snapshot = None
        if lost:
            self.give_up_shelving(vm.id)
            return
        self._become(vm, "shelved")
        if self.shelved_offload_time == 0:
            self._begin(vm, "shelving_offloading", lambda: self._off_its_host(vm))

    def give_up_shelving(self, server_id: str) -> None:
        """Fail to make the image: the server was shut down for it; what there is of it stays."""
        vm = self.vms.get(server_id)
        if vm is None:
            return
        if vm.shelved_image is not None:
            self.glance.abandon(vm.shelved_image)
        vm.snapshot = vm.shelved_image = vm.then = None
        self._become(vm, "stopped" if vm.vm_state == "active" else vm.vm_state)

    def _off_its_host(self, vm: Vm) -> None:
        self._become(vm, "shelved_offloaded")
        vm.host = None

    def _shelve_offload(self, vm: Vm, arguments: Any, token: Any) -> wire.Response:
        self._demand(vm, "shelveOffload", "shelved")
        self._begin(vm, "shelving_offloading", lambda: self._off_its_host(vm))
        return wire.Response(202)

    def _unshelve(self, vm: Vm, arguments: Any, token: Any) -> wire.Response:
        self._demand(vm, "unshelve", "shelved", "shelved_offloaded")
        self._begin(vm, "unshelving", lambda: self._unshelved(vm, token))
        return wire.Response(202)

    def _unshelved(self, vm: Vm, token: Any) -> None:
        offloaded = vm.vm_state == "shelved_offloaded"
        if offloaded and vm.image_id and vm.shelved_image not in self.glance.images:
            self._become(vm, "error")
        elif offloaded and self.full:
            vm.task_state = None
        else:
            vm.host = vm.host or "compute1"
            self._become(vm, "active")
            self._delete_shelved_image(vm, token)

    def _delete_shelved_image(self, vm: Vm, token: Any) -> None:
        """Delete it as whoever asked; where they may not, it is left behind."""
        image, vm.shelved_image = self.glance.images.get(vm.shelved_image or ""), None
        admin = "admin" in [role["name"] for role in token["roles"]]
        may = image is not None and (admin or image["owner"] == token["project"]["id"])
        if image is not None and may and not image["protected"]:
            del self.glance.images[image["id"]]

    def _delete(self, vm: Vm, token: Any) -> wire.Response:
        self._delete_shelved_image(vm, token)
        if vm.snapshot is not None:
            # Nova cuts a snapshot off that is not being uploaded yet.
            lost = self.glance.images.get(vm.snapshot, {}).get("status") == "queued"
            (self.glance.fail if lost else self.glance.finish)(vm.snapshot)
        if self.soft_delete and vm.vm_state != "soft-delete":
            self._begin(vm, "soft-deleting", lambda: self._become(vm, "soft-delete"))
        else:
            self._begin(vm, "deleting", lambda: self.vanish(vm.id))
        return wire.Response(204)

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

    # Answers

    def _list(self, request: wire.Request, project_id: str | None) -> wire.Response:
        unknown = set(request.query) - _QUERY
        if unknown:
            return error(400, f"Additional properties are not allowed ({unknown})")
        paged = bool(_PAGING & set(request.query))
        # An administrator's filters; others' are dropped without a word.
        deleted = project_id is None and (request.param("deleted") or "").lower() == "true"
        uuids = request.query.get("uuid") if project_id is None else None
        vms = [
            vm
            for vm in [*self.vms.values(), *self.deleted.values()]
            if (vm.vm_state in ("deleted", "soft-delete")) == deleted
            and project_id in (None, vm.project_id)
            and (uuids is None or vm.id in uuids)
        ]
        down = [vm for vm in vms if vm.cell in self.down_cells]
        vms = [vm for vm in vms if vm.cell not in self.down_cells]
        keys = [*request.query.get("sort_key", ["created_at"]), "uuid"]
        directions = [*request.query.get("sort_dir", ["desc"]), "asc"]
        marker = request.param("marker")
        if marker is not None:
            at = self.vms.get(marker) or self.deleted.get(marker)
            if at is None:
                return error(400, f"marker [{marker}] not found")
            vms.append(at)
        for key, direction in reversed(list(zip(keys, directions, strict=False))):
            name = {"uuid": "id"}.get(key, key)
            vms.sort(key=lambda vm: getattr(vm, name), reverse=direction == "desc")
        if marker is not None:
            vms = vms[[vm.id for vm in vms].index(marker) + 1 :]
            vms = [vm for vm in vms if vm.id != marker]
        limit = min(int(request.param("limit") or self.max_limit), self.max_limit)
        page = vms[:limit]
        body: dict[str, Any] = {"servers": [self._view(vm) for vm in page]}
        if page and len(page) == limit:
            query = [(key, value) for key, values in request.query.items() for value in values]
            query = [*((k, v) for k, v in query if k != "marker"), ("marker", page[-1].id)]
            # Nova names the host that it believes it has, which need not be reachable.
            href = f"http://nova.invalid/v2.1/servers/detail?{urllib.parse.urlencode(query)}"
            body["servers_links"] = [{"rel": "next", "href": href}]
        filtered = {"deleted", "uuid"} & set(request.query)
        if not paged and not filtered:
            body["servers"] = [self._brief(vm) for vm in down] + body["servers"]
        for vm in page:
            self._looked_at(vm)
        return wire.Response(200, body)

    def _all_hosts(self) -> set[str]:
        return self.hosts | {vm.host for vm in self.vms.values() if vm.host}

    def _services(self) -> wire.Response:
        services: list[dict[str, Any]] = []
        cells = {(vm.host or "compute1", vm.cell) for vm in self.vms.values()}
        cells |= {(host, "cell1") for host in self.hosts - {host for host, _ in cells}}
        for host, cell in sorted(cells):
            service = {"binary": "nova-compute", "host": host, "status": "UNKNOWN"}
            if cell not in self.down_cells:
                service |= {
                    "status": "disabled" if host in self.disabled_hosts else "enabled",
                    "id": str(uuid.uuid5(uuid.NAMESPACE_DNS, host)),
                    "zone": "nova",
                    "state": "down" if host in self.down_hosts else "up",
                    "updated_at": "2026-01-01T00:00:00.000000",
                    "disabled_reason": None,
                    "forced_down": False,
                }
            services.append(service)
        return wire.Response(200, {"services": services})

    def _aggregates(self) -> list[dict[str, Any]]:
        return [
            {
                "id": number,
                "uuid": str(uuid.uuid5(uuid.NAMESPACE_DNS, name)),
                "name": name,
                "hosts": hosts,
                "availability_zone": None,
                "metadata": {},
                "created_at": "2026-01-01T00:00:00.000000",
                "updated_at": None,
                "deleted": False,
                "deleted_at": None,
            }
            for number, (name, hosts) in enumerate(self.aggregates.items(), 1)
        ]

    def _links(self, kind: str, key: str) -> list[dict[str, str]]:
        root = self.url.removesuffix("/v2.1")
        return [
            {"rel": "self", "href": f"{self.url}/{kind}/{key}"},
            {"rel": "bookmark", "href": f"{root}/{kind}/{key}"},
        ]

    def _image(self, vm: Vm) -> Any:
        if vm.image_id is None:
            return ""
        return {"id": vm.image_id, "links": self._links("images", vm.image_id)[1:]}

    def _flavor(self, vm: Vm) -> dict[str, Any]:
        return {
            "vcpus": 1,
            "ram": 2048,
            "disk": 20,
            "ephemeral": 0,
            "swap": 0,
            "original_name": vm.flavor,
            "extra_specs": {},
        }

    def _brief(self, vm: Vm, show: bool = False) -> dict[str, Any]:
        """What Nova knows of a server without its cell."""
        brief: dict[str, Any] = {
            "id": vm.id,
            "status": "UNKNOWN",
            "tenant_id": vm.project_id,
            "created": f"{vm.created_at:%Y-%m-%dT%H:%M:%SZ}",
            "links": self._links("servers", vm.id),
        }
        if show:
            brief |= {
                "image": self._image(vm),
                "flavor": self._flavor(vm),
                "OS-EXT-AZ:availability_zone": vm.availability_zone,
                "OS-EXT-STS:power_state": 0,
                "user_id": vm.user_id,
                "server_groups": [],
            }
        return brief

    def _view(self, vm: Vm, show: bool = False) -> dict[str, Any]:
        created = f"{vm.created_at:%Y-%m-%dT%H:%M:%SZ}"
        host_id = hashlib.sha224(f"{vm.project_id}{vm.host}".encode()).hexdigest()
        view: dict[str, Any] = {
            "accessIPv4": "",
            "accessIPv6": "",
            "addresses": {},
            "config_drive": "",
            "created": created,
            "description": None,
            "flavor": self._flavor(vm),
            "host_status": "UP" if vm.host else "",
            "hostId": host_id if vm.host else "",
            "id": vm.id,
            "image": self._image(vm),
            "key_name": None,
            "links": self._links("servers", vm.id),
            "locked": vm.locked,
            "locked_reason": vm.locked_reason,
            "metadata": vm.metadata,
            "name": vm.name,
            "os-extended-volumes:volumes_attached": [
                {"id": volume_id, "delete_on_termination": attached.delete_on_termination}
                for volume_id, attached in vm.volumes.items()
            ],
            "security_groups": [{"name": "default"}],
            "status": vm.status,
            "tags": vm.tags,
            "tenant_id": vm.project_id,
            "trusted_image_certificates": None,
            "updated": created,
            "user_id": vm.user_id,
            "OS-DCF:diskConfig": "MANUAL",
            "OS-EXT-AZ:availability_zone": vm.availability_zone,
            "OS-EXT-SRV-ATTR:host": vm.host,
            "OS-EXT-SRV-ATTR:hostname": "vm",
            "OS-EXT-SRV-ATTR:hypervisor_hostname": vm.host,
            "OS-EXT-SRV-ATTR:instance_name": "instance-00000001",
            "OS-EXT-SRV-ATTR:kernel_id": "",
            "OS-EXT-SRV-ATTR:launch_index": 0,
            "OS-EXT-SRV-ATTR:ramdisk_id": "",
            "OS-EXT-SRV-ATTR:reservation_id": "r-00000001",
            "OS-EXT-SRV-ATTR:root_device_name": "/dev/vda",
            "OS-EXT-SRV-ATTR:user_data": None,
            "OS-EXT-STS:power_state": vm.power_state,
            "OS-EXT-STS:task_state": vm.task_state,
            "OS-EXT-STS:vm_state": vm.vm_state,
            "OS-SRV-USG:launched_at": f"{vm.created_at:%Y-%m-%dT%H:%M:%S.%f}",
            "OS-SRV-USG:terminated_at": None,
        }
        if show:
            view["server_groups"] = []
        if vm.vm_state in ("active", "building", "resized"):
            view["progress"] = 0
        if vm.vm_state == "error":
            text = {"code": 500, "created": created, "message": "No valid host was found."}
            view["fault"] = text
        return view
