# SPDX-License-Identifier: Apache-2.0
"""Giving a VM back whose owner extended after something had been begun."""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any

from oslo_log import log as logging

from blazar_vmexpire import adoption, extension, leases, lifecycle
from blazar_vmexpire.actions import migration, shelve, snapshot, volumes
from blazar_vmexpire.cloud.servers import SHELVED, Server
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db.api import Expiration
from blazar_vmexpire.lifecycle import Event
from blazar_vmexpire.notices import Kind
from blazar_vmexpire.worker import claims, confirming, transitions
from blazar_vmexpire.worker.telling import Telling
from blazar_vmexpire.worker.tools import Tools

LOG = logging.getLogger(__name__)

#: Between two looks at a VM that is being started, or that is busy.
_AGAIN = datetime.timedelta(seconds=2)
_LONGEST = datetime.timedelta(seconds=30)
#: Since when that is waited for, in a row's ``progress``.
_SINCE = "reviving_since"
#: What of that an owner notices, in the order in which it is undone.
_NOTICED = ("unlock", "unshelve", "start")
#: How often Nova was asked to unshelve it, there, too.
_UNSHELVED = "unshelve_asked"


class Reviving:
    """The step of a VM in state ``reviving``: what was begun is undone, its lease is live again."""

    def __init__(self, tools: Tools, telling: Telling) -> None:
        self._tools = tools
        self._telling = telling

    def __call__(self, row: Expiration) -> None:
        """Undo the next thing, or be done.

        :raises blazar_vmexpire.exceptions.LeaseBusy: Blazar has begun to change the lease.
        :raises blazar_vmexpire.cloud.errors.CloudError: Nova or Glance did not do what they were
            asked.
        """
        tools = self._tools
        compute = tools.cloud.nova
        now = tools.clock()
        undo: dict[str, Any] = row.progress.get("undo", {})
        server = compute.get(row.server_id)
        if undo.get("unlock") and server.locked:
            self._fence(row)
            compute.unlock(server.id)
            self._report(row, "unlocked")
        if undo.get("unshelve") and self._unshelve(row, server, now):
            return
        if migration.CONFIRM in undo and not self._confirmed(row, server, undo[migration.CONFIRM]):
            self._look_again(row, now)
            return
        # What Nova is in the middle of may be the very stop that has to be undone. What is neither
        # stopped nor being stopped is not ours to start: somebody has paused it, or it is broken.
        to_start = undo.get("start") and (
            server.task_state is not None or server.status == "SHUTOFF"
        )
        if to_start and server.task_state is None:
            self._fence(row)
            compute.start(server.id)
            self._report(row, "start_asked")
        else:
            # It is back; or cannot be started while an image of it is being made. Not before: with
            # Glance or Cinder away its owner has it all the same.
            snapshot.unprotect(tools.cloud, undo)
            row = self._put_back_volumes(row)
            row = self._remove_images(row)
        if to_start:
            self._look_again(row, now)
            return
        self._reopen(row)

    def _unshelve(self, row: Expiration, server: Server, now: datetime.datetime) -> bool:
        """Bring a VM back that was shelved, as it was; False when nothing is left to do."""
        asked = row.progress.get(_UNSHELVED, 0)
        if server.task_state is not None:
            self._look_again(row, now)
        elif server.status in SHELVED:
            self._ask_to_unshelve(row, asked)
        elif asked and row.progress["undo"].get("stop") and server.status == "ACTIVE":
            self._fence(row)
            self._tools.cloud.nova.stop(server.id)
            self._report(row, "stop_asked")
            self._look_again(row, now)
        else:
            # What Nova left when it gave up shelving it. The image of one that is shelved no more
            # is no use to anybody.
            for image_id in shelve.discard(self._tools.cloud, server.id):
                self._report(row, "image_removed", image_id=image_id)
            return False
        return True

    def _ask_to_unshelve(self, row: Expiration, asked: int) -> None:
        """Ask Nova; where no host has room for the VM, it says so to nobody, and it stays shelved.

        :param asked: how often that was done before.
        """
        progress = {**row.progress, _UNSHELVED: asked + 1}
        with self._tools.database.begin() as connection:
            claims.write(connection, row, progress=progress)
        self._tools.cloud.nova.unshelve(row.server_id)
        problem = None
        if asked:
            problem = f"Nova has not unshelved it, asked {asked} times: is there room for it?"
            LOG.warning("Server %s: %s", row.server_id, problem)
        else:
            self._report(row, "unshelve_asked")
        now = self._tools.clock()
        next_at = self._tools.retry_at(asked) if asked else now + _AGAIN
        with self._tools.database.begin() as connection:
            claims.finish(connection, row, next_at, last_error=problem)

    def _confirmed(self, row: Expiration, server: Server, before: str) -> bool:
        """Confirm a cold migration that was begun, unless that takes too long."""
        tools = self._tools

        def fence() -> None:
            self._fence(row)
            self._report(row, "resize_confirmed", to_host=server.host)

        timeout: datetime.timedelta = tools.conf.vmexpire_worker.migration_timeout
        if self._since(row) + timeout < tools.clock():
            LOG.error(
                "Server %s is given back in the middle of its migration, which has not come to its"
                " end within %s: see that it is confirmed",
                row.server_id,
                timeout,
            )
            self._report(row, "migration_left", status=server.status)
            return True
        return migration.finish(tools.cloud, server, before, fence)

    def _since(self, row: Expiration) -> datetime.datetime:
        begun = row.progress.get(_SINCE)
        return self._tools.clock() if begun is None else datetime.datetime.fromisoformat(begun)

    def _look_again(self, row: Expiration, now: datetime.datetime) -> None:
        """Wait for the VM: the longer it takes, the less often."""
        since = self._since(row)
        delay = min(max((now - since) / 2, _AGAIN), _LONGEST)
        progress = {**row.progress, _SINCE: since.isoformat()}
        with self._tools.database.begin() as connection:
            claims.finish(connection, row, now + delay, progress=progress)

    def _reopen(self, row: Expiration) -> None:
        """Make the lease a live one again, under its id, and let its clock run."""
        tools = self._tools
        now = tools.clock()
        grace = tools.conf.vmexpire_worker.blazar_grace
        told = self._what_is_told(row)
        with tools.database.begin() as connection:
            facts = leases.read(connection, row.lease_id) if row.lease_id else None
            if transitions.wait_if_needed(connection, row, facts, now, grace):
                return
            revived = row
            if facts is None:
                revived = dataclasses.replace(row, lease_id=leases.new_lease_id())
            terms = tools.book.verdict(connection, row, now).terms
            wanted = adoption.wanted_lease(revived, terms)
            if facts is None:
                leases.create(connection, [wanted], now)
            elif leases.faults(facts, wanted):
                leases.mend(connection, facts, wanted, now)
            claims.finish(
                connection,
                row,
                now,
                state=lifecycle.after(row.state, Event.REVIVED).value,
                lease_id=revived.lease_id,
                progress={},
                attempts=0,
                last_error=None,
            )
            db_api.record(connection, revived, "revived", now, ends_at=row.ends_at)
            if told:
                db_api.add_notice(
                    connection,
                    revived,
                    Kind.REVIVED,
                    now,
                    message_id=self._telling.message_id(row, Kind.REVIVED),
                    details=told,
                )

    def _what_is_told(self, row: Expiration) -> dict[str, Any]:
        """Say what the owner is told of a VM that somebody has extended; empty: nothing.

        They saw nothing of an image that was begun and is removed.
        """
        undo = row.progress.get("undo", {})
        undone = [each for each in _NOTICED if undo.get(each)]
        if not undone:
            return {}
        with self._tools.database.begin() as connection:
            by = db_api.extended_by(connection, row.server_id, row.generation)
        if by is None:
            return {}
        return {"undone": undone, **confirming.who(self._tools, by).as_details()}

    def _put_back_volumes(self, row: Expiration) -> Expiration:
        """Let the volumes that were to be kept be what they were.

        :returns: the row as it is then.
        """
        undo = row.progress.get("undo", {})
        left = {
            key: value
            for key, value in undo.items()
            if key not in (volumes.LOOSENED, volumes.DESCRIBED)
        }
        if left == undo:
            return row
        changed = volumes.put_back(self._tools.cloud, row.server_id, undo, lambda: self._fence(row))
        progress = {**row.progress, "undo": left}
        with self._tools.database.begin() as connection:
            claims.write(connection, row, progress=progress)
        self._report(row, "volumes_put_back", volumes=changed)
        return dataclasses.replace(row, progress=progress)

    def _remove_images(self, row: Expiration) -> Expiration:
        """Remove the images that were begun: the VM lives on, they only cost quota.

        :returns: the row as it is then.
        """
        stages = extension.images_begun(row)
        if not stages:
            return row
        for stage in stages:
            for image_id in snapshot.discard(self._tools.cloud, row.progress[stage]):
                self._report(row, "image_removed", image_id=image_id)
        progress = {key: value for key, value in row.progress.items() if key not in stages}
        with self._tools.database.begin() as connection:
            claims.write(connection, row, progress=progress)
        return dataclasses.replace(row, progress=progress)

    def _fence(self, row: Expiration) -> None:
        """See that the VM is still this worker's: it may have been taken for dead meanwhile.

        :raises blazar_vmexpire.exceptions.ClaimLost: it is not.
        """
        with self._tools.database.begin() as connection:
            claims.hold(connection, row)

    def _report(self, row: Expiration, event: str, **details: Any) -> None:
        with self._tools.database.begin() as connection:
            db_api.record(connection, row, event, self._tools.clock(), **details)
