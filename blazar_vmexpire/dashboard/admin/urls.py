# SPDX-License-Identifier: Apache-2.0
"""The panel's pages."""

from __future__ import annotations

from django.urls import path

from blazar_vmexpire.dashboard.admin import brake, exclusions, forecast, steering, views

urlpatterns = [
    path("", views.IndexView.as_view(), name="index"),
    path("forecast", forecast.ForecastView.as_view(), name="forecast"),
    path("exclusions/", exclusions.ExclusionsView.as_view(), name="exclusions"),
    path("exclusions/add", exclusions.AddView.as_view(), name="exclude"),
    path("brake/", brake.BrakeView.as_view(), name="brake"),
    path("brake/<slug:act>", brake.ChangeView.as_view(), name="change_brake"),
    path("<uuid:server_id>/<slug:act>", steering.SteerView.as_view(), name="steer"),
]
