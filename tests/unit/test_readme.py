# SPDX-License-Identifier: Apache-2.0
"""The README's table of options says what the code says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import docutils.core
import docutils.nodes
from oslo_config import cfg

from blazar_vmexpire.conf import cloud, opts

README = Path(__file__).resolve().parents[2] / "README.rst"


def options_of_the_code() -> dict[str, cfg.Opt]:
    """List our options as ``[group] name``, without those that are keystoneauth's own."""
    groups = {group.name: options for group, options in opts.list_opts()}
    groups[cloud.GROUP.name] = cloud.OPTS
    return {f"[{group}] {opt.name}": opt for group, opts_ in groups.items() for opt in opts_}


def defaults_in_the_readme() -> dict[str, str]:
    """Read ``[group] name`` and the default from the README's one table."""
    document = docutils.core.publish_doctree(README.read_text())
    (table,) = document.findall(docutils.nodes.table)
    (body,) = table.findall(docutils.nodes.tbody)
    defaults: dict[str, str] = {}
    group = ""
    for row in body.children:
        name, default, _meaning = (entry.astext() for entry in row.children)
        if name.startswith("["):
            group = name
            continue
        assert f"{group} {name}" not in defaults, f"{group} {name} stands there twice"
        defaults[f"{group} {name}"] = default
    return defaults


def value(option: cfg.Opt, text: str) -> Any:
    """Read a default as the configuration file would, so that 60s and 1m are the same."""
    special = {"(unset)": None, "(empty)": []}
    return special[text] if text in special else option.type(text)


def test_table_names_every_option_and_no_other() -> None:
    assert sorted(defaults_in_the_readme()) == sorted(options_of_the_code())


def test_table_has_the_defaults_of_the_code() -> None:
    options = options_of_the_code()
    defaults = defaults_in_the_readme()
    in_readme = {name: value(options[name], text) for name, text in defaults.items()}
    in_code = {
        name: None if option.default is None else option.type(option.default)
        for name, option in options.items()
    }
    assert in_readme == in_code
