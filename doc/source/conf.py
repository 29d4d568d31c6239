# SPDX-License-Identifier: Apache-2.0
"""Sphinx configuration."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "doc" / "ext")]

project = "blazar-vmexpire"
copyright = "blazar-vmexpire developers"

extensions = [
    "openstackdocstheme",
    "oslo_config.sphinxext",
    "cliff.sphinxext",
    "sphinx.ext.autodoc",
    "sphinxarg.ext",
    "api_routes",
    "lifecycle_chart",
    "sample_mail",
    "status_checks",
]

# What every command of the OpenStack client has; and whose plug-in it is, is no news here.
autoprogram_cliff_ignored = [
    *("--help", "--format", "--column", "--quote", "--noindent", "--prefix"),
    *("--sort-column", "--sort-ascending", "--sort-descending"),
    *("--max-width", "--fit-width", "--print-empty"),
]
autoprogram_cliff_app_dist_name = "blazar-vmexpire"

html_theme = "openstackdocs"
pygments_style = "native"
openstackdocs_repo_name = "blazar-vmexpire"
openstackdocs_auto_name = False
openstackdocs_auto_version = False
openstackdocs_use_storyboard = False
html_static_path = ["_static"]
