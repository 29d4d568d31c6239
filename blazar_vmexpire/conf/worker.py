# SPDX-License-Identifier: Apache-2.0
"""Group ``[vmexpire_worker]``: how the work is done."""

from __future__ import annotations

from oslo_config import cfg

from blazar_vmexpire.conf.types import Duration

GROUP = cfg.OptGroup(
    "vmexpire_worker", title="Worker", help="How the steps of a VM's expiration are worked off."
)

_SECOND = Duration()("1s")

OPTS = [
    cfg.BoolOpt(
        "enabled",
        default=True,
        help="Work inside blazar-manager. When switched off, this manager answers lease updates"
        " and nothing else of the plug-in runs in it; blazar-vmexpire-worker, which this option"
        " does not concern, does the work then.",
    ),
    cfg.IntOpt(
        "threads",
        default=4,
        min=1,
        max=64,
        help="How many VMs are worked on at once. More threads help when Nova, Glance or the mail"
        " server are slow; each holds a database connection for moments only.",
    ),
    cfg.Opt(
        "poll_interval",
        type=Duration(minimum=_SECOND),
        default="1s",
        help="How often the database is asked for due work when nothing else wakes the worker.",
    ),
    cfg.Opt(
        "claim_duration",
        type=Duration(minimum=Duration()("10s")),
        default="2m",
        help="How long a VM stays reserved for the worker that took it. A live worker renews its"
        " claims; those of a dead one are taken over when this time has passed.",
    ),
    cfg.Opt(
        "retry_interval",
        mutable=True,
        type=Duration(minimum=_SECOND),
        default="10s",
        help="How soon a step that failed is tried again. Each further failure doubles the wait,"
        " up to retry_max_interval.",
    ),
    cfg.Opt(
        "retry_max_interval",
        mutable=True,
        type=Duration(minimum=_SECOND),
        default="10m",
        help="The longest wait between two tries of a step. When an image of a VM has failed, the"
        " next one is made after between half and all of it.",
    ),
    cfg.IntOpt(
        "max_attempts",
        mutable=True,
        default=5,
        min=1,
        help="How often a step may be refused for good (not: be unreachable) before the VM's"
        " expiration is set to failed for an operator to look at. Services that are down are waited"
        " for without limit.",
    ),
    cfg.Opt(
        "snapshot_timeout",
        mutable=True,
        type=Duration(minimum=Duration()("1m")),
        default="6h",
        help="How long an image may take to become active before it counts as failed.",
    ),
    cfg.Opt(
        "migration_timeout",
        mutable=True,
        type=Duration(minimum=Duration()("1m")),
        default="6h",
        help="How long a migration before the end of a lease may take before it counts as failed."
        " The end comes all the same. Also how long an extension waits for one that is under way.",
    ),
    cfg.Opt(
        "busy_postponement",
        mutable=True,
        type=Duration(minimum=Duration()("1m")),
        default="1h",
        help="How far a lease is moved when it should end while its VM is building, broken, or in"
        " the middle of a task: such a VM is left alone until that is over.",
    ),
    cfg.Opt(
        "audit_interval",
        type=Duration(minimum=_SECOND),
        default="30s",
        help="How often the implicit leases are checked against Blazar's tables. A lease that was"
        " deleted or damaged is put back by the first check that sees it. Their reservations and"
        " events, which no owner can damage alone, and leases that should not be there are checked"
        " every reconcile_interval.",
    ),
    cfg.Opt(
        "blazar_grace",
        mutable=True,
        type=Duration(minimum=_SECOND),
        default="2m",
        help="How long a lease may be in transition (UPDATING, DELETING, TERMINATING, …) before it"
        " counts as left behind by a manager that died, and is mended.",
    ),
]


def list_opts() -> list[tuple[cfg.OptGroup, list[cfg.Opt]]]:
    """Say what this module registers, for the sample generator."""
    return [(GROUP, OPTS)]
