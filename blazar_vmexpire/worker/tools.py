# SPDX-License-Identifier: Apache-2.0
"""What the steps of a VM's expiration work with."""

from __future__ import annotations

import dataclasses
import datetime
import random
import ssl
from collections.abc import Callable, Mapping

from oslo_config import cfg
from oslo_utils import timeutils

from blazar_vmexpire import RESOURCE_TYPE, lifecycle, notifiers, time_zones
from blazar_vmexpire.actions import base as actions
from blazar_vmexpire.brake import Brake
from blazar_vmexpire.cloud import Cloud, connect
from blazar_vmexpire.conf import brake, mail, opts, webhook
from blazar_vmexpire.db.engine import Database
from blazar_vmexpire.db.journal import Journal
from blazar_vmexpire.exceptions import ConfigError
from blazar_vmexpire.metrics import Metrics
from blazar_vmexpire.notices import (
    DRY_RUN,
    Mailer,
    Renderer,
    UserAddress,
    parse_recipient,
    parse_sender,
)
from blazar_vmexpire.notifiers import Notifier
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
    brake: Brake
    actions: Mapping[str, actions.Action]
    renderer: Renderer
    mailer: Mailer
    metrics: Metrics
    notifiers: Mapping[str, Notifier]

    @property
    def operators(self) -> str | None:
        """Whom operators' own mails go to; None where nobody is named."""
        contact: str | None = (
            self.conf.vmexpire_brake.contact or self.conf[RESOURCE_TYPE].undeliverable_contact
        )
        return contact or None

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
    :raises blazar_vmexpire.exceptions.ConfigError: when an option is not what it has to be; the
        sentence names it.
    :raises RuntimeError: when an action cannot be loaded.
    """
    check(conf)
    metrics = Metrics()
    database = Database.from_conf(conf)
    database.listeners.append(lambda told: _count(metrics, told))
    return Tools(
        conf=conf,
        clock=clock,
        database=database,
        cloud=connect(conf),
        book=TermsBook(conf),
        brake=Brake(conf),
        actions=actions.load(),
        renderer=Renderer.from_conf(conf, preface=DRY_RUN if conf[RESOURCE_TYPE].dry_run else None),
        mailer=Mailer(conf),
        metrics=metrics,
        notifiers=notifiers.load(conf),
    )


def _count(metrics: Metrics, told: Journal) -> None:
    """Count what a transaction did: of a page of VMs once, not once a VM."""
    for happening in told.happenings:
        metrics.happened(happening.event)
    for event, count in told.pages.items():
        metrics.happened(event, count)


def check(conf: cfg.ConfigOpts) -> None:
    """Check each option by itself.

    :raises blazar_vmexpire.exceptions.ConfigError: with a sentence that names the option.
    """
    opts.check_values(conf)
    _check_text(conf, RESOURCE_TYPE, "undeliverable_contact", parse_recipient)
    _check_text(conf, brake.GROUP.name, "contact", parse_recipient)
    _check_text(conf, mail.GROUP.name, "from_address", parse_sender)
    _check_text(conf, mail.GROUP.name, "time_zone", time_zones.parse)
    _check_text(conf, mail.GROUP.name, "mail_address_template", UserAddress)
    _check_certificates(conf, mail.GROUP.name, "cafile")
    _check_certificates(conf, webhook.GROUP.name, "cafile")


def _check_text(
    conf: cfg.ConfigOpts, group: str, name: str, parse: Callable[[str], object]
) -> None:
    text: str | None = conf[group][name]
    if text is None:
        return
    try:
        parse(text)
    except ValueError as error:
        raise ConfigError(f"[{group}] {name}: {error}") from error


def _check_certificates(conf: cfg.ConfigOpts, group: str, name: str) -> None:
    path: str | None = conf[group][name]
    if path is None:
        return
    try:
        ssl.create_default_context(cafile=path)
    except OSError as error:
        raise ConfigError(f"[{group}] {name}: no CA certificates in {path!r}: {error}") from error
