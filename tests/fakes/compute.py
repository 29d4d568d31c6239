# SPDX-License-Identifier: Apache-2.0
"""Nova at microversion 2.90: servers that take their time."""

from __future__ import annotations

import urllib.parse
import uuid
from typing import Any

from tests.fakes import wire
from tests.fakes.server_actions import Actions
from tests.fakes.server_views import Views
from tests.fakes.servers import Vm, error


class Compute(Actions, Views):
    """Nova's API, as far as we use it."""

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
