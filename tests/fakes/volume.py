# SPDX-License-Identifier: Apache-2.0
"""Cinder v3: volumes, and the snapshots that Nova makes of them."""

from __future__ import annotations

import dataclasses
import uuid
from typing import Any

from tests.fakes import identity, wire

_FAULTS = {
    400: "badRequest",
    401: "unauthorized",
    403: "forbidden",
    404: "itemNotFound",
    413: "overLimit",
    503: "serviceUnavailable",
}


def error(status: int, message: str) -> wire.Response:
    """Make an error as Cinder words it."""
    key = _FAULTS.get(status, "computeFault")
    return wire.Response(status, {key: {"code": status, "message": message}})


@dataclasses.dataclass
class Disk:
    """A volume.

    :ivar content: what is in it; a test's own words
    :ivar snapshots: ids of its snapshots: while there is one, it cannot be deleted
    """

    project_id: str
    id: str = dataclasses.field(default_factory=lambda: str(uuid.uuid4()))
    name: str = ""
    description: str = ""
    status: str = "available"
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)
    content: str = "data"
    snapshots: list[str] = dataclasses.field(default_factory=list)


class Volume:
    """Volumes.

    :ivar disks: by id; change them as you like
    """

    def __init__(self, keystone: identity.Identity) -> None:
        self.identity = keystone
        self.disks: dict[str, Disk] = {}

    def add(self, **attributes: Any) -> str:
        disk = Disk(**attributes)
        self.disks[disk.id] = disk
        return disk.id

    def delete(self, volume_id: str) -> None:
        """Delete a volume, as Nova asks for it; one that has snapshots stays."""
        if not self.disks[volume_id].snapshots:
            del self.disks[volume_id]

    def handle(self, path: str, request: wire.Request) -> wire.Response:
        token = self.identity.authenticate(request)
        parts = path.strip("/").split("/")
        if parts[0] != "volumes" or len(parts) != 2:
            return error(404, "The resource could not be found.")
        disk = self.disks.get(parts[1])
        admin = "admin" in [role["name"] for role in token["roles"]]
        if disk is None or not (admin or disk.project_id == token["project"]["id"]):
            return error(404, f"Volume {parts[1]} could not be found.")
        if request.method == "PUT":
            return self._update(disk, request.body["volume"])
        return wire.Response(200, {"volume": self._view(disk, admin)})

    def _update(self, disk: Disk, changes: dict[str, Any]) -> wire.Response:
        for key in ("name", "description"):
            value = changes.get(key, "")
            if len(value) > 255:
                text = f"{key} has {len(value)} characters, more than 255."
                return error(400, f"Invalid input received: {text}")
        disk.name = changes.get("name", disk.name)
        disk.description = changes.get("description", disk.description)
        # As a whole: what is not in it goes.
        disk.metadata = changes.get("metadata", disk.metadata)
        return wire.Response(200, {"volume": self._view(disk, admin=False)})

    def _view(self, disk: Disk, admin: bool) -> dict[str, Any]:
        view: dict[str, Any] = {
            "id": disk.id,
            "status": disk.status,
            "size": 1,
            "availability_zone": "nova",
            "created_at": "2026-01-01T00:00:00.000000",
            "updated_at": "2026-01-01T00:00:00.000000",
            "name": disk.name,
            "description": disk.description,
            "volume_type": "__DEFAULT__",
            "snapshot_id": None,
            "source_volid": None,
            "metadata": disk.metadata,
            "bootable": "true",
            "encrypted": False,
            "multiattach": False,
            "attachments": [],
            "migration_status": None,
        }
        if admin:
            view["os-vol-tenant-attr:tenant_id"] = disk.project_id
        return view
