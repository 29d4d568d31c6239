# SPDX-License-Identifier: Apache-2.0
"""The routes of ``/v1/vm-expirations``."""

from __future__ import annotations

import uuid
from typing import Any

import flask
from blazar import exceptions
from blazar import utils as blazar_utils
from blazar.api.v1 import utils
from oslo_utils import uuidutils

from blazar_vmexpire import extension
from blazar_vmexpire.api import requests, rpc, schemas
from blazar_vmexpire.api.schemas import vm_expirations

rest = utils.Rest("vm_expirations_v1_0", __name__, url_prefix="/v1/vm-expirations")
rest.before_request(requests.prepare)

_manager = blazar_utils.LazyProxy(rpc.ManagerRPCAPI)


def get_rest() -> utils.Rest:
    """Return the routes: what blazar-api finds by its entry point."""
    return rest


@rest.post("/<server_id>/extend", status_code=200)  # type: ignore[untyped-decorator]
def extend(request: flask.Request, server_id: str, data: Any) -> flask.Response:
    """Give a VM a later end, and give it back if anything was done to it."""
    schemas.check(data, vm_expirations.EXTEND)
    end_date = data.get("end_date")
    try:
        if end_date is not None:
            end_date = f"{extension.parse_date(end_date):%Y-%m-%d %H:%M}"
        if not uuidutils.is_uuid_like(server_id):
            raise extension.NotFound(server_id)
    except extension.NotAllowed as error:
        raise exceptions.InvalidInput(str(error)) from error
    except extension.NotFound as error:
        raise exceptions.NotFound(str(error)) from error
    found = _manager.extend(str(uuid.UUID(server_id)), end_date)
    return utils.render(vm_expiration=found)  # type: ignore[no-any-return]
