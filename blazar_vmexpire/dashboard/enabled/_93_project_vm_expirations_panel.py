# SPDX-License-Identifier: Apache-2.0
"""Project > Reservations > Instance Expiration, and what it adds to Horizon's own pages."""

ADD_INSTALLED_APPS = ["blazar_vmexpire.dashboard"]

PANEL = "vm_expirations"
PANEL_GROUP = "reservations"
PANEL_DASHBOARD = "project"
ADD_PANEL = "blazar_vmexpire.dashboard.project.panel.InstanceExpiration"

EXTRA_TABS = {
    f"openstack_dashboard.dashboards.{group}": ("blazar_vmexpire.dashboard.tab.ExpirationTab",)
    for group in (
        "project.instances.tabs.InstanceDetailTabs",
        "admin.instances.tabs.AdminInstanceDetailTabs",
    )
}
