# SPDX-License-Identifier: Apache-2.0
"""Rules for ``/v1/vm-expiration-exclusions``."""

from __future__ import annotations

from blazar.policies import base
from oslo_policy import policy

LIST_EXCLUSIONS = "blazar:vm_expiration_exclusions:list"
EXCLUDE = "blazar:vm_expiration_exclusions:create"
INCLUDE = "blazar:vm_expiration_exclusions:delete"

RULES = (
    policy.DocumentedRuleDefault(
        name=LIST_EXCLUSIONS,
        check_str=base.RULE_ADMIN,
        description="List who is left out, by whom and why.",
        operations=[{"path": "/v1/vm-expiration-exclusions", "method": "GET"}],
        scope_types=["project"],
    ),
    policy.DocumentedRuleDefault(
        name=EXCLUDE,
        check_str=base.RULE_ADMIN,
        description="Leave out a domain, a project, a user, a flavor, or a server.",
        operations=[{"path": "/v1/vm-expiration-exclusions", "method": "POST"}],
        scope_types=["project"],
    ),
    policy.DocumentedRuleDefault(
        name=INCLUDE,
        check_str=base.RULE_ADMIN,
        description="Take an exclusion back.",
        operations=[{"path": "/v1/vm-expiration-exclusions/{exclusion_id}", "method": "DELETE"}],
        scope_types=["project"],
    ),
)
