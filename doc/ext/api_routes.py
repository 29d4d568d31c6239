# SPDX-License-Identifier: Apache-2.0
"""Sphinx directive ``.. api-routes:: PATH``: our routes below it, as the code declares them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import nested_parse_with_titles

from blazar_vmexpire.api import v1
from blazar_vmexpire.api.routes import Declared

#: What is asked and answered, one file a route.
_SAMPLES = Path(__file__).parents[1] / "source" / "user" / "samples"


class ApiRoutes(SphinxDirective):
    """Describe each route: what goes in, who may, and a sample of what is answered."""

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
    sample = json.loads((_SAMPLES / f"{route.name}.json").read_text())
    yield from _block("text", sample["request"])
    for what in ("body", "answer"):
        if sample.get(what) is not None:
            yield from _block("json", json.dumps(sample[what], indent=2, ensure_ascii=False))


def _block(language: str, text: str) -> Iterator[str]:
    yield from (f".. code-block:: {language}", "")
    yield from (f"   {line}" for line in text.splitlines())
    yield ""


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
