# SPDX-License-Identifier: Apache-2.0
"""What the steps of a VM's expiration work with."""

from __future__ import annotations

import dataclasses
import datetime
import random
from collections.abc import Callable, Mapping

from oslo_config import cfg
from oslo_utils import timeutils

from blazar_vmexpire import lifecycle
from blazar_vmexpire.actions import base as actions
from blazar_vmexpire.cloud import Cloud, connect
from blazar_vmexpire.db.engine import Database
from blazar_vmexpire.notices import Mailer, Renderer
from blazar_vmexpire.terms import TermsBook


@dataclasses.dataclass(frozen=True, slots=True)
class Tools:
    """Options, clock, connections and actions: all that is passed in, none of it global."""

    conf: cfg.ConfigOpts
    clock: Callable[[], datetime.datetime]
    """Says what time it is, naive UTC."""
    database: Database
    cloud: Cloud
    book: TermsBook
    actions: Mapping[str, actions.Action]
    renderer: Renderer
    mailer: Mailer

    def retry_at(self, attempts: int) -> datetime.datetime:
        """Say when something that failed ``attempts`` times is tried again."""
        options = self.conf.vmexpire_worker
        return self.clock() + lifecycle.backoff(
            attempts,
            options.retry_interval,
            options.retry_max_interval,
            random.random(),  # noqa: S311 - spreads load, guards nothing
        )


def assemble(
    conf: cfg.ConfigOpts, clock: Callable[[], datetime.datetime] = timeutils.utcnow
) -> Tools:
    """Make the tools by the options. Nothing is connected before it is used.

    :raises ValueError: when ``[database] connection`` is not set.
    :raises blazar_vmexpire.notices.BadAddress: when ``from_address`` is none.
    :raises RuntimeError: when an action cannot be loaded.
    """
    return Tools(
        conf=conf,
        clock=clock,
        database=Database.from_conf(conf),
        cloud=connect(conf),
        book=TermsBook(conf),
        actions=actions.load(),
        renderer=Renderer(conf.vmexpire_mail.template_path),
        mailer=Mailer(conf),
    )
