# SPDX-License-Identifier: Apache-2.0
"""``openstack vm expiration list``, ``show``, ``history`` and ``summary``."""

from __future__ import annotations

import argparse
from typing import Any

from osc_lib.command import command

from blazar_vmexpire.client import NotFound
from blazar_vmexpire.osc import arguments, commands
from blazar_vmexpire.osc.columns import Lines, Pairs, StateOf, Text, TimeLeft

#: How what is shown of one VM is shown, where that is not as it is.
_CELLS = {
    "server_name": Text,
    "state": StateOf,
    "hold": Pairs,
    "exemption": Pairs,
    "notices": Lines,
    "contacts": Lines,
    "chosen_actions": Pairs,
    "last_error": Text,
}


class ListVmExpirations(command.Lister):
    """List VMs by their end: those of your project, unless you say otherwise"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add which, and how many."""
        parser = super().get_parser(prog_name)
        arguments.add_filters(parser)
        commands.add_long(parser)
        parser.add_argument(
            "--limit", metavar="<n>", type=int, help="List this many at most (all, if omitted)"
        )
        parser.add_argument(
            "--marker", metavar="<vm>", help="List those that come after this VM (ID)"
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> commands.Table:
        """List them."""
        found = commands.client_of(self).vm_expirations.list(
            **arguments.filters(parsed_args), limit=parsed_args.limit, marker=parsed_args.marker
        )
        return commands.table(found, parsed_args)


class ShowVmExpiration(command.ShowOne):
    """Show when a VM ends, and all else that is known of it"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add which."""
        parser = super().get_parser(prog_name)
        arguments.add_vm(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        """Show it."""
        vms = commands.client_of(self).vm_expirations
        found = vms.find(parsed_args.vm, all_projects=parsed_args.all_projects)
        if "notices" not in found:
            # It was found in a list, which does not have all.
            found = vms.get(found["server_id"])
        shown = {"server_name": None, "ends_in": TimeLeft.of(found["ends_at"]), "ends_at": None}
        shown |= {"state": None} | {
            name: value if value is None or name not in _CELLS else _CELLS[name](value)
            for name, value in found.items()
        }
        return tuple(shown), tuple(shown.values())


class ShowVmExpirationHistory(command.Lister):
    """Show what happened to a VM, by whom and why, oldest first; also to one that is gone"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add which, and how much."""
        parser = super().get_parser(prog_name)
        arguments.add_vm(parser)
        parser.add_argument(
            "--limit", metavar="<n>", type=int, help="Show this many at most (all, if omitted)"
        )
        parser.add_argument("--long", action="store_true", help="List all columns")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> commands.Table:
        """Show it."""
        server_id = self._find(parsed_args.vm, parsed_args.all_projects)
        found = commands.client_of(self).vm_expirations.history(server_id, parsed_args.limit)
        rows = (
            (entry["at"], entry["event"], Text(entry["actor"]), Pairs(entry["details"]))
            + ((entry["generation"], entry["request_id"]) if parsed_args.long else ())
            for entry in found
        )
        columns = ("At", "Event", "By", "Details")
        return columns + (("Generation", "Request ID") if parsed_args.long else ()), rows

    def _find(self, name: str, all_projects: bool) -> str:
        vms = commands.client_of(self).vm_expirations
        if (server_id := commands.as_uuid(name)) is not None:
            # One whose expiration is not kept any more may still have a history.
            return server_id
        try:
            found = vms.find(name, all_projects=all_projects)
        except NotFound:
            found = vms.find(name, all_projects=all_projects, state="deleted")
        return str(found["server_id"])


class ShowVmExpirationSummary(command.Lister):
    """Show how much ends on which day, by project and rule: VMs, their vCPUs and their RAM"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add which."""
        parser = super().get_parser(prog_name)
        arguments.add_filters(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> commands.Table:
        """Show it."""
        found = commands.client_of(self).vm_expirations.summary(**arguments.filters(parsed_args))
        keys = ("day", "project_id", "rule", "servers", "vcpus", "ram_mb")
        columns = ("Day", "Project ID", "Rule", "VMs", "vCPUs", "RAM (MB)")
        return columns, ([group[key] for key in keys] for group in found)
