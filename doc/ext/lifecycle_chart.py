# SPDX-License-Identifier: Apache-2.0
"""Sphinx directives that draw the automaton of ``blazar_vmexpire.lifecycle``.

``.. lifecycle-chart::`` is an SVG with a column for each state and a row for each event: from every
state where the event can happen, a line goes to the state that it leads to.
``.. lifecycle-states::`` is a table of the states with the docstrings that they have in the code.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective

from blazar_vmexpire import lifecycle

#: ``(start, event, end)``
Transition = tuple[str, str, str]

_LEFT, _TOP, _COLUMN, _ROW, _RADIUS = 110, 44, 92, 34, 5
_STYLE = (
    ".lane{stroke:#bbb;stroke-width:1}.line{stroke:#2a4e68;stroke-width:1.6;fill:none}"
    ".start{fill:#2a4e68}.stay{fill:#fff;stroke:#2a4e68;stroke-width:1.6}.end{fill:#2a4e68}"
    ".band{fill:#888;fill-opacity:.09}text{font:13px sans-serif;fill:#333}.state{font-weight:bold}"
)


def rows(transitions: Iterable[Transition]) -> Mapping[tuple[str, str], Sequence[str]]:
    """Group transitions by event and the state that it leads to, in the order they come in."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for start, event, end in transitions:
        found[event, end].append(start)
    return found


def svg(states: Sequence[str], transitions: Sequence[Transition]) -> str:
    """Draw the chart. Each transition is an element of its own, with its names in ``data-*``."""
    x = {state: _LEFT + _COLUMN * number + _COLUMN // 2 for number, state in enumerate(states)}
    grouped = rows(transitions)
    width, height = _LEFT + _COLUMN * len(states), _TOP + _ROW * len(grouped) + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"'
        ' aria-label="States and events of the expiration of a VM" style="max-width:100%">',
        f"<style>{_STYLE}</style>",
    ]
    for state in states:
        parts.append(
            f'<text class="state" x="{x[state]}" y="24" text-anchor="middle">{escape(state)}</text>'
            f'<line class="lane" x1="{x[state]}" x2="{x[state]}" y1="32" y2="{height - 8}"/>'
        )
    for number, ((event, end), starts) in enumerate(grouped.items()):
        y = _TOP + _ROW * number + _ROW // 2
        if number % 2 == 0:
            parts.append(
                f'<rect class="band" x="0" y="{y - _ROW // 2}" width="{width}" height="{_ROW}"/>'
            )
        parts.append(f'<text x="8" y="{y + 4}">{escape(event)}</text>')
        parts += [_drawn(x, y, (start, event, end), end in starts) for start in starts]
    return "\n".join([*parts, "</svg>"])


def _drawn(x: Mapping[str, int], y: int, transition: Transition, ring: bool) -> str:
    """Draw one transition; ``ring``: on the column that it leads to stands a ring already."""
    start, event, end = transition
    if start == end:
        shapes = f'<circle class="stay" cx="{x[end]}" cy="{y}" r="{_RADIUS + 3}"/>'
    else:
        side = 1 if x[start] > x[end] else -1
        tip = x[end] + side * (_RADIUS + 4 if ring else 0)
        shapes = (
            f'<line class="line" x1="{x[start]}" x2="{tip}" y1="{y}" y2="{y}"/>'
            f'<circle class="start" cx="{x[start]}" cy="{y}" r="{_RADIUS - 1}"/>'
            f'<path class="end" d="M{tip} {y}l{side * 9} -5v10z"/>'
        )
    return (
        f'<g data-start="{escape(start)}" data-event="{escape(event)}" data-end="{escape(end)}">'
        f"<title>{escape(start)}: {escape(event)} leads to {escape(end)}</title>{shapes}</g>"
    )


def lifecycle_svg() -> str:
    """Draw the automaton, in the order in which its states and events are declared."""
    states = [state.value for state in lifecycle.State]
    events = [event.value for event in lifecycle.Event]
    transitions = sorted(
        lifecycle.MACHINE,
        key=lambda t: (events.index(t[1]), states.index(t[2]), states.index(t[0])),
    )
    return svg(states, transitions)


class LifecycleChart(SphinxDirective):
    """The chart; for HTML only."""

    def run(self) -> list[nodes.Node]:
        return [nodes.raw("", lifecycle_svg(), format="html")]


class LifecycleStates(SphinxDirective):
    """The table of states."""

    def run(self) -> list[nodes.Node]:
        docs = ModuleAnalyzer.for_module("blazar_vmexpire.lifecycle").find_attr_docs()
        text = [".. list-table::", "   :header-rows: 1", "   :widths: 20 80", ""]
        text += ["   * - State", "     - Meaning"]
        for state in lifecycle.State:
            meaning = " ".join(docs["State", state.name]).strip()
            text += [f"   * - ``{state.value}``", f"     - {meaning}"]
        parsed = nodes.container()
        self.state.nested_parse(StringList(text, source=__file__), self.content_offset, parsed)
        return parsed.children


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives."""
    app.add_directive("lifecycle-chart", LifecycleChart)
    app.add_directive("lifecycle-states", LifecycleStates)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
