# SPDX-License-Identifier: Apache-2.0
"""What other programs can see of the service: its metrics, and whether it is well."""

from blazar_vmexpire.monitoring.endpoint import Endpoint
from blazar_vmexpire.monitoring.gauges import Gauges
from blazar_vmexpire.monitoring.health import Health

__all__ = ["Endpoint", "Gauges", "Health"]
