# SPDX-License-Identifier: Apache-2.0
"""Our column and our actions in Horizon's own tables of instances.

Horizon has no way to register these. So its tables are replaced by subclasses of them; if a later
version of Horizon has other tables, that is logged, and they stay as they are. A page of Horizon's
waits for our API no longer than ``instances_timeout``, and is shown whatever becomes of that.
"""

from __future__ import annotations

import logging
from typing import Any

from django.http import HttpRequest
from django.utils.translation import gettext_lazy
from horizon import tables
from openstack_dashboard.dashboards.admin.instances import tables as admin_tables
from openstack_dashboard.dashboards.admin.instances import views as admin_views
from openstack_dashboard.dashboards.project.instances import tables as project_tables
from openstack_dashboard.dashboards.project.instances import tabs as project_tabs
from openstack_dashboard.dashboards.project.instances import views as project_views

from blazar_vmexpire.dashboard import actions, api, wording
from blazar_vmexpire.dashboard.vms import Vm

LOG = logging.getLogger(__name__)

#: At this place among the actions of a row: near the top, but never the button that stands out.
_PLACE = 4


#: Of an instance's overview, as Horizon has it.
_OVERVIEW = "project/instances/_detail_overview.html"


def extend_pages() -> None:
    """Replace the tables of instances, of projects and of administrators; warn in the overview."""
    if project_tabs.OverviewTab.template_name == _OVERVIEW:
        project_tabs.OverviewTab.template_name = "vmexpire/_overview.html"
    else:
        LOG.error("Horizon's overview of an instance stays as it is, without a warning")
    for view, module, name, all_projects in (
        (project_views.IndexView, project_tables, "InstancesTable", False),
        (admin_views.AdminIndexView, admin_tables, "AdminInstancesTable", True),
    ):
        try:
            table = _extended(getattr(module, name), all_projects)
            if not issubclass(view.table_class, getattr(module, name)):
                raise TypeError(f"{view.__name__} has another table than {name}")
        except Exception:
            LOG.exception("Horizon's %s stays as it is, without the expiration", name)
            continue
        setattr(module, name, table)
        view.table_class = table


class _ExpiresColumn(tables.Column):
    """When an instance ends."""

    def get_raw_data(self, datum: Any) -> str:
        """Write it, whatever happens."""
        try:
            # Of all on the page at once. A row that is updated by itself is on no page.
            shown = [datum.id, *(instance.id for instance in self.table.data or ())]
            known = api.known(self.table.request, shown, all_projects=self.table.all_projects)
            if known is None:
                return wording.unknown()
            vm = known.get(datum.id)
            return wording.NOTHING if vm is None else wording.ends(vm)
        except Exception:
            LOG.exception("The end of instance %s cannot be shown", datum.id)
            return wording.unknown()


class _OfInstance:
    """An action of ours in a row that shows an instance."""

    table: Any

    def vm(self, request: HttpRequest, datum: Any) -> Vm | None:
        """Return what is known of the instance; mostly the column has asked already."""
        all_projects = self.table.all_projects
        return (api.known(request, [datum.id], all_projects=all_projects) or {}).get(datum.id)


class ExtendInstance(_OfInstance, actions.Extend):
    """Extend one instance."""

    name = "extend_expiration"


class RestoreInstance(_OfInstance, actions.Restore):
    """Give back one instance to which something was done because its end is near."""

    name = "restore_expiration"


def _extended(base: Any, view_all: bool) -> Any:
    """Make a table like another one, with our column and our actions."""
    before = base.Meta.row_actions

    class Extended(base):
        all_projects = view_all
        expires = _ExpiresColumn("expires", verbose_name=gettext_lazy("Expires"))

        class Meta(base.Meta):
            row_actions = (*before[:_PLACE], ExtendInstance, RestoreInstance, *before[_PLACE:])

    return Extended
