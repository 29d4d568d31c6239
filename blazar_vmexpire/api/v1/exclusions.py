# SPDX-License-Identifier: Apache-2.0
"""The routes of ``/v1/vm-expiration-exclusions``."""

from __future__ import annotations

import flask
from blazar import exceptions
from blazar import utils as blazar_utils
from blazar.api.v1 import utils

from blazar_vmexpire import exclusions, extension
from blazar_vmexpire.api import access, policies, rpc, views
from blazar_vmexpire.api.routes import Call, Routes
from blazar_vmexpire.api.schemas import exclusions as schemas

routes = Routes("vm_expiration_exclusions", __name__, "/vm-expiration-exclusions")

_manager = blazar_utils.LazyProxy(rpc.ManagerRPCAPI)

#: Digits of an id that every database takes.
_LONGEST_ID = 18


@routes.serve(
    "GET",
    "",
    rules=(policies.LIST_EXCLUSIONS,),
    query=schemas.LIST,
    answer=schemas.EXCLUSIONS,
)
def list_exclusions(call: Call) -> flask.Response:
    """List who is left out, by whom and why, oldest first."""
    access.require(call.context, policies.LIST_EXCLUSIONS)
    now = call.reading.clock()
    with call.reading.begin() as connection:
        found = exclusions.listed(connection)
    return utils.render(  # type: ignore[no-any-return]
        vm_expiration_exclusions=[
            views.exclusion(exclusion)
            for exclusion in found
            if (call.query.get("all") or exclusion.applies(now))
            and call.query.get("kind") in (None, exclusion.kind)
            and call.query.get("value") in (None, exclusion.value)
        ]
    )


@routes.serve(
    "POST",
    "",
    rules=(policies.EXCLUDE,),
    body=schemas.CREATE,
    answer=schemas.EXCLUSION,
    status=201,
)
def create_exclusion(call: Call) -> flask.Response:
    """Leave out a domain, a project, a user, a flavor, or a VM: what they have is let go of."""
    expires_at = call.body.get("expires_at")
    if expires_at is not None:
        expires_at = f"{extension.parse_date(expires_at, 'expires_at'):%Y-%m-%d %H:%M}"
    found = _manager.ask(
        "exclude",
        kind=call.body["kind"],
        value=call.body["value"],
        reason=call.body["reason"],
        expires_at=expires_at,
    )
    return utils.render(vm_expiration_exclusion=found)  # type: ignore[no-any-return]


@routes.serve(
    "DELETE", "/<exclusion_id>", rules=(policies.INCLUDE,), query=schemas.DELETE, status=204
)
def delete_exclusion(call: Call, exclusion_id: str) -> flask.Response:
    """Take an exclusion back: VMs that nothing else leaves out begin a full first term."""
    if not (exclusion_id.isascii() and exclusion_id.isdecimal()) or (
        len(exclusion_id) > _LONGEST_ID
    ):
        access.require(call.context, policies.INCLUDE)
        raise exceptions.NotFound(f"no exclusion {exclusion_id[:40]} could be found")
    _manager.ask("include", exclusion_id=int(exclusion_id), reason=call.query.get("reason"))
    return flask.Response(status=204)
