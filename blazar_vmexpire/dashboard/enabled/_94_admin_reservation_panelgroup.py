# SPDX-License-Identifier: Apache-2.0
"""The group Admin > Reservations, the same as blazar-dashboard has."""

from django.utils.translation import gettext_lazy as _

PANEL_GROUP = "reservation"
PANEL_GROUP_NAME = _("Reservations")
PANEL_GROUP_DASHBOARD = "admin"
