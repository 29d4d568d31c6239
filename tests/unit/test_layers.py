# SPDX-License-Identifier: Apache-2.0
"""A module knows those below it, and none above: as the design page draws the layers."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "blazar_vmexpire"
DESIGN = ROOT / "doc" / "source" / "contributor" / "design.rst"

#: What every layer may use.
FOR_ALL = {"exceptions"}


def layers() -> dict[str, int]:
    """Read each module's layer from the design page; 0 is the top."""
    drawn = re.search(r"and none above::\n\n((?: {4}\S.*\n)+)", DESIGN.read_text())
    assert drawn is not None
    lines = [line.strip().split("  ", 1)[0] for line in drawn[1].splitlines()]
    return {name.strip(): n for n, line in enumerate(lines) for name in line.split(",")}


def imports(path: Path) -> Iterator[str]:
    """Name the modules and packages right below ours that a file imports, wherever it does."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            package, _, rest = name.partition(".")
            if package == PACKAGE.name and rest:
                yield rest.split(".")[0]


def used_by(*rooms: str) -> tuple[set[str], set[str]]:
    """Follow imports: our own modules that are used, and the packages of others, with their own."""
    ours: set[Path] = set()
    others: set[str] = set()
    ahead = [path for path in FILES if room(path) in rooms]
    while ahead:
        path = ahead.pop()
        if path in ours:
            continue
        ours.add(path)
        for name in modules(path):
            package, *parts = name.split(".")
            if package != PACKAGE.name:
                others.add(package)
                continue
            # All packages on the way are run; the last part may be no module.
            for n in range(len(parts) + 1):
                place = PACKAGE.joinpath(*parts[:n])
                ahead += [
                    p for p in (place.with_suffix(".py"), place / "__init__.py") if p.exists()
                ]
    return {
        room(path) for path in ours if path.parent != PACKAGE or path.stem != "__init__"
    }, others


def modules(path: Path) -> Iterator[str]:
    """Name all that a file imports, in full."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(path: Path) -> str:
    """Say which module or package right below ours a file is, or belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    known = layers()
    here = room(path)
    assert here in known or here in FOR_ALL, f"the design page has no layer for {here}"
    above = [
        name
        for name in imports(path)
        if name in known and known[name] < known.get(here, len(known))
    ]
    assert above == []


def test_the_client_needs_nothing_but_what_comes_with_the_openstack_client() -> None:
    """So it can be installed without Blazar, and all that Blazar needs."""
    ours, others = used_by("osc", "client")
    assert ours == {"osc", "client", "durations", "words"}
    assert others - sys.stdlib_module_names == {"cliff", "keystoneauth1", "osc_lib", "requests"}


def test_the_dashboard_needs_nothing_but_horizon_and_our_client() -> None:
    """So it can be installed beside Horizon, without Blazar."""
    ours, others = used_by("dashboard")
    assert ours == {"dashboard", "client", "words"}
    assert others - sys.stdlib_module_names == {
        "django",
        "horizon",
        "keystoneauth1",
        "openstack_dashboard",
        "requests",
    }


def test_nothing_is_drawn_that_is_not_there() -> None:
    assert set(layers()) - {room(path) for path in FILES} == set()
