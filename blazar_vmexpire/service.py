# SPDX-License-Identifier: Apache-2.0
"""All that runs: the worker with its chores, and the listener for Nova's notifications."""

from __future__ import annotations

import dataclasses
import datetime
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from oslo_config import cfg
from oslo_log import log as logging
from oslo_utils import timeutils

from blazar_vmexpire import RESOURCE_TYPE, labels, terms
from blazar_vmexpire.actions import base as actions
from blazar_vmexpire.db import migration
from blazar_vmexpire.exceptions import ConfigError
from blazar_vmexpire.intake import notifications
from blazar_vmexpire.intake.arrivals import Arrivals
from blazar_vmexpire.intake.notifications import Listening
from blazar_vmexpire.intake.reconcile import Reconciliation, Result
from blazar_vmexpire.labels import Labels
from blazar_vmexpire.monitoring import Endpoint, Gauges, Health
from blazar_vmexpire.rules import RulesError
from blazar_vmexpire.terms import TermsBook
from blazar_vmexpire.worker import (
    aging,
    auditing,
    digesting,
    failures,
    pretending,
    publishing,
    reviewing,
    showing,
)
from blazar_vmexpire.worker.bursts import Bursts
from blazar_vmexpire.worker.claims import Chore, hasten
from blazar_vmexpire.worker.digesting import Digesting
from blazar_vmexpire.worker.publishing import Publishing
from blazar_vmexpire.worker.service import Duty, Worker
from blazar_vmexpire.worker.showing import Showing
from blazar_vmexpire.worker.tools import Tools, assemble
from blazar_vmexpire.worker.watching import Watching

LOG = logging.getLogger(__name__)

#: Names of the chores' rows.
RECONCILIATION = "reconciliation"
AUDIT = "audit"
THOROUGH_AUDIT = "thorough audit"
BURSTS = "bursts"
BRAKE = "brake"
FAILURES = "failures"
TERMS = "terms"
SHOWING = "showing"
OLD_IMAGES = "old images"
DIGESTS = "digests"

#: How often it is looked whether many ends come together.
_BURSTS_INTERVAL = datetime.timedelta(seconds=10)
#: How often it is looked whether the brake has to trip.
_BRAKE_INTERVAL = datetime.timedelta(seconds=30)

#: How often it is looked for images that are kept no longer.
_OLD_IMAGES_INTERVAL = datetime.timedelta(hours=1)


def prepare(
    conf: cfg.ConfigOpts, clock: Callable[[], datetime.datetime] = timeutils.utcnow
) -> Tools:
    """Make the tools, and check that with these options and tables the work can be done.

    :raises blazar_vmexpire.exceptions.ConfigError: with a sentence that names the option.
    """
    try:
        tools = assemble(conf, clock)
        check(conf, tools.book, tools.actions)
        migration.require_current(tools.database)
    except (ValueError, RuntimeError, migration.MigrationError) as error:
        raise ConfigError(str(error)) from error
    for problem in tools.renderer.check():
        LOG.error("Mail templates: %s", problem)
    return tools


def check(conf: cfg.ConfigOpts, book: TermsBook, known: Mapping[str, actions.Action]) -> None:
    """Check that the options make sense together, and load the rules into the book.

    :param known: the actions that there are.
    :raises blazar_vmexpire.exceptions.ConfigError: with a sentence that names the option.
    """
    usable = actions.usable(known)
    terms.check(conf, *usable)
    book.load(*usable)
    labels.check(conf)
    notifications.check(conf)


def reconciliation_chore(tools: Tools) -> Chore:
    """Make the chore of comparing Nova's server list with the leases."""
    return Chore(
        tools.database,
        tools.clock,
        RECONCILIATION,
        interval=tools.conf.vmexpire_intake.reconcile_interval,
        duration=tools.conf.vmexpire_worker.claim_duration,
    )


def reconcile(
    tools: Tools, chore: Chore, report: Callable[[int], None] = lambda listed: None
) -> Result:
    """Reconcile once; ``chore`` is claimed and stays so for as long as it takes.

    :param report: told after each page of Nova's list how many servers were listed until then.
    """
    begun = time.perf_counter()
    result = Reconciliation(tools, chore.renew, report).run(first=not chore.finished_before())
    tools.metrics.reconciled(time.perf_counter() - begun, dataclasses.asdict(result))
    # What was found of VMs and projects may change terms.
    hasten(tools.database, tools.clock, TERMS)
    LOG.info(
        "Reconciled: %d servers listed, %d taken in, %d to be looked at, %d busy, %d out of scope,"
        " %d not listed",
        result.listed,
        result.adopted,
        result.woken,
        result.busy,
        result.out_of_scope,
        result.missing,
    )
    return result


def _telling(publishing: Publishing) -> Callable[[Chore], object]:
    return lambda chore: publishing.run(chore.renew)


