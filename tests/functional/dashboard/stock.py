# SPDX-License-Identifier: Apache-2.0
"""Horizon's own pages of instances, which get what they show from Horizon's own helpers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from django.http import HttpRequest
from novaclient.v2 import servers
from openstack_dashboard import api
from openstack_dashboard.test import helpers

from tests.functional.dashboard.pages import Page, Pages
from tests.functional.world import World

_FLAVOR = SimpleNamespace(id="1", name="m1.small", ram=512, disk=1, vcpus=1, ephemeral=0, swap="")

_ASKED = {
    api.nova: [
        "flavor_list",
        "flavor_get",
        "server_list_paged",
        "server_get",
        "instance_volumes_list",
        "tenant_absolute_limits",
        "is_feature_available",
    ],
    api.glance: ["image_list_detailed"],
    api.cinder: ["volume_list"],
    api.keystone: ["tenant_list", "tenant_get"],
    api.neutron: [
        "floating_ip_simple_associate_supported",
        "floating_ip_supported",
        "server_security_groups",
        "is_extension_supported",
    ],
    api.network: ["servers_update_addresses"],
}


class Stock:
    """The pages of some servers of the fake cloud.

    :param place: where they are: ``/project/instances/``, ``/admin/instances/``.
    """

    def __init__(self, world: World, pages: Pages, place: str) -> None:
        self._world, self._pages, self._place = world, pages, place
        helpers.create_mocks(_ASKED, stop_mock=False)(lambda case: None)(pages.case)
        case = pages.case
        case.mock_flavor_list.return_value = [_FLAVOR]
        case.mock_flavor_get.return_value = _FLAVOR
        case.mock_image_list_detailed.return_value = ([], False, False)
        case.mock_volume_list.return_value = case.mock_instance_volumes_list.return_value = []
        case.mock_tenant_list.return_value = ([], False)
        case.mock_server_security_groups.return_value = []
        case.mock_is_extension_supported.return_value = False
        limits = dict.fromkeys(("maxTotalInstances", "maxTotalCores", "maxTotalRAMSize"), 9999)
        used = dict.fromkeys(("totalInstancesUsed", "totalCoresUsed", "totalRAMUsed"), 1)
        case.mock_tenant_absolute_limits.return_value = limits | used
        case.mock_server_get.side_effect = lambda request, i: _server(world, i, request)

    def list(self, *ids: str, **more: Any) -> Page:
        """Look at the list of instances."""
        self._pages.case.mock_server_list_paged.side_effect = lambda request, **kw: (
            [_server(self._world, i, request) for i in ids],
            False,
            False,
        )
        return self._pages.get(self._place, **more)

    def row(self, server_id: str) -> Page:
        """Have a row updated, as the browser does while a server is busy."""
        query = f"?action=row_update&table=instances&obj_id={server_id}"
        return self._pages.get(self._place + query, headers={"X-Requested-With": "XMLHttpRequest"})

    def details(self, server_id: str, query: str = "") -> Page:
        """Look at an instance."""
        return self._pages.get(f"{self._place}{server_id}/{query}")


def _server(world: World, server_id: str, request: HttpRequest) -> Any:
    found = world.cloud.compute.vms[server_id]
    facts = {
        "id": server_id,
        "name": found.name,
        "status": "ACTIVE",
        "tenant_id": found.project_id,
        "user_id": found.user_id,
        "flavor": {"id": "1"},
        "image": "",
        "addresses": {},
        "metadata": {},
        "created": f"{found.created_at:%Y-%m-%dT%H:%M:%SZ}",
        "OS-EXT-STS:task_state": None,
        "OS-EXT-STS:power_state": 1,
    }
    return api.nova.Server(servers.Server(None, facts), request)
