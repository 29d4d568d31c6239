# SPDX-License-Identifier: Apache-2.0
"""Nova's servers, services and aggregates as it shows them."""

from __future__ import annotations

import hashlib
import urllib.parse
import uuid
from typing import Any

from tests.fakes import wire
from tests.fakes.servers import Servers, Vm, error

_QUERY = {"all_tenants", "limit", "marker", "sort_key", "sort_dir", "project_id", "status"}
_QUERY |= {"deleted", "uuid"}
_PAGING = {"limit", "marker", "sort_key", "sort_dir"}


class Views(Servers):
    """The answers to those who only look."""

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
