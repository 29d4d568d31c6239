# SPDX-License-Identifier: Apache-2.0
"""Expiration of forgotten virtual machines, as a plug-in for OpenStack Blazar."""

from __future__ import annotations

#: The resource type of our reservations, and the name of our main option group.
RESOURCE_TYPE = "virtual:vm"
