# SPDX-License-Identifier: Apache-2.0
"""Applying the rules of the policy, the same way to what is read and to what is changed."""

from __future__ import annotations

from typing import Any

from blazar import context as blazar_context
from blazar import exceptions
from blazar import policy as blazar_policy

from blazar_vmexpire import extension
from blazar_vmexpire.db.api import Expiration


def asking() -> Any:
    """Return the context of who asks: the bottom of Blazar's stack; above it is the service."""
    stack = getattr(blazar_context.BlazarContext._context_stack, "stack", None)
    return stack[0] if stack else blazar_context.current()


def caller() -> extension.Caller:
    """Say who asks."""
    context = asking()
    return extension.Caller(
        user_id=context.user_id,
        project_id=context.project_id,
        request_id=context.request_id,
        is_admin=bool(blazar_policy.enforce(context, "admin", {}, do_raise=False)),
    )


def may(context: Any, rule: str, project_id: str | None, user_id: str | None = None) -> bool:
    """Say whether a rule lets the caller do something that concerns a project.

    :param context: the caller's, a ``BlazarContext``.
    :param project_id: None: nobody knows of which project it is, so it is nobody's.
    :param user_id: of the one VM that it concerns.
    """
    target = {"project_id": project_id or "", "user_id": user_id or ""}
    return bool(blazar_policy.enforce(context, rule, target, do_raise=False))


def require(context: Any, rule: str, project_id: str | None = None) -> None:
    """See that a rule lets the caller do something that is no single VM's matter.

    :param project_id: None: it concerns the whole cloud.
    :raises blazar.exceptions.PolicyNotAuthorized: it does not.
    """
    if not may(context, rule, project_id):
        raise exceptions.PolicyNotAuthorized(action=rule)


def authorize(context: Any, rule: str, row: Expiration | None, server_id: str) -> Expiration:
    """Apply a rule to a VM; a stranger is told nothing.

    :param row: the VM's; None: there is none.
    :returns: the row.
    :raises extension.NotFound: there is no such VM, or the caller is of another project.
    :raises blazar.exceptions.PolicyNotAuthorized: they are of the VM's project.
    """
    if row is None:
        raise extension.NotFound(server_id)
    if may(context, rule, row.project_id, row.user_id):
        return row
    if row.project_id is None or context.project_id != row.project_id:
        raise extension.NotFound(server_id)
    raise exceptions.PolicyNotAuthorized(action=rule)
