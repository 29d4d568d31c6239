# SPDX-License-Identifier: Apache-2.0
"""The border to Nova, Glance, Cinder and Keystone: thin adapters over keystoneauth.

Every call has a timeout, raises nothing but :mod:`blazar_vmexpire.cloud.errors`, and is not
repeated: whoever calls knows whether and when to try again.
"""

from __future__ import annotations

from keystoneauth1 import session as ksa_session
from oslo_config import cfg

from blazar_vmexpire.cloud.cinder import Cinder
from blazar_vmexpire.cloud.glance import Glance
from blazar_vmexpire.cloud.keystone import Keystone
from blazar_vmexpire.cloud.nova import Nova
from blazar_vmexpire.cloud.session import Endpoints, endpoints, make_session

__all__ = ["Cloud", "connect"]


class Cloud:
    """The services, over one session with one token. Threads may share it."""

    def __init__(self, session: ksa_session.Session, where: Endpoints) -> None:
        self.nova = Nova(session, where)
        self.glance = Glance(session, where)
        self.cinder = Cinder(session, where)
        self.keystone = Keystone(session, where)


def connect(conf: cfg.ConfigOpts) -> Cloud:
    """Make the adapters. Nothing is sent until one of them is used, so that it is safe before a
    fork.

    :param conf: with the options of :mod:`blazar_vmexpire.conf.cloud` registered
    :raises keystoneauth1.exceptions.ClientException: when the credentials are incomplete
    """
    return Cloud(make_session(conf), endpoints(conf))
