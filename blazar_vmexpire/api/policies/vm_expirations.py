# SPDX-License-Identifier: Apache-2.0
"""Rules for ``/v1/vm-expirations``."""

from __future__ import annotations

from blazar.policies import base
from oslo_policy import policy

EXTEND = "blazar:vm_expirations:extend"

RULES = (
    policy.DocumentedRuleDefault(
        name=EXTEND,
        # As for the update of a lease, which does the same.
        check_str=base.PROJECT_MEMBER_OR_ADMIN,
        description=(
            "Give a server a later end, and give it back if it was stopped and locked."
            " The project is the server's. Whoever may not, and is not of that project, is told"
            " that there is no such server."
        ),
        operations=[{"path": "/v1/vm-expirations/{server_id}/extend", "method": "POST"}],
        scope_types=["project"],
    ),
)
