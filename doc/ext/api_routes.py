# SPDX-License-Identifier: Apache-2.0
"""Sphinx directive ``.. api-routes:: PATH``: our routes below it, as the code declares them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import nested_parse_with_titles

from blazar_vmexpire.api import v1
from blazar_vmexpire.api.routes import Declared


class ApiRoutes(SphinxDirective):
    """Describe each route: what goes in, who may, and the status of its answer."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        lines = [line for route in self._routes() for line in _described(route)]
        node = nodes.section()
        node.document = self.state.document
        nested_parse_with_titles(self.state, StringList(lines, self.get_source_info()[0]), node)
        return list(node.children)

    def _routes(self) -> Iterator[Declared]:
        (wanted,) = self.arguments
        for route in v1.declared():
            if route.path == wanted or route.path.startswith(f"{wanted}/"):
                yield route


def _described(route: Declared) -> Iterator[str]:
    title = f"{route.method} {route.shown_path}"
    yield from (title, "-" * len(title), "", route.summary, "")
    for what, schema in (("query", route.query), ("body", route.body)):
        if schema is not None:
            yield from _table(what, schema)
    rules = ", ".join(f"``{rule}``" for rule in route.rules)
    yield from (f"Rules of the policy: {rules}. Status: {route.status}.", "")


def _table(what: str, schema: Mapping[str, Any]) -> Iterator[str]:
    required = schema.get("required", ())
    yield from (".. list-table::", "   :header-rows: 1", "   :widths: 20 20 60", "")
    yield from (f"   * - In the {what}", "     - Type", "     - Meaning")
    for name, of in schema["properties"].items():
        yield f"   * - ``{name}``{', required' if name in required else ''}"
        yield f"     - {_kind(of)}"
        yield f"     - {of.get('description', '')}"
    yield ""


def _kind(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(f"``{value}``" for value in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(_kind(part) for part in schema["anyOf"])
    kind = schema.get("type", "")
    if kind == "integer" and "maximum" in schema:
        return f"integer, {schema['minimum']} to {schema['maximum']}"
    return str(kind)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("api-routes", ApiRoutes)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
