# SPDX-License-Identifier: Apache-2.0
"""``openstack vm expiration brake``: for administrators."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from osc_lib.command import command

from blazar_vmexpire.osc import arguments, commands
from blazar_vmexpire.osc.columns import Text


def _shown(brake: Mapping[str, Any]) -> tuple[Any, Any]:
    shown = dict(brake)
    for name in ("reason", "release_reason"):
        shown[name] = shown[name] and Text(shown[name])
    for when in ("now", "at_trip"):
        groups = shown.pop(when)
        shown |= {f"{what}_{when}": group["count"] for what, group in groups.items()}
    return tuple(shown), tuple(shown.values())


class ShowBrake(command.ShowOne):
    """Show how the brake stands, and how many VMs would go if it were released"""

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        """Show it."""
        return _shown(commands.client_of(self).brake.get())


class _ChangeBrake(command.ShowOne):
    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add why."""
        parser = super().get_parser(prog_name)
        arguments.add_reason(parser, "show tells it")
        return parser


class TripBrake(_ChangeBrake):
    """Trip the brake: all that cannot be undone stops, until somebody releases it"""

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        """Trip it."""
        return _shown(commands.client_of(self).brake.trip(reason=parsed_args.reason))


class ReleaseBrake(_ChangeBrake):
    """Release the brake: what waits goes on, at its pace"""

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        """Release it."""
        return _shown(commands.client_of(self).brake.release(reason=parsed_args.reason))
