# SPDX-License-Identifier: Apache-2.0
"""``openstack vm expiration set``, ``unset``, ``expire`` and ``adopt``: for administrators."""

from __future__ import annotations

import argparse
from typing import Any

from osc_lib import exceptions
from osc_lib.command import command

from blazar_vmexpire.osc import arguments, commands
from blazar_vmexpire.osc.columns import StateOf


class _Change(command.Command):
    """Changes VMs, silently."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add which, and why."""
        parser = super().get_parser(prog_name)
        arguments.add_vms(parser)
        arguments.add_reason(parser)
        return parser

    def change(self, parsed_args: argparse.Namespace, done: str, changes: dict[str, Any]) -> None:
        """Change each of them."""
        if not changes:
            raise exceptions.CommandError(f"Say what to {done}: see --help.")
        vms = commands.client_of(self).vm_expirations
        several = commands.Several(self, done)
        several.each(
            parsed_args.vms,
            lambda name: vms.update(
                commands.id_of(vms, name, all_projects=parsed_args.all_projects),
                reason=parsed_args.reason,
                **changes,
            ),
        )
        several.conclude()


class SetVmExpiration(_Change):
    """Move the end of VMs, hold them, leave them out, or set what is done to them at their end

    Several of these at once are done together, or none is. A hold is for managers of a project,
    too; the rest for administrators.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add what."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--ends-at",
            metavar="<date>",
            help=f"The new end, wherever that is ({arguments.DATE});"
            " the owner is told as of any other end",
        )
        parser.add_argument(
            "--hold-until", metavar="<date>", help="Stop the clock of the VMs until this date"
        )
        parser.add_argument(
            "--ticket", metavar="<ticket>", help="With --hold-until: what the hold belongs to"
        )
        exempt = parser.add_mutually_exclusive_group()
        exempt.add_argument("--exempt", action="store_true", help="Leave the VMs out for good")
        exempt.add_argument(
            "--exempt-until", metavar="<date>", help="Leave the VMs out until this date"
        )
        parser.add_argument(
            "--on-end-action",
            metavar="<action>",
            help="What is done to the VMs at their end, whatever their terms say",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Set it."""
        changes: dict[str, Any] = {}
        if parsed_args.ends_at is not None:
            changes["ends_at"] = parsed_args.ends_at
        if parsed_args.hold_until is not None:
            changes["hold"] = {"until": parsed_args.hold_until, "ticket": parsed_args.ticket}
        elif parsed_args.ticket is not None:
            raise exceptions.CommandError("--ticket belongs to --hold-until.")
        if parsed_args.exempt:
            changes["exempt"] = True
        elif parsed_args.exempt_until is not None:
            changes["exempt"] = {"until": parsed_args.exempt_until}
        if parsed_args.on_end_action is not None:
            changes["on_end_action"] = parsed_args.on_end_action
        self.change(parsed_args, "set", changes)


class UnsetVmExpiration(_Change):
    """Let the clock of held VMs go on, take VMs in again, or leave their end to their terms"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add what."""
        parser = super().get_parser(prog_name)
        parser.add_argument("--hold", action="store_true", help="Let their clock go on")
        parser.add_argument(
            "--exempt", action="store_true", help="Take them in again, for a full first term"
        )
        parser.add_argument(
            "--on-end-action",
            action="store_true",
            help="Have done to them at their end what their terms say",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Unset it."""
        changes: dict[str, Any] = {}
        if parsed_args.hold:
            changes["hold"] = None
        if parsed_args.exempt:
            changes["exempt"] = False
        if parsed_args.on_end_action:
            changes["on_end_action"] = None
        self.change(parsed_args, "unset", changes)


class ExpireVm(commands.SeveralLister):
    """Have VMs end as soon as their owners have had the notice that the cloud promises"""

    done = "expire"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add which, why, and whether at once."""
        parser = super().get_parser(prog_name)
        arguments.add_vms(parser)
        arguments.add_reason(parser)
        parser.add_argument(
            "--force", action="store_true", help="At once, without waiting for any notice"
        )
        commands.add_long(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> commands.Table:
        """Have them end, and list when they do."""
        vms = commands.client_of(self).vm_expirations
        expiring = self.several.each(
            parsed_args.vms,
            lambda name: vms.expire(
                commands.id_of(vms, name, all_projects=parsed_args.all_projects),
                reason=parsed_args.reason,
                force=parsed_args.force,
            ),
        )
        return commands.table(expiring, parsed_args)


class AdoptVm(commands.SeveralLister):
    """Have VMs looked at in Nova now, and taken in if they are to be: that takes some seconds"""

    done = "adopt"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add which."""
        parser = super().get_parser(prog_name)
        parser.add_argument("vms", metavar="<vm>", nargs="+", help="VM(s) (ID)")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> commands.Table:
        """Have them looked at."""
        vms = commands.client_of(self).vm_expirations
        seen = self.several.each(parsed_args.vms, vms.adopt)
        return ("ID", "State"), ((vm["server_id"], StateOf(vm["state"])) for vm in seen)
