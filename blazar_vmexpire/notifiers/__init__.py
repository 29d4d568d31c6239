# SPDX-License-Identifier: Apache-2.0
"""Telling other programs what happens to VMs: by the message bus, by a webhook, by an operator's
own plug-in. How that is done without holding anything up is in ``worker.publishing``.
"""

from blazar_vmexpire.notifiers.base import (
    NAMESPACE,
    NotDelivered,
    Notification,
    Notifier,
    Rejected,
    load,
)
from blazar_vmexpire.notifiers.payload import make

__all__ = [
    "NAMESPACE",
    "NotDelivered",
    "Notification",
    "Notifier",
    "Rejected",
    "load",
    "make",
]
