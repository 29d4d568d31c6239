# SPDX-License-Identifier: Apache-2.0
"""Several workers on one database, one of them killed: every VM ends once, and all of them do."""

from __future__ import annotations

import collections
import datetime
import itertools
import pathlib
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
import sqlalchemy as sa
from oslo_utils import timeutils

from blazar_vmexpire.db.engine import Database
from blazar_vmexpire.db.models import chores, expirations
from blazar_vmexpire.leases import EVENTS, LEASES
from tests.crowds import end_together
from tests.fakes.cloud import FakeCloud
from tests.functional.worker_process import Command, wait_until
from tests.mail_servers import MailServer

pytestmark = pytest.mark.one_server

CLAIM = timedelta(seconds=10)
RECONCILE, AUDIT = timedelta(seconds=4), timedelta(seconds=2)
#: Chores, and how often each may begin.
INTERVALS = {"reconciliation": RECONCILE, "audit": AUDIT, "thorough audit": RECONCILE}

Start = Callable[[], Command]


@pytest.fixture
def start(
    tmp_path: pathlib.Path, database_url: str, cloud: FakeCloud, mail: MailServer
) -> Iterator[Start]:
    """Start one more worker."""
    started: list[Command] = []

    def start() -> Command:
        directory = tmp_path / f"worker{len(started)}"
        directory.mkdir()
        command = Command(directory, database_url, cloud)
        command.options["vmexpire_brake"] = {"enabled": "false"}
        command.options["vmexpire_mail"] = {"host": "127.0.0.1", "port": mail.port}
        command.options["vmexpire_intake"]["reconcile_interval"] = f"{RECONCILE.seconds}s"
        command.options["vmexpire_worker"] |= {
            "claim_duration": f"{CLAIM.seconds}s",
            "audit_interval": f"{AUDIT.seconds}s",
        }
        started.append(command)
        command.start()
        return command

    yield start
    for command in started:
        command.kill()


class Watch:
    """Looks at the tables while others work."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.starts: dict[str, list[datetime.datetime]] = collections.defaultdict(list)

    def states(self) -> dict[str, int]:
        """Count the VMs by state; and take note of when chores began."""
        x, c = expirations.c, chores.c
        with self._database.begin() as connection:
            for name, started in connection.execute(sa.select(c.name, c.last_started_at)):
                if started is not None and started not in self.starts[name]:
                    self.starts[name].append(started)
            found = connection.execute(sa.select(x.state, sa.func.count()).group_by(x.state))
            return {row[0]: row[1] for row in found}

    def at_rest(self) -> bool:
        """Say whether nothing is to be done any more."""
        self.states()
        x = expirations.c
        with self._database.begin() as connection:
            return not connection.scalar(
                sa.select(sa.func.count()).where((x.state != "deleted") | x.next_at.is_not(None))
            )


def deletions(cloud: FakeCloud) -> list[str]:
    """Return which VMs Nova was asked to delete, and did, in order."""
    return [
        request.path.rsplit("/", 1)[1]
        for request in cloud.requests(r"/servers/[^/]+$", "DELETE")
        if request.status == 204
    ]


def test_every_vm_ends_exactly_once_although_a_worker_is_killed(
    start: Start, database: Database, cloud: FakeCloud
) -> None:
    alone = database.dialect == "sqlite"
    number = 40 if alone else 200
    project_id = cloud.add_project("alpha")
    user_id = cloud.add_user("alice", email="alice@example.org")
    servers = {cloud.add_server(project_id=project_id, user_id=user_id) for _ in range(number)}
    watch = Watch(database)

    victim = start()
    workers = [] if alone else [start(), start()]
    wait_until(lambda: watch.states() == {"active": number}, "all are taken in", 60)
    assert deletions(cloud) == []
    now = timeutils.utcnow()
    end_together(database, now.replace(second=0, microsecond=0), now - timedelta(days=5))

    wait_until(lambda: len(deletions(cloud)) >= number // 4, "a part is deleted", 60)
    victim.kill()
    before = set(deletions(cloud))
    assert len(before) < number, "the worker was killed too late to show anything"
    if alone:
        workers.append(start())
    # What it had asked Nova for is looked at again when its claims have run out, or a minute later.
    wait_until(watch.at_rest, "all are deleted", 180)

    often = collections.Counter(deletions(cloud))
    assert set(often) == servers
    assert {server_id for server_id, times in often.items() if times > 1} <= before
    assert max(often.values()) <= 2
    with database.begin() as connection:
        assert set(connection.scalars(sa.select(LEASES.c.status))) == {"TERMINATED"}
        assert set(connection.scalars(sa.select(EVENTS.c.status))) == {"DONE"}
    for name, interval in INTERVALS.items():
        starts = watch.starts[name]
        assert len(starts) > 1
        assert min(b - a for a, b in itertools.pairwise(starts)) >= interval, name
    for worker in workers:
        assert " ERROR " not in worker.log
        assert "Traceback" not in worker.log
        assert worker.process is not None
        worker.process.terminate()
    for worker in workers:
        assert worker.process is not None
        assert worker.process.wait(20) == 0, worker.log
    with database.begin() as connection:
        left = connection.scalars(
            sa.select(chores.c.name).where(chores.c.claimed_until > timeutils.utcnow())
        ).all()
    assert left == []
