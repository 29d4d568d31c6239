# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI document is true: it is tried against the API by requests that are made from it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import strategies as st
from schemathesis import checks
from schemathesis.specs.openapi import checks as openapi_checks

from blazar_vmexpire.api import openapi, v1
from tests.functional.world import World

pytestmark = pytest.mark.databases("sqlite")

WRITTEN = Path(__file__).parents[2] / "doc" / "source" / "_static" / "openapi.json"

CHECKS = [
    checks.not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_schema_conformance,
    openapi_checks.negative_data_rejection,
]

Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


def test_the_document_in_the_documentation_is_that_of_the_code() -> None:
    """Renew it: python -m blazar_vmexpire.api.openapi > doc/source/_static/openapi.json."""
    assert WRITTEN.read_text() == openapi.text()


def test_the_document_has_every_route_with_its_rules() -> None:
    document = json.loads(WRITTEN.read_text())
    found = {
        (method.upper(), path): operation["x-policy-rules"]
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }
    assert found == {(r.method, r.shown_path): list(r.rules) for r in v1.declared()}


def _try(world: World, name: str, settings: hypothesis.settings) -> None:
    """Send requests to a route, as an administrator: right ones, and wrong ones."""
    document = schemathesis.openapi.from_dict(
        {key: value for key, value in openapi.document().items() if key != "security"}
    )
    (operation,) = [
        found.ok()
        for found in document.get_all_operations()
        if found.ok().definition.raw["operationId"] == name
    ]
    known = [world.adopt(f"vm{n}") for n in range(3)]
    api = world.as_admin
    statuses = set()

    @hypothesis.settings(settings, suppress_health_check=list(hypothesis.HealthCheck))
    @hypothesis.given(data=st.data())
    def requests(data: st.DataObject) -> None:
        mode = data.draw(st.sampled_from(list(schemathesis.GenerationMode)))
        case = data.draw(operation.as_strategy(generation_mode=mode))
        expected = CHECKS
        if "server_id" in operation.path and data.draw(st.booleans()):
            case.path_parameters["server_id"] = data.draw(st.sampled_from(known))
            # It may have been that which was wrong.
            expected = [c for c in CHECKS if c is not openapi_checks.negative_data_rejection]
        response = case.call(
            app=_from_somewhere(api._application),
            base_url="http://localhost",
            headers={"X-Auth-Token": api._token},
        )
        statuses.add(response.status_code)
        case.validate_response(response, checks=expected)

    requests()
    assert statuses & {200, 201, 202, 204, 404}, statuses


def _from_somewhere(application: Application) -> Application:
    """Say where requests come from, as every WSGI server does: Blazar's log wants to know."""

    def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        return application({"REMOTE_ADDR": "192.0.2.1", **environ}, start_response)

    return answer


ROUTES = pytest.mark.parametrize("name", [route.name for route in v1.declared()])


@pytest.mark.sampled(1)
@ROUTES
def test_every_route_does_what_the_document_says(world: World, name: str) -> None:
    """The same requests each time."""
    settings = hypothesis.settings(max_examples=40, derandomize=True, database=None, deadline=None)
    _try(world, name, settings)


@pytest.mark.long
@ROUTES
def test_every_route_does_what_the_document_says_whatever_is_asked(world: World, name: str) -> None:
    """Other requests each time, and more of them."""
    _try(world, name, hypothesis.settings(max_examples=1000, database=None, deadline=None))
