# SPDX-License-Identifier: Apache-2.0
"""Sphinx directive ``.. sample-mail:: KIND``: a notice as the built-in templates word it."""

from __future__ import annotations

import dataclasses

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from blazar_vmexpire.notices import render, samples


class SampleMail(SphinxDirective):
    """Render one kind of notice with made-up facts."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        kind = self.arguments[0]
        facts = {"kind": kind}
        if kind == "ended":
            facts |= {"image_id": "1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed", "image_name": "web-1"}
        if kind == render.DIGEST:
            worded = render.Renderer().render_digest(samples.digest())
        else:
            worded = render.Renderer().render(dataclasses.replace(samples.REMINDER, **facts))
        text = f"Subject: {worded.subject}\n\n{worded.text}"
        return [nodes.literal_block(text, text, language="none")]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("sample-mail", SampleMail)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
