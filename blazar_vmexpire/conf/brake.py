# SPDX-License-Identifier: Apache-2.0
"""Group ``[vmexpire_brake]``: how many VMs may go, and when all of it stops."""

from __future__ import annotations

from oslo_config import cfg

from blazar_vmexpire.conf.types import Duration

GROUP = cfg.OptGroup(
    "vmexpire_brake",
    title="Brake",
    help="A limit on how many VMs end in an hour, and an emergency stop.",
)

OPTS = [
    cfg.BoolOpt(
        "enabled",
        mutable=True,
        default=True,
        help="Limit how many VMs are deleted or shelved in an hour, and stop all of it when far"
        " more than that would go. When switched off, everything that is due ends at once, whatever"
        " the reason is that it is due.",
    ),
    cfg.IntOpt(
        "deletions_per_hour",
        mutable=True,
        default=20,
        min=1,
        help="How many VMs may be deleted or shelved in an hour, by all workers together. It is the"
        " larger of this number and deletions_share that counts. VMs whose lease ends beyond it"
        " wait for their turn: their lease is moved before it ends, an hour or more.",
    ),
    cfg.FloatOpt(
        "deletions_share",
        mutable=True,
        default=2.0,
        min=0.0,
        max=100.0,
        help="The same in percent of the VMs that have a lease. 0: deletions_per_hour alone"
        " counts.",
    ),
    cfg.FloatOpt(
        "trip_hours",
        mutable=True,
        default=6.0,
        min=0.0,
        help="The brake trips when more VMs wait for their turn than may go in so many hours:"
        " nothing irreversible is done from then on, extensions still work, the operator gets a"
        " mail, and only blazar-vmexpire-manage brake release lets it go on. 0: it trips as soon as"
        " any VM has to wait.",
    ),
    cfg.Opt(
        "vanish_hold",
        mutable=True,
        type=Duration(minimum=Duration()("1m")),
        default="1h",
        help="How long the lease of a VM is kept that Nova does not know any more, when neither a"
        " notification nor Nova's list of deleted servers tells of its deletion. When more VMs are"
        " in that state than may be deleted in an hour, the brake trips: something is wrong with"
        " Nova, or with its database.",
    ),
    cfg.StrOpt(
        "contact",
        mutable=True,
        default=None,
        help="Mail address that is told when the brake trips, and when steps of VMs have failed for"
        " good. Unset: undeliverable_contact of [virtual:vm].",
    ),
]


def list_opts() -> list[tuple[cfg.OptGroup, list[cfg.Opt]]]:
    """Say what this module registers, for the sample generator."""
    return [(GROUP, OPTS)]
