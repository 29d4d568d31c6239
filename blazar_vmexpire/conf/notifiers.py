# SPDX-License-Identifier: Apache-2.0
"""Group ``[vmexpire_notifiers]``: which other programs are told what happens to VMs."""

from __future__ import annotations

from oslo_config import cfg

from blazar_vmexpire.conf.types import Duration

GROUP = cfg.OptGroup(
    "vmexpire_notifiers",
    title="Notifiers",
    help="Telling other programs what happens to VMs, as it is written to their histories.",
)

_SECOND = Duration()("1s")

OPTS = [
    cfg.ListOpt(
        "enabled",
        default=[],
        help="Names of the notifiers that are on: bus (oslo.messaging), webhook, or one of your own"
        " (entry point group blazar_vmexpire.notifiers). Empty: nobody is told. One that is added"
        " is told what happens from then on. Set the same for all managers and workers.",
    ),
    cfg.ListOpt(
        "events",
        default=["*"],
        help="Which events are told: names as the history has them, such as extended, deleted,"
        " failed; * stands for any characters. The rest is passed over.",
    ),
    cfg.Opt(
        "timeout",
        type=Duration(minimum=_SECOND),
        default="30s",
        help="How long a notifier may take for one notification. After that it is asked again and"
        " again how it went, and no other is begun. No work on VMs waits for it.",
    ),
    cfg.Opt(
        "catch_up",
        type=Duration(minimum=Duration()("1m")),
        default="1d",
        help="What is older is not told any more, when a notifier, or who it tells, was away for"
        " long: a warning in the log and a metric say how many that were.",
    ),
]


def list_opts() -> list[tuple[cfg.OptGroup, list[cfg.Opt]]]:
    """Say what this module registers, for the sample generator."""
    return [(GROUP, OPTS)]
