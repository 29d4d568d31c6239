# SPDX-License-Identifier: Apache-2.0
"""All our options: for the sample generator, and for registering them in one go."""

from __future__ import annotations

import importlib
import pkgutil

from oslo_config import cfg

import blazar_vmexpire.conf
from blazar_vmexpire import RESOURCE_TYPE
from blazar_vmexpire.exceptions import ConfigError

#: Modules of this package that hold no option group.
_NOT_GROUPS = {"opts", "types", "check"}


def _group_modules() -> list[str]:
    return sorted(
        module.name
        for module in pkgutil.iter_modules(blazar_vmexpire.conf.__path__)
        if module.name not in _NOT_GROUPS
    )


def list_opts() -> list[tuple[cfg.OptGroup, list[cfg.Opt]]]:
    """List every option by group.

    :raises TypeError: when a module of an option group forgot its ``list_opts``.
    """
    found: list[tuple[cfg.OptGroup, list[cfg.Opt]]] = []
    for name in _group_modules():
        module = importlib.import_module(f"blazar_vmexpire.conf.{name}")
        if not hasattr(module, "list_opts"):
            raise TypeError(f"blazar_vmexpire.conf.{name} has no list_opts()")
        found.extend(module.list_opts())
    return found


def register_opts(conf: cfg.ConfigOpts, *, resource_group: bool = True) -> None:
    """Register all our groups on ``conf``.

    :param resource_group: whether ``[virtual:vm]`` is registered too. Inside blazar-manager Blazar
        itself does that, with what the plug-in's ``get_plugin_opts`` returns.
    """
    for name in _group_modules():
        module = importlib.import_module(f"blazar_vmexpire.conf.{name}")
        if module.GROUP.name == RESOURCE_TYPE and not resource_group:
            continue
        # A group of its own for each: what is registered on one ConfigOpts and on another shares
        # its options with both, values included.
        conf.register_group(cfg.OptGroup(module.GROUP.name, module.GROUP.title, module.GROUP.help))
        conf.register_opts(module.OPTS, group=module.GROUP.name)
        if hasattr(module, "register_more"):
            module.register_more(conf)


def check_values(conf: cfg.ConfigOpts) -> None:
    """Read every option of ours: a value is found wrong only when it is read.

    Else one that is seldom read would be found in the middle of the work, again and again.

    :param conf: with our options registered, and its files parsed.
    :raises ConfigError: with a sentence that names the option.
    """
    for group, _ in list_opts():
        for name in conf[group.name]:
            try:
                conf[group.name][name]
            except ValueError as error:
                # It names the option, but neither its group nor, readably, its file.
                why = str(error).rpartition(" is not valid: ")[2]
                raise ConfigError(f"[{group.name}] {name}: {why}") from error
