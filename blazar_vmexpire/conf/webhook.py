# SPDX-License-Identifier: Apache-2.0
"""Group ``[vmexpire_webhook]``: the notifier that posts to a URL."""

from __future__ import annotations

from oslo_config import cfg

from blazar_vmexpire.conf.types import Duration

GROUP = cfg.OptGroup(
    "vmexpire_webhook",
    title="Webhook",
    help="The notifier webhook of [vmexpire_notifiers]: one POST for each notification.",
)

OPTS = [
    cfg.StrOpt(
        "url",
        secret=True,
        help="Where to post, https:// (http:// for this very host alone). The incoming webhook of"
        " Slack or Mattermost will do: they show the line of text in it.",
    ),
    cfg.StrOpt(
        "secret",
        secret=True,
        help="Key by which each POST is signed (HMAC-SHA256), so that the other side knows whose"
        " it is. Unset: it is not signed.",
    ),
    cfg.StrOpt(
        "cafile",
        help="File with the CA certificates that the other side's certificate is checked against;"
        " unset means the usual ones.",
    ),
    cfg.Opt(
        "timeout",
        type=Duration(minimum=Duration()("1s")),
        default="10s",
        help="How long to wait for a connection, and for an answer, each. What is not answered is"
        " posted again.",
    ),
]


def list_opts() -> list[tuple[cfg.OptGroup, list[cfg.Opt]]]:
    """Say what this module registers, for the sample generator."""
    return [(GROUP, OPTS)]
