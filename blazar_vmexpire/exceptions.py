# SPDX-License-Identifier: Apache-2.0
"""Errors of our own that more than one module deals with."""

from __future__ import annotations

import datetime


class ConfigError(Exception):
    """An option is wrong, or two options contradict each other: the service must not start."""


class ClaimLost(Exception):
    """Somebody else changed or took over the VM's row meanwhile: what was being done is off."""


class LeaseBusy(Exception):
    """The lease cannot be changed at this moment: Blazar, or a reader of it, is at work on it."""


class Braked(Exception):
    """The brake holds back what would have been done next.

    :param reason: why, for the log.
    :param until: when to ask again, naive UTC.
    """

    def __init__(self, reason: str, until: datetime.datetime) -> None:
        super().__init__(f"{reason}; it waits until {until:%Y-%m-%d %H:%M:%S} UTC at least")
        self.until = until


class ActionFailed(Exception):
    """An action cannot be done, and trying again would not help.

    :param reason: what is wrong, for the operator.
    :param remedy: what the operator can do about it.
    """

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}; {remedy}")
        self.reason = reason
        self.remedy = remedy
