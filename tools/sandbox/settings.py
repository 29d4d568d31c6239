# SPDX-License-Identifier: Apache-2.0
"""`--set GROUP.OPTION=VALUE`: options put into blazar.conf."""

from __future__ import annotations

import configparser
import io
from collections.abc import Iterable
from typing import NamedTuple

from tools.sandbox.errors import SandboxError


class Setting(NamedTuple):
    """One option of an oslo.config file."""

    group: str
    option: str
    value: str


def parse_setting(text: str) -> Setting:
    """Split `GROUP.OPTION=VALUE`; a group may have dots and colons, so the last dot counts.

    `-` and `_` mean the same in the name of an option, as everywhere in oslo.config.
    """
    name, equals, value = text.partition("=")
    group, dot, option = name.strip().rpartition(".")
    if not (equals and dot and group and option):
        raise SandboxError(
            f"--set {text!r} is not GROUP.OPTION=VALUE, for example virtual:vm.lease_duration=5m"
        )
    return Setting(group, option.replace("-", "_"), value.strip())


def apply_settings(config: str, settings: Iterable[Setting]) -> str:
    """The text of an oslo.config file with `settings` put in; the last one of a name wins.

    Comments at the head of the file stay, those further down are lost.
    """
    parser = configparser.RawConfigParser(
        delimiters=("=",), default_section="\0none", interpolation=None
    )
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(config)
    for group, option, value in settings:
        if not parser.has_section(group):
            parser.add_section(group)
        parser.set(group, option, value)
    head = config[: config.index("[")]
    out = io.StringIO()
    parser.write(out)
    return head + out.getvalue()
