# SPDX-License-Identifier: Apache-2.0
"""What Django starts."""

from __future__ import annotations

from django.apps import AppConfig

from blazar_vmexpire.dashboard import settings


class DashboardConfig(AppConfig):
    """Our application, under a name that no other one in Horizon has."""

    name = "blazar_vmexpire.dashboard"
    label = "vmexpire"
    verbose_name = "Expiration of instances"

    def ready(self) -> None:
        """Put our column and our action into Horizon's own tables, unless that is switched off."""
        if settings.get("instances_table"):
            # Horizon's views cannot be imported before all applications are known.
            from blazar_vmexpire.dashboard import stock

            stock.extend_pages()
