# SPDX-License-Identifier: Apache-2.0
"""Arguments that several commands have."""

from __future__ import annotations

import argparse
import datetime
from typing import Any

from blazar_vmexpire.durations import parse_duration

#: What is said of a date that is sent.
DATE = "UTC unless it says, such as '2027-01-10 04:50' or 2027-01-10T04:50Z"

#: States that can be asked for.
STATES = (
    "active",
    "noticed",
    "quarantined",
    "ending",
    "ended",
    "reviving",
    "held",
    "exempt",
    "vanished",
    "failed",
    "deleted",
)


def duration(text: str) -> datetime.timedelta:
    """Read a duration such as ``7d``."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_reason(
    parser: argparse.ArgumentParser,
    where: str = "it is in the VM's history, for its owner to read",
    *,
    required: bool = True,
) -> None:
    """Have a reason given, and say where it will be found."""
    parser.add_argument(
        "--reason",
        metavar="<reason>",
        required=required,
        help=f"Why; {where}",
    )


def add_all_projects(parser: argparse.ArgumentParser) -> None:
    """Have names looked for in all projects, if one wants that."""
    parser.add_argument(
        "--all-projects",
        action="store_true",
        help="Look for names in all projects (admin only)",
    )


def add_vm(parser: argparse.ArgumentParser) -> None:
    """Have one VM named."""
    parser.add_argument("vm", metavar="<vm>", help="VM (name or ID)")
    add_all_projects(parser)


def add_vms(parser: argparse.ArgumentParser, nargs: str = "+") -> None:
    """Have VMs named."""
    parser.add_argument("vms", metavar="<vm>", nargs=nargs, help="VM(s) (name or ID)")
    add_all_projects(parser)


def add_filters(parser: argparse.ArgumentParser) -> None:
    """Have it said which VMs are meant."""
    whose = parser.add_mutually_exclusive_group()
    whose.add_argument("--project", metavar="<project>", help="VMs of this project (ID)")
    whose.add_argument(
        "--all-projects", action="store_true", help="VMs of all projects (admin only)"
    )
    parser.add_argument("--user", metavar="<user>", help="VMs of this user (ID)")
    parser.add_argument("--name", metavar="<name>", help="VMs with exactly this name")
    parser.add_argument(
        "--state",
        metavar="<state>",
        choices=STATES,
        help=f"VMs in this state; without it, those that are gone are left out"
        f" ({', '.join(STATES)})",
    )
    parser.add_argument(
        "--rule", metavar="<rule>", help="VMs whose terms come from this rule of the rules file"
    )
    until = parser.add_mutually_exclusive_group()
    until.add_argument(
        "--ends-within",
        metavar="<duration>",
        type=duration,
        help="VMs that end within this time from now, such as 7d or 36h",
    )
    until.add_argument(
        "--ends-before", metavar="<date>", help=f"VMs that end before this date ({DATE})"
    )
    parser.add_argument("--ends-after", metavar="<date>", help="VMs that end at this date or later")


def filters(parsed_args: argparse.Namespace) -> dict[str, Any]:
    """Return what was said, as the client takes it."""
    ends_before = parsed_args.ends_before
    if parsed_args.ends_within is not None:
        ends_before = from_now(parsed_args.ends_within)
    return {
        "project_id": parsed_args.project,
        "all_projects": parsed_args.all_projects,
        "user_id": parsed_args.user,
        "name": parsed_args.name,
        "state": parsed_args.state,
        "rule": parsed_args.rule,
        "ends_before": ends_before,
        "ends_after": parsed_args.ends_after,
    }


def from_now(distance: datetime.timedelta) -> datetime.datetime:
    """Return the moment that is so far from now."""
    return datetime.datetime.now(datetime.UTC) + distance
