# SPDX-License-Identifier: Apache-2.0
"""``blazar-vmexpire-worker``, a process of its own."""

from __future__ import annotations

import pathlib
import signal
import socket
import time
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from oslo_utils import timeutils

from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db.engine import Database
from blazar_vmexpire.db.models import chores
from tests.fakes.cloud import FakeCloud
from tests.functional.worker_process import Command, wait_until

pytestmark = pytest.mark.databases("sqlite")


@pytest.fixture
def command(tmp_path: pathlib.Path, database_url: str, cloud: FakeCloud) -> Iterator[Command]:
    """A worker that can be started; on the test's database and cloud."""
    command = Command(tmp_path, database_url, cloud)
    yield command
    command.kill()


def state(database: Database, server_id: str) -> str | None:
    """Return the state of a VM's expiration."""
    with database.begin() as connection:
        row = db_api.get(connection, server_id)
    return None if row is None else row.state


def test_takes_vms_in_and_stops_with_its_step_finished(
    command: Command, cloud: FakeCloud, database: Database
) -> None:
    server_id = cloud.add_server(project_id=cloud.add_project("alpha"))
    process = command.start()
    wait_until(lambda: state(database, server_id) == "active", "it is taken in")

    # A step that takes its time: Nova is asked about the VM, and answers late.
    cloud.fault(f"/servers/{server_id}$", delay=2)
    with database.begin() as connection:
        db_api.ask(connection, [server_id], timeutils.utcnow())
    wait_until(lambda: cloud.requests(f"/servers/{server_id}$"), "Nova is asked")
    process.send_signal(signal.SIGTERM)
    begun = time.monotonic()
    assert process.wait(10) == 0, command.log
    assert time.monotonic() - begun > 0.5

    with database.begin() as connection:
        row = db_api.get(connection, server_id)
        held = connection.scalars(
            sa.select(chores.c.name).where(chores.c.claimed_by.is_not(None))
        ).all()
    assert row is not None
    assert (row.answered, row.claimed_by) == (row.questions, None)
    assert row.questions == 1
    assert held == []
    assert "SIGTERM: the steps in hand are finished" in command.log


def test_what_was_claimed_and_not_begun_is_given_back_at_once(
    command: Command, cloud: FakeCloud, database: Database
) -> None:
    project_id = cloud.add_project("alpha")
    servers = [cloud.add_server(project_id=project_id) for _ in range(12)]
    command.options["vmexpire_worker"]["threads"] = 1
    command.options["vmexpire_worker"]["poll_interval"] = "1s"
    process = command.start()
    wait_until(lambda: all(state(database, i) == "active" for i in servers), "all are taken in")

    cloud.fault("/servers/[^/]*$", delay=2, method="GET")
    with database.begin() as connection:
        db_api.ask(connection, servers, timeutils.utcnow())
    wait_until(lambda: cloud.requests(f"/servers/({'|'.join(servers)})$"), "Nova is asked")
    process.send_signal(signal.SIGTERM)

    assert process.wait(8) == 0, command.log
    with database.begin() as connection:
        rows = [db_api.get(connection, server_id) for server_id in servers]
    assert [row.claimed_by for row in rows if row is not None] == [None] * 12
    assert any(row is not None and row.answered == 0 for row in rows)


def test_works_and_stops_although_the_message_bus_is_away(
    command: Command, cloud: FakeCloud, database: Database
) -> None:
    server_id = cloud.add_server(project_id=cloud.add_project("alpha"))
    command.options["vmexpire_intake"]["notifications"] = "true"
    with socket.socket() as nobody_listens:
        nobody_listens.bind(("127.0.0.1", 0))
        port = nobody_listens.getsockname()[1]
        command.options["vmexpire_intake"]["transport_url"] = f"rabbit://u:p@127.0.0.1:{port}/"
        process = command.start()
        wait_until(lambda: state(database, server_id) == "active", "it is taken in")
        wait_until(lambda: "is at work" in command.log, "it has started")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0, command.log


def test_sighup_reads_mutable_options_again(
    command: Command, cloud: FakeCloud, database: Database
) -> None:
    out, in_ = cloud.add_project("out"), cloud.add_project("in")
    command.options["virtual:vm"]["excluded_projects"] = out
    command.options["vmexpire_intake"]["reconcile_interval"] = "1s"
    excluded = cloud.add_server(project_id=out)
    included = cloud.add_server(project_id=in_)
    process = command.start()
    wait_until(lambda: state(database, included) == "active", "it is taken in")
    assert state(database, excluded) is None

    command.options["virtual:vm"]["excluded_projects"] = ""
    command.configure()
    process.send_signal(signal.SIGHUP)
    wait_until(lambda: state(database, excluded) == "active", "it is taken in, too")
    command.options["virtual:vm"]["lease_duration"] = "nonsense"
    command.options["vmexpire_worker"]["max_attempts"] = "many"
    command.configure()
    process.send_signal(signal.SIGHUP)
    wait_until(lambda: "the configuration is left as it was" in command.log, "it says so")

    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0, command.log


def test_says_why_it_cannot_start(command: Command) -> None:
    del command.options["virtual:vm"]["undeliverable_contact"]
    process = command.start()
    _, said = process.communicate(timeout=30)

    assert process.returncode == 1
    assert "blazar-vmexpire-worker cannot start: [virtual:vm] undeliverable_contact" in said
    assert "Traceback" not in said + command.log


def test_says_that_it_knows_no_such_message_bus(command: Command) -> None:
    command.options["vmexpire_intake"]["notifications"] = "true"
    command.options["vmexpire_intake"]["transport_url"] = "rabit://nova:secret@bus.example.org/"
    process = command.start()
    _, said = process.communicate(timeout=30)

    assert process.returncode == 1
    assert "blazar-vmexpire-worker cannot start: [vmexpire_intake] transport_url" in said
    assert "rabbit://" in said
    assert "secret" not in said + command.log
    assert "Traceback" not in said + command.log
