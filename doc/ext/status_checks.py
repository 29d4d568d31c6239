# SPDX-License-Identifier: Apache-2.0
"""Sphinx directive ``.. status-checks::``: what ``blazar-vmexpire-status`` looks at, and why."""

from __future__ import annotations

from collections.abc import Iterator

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from blazar_vmexpire.cmd import status


class StatusChecks(SphinxDirective):
    """List the checks as the code has them."""

    def run(self) -> list[nodes.Node]:
        return self.parse_text_to_nodes("\n".join(_lines()))


def _lines() -> Iterator[str]:
    for check in status.CHECKS:
        yield from (check.title, f"   It matters because {check.why}.", "")
        yield from (f"   What would be right: {check.right}.", "")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("status-checks", StatusChecks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
