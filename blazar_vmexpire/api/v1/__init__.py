# SPDX-License-Identifier: Apache-2.0
"""Our routes, one module for each kind of thing that they are about."""

from __future__ import annotations

import flask
from oslo_config import cfg

from blazar_vmexpire.api import policies
from blazar_vmexpire.api.reading import Reading
from blazar_vmexpire.api.routes import Declared
from blazar_vmexpire.api.v1 import brake, exclusions, vm_expirations

_PARTS = (vm_expirations.routes, exclusions.routes, brake.routes)


def get_rest() -> flask.Blueprint:
    """Return the routes: what blazar-api finds by its entry point."""
    return _ALL


def declared() -> list[Declared]:
    """List the routes, as they were declared."""
    return [route for part in _PARTS for route in part.declared]


def _prepare(state: flask.blueprints.BlueprintSetupState) -> None:
    policies.register()
    Reading(cfg.CONF).belong_to(state.app)


_ALL = flask.Blueprint("vm_expiration_v1_0", __name__, url_prefix="/v1")
for _part in _PARTS:
    _ALL.register_blueprint(_part)
_ALL.record(_prepare)
