# SPDX-License-Identifier: Apache-2.0
"""Rules for ``/v1/vm-expiration-brake``."""

from __future__ import annotations

from blazar.policies import base
from oslo_policy import policy

SHOW_BRAKE = "blazar:vm_expiration_brake:show"
CHANGE_BRAKE = "blazar:vm_expiration_brake:change"

RULES = (
    policy.DocumentedRuleDefault(
        name=SHOW_BRAKE,
        check_str=base.RULE_ADMIN,
        description="Show how the brake stands, and what would go.",
        operations=[{"path": "/v1/vm-expiration-brake", "method": "GET"}],
        scope_types=["project"],
    ),
    policy.DocumentedRuleDefault(
        name=CHANGE_BRAKE,
        check_str=base.RULE_ADMIN,
        description="Trip the brake, or release it.",
        operations=[{"path": "/v1/vm-expiration-brake", "method": "POST"}],
        scope_types=["project"],
    ),
)
