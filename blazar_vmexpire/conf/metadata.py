# SPDX-License-Identifier: Apache-2.0
"""Group ``[vmexpire_metadata]``: what the metadata of a VM tell of its end."""

from __future__ import annotations

from typing import Any

from oslo_config import cfg

GROUP = cfg.OptGroup(
    "vmexpire_metadata",
    title="Metadata",
    help="What the metadata of a VM in Nova tell of its end.",
)

#: What Nova allows as a key.
_KEY: dict[str, Any] = {"regex": r"^[a-zA-Z0-9_:. -]{1,255}$"}

OPTS = [
    cfg.BoolOpt(
        "enabled",
        default=True,
        help="Write the end of a VM's lease and the state of its expiration to the VM's metadata,"
        " so that ``openstack server show`` tells them, and take what its owner writes there for a"
        " request to move the end. When this is switched off, what was written is removed.",
    ),
    cfg.StrOpt(
        "end_key",
        default="expire_at",
        help="Key of the metadata that tells when the lease ends. What was written under another"
        " key before stays: switch ``enabled`` off, wait until it is removed, then change the key.",
        **_KEY,
    ),
    cfg.StrOpt(
        "state_key",
        default="expire_state",
        help="Key of the metadata that tells the state of the expiration.",
        **_KEY,
    ),
    cfg.IntOpt(
        "per_second",
        default=20,
        min=1,
        mutable=True,
        help="How many VMs' metadata are written in a second, at most and on average. The VMs of an"
        " existing cloud are shown their first end at this pace: 100,000 of them take 83 minutes."
        " What has changed goes first.",
    ),
]


def list_opts() -> list[tuple[cfg.OptGroup, list[cfg.Opt]]]:
    """Say what this module registers, for the sample generator."""
    return [(GROUP, OPTS)]
