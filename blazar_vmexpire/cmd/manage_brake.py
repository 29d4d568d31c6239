# SPDX-License-Identifier: Apache-2.0
"""``blazar-vmexpire-manage brake``: how the brake stands; stop everything; let it go on."""

from __future__ import annotations

import dataclasses
from typing import Any

from oslo_config import cfg
from oslo_utils import timeutils

from blazar_vmexpire import brake
from blazar_vmexpire.brake import Brake, Status
from blazar_vmexpire.cmd.manage_base import (
    CommandError,
    Commands,
    add_format,
    administrator,
    connected,
    print_json,
    shown,
)

_TITLES = {
    "ending": "VMs whose end is due or under way",
    "vanished": "VMs that vanished from Nova unexplained",
}


def add_commands(commands: Commands[Any]) -> None:
    """Add ``brake show``, ``brake trip`` and ``brake release``."""
    parser = commands.add_parser(
        "brake",
        help="show, trip or release the brake on mass deletion",
        description="The brake limits how many VMs end in an hour. When far more would, it trips:"
        " nothing that cannot be undone is done any more, until it is released here.",
    )
    group = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    show = group.add_parser("show", help="show how it stands, and what would go")
    add_format(show)
    show.set_defaults(run=_show)

    trip = group.add_parser(
        "trip",
        help="stop everything that cannot be undone",
        description="Stop all deletions, ends and quarantines, in all workers, until the brake is"
        " released. Owners still get their notices, and can extend.",
    )
    trip.add_argument("--reason", required=True, help="why, for the log and the operator's mail")
    trip.set_defaults(run=_trip)

    release = group.add_parser(
        "release",
        help="let it go on; without --yes only say what would go",
        description="Let ends and deletions go on, at their pace. What waits and what has vanished"
        " by then is accepted: the brake trips again only for more than that.",
    )
    release.add_argument("--reason", help="why it is right that they go")
    release.add_argument("--yes", action="store_true", help="do it")
    release.set_defaults(run=_release)


def _show(conf: cfg.ConfigOpts, arguments: Any) -> None:
    control = Brake(conf)
    with connected(conf) as database, database.begin() as connection:
        now = timeutils.utcnow()
        status = control.status(connection, now)
        going = brake.what_would_go(connection, now)
    if arguments.format == "json":
        found = dataclasses.asdict(status)
        found["at_trip"] = _named(found.pop("details"))
        print_json({**found, "now": _named(going)})
        return
    _print(status)
    _print_going(going)


def _trip(conf: cfg.ConfigOpts, arguments: Any) -> None:
    control = Brake(conf)
    if not control.enabled:
        raise CommandError("[vmexpire_brake] enabled is false: a tripped brake would stop nothing")
    with connected(conf) as database, database.begin() as connection:
        tripped = control.trip(
            connection, reason=arguments.reason, by=administrator(), now=timeutils.utcnow()
        )
    if not tripped:
        raise CommandError("it has tripped before: see brake show")
    print("The brake has tripped: nothing is deleted any more. Steps in hand may still finish.")


def _release(conf: cfg.ConfigOpts, arguments: Any) -> None:
    control = Brake(conf)
    with connected(conf) as database, database.begin() as connection:
        now = timeutils.utcnow()
        status = control.status(connection, now)
        if status.tripped_at is None:
            raise CommandError("it has not tripped: there is nothing to release")
        going = brake.what_would_go(connection, now)
        if arguments.yes:
            control.release(connection, reason=arguments.reason, by=administrator(), now=now)
    _print(status)
    _print_going(going)
    if not arguments.yes:
        print(
            f"Nothing was changed. With --yes they go on, at most {status.pace} an hour"
            " (vanished VMs: all of them)."
        )
        return
    print("The brake is released.")


def _print(status: Status) -> None:
    if status.tripped_at is None:
        print("The brake has not tripped.")
    else:
        by = f" by {shown(status.tripped_by)}" if status.tripped_by else ""
        print(f"The brake tripped on {shown(status.tripped_at)} UTC{by}: {shown(status.reason)}")
        told = f"on {shown(status.told_at)} UTC" if status.told_at else "not yet"
        print(f"The operator was told by mail: {told}")
    if not status.enabled:
        print("It is switched off ([vmexpire_brake] enabled = false): nothing is limited.")
    if status.released_at is not None:
        print(
            f"Last released on {shown(status.released_at)} UTC by {shown(status.released_by)}:"
            f" {shown(status.release_reason or 'no reason given')}"
        )
    for title, value in (
        ("VMs with a lease", status.known),
        ("May end in an hour", status.pace),
        ("Ends begun in the last hour", status.ended),
        ("Deletions in the last hour", status.deleted),
        ("Wait for their turn", f"{status.waiting} (trips above {status.most_waiting})"),
        ("Vanished unexplained", f"{status.vanished} (trips above {status.most_vanished})"),
    ):
        print(f"{title + ':':<29}{value}")


def _print_going(going: dict[str, Any]) -> None:
    for name, title in _TITLES.items():
        group = going[name]
        if not group["count"]:
            continue
        print(f"{title}: {group['count']}")
        for server in group["servers"]:
            print("  " + "  ".join(shown(part) for part in server))
        if group["count"] > len(group["servers"]):
            print(f"  and {group['count'] - len(group['servers'])} more")


def _named(going: dict[str, Any]) -> dict[str, Any]:
    """Give the parts of each server their names, for programs."""
    keys = ("server_id", "server_name", "project_id")
    return {
        name: {
            "count": group["count"],
            "servers": [dict(zip(keys, server, strict=True)) for server in group["servers"]],
        }
        for name, group in going.items()
    }
