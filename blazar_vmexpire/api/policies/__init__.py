# SPDX-License-Identifier: Apache-2.0
"""Who may do what, as rules of oslo.policy in Blazar's own enforcer.

What is read is authorized in blazar-api. What is changed is authorized in blazar-manager, in the
transaction that changes it: a rule is about the project of the VM, which only its row tells. So an
operator's ``policy.yaml`` has to be in both places.
"""

from __future__ import annotations

from blazar import policy as blazar_policy
from oslo_policy import policy

from blazar_vmexpire.api.policies import brake, exclusions, vm_expirations
from blazar_vmexpire.api.policies.brake import CHANGE_BRAKE, SHOW_BRAKE
from blazar_vmexpire.api.policies.exclusions import EXCLUDE, INCLUDE, LIST_EXCLUSIONS
from blazar_vmexpire.api.policies.vm_expirations import (
    ADOPT,
    EXPIRE_NOW,
    EXTEND,
    HISTORY,
    HOLD,
    LIST,
    LIST_ALL,
    SHOW,
    UPDATE,
)

__all__ = [
    "ADOPT",
    "CHANGE_BRAKE",
    "EXCLUDE",
    "EXPIRE_NOW",
    "EXTEND",
    "HISTORY",
    "HOLD",
    "INCLUDE",
    "LIST",
    "LIST_ALL",
    "LIST_EXCLUSIONS",
    "SHOW",
    "SHOW_BRAKE",
    "UPDATE",
    "list_rules",
    "register",
]


def list_rules() -> list[policy.DocumentedRuleDefault]:
    """List our rules: what ``oslo.policy.policies`` finds."""
    return [*vm_expirations.RULES, *exclusions.RULES, *brake.RULES]


def register() -> None:
    """Make our rules known to Blazar's enforcer in this process; further calls do nothing.

    To be called before anything is enforced in other threads.
    """
    blazar_policy.init()
    enforcer = blazar_policy._ENFORCER
    for rule in list_rules():
        if rule.name not in enforcer.registered_rules:
            enforcer.register_default(rule)
