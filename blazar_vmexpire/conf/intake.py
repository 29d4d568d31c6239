# SPDX-License-Identifier: Apache-2.0
"""Group ``[vmexpire_intake]``: how VMs are noticed."""

from __future__ import annotations

from oslo_config import cfg

from blazar_vmexpire.conf.types import Duration

GROUP = cfg.OptGroup("vmexpire_intake", title="Intake", help="How new and deleted VMs are noticed.")

OPTS = [
    cfg.BoolOpt(
        "notifications",
        default=True,
        help="Listen to Nova's notifications. They make a new VM's lease appear within seconds;"
        " without them it appears with the next reconciliation.",
    ),
    cfg.StrOpt(
        "transport_url",
        secret=True,
        help="Message bus that Nova's notifications are on; unset means the transport_url of"
        " [oslo_messaging_notifications] or [DEFAULT].",
    ),
    cfg.StrOpt(
        "exchange",
        default="nova",
        help="Exchange that Nova publishes to: its control_exchange.",
    ),
    cfg.ListOpt(
        "topics",
        default=["notifications", "versioned_notifications"],
        help="Topics to listen to. Both formats of Nova's notifications are understood, and it does"
        " no harm to receive both. List no topic that Nova does not publish.",
    ),
    cfg.StrOpt(
        "pool",
        default="blazar-vmexpire",
        help="Name of the listener pool. Each pool gets its own copy of every message, so that"
        " other consumers of Nova's notifications lose none.",
    ),
    cfg.BoolOpt(
        "reconciliation",
        default=True,
        help="Compare Nova's server list with the leases from time to time. It finds what"
        " notifications missed; switch it off only for a test.",
    ),
    cfg.Opt(
        "reconcile_interval",
        type=Duration(minimum=Duration()("1s")),
        default="15m",
        help="Time between the starts of two reconciliations. One runs at a time in the whole"
        " cloud, however many managers there are.",
    ),
    cfg.IntOpt(
        "page_size",
        default=1000,
        min=1,
        max=1000,
        help="How many servers are asked of Nova at a time. Nova's own max_limit is a further"
        " bound.",
    ),
]


def list_opts() -> list[tuple[cfg.OptGroup, list[cfg.Opt]]]:
    """Say what this module registers, for the sample generator."""
    return [(GROUP, OPTS)]
