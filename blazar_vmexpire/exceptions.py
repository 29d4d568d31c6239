# SPDX-License-Identifier: Apache-2.0
"""Errors of our own that more than one module deals with."""

from __future__ import annotations


class ConfigError(Exception):
    """An option is wrong, or two options contradict each other: the service must not start."""


class ClaimLost(Exception):
    """Somebody else changed or took over the VM's row meanwhile: what was being done is off."""


class LeaseBusy(Exception):
    """The lease cannot be changed at this moment: Blazar, or a reader of it, is at work on it."""


class ActionFailed(Exception):
    """An action cannot be done, and trying again would not help.

    :param reason: what is wrong, for the operator.
    :param remedy: what the operator can do about it.
    """

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}; {remedy}")
        self.reason = reason
        self.remedy = remedy
