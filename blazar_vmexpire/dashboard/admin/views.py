# SPDX-License-Identifier: Apache-2.0
"""The page of all projects' instances that expire."""

from __future__ import annotations

import logging
from typing import Any

from django.http import HttpRequest
from django.utils.translation import gettext_lazy
from openstack_dashboard.api import keystone

from blazar_vmexpire.dashboard.admin.tables import VmExpirationsTable
from blazar_vmexpire.dashboard.paging import PagesView
from blazar_vmexpire.dashboard.vms import Vm

LOG = logging.getLogger(__name__)


def project_names(request: HttpRequest) -> dict[str, str]:
    """Return the names of projects by their ids; none if Keystone does not tell."""
    try:
        projects, _more = keystone.tenant_list(request)
        return {project.id: project.name for project in projects}
    except Exception as error:  # noqa: BLE001 - ids will do
        LOG.warning("Projects are shown by their ids: %s", error)
        return {}


class IndexView(PagesView):
    """When instances of all projects end, and what will happen to them."""

    table_class = VmExpirationsTable
    page_title = gettext_lazy("Instance Expirations")

    def get_data(self) -> list[Vm]:
        """Read a page, with the names of projects."""
        found = super().get_data()
        if found:
            names = project_names(self.request)
            column = self.table.columns["project"]
            column.transform = lambda vm: names.get(vm.project_id, vm.project_id)
        return found

    def wanted(self) -> dict[str, Any]:
        """Say to the API which instances are wanted."""
        filters = super().wanted()
        return filters if "project_id" in filters else {**filters, "all_projects": True}
