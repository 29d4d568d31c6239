# SPDX-License-Identifier: Apache-2.0
"""``blazar-vmexpire-manage purge``: remove what is kept of VMs that have been gone for long."""

from __future__ import annotations

from typing import Any

from oslo_config import cfg
from oslo_utils import timeutils

from blazar_vmexpire.cmd.manage_base import CommandError, Commands, Progress, connected, duration
from blazar_vmexpire.conf.types import format_duration
from blazar_vmexpire.retention import Retention


def add_commands(commands: Commands[Any]) -> None:
    """Add ``purge``."""
    purge = commands.add_parser(
        "purge",
        help="remove what is kept of VMs that have been gone for long",
        description="Remove the leases that Blazar keeps as TERMINATED of VMs that are gone, with"
        " what we keep of these VMs and their notices. The history stays, unless"
        " --history-older-than says how much of it goes. Can be run at any time, also while"
        " Blazar runs.",
    )
    purge.add_argument(
        "--older-than",
        metavar="DURATION",
        type=duration,
        default="90d",
        help="VMs that have been gone for longer (default: 90d)",
    )
    purge.add_argument(
        "--history-older-than",
        metavar="DURATION",
        type=duration,
        help="also the history of purged VMs, as far as it is older; not less than --older-than",
    )
    purge.set_defaults(run=_purge)


def _purge(conf: cfg.ConfigOpts, arguments: Any) -> None:
    older, history_older = arguments.older_than, arguments.history_older_than
    if history_older is not None and history_older < older:
        # Of a VM whose history is gone nobody can say how long it has been gone.
        raise CommandError(
            f"--history-older-than {format_duration(history_older)} is less than --older-than"
            f" {format_duration(older)}: the history has to be kept at least as long"
        )
    now, progress = timeutils.utcnow(), Progress()
    try:
        before = now - older
        history_before = None if history_older is None else now - history_older
    except OverflowError:
        raise CommandError("that long ago there was nothing") from None
    with connected(conf) as database:
        retention = Retention(database)
        vms = retention.purge_vms(before, lambda n: progress.show(f"{n} VMs purged"))
        print(f"VMs purged, gone for longer than {format_duration(older)}: {vms}", flush=True)
        if history_before is not None:
            entries = retention.purge_history(
                history_before, lambda n: progress.show(f"{n} entries of the history purged")
            )
            print(
                "entries of the history purged, older than"
                f" {format_duration(history_older)}: {entries}"
            )
