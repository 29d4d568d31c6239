# SPDX-License-Identifier: Apache-2.0
"""The panel, as Horizon's menu has it."""

from __future__ import annotations

import horizon
from django.utils.translation import gettext_lazy


class InstanceExpiration(horizon.Panel):
    """When the project's instances end."""

    name = gettext_lazy("Instance Expiration")
    slug = "vm_expirations"
    permissions = ("openstack.services.reservation",)
