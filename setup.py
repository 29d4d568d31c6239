# SPDX-License-Identifier: Apache-2.0
"""Everything is in setup.cfg; this adds a version where pbr has no tag to count from."""

import os
import pathlib
import subprocess

import setuptools

HERE = pathlib.Path(__file__).resolve().parent

#: What the next release is called, as long as no tag can be seen. A tag always wins.
NEXT_RELEASE = "0.1.0"


def git(*arguments: str) -> str:
    """Ask git about this tree; no git, or no answer, is an empty string."""
    try:
        return subprocess.run(  # noqa: S603
            ["git", "-C", str(HERE), *arguments],  # noqa: S607
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def fallback_version() -> str:
    """Say which version to build where pbr alone would fail, or say 0.0.0; empty: leave it to pbr.

    That is a clone without tags, a shallow one, and a tree without ``.git``, which may lie inside
    somebody else's repository. A source distribution has its version in ``PKG-INFO``.
    """
    if (HERE / "PKG-INFO").exists():
        return ""
    top = git("rev-parse", "--show-toplevel")
    if not top or not HERE.samefile(top):
        return f"{NEXT_RELEASE}.dev0"
    if git("describe", "--tags", "--abbrev=0"):
        return ""
    return f"{NEXT_RELEASE}.dev{git('rev-list', '--count', 'HEAD') or 0}"


if version := fallback_version():
    os.environ.setdefault("PBR_VERSION", version)

setuptools.setup(pbr=True)
