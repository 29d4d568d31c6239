# SPDX-License-Identifier: Apache-2.0
"""Showing: writing to each VM's metadata when its lease ends, and what state that is in.

This is a courtesy. Nova takes metadata only in some states of a VM and up to a limit, and 100,000
VMs are 100,000 requests; so it is done beside everything else, at a pace, when it can be done. It
touches neither a VM's clock nor its claim, state or generation: nothing waits for it.

``show_after`` says that what is in Nova is not known to be what we wrote: it is set before each
request, and cleared by the answer. Nobody's edit is read out of metadata while it is set.
"""

from __future__ import annotations

import dataclasses
import datetime
import random
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from oslo_log import log as logging

from blazar_vmexpire import RESOURCE_TYPE, lifecycle
from blazar_vmexpire.cloud import errors
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db.api import Expiration
from blazar_vmexpire.db.engine import retried
from blazar_vmexpire.db.models import expirations
from blazar_vmexpire.labels import Labels
from blazar_vmexpire.lifecycle import State
from blazar_vmexpire.worker.tools import Tools

LOG = logging.getLogger(__name__)

#: How often it is looked what there is to write.
INTERVAL = datetime.timedelta(seconds=5)
#: States whose VM carries no labels: it has no end, or is not there.
_BARE = (State.SEEN, State.EXEMPT, State.VANISHED, State.DELETED)
#: When a request whose answer was never noted is made again.
_LOST = datetime.timedelta(minutes=5)
#: Between two tries for a VM: at first, and at most.
_FIRST_WAIT = datetime.timedelta(seconds=30)
_LONGEST_WAIT = datetime.timedelta(hours=1)
#: After so many requests without an answer Nova is left alone for now.
_PATIENCE = 3


