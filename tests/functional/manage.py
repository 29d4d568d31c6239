# SPDX-License-Identifier: Apache-2.0
"""Running ``blazar-vmexpire-manage`` as an administrator does, with a configuration file."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from tests import databases


class Done(NamedTuple):
    """What a run of the command came to."""

    returncode: int
    stdout: str
    stderr: str


#: Runs the command on a database, with arguments.
Manage = Callable[..., Done]


def settings(
    directory: pathlib.Path,
    url: str | None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[str]:
    """Write a configuration file as the services have it, and name it.

    :param options: by group, beside the database's.
    """
    path = directory / "blazar.conf"
    groups: dict[str, dict[str, Any]] = {
        # The services' own log is not the administrator's to write.
        "DEFAULT": {"debug": "true", "log_file": f"{directory}/blazar.log"},
    }
    if url is not None:
        groups["database"] = {"connection": databases.elsewhere(url)}
    for group, values in (options or {}).items():
        groups.setdefault(group, {}).update(values)
    lines = []
    for group, values in groups.items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in values.items())]
    path.write_text("\n".join(lines) + "\n")
    return ["--config-file", str(path)]
