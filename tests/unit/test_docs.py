# SPDX-License-Identifier: Apache-2.0
"""What the documentation draws and lists is what the code has."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from types import ModuleType

import docutils.core
import docutils.nodes
import pytest
from sphinx.pycode import ModuleAnalyzer

from blazar_vmexpire import lifecycle, rules
from blazar_vmexpire.notices.content import KINDS, Kind, Notice
from blazar_vmexpire.rules.schema import MATCH_KEYS, TERMS
from tests.unit.test_rules import DEFAULTS

DOC = Path(__file__).resolve().parents[2] / "doc"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def chart() -> ModuleType:
    """The Sphinx extension that draws the automaton."""
    spec = importlib.util.spec_from_file_location(
        "lifecycle_chart", DOC / "ext" / "lifecycle_chart.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_chart_draws_every_transition_once_and_no_other(chart: ModuleType) -> None:
    drawn = ET.fromstring(chart.lifecycle_svg())
    groups = [
        (group.get("data-start"), group.get("data-event"), group.get("data-end"))
        for group in drawn.iter(f"{SVG}g")
    ]
    assert sorted(groups) == sorted(lifecycle.MACHINE)


def test_chart_has_a_column_for_every_state(chart: ModuleType) -> None:
    drawn = ET.fromstring(chart.lifecycle_svg())
    names = [text.text for text in drawn.iter(f"{SVG}text") if text.get("class") == "state"]
    assert names == [state.value for state in lifecycle.State]


def test_every_state_has_a_meaning_for_the_table() -> None:
    documented = ModuleAnalyzer.for_module("blazar_vmexpire.lifecycle").find_attr_docs()
    assert [s.name for s in lifecycle.State if ("State", s.name) not in documented] == []


def test_states_page_explains_every_event() -> None:
    page = (DOC / "source" / "admin" / "states.rst").read_text()
    assert [event.value for event in lifecycle.Event if f"``{event.value}``" not in page] == []


def test_reliability_page_names_tests_that_are_there() -> None:
    page = (DOC / "source" / "admin" / "reliability.rst").read_text()
    named = re.findall(r"``(?:(integration)/)?(test_\w+)(?:::(test_\w+))?``", page)
    assert len(named) > 40
    missing = []
    for directory, module, function in named:
        path = DOC.parent / "tests" / (directory or "functional") / f"{module}.py"
        if not path.exists() or (function and f"def {function}(" not in path.read_text()):
            missing.append(f"{path.name}::{function}")
    assert missing == []


def test_notices_page_names_every_kind_and_every_fact_that_templates_can_use() -> None:
    page = (DOC / "source" / "admin" / "notices.rst").read_text()
    named = set(re.findall(r"``([^`]+)``", page))
    facts = {field.name for field in dataclasses.fields(Notice)}
    assert {*facts, *(kind.value for kind in Kind)} - named == set()


def terms_page() -> docutils.nodes.document:
    """The page on terms, in which Sphinx's own roles are left as they are."""
    page = (DOC / "source" / "admin" / "terms.rst").read_text()
    return docutils.core.publish_doctree(page, settings_overrides={"report_level": 5})


def last_column(first: str) -> dict[str, str]:
    """Read the last column of the terms page's table that begins with a head, by the first."""
    for table in terms_page().findall(docutils.nodes.table):
        head, *rows = [
            [entry.astext() for entry in row.children] for row in table.findall(docutils.nodes.row)
        ]
        if head[0] == first:
            assert len({row[0] for row in rows}) == len(rows), "one stands there twice"
            return {row[0]: row[-1] for row in rows}
    raise LookupError(f"no table begins with {first}")


def test_terms_page_names_every_match_key_and_whether_it_is_the_owners() -> None:
    assert last_column("Key") == {
        name: "yes" if key.of_owner else "no" for name, key in MATCH_KEYS.items()
    }


def test_terms_page_names_every_term_and_what_is_tighter() -> None:
    assert last_column("Term") == {name: term.tighter.value for name, term in TERMS.items()}


def test_rules_on_the_terms_page_can_be_used() -> None:
    blocks = [
        block.astext()
        for block in terms_page().findall(docutils.nodes.literal_block)
        if "\nrules:" in f"\n{block.astext()}"
    ]
    assert len(blocks) == 4
    for block in blocks:
        rules.parse(block, "terms.rst").check(
            DEFAULTS, {"notification"}, {"delete", "snapshot"}, KINDS
        )
