# SPDX-License-Identifier: Apache-2.0
"""``openstack vm expiration extend``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from keystoneauth1 import exceptions as ksa_exceptions
from osc_lib import exceptions

from blazar_vmexpire import words
from blazar_vmexpire.osc import arguments, commands


class ExtendVmExpirations(commands.SeveralLister):
    """Give VMs a later end, and give them back if anything was done to them"""

    done = "extend"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add which, and until when."""
        parser = super().get_parser(prog_name)
        arguments.add_vms(parser, nargs="*")
        parser.add_argument(
            "--until",
            metavar="<date>",
            help=f"The new end ({arguments.DATE}); without it, the latest that is allowed",
        )
        parser.add_argument(
            "--all-ending-within",
            metavar="<duration>",
            type=arguments.duration,
            help="Instead of naming VMs: all that end within this time from now, such as 7d or 36h",
        )
        parser.add_argument(
            "--auto-approve",
            action="store_true",
            help="Extend all that end within a time without asking for confirmation",
        )
        commands.add_long(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> commands.Table:
        """Extend them, and list where they end now."""
        if bool(parsed_args.vms) == (parsed_args.all_ending_within is not None):
            raise exceptions.CommandError(
                "Name the VMs to extend, or say --all-ending-within: one of the two."
            )
        vms = commands.client_of(self).vm_expirations
        if parsed_args.vms:
            known = self.several.each(
                parsed_args.vms,
                lambda name: (
                    name,
                    commands.id_of(vms, name, all_projects=parsed_args.all_projects),
                ),
            )
        else:
            found = list(
                vms.list(
                    ends_before=arguments.from_now(parsed_args.all_ending_within),
                    all_projects=parsed_args.all_projects,
                )
            )
            if found and not parsed_args.auto_approve:
                self._ask(found)
            known = [(words.one_line(vm["server_name"]), vm["server_id"]) for vm in found]
            self.several.count(len(known))
        return commands.table(self._extend(known, parsed_args.until), parsed_args)

    def _extend(self, known: Sequence[tuple[str, str]], until: str | None) -> list[dict[str, Any]]:
        # The same VM may have been named twice.
        names = {server_id: name for name, server_id in known}
        left = dict(names)
        extended = []
        try:
            for result in commands.client_of(self).vm_expirations.extend_all(list(names), until):
                name = left.pop(result["server_id"])
                if result["error"] is None:
                    extended.append(result["vm_expiration"])
                elif len(names) == 1 and not self.several.has_failed:
                    raise exceptions.CommandError(f"{result['error']} (HTTP {result['status']})")
                else:
                    self.several.failed(name, result["error"])
        except ksa_exceptions.HttpError as error:
            if len(left) == len(names):
                raise
            # Some have been extended: that is shown.
            for name in left.values():
                self.several.failed(name, str(error))
        return extended

    def _ask(self, found: Sequence[commands.Vm]) -> None:
        """Have it confirmed which VMs are meant.

        :raises osc_lib.exceptions.CommandError: they are not.
        """
        for vm in found:
            self.app.stderr.write(f"  {words.one_line(vm['server_name'])}, {vm['ends_at']}\n")
        self.app.stderr.write(f"Extend these VMs ({len(found)})? [y/N]: ")
        self.app.stderr.flush()
        if self.app.stdin.readline().strip().lower() not in ("y", "yes"):
            raise exceptions.CommandError("Nothing was extended.")
