# SPDX-License-Identifier: Apache-2.0
"""Group ``[vmexpire_cloud]``: how Nova, Glance and Keystone are reached."""

from __future__ import annotations

from keystoneauth1 import loading
from oslo_config import cfg

from blazar_vmexpire.conf.types import Duration

GROUP = cfg.OptGroup(
    "vmexpire_cloud",
    title="Cloud",
    help="How Nova, Glance and Keystone are reached. Credentials are those of keystoneauth"
    " (auth_type, auth_url, username, …). Without auth_type the account that Blazar itself"
    " uses (os_admin_username and its like in [DEFAULT]) serves, and nothing need be set here.",
)

OPTS = [
    cfg.StrOpt(
        "region_name",
        help="Region whose endpoints are used; unset means Blazar's os_region_name.",
    ),
    cfg.ListOpt(
        "valid_interfaces",
        help="Interfaces of the endpoints, in order of preference (internal, public); unset means"
        " Blazar's [nova] endpoint_type first, then internal, then public.",
    ),
    cfg.Opt(
        "request_timeout",
        type=Duration(minimum=Duration()("1s")),
        default="60s",
        help="How long one request may take. A service that takes longer counts as unreachable,"
        " which is never evidence of anything: the step is tried again.",
    ),
]


def register_more(conf: cfg.ConfigOpts) -> None:
    """Register keystoneauth's own options beside ours."""
    loading.register_auth_conf_options(conf, GROUP.name)
    loading.register_session_conf_options(conf, GROUP.name)


def list_opts() -> list[tuple[cfg.OptGroup, list[cfg.Opt]]]:
    """Say what this module registers, for the sample generator."""
    return [
        (
            GROUP,
            OPTS
            + loading.get_session_conf_options()
            + loading.get_auth_common_conf_options()
            + loading.get_auth_plugin_conf_options("password"),
        )
    ]
