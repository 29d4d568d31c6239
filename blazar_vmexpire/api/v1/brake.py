# SPDX-License-Identifier: Apache-2.0
"""The routes of ``/v1/vm-expiration-brake``."""

from __future__ import annotations

import flask
from blazar import utils as blazar_utils
from blazar.api.v1 import utils

from blazar_vmexpire.api import access, policies, rpc, views
from blazar_vmexpire.api.routes import Call, Routes
from blazar_vmexpire.api.schemas import brake as schemas

routes = Routes("vm_expiration_brake", __name__, "/vm-expiration-brake")

_manager = blazar_utils.LazyProxy(rpc.ManagerRPCAPI)


@routes.serve("GET", "", rules=(policies.SHOW_BRAKE,), answer=schemas.BRAKE)
def show_brake(call: Call) -> flask.Response:
    """Show how the brake stands, and what would go if it were released."""
    access.require(call.context, policies.SHOW_BRAKE)
    reading = call.reading
    with reading.begin() as connection:
        found = views.brake(reading.brake, connection, reading.clock())
    return utils.render(vm_expiration_brake=found)  # type: ignore[no-any-return]


@routes.serve("POST", "", rules=(policies.CHANGE_BRAKE,), body=schemas.CHANGE, answer=schemas.BRAKE)
def change_brake(call: Call) -> flask.Response:
    """Trip the brake: all that cannot be undone stops. Or release it: it goes on, at its pace."""
    found = _manager.ask("change_brake", action=call.body["action"], reason=call.body["reason"])
    return utils.render(vm_expiration_brake=found)  # type: ignore[no-any-return]
