# SPDX-License-Identifier: Apache-2.0
"""``blazar-vmexpire-manage purge``."""

from __future__ import annotations

from datetime import timedelta

import pytest
import sqlalchemy as sa

from blazar_vmexpire import leases
from blazar_vmexpire.db.models import expirations, history, notices
from tests.functional.manage import Manage
from tests.functional.world import World


def end(world: World, name: str) -> str:
    """Let a VM live to its end."""
    server_id = world.adopt(name)
    ends_at = world.row(server_id).ends_at
    assert ends_at is not None
    world.live(ends_at + timedelta(minutes=5))
    assert world.state(server_id) == "deleted"
    return server_id


def test_only_what_has_been_gone_for_long_goes(
    world: World, manage: Manage, database_url: str
) -> None:
    old = end(world, "old")
    old_lease = world.row(old).lease_id
    young = end(world, "young")
    living = world.adopt("living")
    world.clock.advance(days=50)
    assert world.lease(young).status == "TERMINATED"
    past = world.history(old)

    done = manage(database_url, "purge")

    assert done.returncode == 0, done.stderr
    assert done.stdout == "VMs purged, gone for longer than 90d: 1\n"
    assert world.row_or_none(old) is None
    assert old_lease not in world.all_leases()
    assert set(world.all_leases()) == {world.row(young).lease_id, world.row(living).lease_id}
    assert world.notices(old) == []
    assert world.notices(young) != []
    assert world.history(old) == past
    with world.harness.database.begin() as connection:
        assert not connection.scalars(
            sa.select(leases.EVENTS.c.id).where(leases.EVENTS.c.lease_id == old_lease)
        ).all()


def test_history_goes_only_where_it_is_asked_for_and_the_vm_is_gone(
    world: World, manage: Manage, database_url: str
) -> None:
    old = end(world, "old")
    living = world.adopt("living")
    world.clock.advance(days=400)

    manage(database_url, "purge", "--older-than", "30d", "--history-older-than", "1000d")
    assert world.history(old) != []
    done = manage(database_url, "purge", "--older-than", "30d", "--history-older-than", "365d")

    assert "entries of the history purged, older than 365d:" in done.stdout
    assert world.history(old) == []
    assert world.events(living) == ["adopted"]


@pytest.mark.databases("sqlite")
def test_what_is_still_to_be_said_is_kept(world: World, manage: Manage, database_url: str) -> None:
    server_id = end(world, "old")
    world.clock.advance(days=400)
    world.wreck(expirations, expirations.c.server_id == server_id, next_at=world.clock.now())

    manage(database_url, "purge")

    assert world.row_or_none(server_id) is not None
    assert world.notices(server_id) != []


@pytest.mark.databases("sqlite")
def test_history_is_kept_as_long_as_what_it_speaks_of(
    world: World, manage: Manage, database_url: str
) -> None:
    end(world, "old")

    wrong = manage(database_url, "purge", "--history-older-than", "10d")
    nonsense = manage(database_url, "purge", "--older-than", "soon")

    assert (wrong.returncode, nonsense.returncode) == (1, 2)
    assert "--history-older-than 10d is less than --older-than 90d" in wrong.stderr
    assert "'soon' is not a duration" in nonsense.stderr
    with world.harness.database.begin() as connection:
        for table in (history, notices):
            assert connection.scalar(sa.select(sa.func.count()).select_from(table))
