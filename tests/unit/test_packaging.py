# SPDX-License-Identifier: Apache-2.0
"""Which version is built from which kind of tree, and what is installed beside it."""

from __future__ import annotations

import configparser
import importlib.metadata
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what decides the version, as an archive of the project holds it."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("setup.py", "setup.cfg", "requirements.txt", "README.rst"):
        shutil.copy(ROOT / name, tree)
    (tree / "blazar_vmexpire").mkdir()
    (tree / "blazar_vmexpire" / "__init__.py").touch()
    return tree


def git(tree: Path, *arguments: str) -> None:
    """Run git as nobody in particular."""
    author = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]
    subprocess.run(["git", "-C", str(tree), *author, *arguments], check=True, capture_output=True)


def commit(tree: Path) -> None:
    """Make a repository of the tree, with one commit."""
    git(tree, "init", "-q")
    git(tree, "add", "-A")
    git(tree, "commit", "-q", "-m", "all")


def version(tree: Path) -> str:
    """Ask setup.py for the version, as a build does."""
    env = {name: value for name, value in os.environ.items() if name != "PBR_VERSION"}
    done = subprocess.run(
        [sys.executable, "setup.py", "--version"],
        cwd=tree,
        env=env,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.splitlines()[-1]


def test_archive_gets_the_next_release(tree: Path) -> None:
    assert version(tree) == "0.1.0.dev0"


def test_archive_inside_a_foreign_repository_takes_nothing_from_it(tree: Path) -> None:
    commit(tree.parent)
    git(tree.parent, "tag", "9.9.9")
    assert version(tree) == "0.1.0.dev0"


def test_repository_without_tags_counts_its_commits(tree: Path) -> None:
    commit(tree)
    assert version(tree) == "0.1.0.dev1"


def test_tag_wins(tree: Path) -> None:
    commit(tree)
    git(tree, "tag", "-a", "0.3.0", "-m", "0.3.0")
    assert version(tree) == "0.3.0"


def test_shallow_clone_has_no_tag_to_count_from(tree: Path, tmp_path: Path) -> None:
    commit(tree)
    git(tree, "tag", "-a", "0.3.0", "-m", "0.3.0")
    git(tree, "commit", "-q", "--allow-empty", "-m", "more")
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{tree}", str(clone))
    assert version(clone) == "0.1.0.dev1"


def test_source_distribution_keeps_its_own_version(tree: Path) -> None:
    (tree / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: blazar-vmexpire\nVersion: 1.2.3\n")
    assert version(tree) == "1.2.3"


def test_the_wheel_has_what_horizon_reads(tree: Path, tmp_path: Path) -> None:
    shutil.rmtree(tree / "blazar_vmexpire")
    skipped = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "blazar_vmexpire", tree / "blazar_vmexpire", ignore=skipped)
    shutil.copytree(ROOT / "etc", tree / "etc")
    commit(tree)
    subprocess.run(
        [sys.executable, "setup.py", "-q", "bdist_wheel", "-d", str(tmp_path)],
        cwd=tree,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    there = {
        str(path.relative_to(tree))
        for path in (tree / "blazar_vmexpire" / "dashboard").rglob("*")
        if path.is_file()
    }
    assert there - packed == set()
    kinds = {Path(path).suffix for path in there}
    assert kinds >= {".py", ".html", ".mo"}


def test_the_systemd_unit_starts_and_signals_what_is_installed() -> None:
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string((ROOT / "etc" / "blazar-vmexpire-worker.service").read_text())
    service = unit["Service"]
    program, *arguments = service["ExecStart"].split()
    (script,) = importlib.metadata.entry_points(group="console_scripts", name=Path(program).name)
    assert script.value == "blazar_vmexpire.cmd.worker:main"
    assert arguments[::2] == ["--config-file", "--log-file"]
    assert service["ExecReload"].split()[1:] == ["-HUP", "$MAINPID"]
    assert service["KillSignal"] == "SIGTERM"
    assert service["Restart"] == "on-failure"
