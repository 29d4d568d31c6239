# SPDX-License-Identifier: Apache-2.0
"""``openstack vm expiration exclusion``: who is left out; for administrators."""

from __future__ import annotations

import argparse
from typing import Any

from keystoneauth1 import exceptions as ksa_exceptions
from osc_lib import exceptions
from osc_lib.command import command

from blazar_vmexpire.osc import arguments, commands
from blazar_vmexpire.osc.columns import Text

_KINDS = (
    ("domain", "ID", "VMs of all projects of this domain"),
    ("project", "ID", "VMs of this project"),
    ("user", "ID", "VMs of this user"),
    ("flavor", "name", "VMs of this flavor"),
    ("server", "ID", "This VM"),
)

#: What is shown, in this order.
_COLUMNS = (
    ("ID", "id"),
    ("Kind", "kind"),
    ("Value", "value"),
    ("Reason", "reason"),
    ("Until", "expires_at"),
    ("By", "author"),
    ("Created At", "created_at"),
)


def _add_kinds(parser: argparse.ArgumentParser, *, required: bool) -> None:
    group = parser.add_mutually_exclusive_group(required=required)
    for kind, what, meaning in _KINDS:
        group.add_argument(f"--{kind}", metavar=f"<{kind}>", help=f"{meaning} ({what})")


def _named(parsed_args: argparse.Namespace) -> tuple[str | None, str | None]:
    for kind, _, _ in _KINDS:
        if (value := getattr(parsed_args, kind)) is not None:
            return kind, value
    return None, None


def _cell(exclusion: dict[str, Any], key: str) -> Any:
    return Text(exclusion[key]) if key in ("value", "reason") else exclusion[key]


class CreateExclusion(command.ShowOne):
    """Leave out a domain, a project, a user, a flavor or a VM: what they have is let go of"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add whom, why, and until when."""
        parser = super().get_parser(prog_name)
        _add_kinds(parser, required=True)
        arguments.add_reason(parser, "the list and the history of each VM tell it")
        parser.add_argument(
            "--until",
            metavar="<date>",
            help=f"When that is over ({arguments.DATE}); without it, never",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        """Leave them out."""
        kind, value = _named(parsed_args)
        assert kind is not None  # noqa: S101 - the parser's to see to
        assert value is not None  # noqa: S101
        made = commands.client_of(self).exclusions.create(
            kind, value, reason=parsed_args.reason, expires_at=parsed_args.until
        )
        return tuple(made), tuple(_cell(made, key) for key in made)


class ListExclusions(command.Lister):
    """List who is left out, by whom and why, oldest first"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add which."""
        parser = super().get_parser(prog_name)
        _add_kinds(parser, required=False)
        parser.add_argument("--all", action="store_true", help="List those that are over, too")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> commands.Table:
        """List them."""
        kind, value = _named(parsed_args)
        found = commands.client_of(self).exclusions.list(
            kind=kind, value=value, over=parsed_args.all
        )
        return [name for name, _ in _COLUMNS], (
            [_cell(exclusion, key) for _, key in _COLUMNS] for exclusion in found
        )


class DeleteExclusion(command.Command):
    """Take exclusions back: VMs that nothing else leaves out begin a full first term"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add which, and why."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "exclusions",
            metavar="<exclusion>",
            nargs="+",
            type=int,
            help="Exclusion(s) (ID, as the list shows it)",
        )
        arguments.add_reason(parser, "the history of each VM tells it", required=False)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Take them back."""
        failed = 0
        for exclusion_id in parsed_args.exclusions:
            try:
                commands.client_of(self).exclusions.delete(exclusion_id, reason=parsed_args.reason)
            except ksa_exceptions.HttpError as error:
                failed += 1
                self.log.error("Failed to delete exclusion %s: %s", exclusion_id, error)
        if failed:
            raise exceptions.CommandError(
                f"{failed} of {len(parsed_args.exclusions)} exclusions failed to delete."
            )
