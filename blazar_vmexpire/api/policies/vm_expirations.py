# SPDX-License-Identifier: Apache-2.0
"""Rules for ``/v1/vm-expirations``."""

from __future__ import annotations

from blazar.policies import base
from oslo_policy import policy

LIST = "blazar:vm_expirations:list"
LIST_ALL = "blazar:vm_expirations:list_all"
SHOW = "blazar:vm_expirations:show"
HISTORY = "blazar:vm_expirations:history"
EXTEND = "blazar:vm_expirations:extend"
HOLD = "blazar:vm_expirations:hold"
UPDATE = "blazar:vm_expirations:update"
EXPIRE_NOW = "blazar:vm_expirations:expire_now"
ADOPT = "blazar:vm_expirations:adopt"

_STRANGERS = (
    " The project is the server's. Whoever may not, and is not of that project, is told that there"
    " is no such server."
)

RULES = (
    policy.DocumentedRuleDefault(
        name=LIST,
        # As for Blazar's own leases.
        check_str=base.PROJECT_READER_OR_ADMIN,
        description="List and count a project's servers that expire.",
        operations=[
            {"path": "/v1/vm-expirations", "method": "GET"},
            {"path": "/v1/vm-expirations/summary", "method": "GET"},
        ],
        scope_types=["project"],
    ),
    policy.DocumentedRuleDefault(
        name=LIST_ALL,
        check_str=base.RULE_ADMIN,
        description="List and count the servers of all projects (``all_projects``).",
        operations=[
            {"path": "/v1/vm-expirations", "method": "GET"},
            {"path": "/v1/vm-expirations/summary", "method": "GET"},
        ],
        scope_types=["project"],
    ),
    policy.DocumentedRuleDefault(
        name=SHOW,
        check_str=base.PROJECT_READER_OR_ADMIN,
        description="Show a server's expiration." + _STRANGERS,
        operations=[{"path": "/v1/vm-expirations/{server_id}", "method": "GET"}],
        scope_types=["project"],
    ),
    policy.DocumentedRuleDefault(
        name=HISTORY,
        check_str=base.PROJECT_READER_OR_ADMIN,
        description=(
            "Show what happened to a server, also to one that is gone: as far as it happened while"
            " it was of a project for which the rule holds."
        ),
        operations=[{"path": "/v1/vm-expirations/{server_id}/history", "method": "GET"}],
        scope_types=["project"],
    ),
    policy.DocumentedRuleDefault(
        name=EXTEND,
        # As for the update of a lease, which does the same.
        check_str=base.PROJECT_MEMBER_OR_ADMIN,
        description=(
            "Give a server a later end, and give it back if it was stopped and locked." + _STRANGERS
        ),
        operations=[
            {"path": "/v1/vm-expirations/{server_id}/extend", "method": "POST"},
            {"path": "/v1/vm-expirations/extend", "method": "POST"},
        ],
        scope_types=["project"],
    ),
    policy.DocumentedRuleDefault(
        name=HOLD,
        check_str=f"(role:manager and project_id:%(project_id)s) or {base.RULE_ADMIN}",
        description=(
            "Hold a server (its clock stops for a while), and release it (``hold``)." + _STRANGERS
        ),
        operations=[{"path": "/v1/vm-expirations/{server_id}", "method": "PATCH"}],
        scope_types=["project"],
    ),
    policy.DocumentedRuleDefault(
        name=UPDATE,
        check_str=base.RULE_ADMIN,
        description=(
            "Move the end of a server beyond any limit (``ends_at``), leave it out (``exempt``),"
            " and set what is done to it at its end (``on_end_action``)." + _STRANGERS
        ),
        operations=[{"path": "/v1/vm-expirations/{server_id}", "method": "PATCH"}],
        scope_types=["project"],
    ),
    policy.DocumentedRuleDefault(
        name=EXPIRE_NOW,
        check_str=base.RULE_ADMIN,
        description=(
            "Have a server end as soon as its owner has had notice, or at once (``force``)."
            + _STRANGERS
        ),
        operations=[{"path": "/v1/vm-expirations/{server_id}/expire-now", "method": "POST"}],
        scope_types=["project"],
    ),
    policy.DocumentedRuleDefault(
        name=ADOPT,
        check_str=base.RULE_ADMIN,
        description="Have a server looked at now, and taken in if it is to be.",
        operations=[{"path": "/v1/vm-expirations", "method": "POST"}],
        scope_types=["project"],
    ),
)
