# SPDX-License-Identifier: Apache-2.0
"""The page of the project's instances that expire."""

from __future__ import annotations

from django.utils.translation import gettext_lazy

from blazar_vmexpire.dashboard.paging import PagesView
from blazar_vmexpire.dashboard.project.tables import VmExpirationsTable


class IndexView(PagesView):
    """When the project's instances end, and what will happen to them."""

    table_class = VmExpirationsTable
    page_title = gettext_lazy("Instance Expiration")