class Showing:
    """Writes the labels that are not up to date, and removes those that should not be there."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        # By VM, how often its metadata could not be written. A restart begins anew, no more.
        self._failures: dict[str, int] = {}

    @property
    def at_once(self) -> int:
        """How many VMs one run is for: what the pace allows until the next one."""
        pace: int = self._tools.conf.vmexpire_metadata.per_second
        return pace * int(INTERVAL.total_seconds())

    def run(self, keep: Callable[[], None] = lambda: None) -> int:
        """Do what is due, for at most :attr:`at_once` VMs.

        :param keep: called after each VM; may raise to give up (the chore was taken over).
        :returns: for how many VMs it was tried.
        """
        tools = self._tools
        if tools.conf[RESOURCE_TYPE].dry_run:
            return 0
        keys = Labels.of(tools.conf)
        rows = self._due(keys)
        until = tools.clock() + INTERVAL
        unanswered = 0
        for done, row in enumerate(rows):
            if unanswered == _PATIENCE or tools.clock() > until:
                return done
            pending = tools.clock() + _LOST
            if not self._begin(row, pending):
                continue
            try:
                if keys.enabled and row.state not in _BARE:
                    self._write(keys, row, pending)
                else:
                    self._remove(keys, row, pending)
                self._failures.pop(row.server_id, None)
            except errors.CloudError as error:
                unanswered += isinstance(error, errors.Unavailable)
                self._put_off(row, pending, error)
            keep()
        return len(rows)

    def _due(self, keys: Labels) -> list[Expiration]:
        """Read which VMs' labels are due, those first that carry some already."""
        x = expirations.c
        now = self._tools.clock()
        free = sa.or_(x.show_after.is_(None), x.show_after <= now)
        due = _to_be_removed(keys)
        if keys.enabled:
            due = sa.or_(due, _to_be_written())
        with self._tools.database.begin() as connection:
            found = connection.execute(
                sa.select(expirations)
                .where(free, due)
                .order_by(sa.case((x.shown_end.is_(None), 1), else_=0))
                .limit(self.at_once)
            )
            return [Expiration.of(row) for row in found]

    @retried
    def _begin(self, row: Expiration, pending: datetime.datetime) -> bool:
        """Note that a request is about to be made; False when the VM has changed meanwhile."""
        x = expirations.c
        with self._tools.database.begin() as connection:
            changed: int = connection.execute(
                sa.update(expirations)
                .where(
                    x.server_id == row.server_id,
                    x.state == row.state,
                    x.ends_at.is_not_distinct_from(row.ends_at),
                    x.show_after.is_not_distinct_from(row.show_after),
                )
                .values(show_after=pending)
            ).rowcount
        return changed == 1

    def _write(self, keys: Labels, row: Expiration, pending: datetime.datetime) -> None:
        assert row.ends_at is not None  # noqa: S101 - so they were selected
        wanted = keys.written(row.ends_at, row.state)
        if row.show_after is None:
            # An end that did not change is left alone: its owner may have just written another.
            if row.shown_end == row.ends_at:
                del wanted[keys.end_key]
            if row.shown_state == row.state:
                del wanted[keys.state_key]
        found = self._tools.cloud.nova.set_metadata(row.server_id, wanted)
        shown = dataclasses.replace(
            row, shown_end=row.ends_at, shown_state=row.state, show_after=None
        )
        self._note(
            row,
            pending,
            ask=keys.edited(found, shown),
            shown_end=row.ends_at,
            shown_state=row.state,
            show_after=None,
        )

    def _remove(self, keys: Labels, row: Expiration, pending: datetime.datetime) -> None:
        nova = self._tools.cloud.nova
        try:
            there = nova.get(row.server_id).metadata
        except errors.NotFound:
            there = {}
        for key in keys.keys:
            if key in there:
                nova.delete_metadata(row.server_id, key)
        self._note(row, pending, shown_end=None, shown_state=None, show_after=None)

    def _put_off(
        self, row: Expiration, pending: datetime.datetime, error: errors.CloudError
    ) -> None:
        """Try again later, and say so the first time."""
        self._tools.metrics.error(error.service, type(error).__name__.lower())
        failures = self._failures[row.server_id] = self._failures.get(row.server_id, 0) + 1
        wait = lifecycle.backoff(
            failures,
            _FIRST_WAIT,
            _LONGEST_WAIT,
            random.random(),  # noqa: S311 - spreads load, guards nothing
        )
        later = self._tools.clock() + wait
        LOG.log(
            logging.WARNING if failures == 1 else logging.DEBUG,
            "Server %s: its metadata do not tell its end yet, next try at %s UTC: %s",
            row.server_id,
            later.isoformat(" ", "seconds"),
            error,
        )
        self._note(row, pending, show_after=later)

    @retried
    def _note(
        self,
        row: Expiration,
        pending: datetime.datetime,
        *,
        ask: bool = False,
        **columns: Any,
    ) -> None:
        """Write how it went, unless somebody wants it written anew meanwhile.

        :param ask: have the VM looked at: somebody has edited what was not written now.
        """
        x = expirations.c
        with self._tools.database.begin() as connection:
            connection.execute(
                sa.update(expirations)
                .where(x.server_id == row.server_id, x.show_after == pending)
                .values(**columns)
            )
            if ask:
                db_api.ask(connection, [row.server_id], self._tools.clock())


def _to_be_written() -> sa.ColumnElement[bool]:
    """Say whose labels are not what they have to be, or not known to be."""
    x = expirations.c
    return sa.and_(
        x.state.not_in(_BARE),
        x.ends_at.is_not(None),
        # One that is being deleted is past being told anything.
        sa.not_(db_api.IRREVERSIBLE),
        sa.or_(
            x.show_after.is_not(None),
            x.shown_end.is_distinct_from(x.ends_at),
            x.shown_state.is_distinct_from(x.state),
        ),
    )


def _to_be_removed(keys: Labels) -> sa.ColumnElement[bool]:
    """Say which VMs carry labels, or may, and should not."""
    x = expirations.c
    carries = sa.or_(x.shown_end.is_not(None), x.show_after.is_not(None))
    if keys.enabled:
        return sa.and_(x.state == State.EXEMPT, carries)
    return sa.and_(x.state.not_in((State.VANISHED, State.DELETED)), carries)
