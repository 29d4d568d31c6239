# SPDX-License-Identifier: Apache-2.0
"""The panel's pages."""

from __future__ import annotations

from django.urls import path

from blazar_vmexpire.dashboard.extending import ExtendView
from blazar_vmexpire.dashboard.project.views import IndexView

urlpatterns = [
    path("", IndexView.as_view(), name="index"),
    path("<uuid:server_id>/extend", ExtendView.as_view(), name="extend"),
]
