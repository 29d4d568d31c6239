# SPDX-License-Identifier: Apache-2.0
"""Admin > Reservations > Instance Expirations."""

PANEL = "vm_expirations"
PANEL_GROUP = "reservation"
PANEL_DASHBOARD = "admin"
ADD_PANEL = "blazar_vmexpire.dashboard.admin.panel.InstanceExpirations"
