# SPDX-License-Identifier: Apache-2.0
"""Credentials, endpoints and timeouts, from the configuration."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import ipaddress
from typing import Any

from blazar import config as blazar_config
from blazar.utils.openstack import keystone as blazar_keystone
from blazar.utils.openstack import nova as blazar_nova
from keystoneauth1 import loading, session
from keystoneauth1.identity import v3
from oslo_config import cfg

from blazar_vmexpire import RESOURCE_TYPE

GROUP = "vmexpire_cloud"


@dataclasses.dataclass(frozen=True, slots=True)
class Endpoints:
    """Which of a service's endpoints in the catalogue are used.

    :ivar interfaces: in order of preference, such as ``("internal", "public")``
    :ivar region_name: None means the first region in the catalogue
    """

    interfaces: tuple[str, ...] = ("internal", "public")
    region_name: str | None = None


#: What is used when nothing is said.
ANY = Endpoints()


class DryRun(Exception):
    """Something was about to be changed in the cloud, in a dry run."""


class _ReadOnlySession(session.Session):  # type: ignore[misc]
    """Lets nothing through that could change something."""

    def request(self, url: str, method: str, **how: Any) -> Any:
        """Send a request that changes nothing.

        :raises DryRun: for any other.
        """
        # A token is asked for by POST.
        if method not in ("GET", "HEAD") and not url.endswith("/auth/tokens"):
            raise DryRun(f"this is a dry run: no {method} is sent")
        return super().request(url, method, **how)


class _ReadOnlyLoader(loading.session.Session):  # type: ignore[misc]
    """Makes such a session by the same options."""

    @property
    def plugin_class(self) -> type[session.Session]:
        """Say which class is made."""
        return _ReadOnlySession


def make_session(conf: cfg.ConfigOpts) -> session.Session:
    """Make a keystoneauth session from the configuration. Nothing is sent yet.

    The credentials are those of ``[vmexpire_cloud]`` when ``auth_type`` (or ``auth_section``) is
    set there, else the account that Blazar itself uses. Each request, those for a token included,
    has ``request_timeout`` to connect and again between any two parts of the answer; none is
    repeated, except once with a fresh token after a 401. In a dry run nothing is sent that could
    change something.

    :param conf: with the options of :mod:`blazar_vmexpire.conf.cloud` registered
    :raises keystoneauth1.exceptions.ClientException: when the credentials are incomplete or of an
        unknown type: this is a mistake in the configuration, to be met when a service starts
    """
    _register_blazar_options(conf)
    ours = conf[GROUP]
    auth = loading.load_auth_from_conf_options(conf, GROUP) or _blazar_account(conf)
    loader = _ReadOnlyLoader() if conf[RESOURCE_TYPE].dry_run else loading.session.Session()
    return loader.load_from_conf_options(
        conf,
        GROUP,
        auth=auth,
        cacert=ours.cafile or conf.cafile,
        timeout=ours.timeout or ours.request_timeout.total_seconds(),
        user_agent=f"blazar-vmexpire/{_version()}",
    )


def endpoints(conf: cfg.ConfigOpts) -> Endpoints:
    """Say which endpoints are used: those of ``[vmexpire_cloud]``, else those that Blazar uses."""
    _register_blazar_options(conf)
    ours = conf[GROUP]
    wanted = ours.valid_interfaces or [conf.nova.endpoint_type, "internal", "public"]
    return Endpoints(
        interfaces=tuple(dict.fromkeys(wanted)),
        region_name=ours.region_name or conf.os_region_name,
    )


def _register_blazar_options(conf: cfg.ConfigOpts) -> None:
    """Make Blazar's own options readable where ``conf`` is not Blazar's global one."""
    conf.register_opts(blazar_config.os_opts)
    conf.register_opts(blazar_keystone.opts)
    conf.register_opts(blazar_nova.nova_opts, group="nova")


def _blazar_account(conf: cfg.ConfigOpts) -> v3.Password:
    return v3.Password(
        auth_url=_blazar_auth_url(conf),
        username=conf.os_admin_username,
        password=conf.os_admin_password,
        user_domain_name=conf.os_admin_user_domain_name,
        project_name=conf.os_admin_project_name,
        project_domain_name=conf.os_admin_project_domain_name,
    )


def _blazar_auth_url(conf: cfg.ConfigOpts) -> str:
    """Form the URL as ``blazar.utils.openstack.base`` does, less the empty path segments."""
    host = conf.os_auth_host
    try:
        if ipaddress.ip_address(host).version == 6:
            host = f"[{host}]"
    except ValueError:
        pass  # a name
    root = f"{conf.os_auth_protocol}://{host}:{conf.os_auth_port}"
    return "/".join(
        part for part in (root, conf.os_auth_prefix.strip("/"), conf.os_auth_version) if part
    )


def _version() -> str:
    try:
        return importlib.metadata.version("blazar-vmexpire")
    except importlib.metadata.PackageNotFoundError:
        return "0"  # run from a checkout that is not installed
