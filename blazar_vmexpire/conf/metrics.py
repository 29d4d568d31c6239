# SPDX-License-Identifier: Apache-2.0
"""Group ``[vmexpire_metrics]``: a port for Prometheus, and for who asks whether we are well."""

from __future__ import annotations

from oslo_config import cfg

from blazar_vmexpire.conf.types import Duration

GROUP = cfg.OptGroup(
    "vmexpire_metrics",
    title="Metrics",
    help="A port on which blazar-manager and blazar-vmexpire-worker tell how they are:"
    " /metrics for Prometheus, /healthz for load balancers and supervisors.",
)

OPTS = [
    cfg.PortOpt(
        "port",
        default=0,
        help="TCP port. 0: none is opened. Each process needs one of its own: where blazar-manager"
        " and blazar-vmexpire-worker share a host, give the worker a second --config-file that sets"
        " another. A process that finds it taken says so in its log and works without; it tries"
        " again every minute.",
    ),
    cfg.HostAddressOpt(
        "host",
        default="127.0.0.1",
        help="Address or name of this host to listen on. Nobody has to log in, so whoever reaches"
        " it learns how many VMs there are and what is due; names and owners are not among it. Put"
        " a proxy before it rather than opening it to a network that others are on.",
    ),
    cfg.Opt(
        "stalled_after",
        type=Duration(minimum=Duration()("10s")),
        default="10m",
        help="/healthz answers 503 when for so long no worker thread was free to look for due work:"
        " all of them hang, or the database is away. Longer than the services may take that a step"
        " asks; each request has its own timeout.",
    ),
]


def list_opts() -> list[tuple[cfg.OptGroup, list[cfg.Opt]]]:
    """Say what this module registers, for the sample generator."""
    return [(GROUP, OPTS)]
