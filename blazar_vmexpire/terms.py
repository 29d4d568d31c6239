# SPDX-License-Identifier: Apache-2.0
"""Which VMs expire, and on what terms."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Collection

from oslo_config import cfg

from blazar_vmexpire import RESOURCE_TYPE
from blazar_vmexpire.calendars import Calendar
from blazar_vmexpire.exceptions import ConfigError
from blazar_vmexpire.lifecycle import Terms
from blazar_vmexpire.sense import misfits


class TermsBook:
    """Says for every VM whether it expires, and on what terms.

    :param conf: options; ``[virtual:vm]`` is read anew at each question, so that an option that
        was changed while the service runs counts from then on.
    """

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        self._conf = conf

    @property
    def adoption_spread(self) -> datetime.timedelta:
        """How far the first ends of an existing cloud are spread."""
        spread: datetime.timedelta = self._conf[RESOURCE_TYPE].adoption_spread
        return spread

    def in_scope(self, project_id: str, service_project_id: str | None = None) -> bool:
        """Say whether VMs of a project expire.

        :param service_project_id: the project that our own service user works in; it need not be
            known for a VM that was taken in already.
        """
        options = self._conf[RESOURCE_TYPE]
        return (
            options.scope == "all"
            and project_id != service_project_id
            and project_id not in options.excluded_projects
        )

    def terms(self) -> Terms:
        """Say the terms of the VMs in scope."""
        options = self._conf[RESOURCE_TYPE]
        return Terms(
            lease_duration=options.lease_duration,
            extension_duration=options.extension_duration,
            max_total_duration=options.max_total_duration,
            max_extensions=options.max_extensions,
            extension_window=options.extension_window,
            first_notice=datetime.timedelta(hours=options.hours_before_end_lease),
            reminders=tuple(options.reminders),
            minimum_notice=options.minimum_notice,
            quarantine=options.quarantine,
            before_end_action=options.before_end_action,
            on_end_action=options.on_end_action,
            allowed_actions=tuple(options.allowed_actions),
            calendar=_calendar(tuple(options.calendar_closed), options.calendar_time_zone),
        )


@functools.lru_cache(maxsize=64)
def _calendar(closed: tuple[str, ...], time_zone: str) -> Calendar | None:
    """Read a calendar, once: it is asked for with each VM.

    :raises ValueError: it cannot be read, or leaves no day.
    """
    return Calendar.parse(closed, time_zone) if closed else None


def check(conf: cfg.ConfigOpts, before_end: Collection[str], on_end: Collection[str]) -> None:
    """Check what option types cannot check alone: that the terms make sense together.

    :param before_end: names of the actions that can run before the end.
    :param on_end: names of the actions that can run at the end.
    :raises ConfigError: with a sentence that names the option, its value, and what would be right.
    """
    options = conf[RESOURCE_TYPE]
    if options.scope != "none" and not options.undeliverable_contact:
        raise ConfigError(
            f"[{RESOURCE_TYPE}] undeliverable_contact is not set: it must be a mail address that"
            " gets the notices whose owner cannot be reached (or set scope = none)"
        )
    try:
        # A wrong name is wrong even while no day is closed.
        Calendar.parse((), options.calendar_time_zone)
        terms = TermsBook(conf).terms()
    except ValueError as error:
        raise ConfigError(
            f"[{RESOURCE_TYPE}] calendar_closed, calendar_time_zone: {error}"
        ) from error
    for misfit in misfits(terms, before_end, on_end):
        option = "calendar_closed, calendar_time_zone: " if misfit.term == "calendar" else ""
        raise ConfigError(f"[{RESOURCE_TYPE}] {option}{misfit.sentence}")
