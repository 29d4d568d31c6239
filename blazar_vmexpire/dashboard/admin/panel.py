# SPDX-License-Identifier: Apache-2.0
"""The panel, as Horizon's menu has it."""

from __future__ import annotations

import horizon
from django.utils.translation import gettext_lazy


class InstanceExpirations(horizon.Panel):
    """When instances of all projects end, and what administrators do about it."""

    name = gettext_lazy("Instance Expirations")
    slug = "vm_expirations"
    permissions = ("openstack.services.reservation",)