class Service:
    """Runs until it is stopped. To be made in one process and started in the one that serves."""

    def __init__(self, tools: Tools) -> None:
        self.tools = tools
        options = tools.conf.vmexpire_worker

        watching = Watching(tools)
        shower = Showing(tools)
        self._digesting = Digesting(tools)

        def duty(name: str, interval: datetime.timedelta, work: Callable[[Chore], object]) -> Duty:
            return Duty(
                Chore(
                    tools.database,
                    tools.clock,
                    name,
                    interval=interval,
                    duration=options.claim_duration,
                ),
                work,
            )

        duties = [
            duty(AUDIT, options.audit_interval, lambda chore: auditing.audit(tools)),
            duty(
                THOROUGH_AUDIT,
                tools.conf.vmexpire_intake.reconcile_interval,
                lambda chore: auditing.audit(tools, thorough=True),
            ),
            duty(BURSTS, _BURSTS_INTERVAL, lambda chore: Bursts(tools, chore.renew).run()),
            duty(BRAKE, _BRAKE_INTERVAL, lambda chore: watching.run()),
            duty(SHOWING, showing.INTERVAL, lambda chore: shower.run()),
            duty(DIGESTS, digesting.INTERVAL, lambda chore: self._digesting.run(chore.renew)),
            duty(OLD_IMAGES, _OLD_IMAGES_INTERVAL, lambda chore: aging.age(tools, chore.renew)),
        ]
        if every := tools.conf.vmexpire_mail.failures_interval:
            duties.append(duty(FAILURES, every, lambda chore: failures.tell(tools)))
        if tools.conf.vmexpire_intake.reconciliation:
            duties.append(Duty(reconciliation_chore(tools), lambda chore: reconcile(tools, chore)))
        duties.append(
            duty(
                TERMS,
                tools.conf.vmexpire_intake.reconcile_interval,
                lambda chore: reviewing.review(tools, chore.renew),
            )
        )
        self._publishing = [
            Publishing(tools, name, notifier) for name, notifier in tools.notifiers.items()
        ]
        duties += [
            duty(f"notifier {each.name}", publishing.INTERVAL, _telling(each))
            for each in self._publishing
        ]
        self.worker = Worker(tools, duties)
        self._listening: Listening | None = None
        self._endpoint = self._make_endpoint()
        self._started = False
        self._guard = threading.Lock()

    def _make_endpoint(self) -> Endpoint | None:
        """Make the port for programs, if one is wanted."""
        tools, options = self.tools, self.tools.conf.vmexpire_metrics
        if not options.port:
            return None
        gauges = Gauges(tools.database, tools.clock, tools.brake, list(tools.notifiers))
        tools.metrics.registry.register(gauges)
        health = Health(tools.database, lambda: self.worker.ailments(options.stalled_after))
        return Endpoint(options.host, options.port, tools.metrics.registry, health.problems)

    def reload(self, conf: cfg.ConfigOpts, fresh: Any) -> None:
        """Read the rules file again: what SIGHUP asks for, after the options were read again.

        What cannot be used leaves the rules as they were.
        """
        try:
            self.tools.book.load(*actions.usable(self.tools.actions))
        except RulesError as error:
            for problem in str(error).splitlines():
                LOG.error("The rules stay as they were: %s", problem)
            return
        LOG.info("The rules were read again: %d of them", self.tools.book.rules_count)
        hasten(self.tools.database, self.tools.clock, TERMS)
        self.worker.wake()

    def start(self) -> None:
        """Start, once; further calls do nothing."""
        with self._guard:
            if self._started:
                return
            self._started = True
        self.tools.conf.register_mutate_hook(self.reload)
        # Connections that were opened before a fork belong to the other process.
        self.tools.database.dispose()
        self.worker.start()
        if self._endpoint is not None:
            self._endpoint.start()
        if self.tools.conf.vmexpire_intake.notifications:
            endpoint = notifications.Endpoint(
                self.tools.database,
                self.tools.clock,
                self.worker.wake,
                Labels.of(self.tools.conf),
                Arrivals(self.tools.database, self.tools.clock),
            )
            self._listening = Listening(
                lambda: notifications.make_listener(self.tools.conf, endpoint)
            )
            if not self._listening.start():
                LOG.warning(
                    "The message bus of Nova's notifications is not there yet: until it is, VMs are"
                    " noticed by reconciliation alone"
                )
        if self.tools.conf[RESOURCE_TYPE].dry_run:
            pretending.mark_log_lines()
        LOG.info("The expiration of virtual machines is at work")

    def stop(self) -> None:
        """Finish what is in hand, and end."""
        if self._listening is not None and not self._listening.stop():
            LOG.warning("The message bus of Nova's notifications is away: it is not waited for")
        self._digesting.stop()
        for each in self._publishing:
            each.stop()
        self.worker.stop()
        for each in self._publishing:
            each.close()
        if self._started and self._endpoint is not None:
            self._endpoint.stop()
