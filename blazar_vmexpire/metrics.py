# SPDX-License-Identifier: Apache-2.0
"""What a process counts of its own work, for Prometheus. What the database knows is not among it.

Labels have few values, known beforehand: never a server, a project or a person.
"""

from __future__ import annotations

import prometheus_client as prometheus

from blazar_vmexpire.lifecycle import State

PREFIX = "blazar_vmexpire"

#: Seconds that a step takes: most ask Nova a few things.
_STEP = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 60, 300)
#: Seconds from the moment that something is due until it is done.
_LATENESS = (1, 3, 10, 30, 60, 300, 900, 3600, 6 * 3600, 24 * 3600)
#: Seconds that it takes to compare a whole cloud.
_RECONCILIATION = (1, 3, 10, 30, 60, 180, 600, 1800, 3600)

SERVICES = ("nova", "glance", "cinder", "keystone", "smtp", "database")


class Metrics:
    """The counters of one process. Threads may share them.

    :ivar registry: all of them, and what is added to be read from the database.
    """

    def __init__(self) -> None:
        self.registry = prometheus.CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> prometheus.Counter:
            return prometheus.Counter(f"{PREFIX}_{name}", text, labels, registry=self.registry)

        def histogram(
            name: str, text: str, buckets: tuple[float, ...], *labels: str
        ) -> prometheus.Histogram:
            return prometheus.Histogram(
                f"{PREFIX}_{name}", text, labels, buckets=buckets, registry=self.registry
            )

        self._steps = counter(
            "steps",
            "Steps, by the VM's state before and by how they went: done; waits (for Blazar, the"
            " brake or another worker); retried (something did not answer or refused); failed (a"
            " person has to look); broken (an error of ours, or the database is away).",
            "state",
            "result",
        )
        self._step_seconds = histogram("step_seconds", "How long steps took.", _STEP, "state")
        self._lateness = histogram(
            "lateness_seconds", "From when a step was due until it was done.", _LATENESS
        )
        self._events = counter("events", "Entries of the VMs' histories, by event.", "event")
        self._notices = counter(
            "notices",
            "Notices about VMs, each of those in a digest: accepted by the mail server; refused for"
            " good; put_off.",
            "result",
        )
        self._claimed = counter("claimed", "VMs that this process took in hand.")
        self._errors = counter(
            "errors",
            "What services, the mail server and the database did not do when they were asked:"
            " unavailable, conflict, refused or notfound.",
            "service",
            "kind",
        )
        self._notified = counter(
            "notified",
            "Notifications to other programs: delivered; put_off; rejected for good; too_old to be"
            " told.",
            "notifier",
            "result",
        )
        self._chores = counter(
            "chores", "Turns at what is done once at a time, by how they went.", "chore", "result"
        )
        self._reconciliation = histogram(
            "reconciliation_seconds", "How long reconciliations took.", _RECONCILIATION
        )
        self._found = counter(
            "reconciliation_servers", "Servers, by what reconciliations found.", "finding"
        )
        # What has not happened yet is 0, not unknown: else the first time would raise no alert.
        for service in SERVICES:
            self._errors.labels(service, "unavailable")
        for result in ("accepted", "refused", "put_off"):
            self._notices.labels(result)
        for state in State:
            for result in ("done", "failed", "broken"):
                self._steps.labels(state.value, result)

    def step(
        self, state: str, result: str, *, seconds: float, lateness: float | None = None
    ) -> None:
        """Count a step.

        :param state: of the VM, before it.
        :param lateness: seconds since it was due; None where that says nothing.
        """
        self._steps.labels(state, result).inc()
        self._step_seconds.labels(state).observe(seconds)
        if lateness is not None:
            self._lateness.observe(max(lateness, 0.0))

    def happened(self, event: str, count: int = 1) -> None:
        """Count entries of VMs' histories."""
        self._events.labels(event).inc(count)

    def notice(self, result: str, count: int = 1) -> None:
        """Count notices of one mail: ``accepted``, ``refused`` or ``put_off``."""
        self._notices.labels(result).inc(count)

    def claimed(self, count: int) -> None:
        """Count VMs that were claimed."""
        self._claimed.inc(count)

    def error(self, service: str, kind: str) -> None:
        """Count that somebody did not do what they were asked.

        :param service: one of ``SERVICES``.
        """
        self._errors.labels(service, kind).inc()

    def notified(self, notifier: str, result: str, count: int = 1) -> None:
        """Count notifications: ``delivered``, ``put_off``, ``rejected`` or ``too_old``."""
        for each in ("delivered", "put_off", "rejected", "too_old"):
            self._notified.labels(notifier, each)
        self._notified.labels(notifier, result).inc(count)

    def chore(self, name: str, result: str) -> None:
        """Count a turn at a chore: ``done`` or ``failed``."""
        # What has not failed yet has done so 0 times.
        self._chores.labels(name, "failed")
        self._chores.labels(name, result).inc()

    def reconciled(self, seconds: float, found: dict[str, int]) -> None:
        """Count a reconciliation, and what it found."""
        self._reconciliation.observe(seconds)
        for finding, count in found.items():
            self._found.labels(finding).inc(count)
