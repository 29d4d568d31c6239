# SPDX-License-Identifier: Apache-2.0
"""``blazar-vmexpire-manage import``: nobody who moves here loses a day, or a notice."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from blazar_vmexpire import RESOURCE_TYPE, labels, lifecycle
from blazar_vmexpire.db.models import expirations
from tests import databases
from tests.functional.manage import Done, Manage
from tests.functional.world import World

pytestmark = pytest.mark.databases("sqlite")

DAY = timedelta(days=1)
EPOCH = datetime.datetime(1970, 1, 1)
STRANGER = "00000000-8be9-453c-99c8-b8fe0bb76058"
#: minimum_notice, and the margin for a second try of the mail.
EARLIEST = timedelta(days=2, hours=2)


def seconds(moment: datetime.datetime) -> int:
    return int((moment - EPOCH).total_seconds())


def common() -> list[sa.Column[Any]]:
    """Return what each table of os-vm-expire has."""
    return [
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("updated_at", sa.DateTime, nullable=False),
        sa.Column("deleted_at", sa.DateTime),
        sa.Column("deleted", sa.Boolean, nullable=False),
    ]


class OsVmExpire:
    """A database of os-vm-expire.

    :param times: whether it is of a version that knows when a notice was sent.
    """

    def __init__(self, url: str, now: datetime.datetime, *, times: bool = True) -> None:
        self.url = url
        self._now = now
        self._engine = sa.create_engine(url)
        metadata = sa.MetaData()
        self._vms = sa.Table(
            "vmexpire",
            metadata,
            *common(),
            sa.Column("instance_id", sa.String(255), nullable=False),
            sa.Column("project_id", sa.String(255), nullable=False),
            sa.Column("user_id", sa.String(255), nullable=False),
            sa.Column("expire", sa.Integer, nullable=False),
            sa.Column("notified", sa.Boolean, nullable=False),
            sa.Column("notified_last", sa.Boolean, nullable=False),
            sa.Column("instance_name", sa.String(255)),
            *([sa.Column("notified_time", sa.Integer)] if times else []),
        )
        self._excluded = sa.Table(
            "vmexclude",
            metadata,
            *common(),
            sa.Column("exclude_id", sa.String(255), nullable=False),
            sa.Column("exclude_type", sa.Integer, nullable=False),
        )
        metadata.create_all(self._engine)

    def _add(self, table: sa.Table, **columns: Any) -> None:
        with self._engine.begin() as connection:
            connection.execute(
                sa.insert(table).values(
                    {
                        "id": str(uuid.uuid4()),
                        "created_at": self._now,
                        "updated_at": self._now,
                        "deleted": False,
                        **columns,
                    }
                )
            )

    def vm(
        self,
        server_id: str,
        ends_at: datetime.datetime,
        *,
        told: int = 0,
        told_at: datetime.datetime | None = None,
        **more: Any,
    ) -> None:
        """Add a VM."""
        if told_at is not None:
            more["notified_time"] = seconds(told_at)
        self._add(
            self._vms,
            **{
                "instance_id": server_id,
                "project_id": "p",
                "user_id": "u",
                "instance_name": "of no matter",
                "expire": seconds(ends_at),
                "notified": told > 0,
                "notified_last": told > 1,
                **more,
            },
        )

    def exclude(self, kind: int, value: str) -> None:
        """Add an exclusion."""
        self._add(self._excluded, exclude_id=value, exclude_type=kind)

    def close(self) -> None:
        """Let go of it."""
        self._engine.dispose()


@pytest.fixture
def foreign_url(backend: databases.Backend) -> Iterator[str]:
    """A database with nothing in it."""
    url = backend.create("empty")
    yield databases.elsewhere(url)
    backend.drop(url)


@pytest.fixture
def foreign(world: World, foreign_url: str) -> Iterator[OsVmExpire]:
    """A database of a late os-vm-expire."""
    there = OsVmExpire(foreign_url, world.clock.now())
    yield there
    there.close()


Import = Callable[..., Done]


@pytest.fixture
def take_over(world: World, manage: Manage, database_url: str, foreign_url: str) -> Import:
    """Run the command with the world's own options."""

    def run(*arguments: str, url: str = foreign_url, **options: str) -> Done:
        return manage(
            database_url,
            "import",
            "os-vm-expire",
            "--connection",
            url,
            *arguments,
            options={RESOURCE_TYPE: options},
        )

    return run


def count(done: Done, title: str) -> int:
    """Read how many VMs are counted under a title."""
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.endswith(f"  {title}")]
    return int(line.split()[0])


@pytest.mark.databases("sqlite", "mariadb")
def test_dates_are_taken_over_once(world: World, foreign: OsVmExpire, take_over: Import) -> None:
    now = world.clock.now()
    earlier, later, overdue, alone = (world.adopt(name) for name in "abcd")
    foreign.vm(earlier, now + 20 * DAY + timedelta(seconds=30))
    foreign.vm(later.upper(), now + 300 * DAY)
    foreign.vm(overdue, now - DAY)
    foreign.vm(STRANGER, now + DAY)
    foreign.vm(alone, now + DAY, deleted=True)
    foreign.vm("i-0815", now + DAY)
    before = world.rows()

    preview = take_over()
    assert (count(preview, "moved"), count(preview, "not known here")) == (3, 1)
    assert STRANGER in preview.stdout
    assert "VM 'i-0815' with expire" in preview.stdout
    assert "known here alone, and keep the end that they have: 1" in preview.stdout
    assert preview.stdout.splitlines()[-1] == "Nothing was changed. With --yes it is done."
    assert world.rows() == before

    done = take_over("--yes")
    assert count(done, "moved") == 3
    assert [line.split()[:7] for line in done.stdout.splitlines() if earlier in line] == [
        [
            earlier,
            *f"{now + 60 * DAY:%Y-%m-%d %H:%M}".split(),
            *f"{now + 20 * DAY:%Y-%m-%d %H:%M}".split(),
            *f"{now + 20 * DAY:%Y-%m-%d %H:%M}".split(),
        ]
    ]
    wanted = {
        earlier: now + 20 * DAY,
        later: now + 300 * DAY,
        overdue: now + EARLIEST,
        alone: now + 60 * DAY,
    }
    world.settle()
    for server_id, ends_at in wanted.items():
        assert world.row(server_id).ends_at == ends_at
        assert world.lease(server_id).end_date == ends_at
    event, details = world.history(earlier)[-1]
    assert (event, details["by_admin"]) == ("shortened", True)
    assert details["reason"].startswith("taken over from os-vm-expire, where it ends 2026-03-22")

    after = [world.row(server_id) for server_id in wanted]
    world.clock.advance(hours=1)
    again = take_over("--yes")
    assert count(again, "moved") == 0
    assert count(again, "has that end") == 2
    assert count(again, "has an end that was chosen here, or was taken over before") == 1
    assert [world.row(server_id) for server_id in wanted] == after


def test_what_was_chosen_here_is_never_cut_short(
    world: World, foreign: OsVmExpire, take_over: Import
) -> None:
    server_id, other = world.adopt(), world.adopt()
    world.clock.advance(days=40)
    assert world.extend(server_id).status_code == 200
    world.extend(other)
    chosen = world.row(server_id).ends_at
    assert chosen is not None
    foreign.vm(server_id, chosen - 5 * DAY)
    foreign.vm(other, chosen + 5 * DAY)
    done = take_over("--yes")
    assert count(done, "has an end that was chosen here, or was taken over before") == 1
    assert world.row(server_id).ends_at == chosen
    assert world.row(other).ends_at == chosen + 5 * DAY


def test_vms_that_do_not_expire_or_are_gone_or_held_stay(
    world: World, foreign: OsVmExpire, take_over: Import, manage: Manage, database_url: str
) -> None:
    exempt, gone, held, ending = (world.adopt(name) for name in "abcd")
    world.wreck(expirations, expirations.c.server_id == ending, state="ending")
    world.cloud.compute.vanish(gone)
    until = f"{world.clock.now() + 90 * DAY:%Y-%m-%dT%H:%M}"
    manage(database_url, "hold", "add", held, "--until", until, "--reason", "x")
    manage(database_url, "exclusion", "add", "--server", exempt, "--reason", "x")
    with world.harness.database.begin() as connection:
        connection.execute(
            sa.update(expirations)
            .where(expirations.c.server_id == gone)
            .values(questions=expirations.c.questions + 1, next_at=world.clock.now())
        )
    world.settle()
    for server_id in (exempt, gone, held, ending):
        foreign.vm(server_id, world.clock.now() + 5 * DAY)
    before = world.rows()
    done = take_over("--yes")
    assert count(done, "does not expire here") == 1
    assert count(done, "gone") == 1
    assert count(done, "held, ending, or over: left alone") == 2
    assert world.rows() == before


class TestNotices:
    """Flags of what was sent."""

    def mails(self, world: World) -> int:
        return len(world.mails)

    def test_the_first_one_is_not_repeated_and_the_last_one_comes(
        self, world: World, foreign: OsVmExpire, take_over: Import
    ) -> None:
        now = world.clock.now()
        told, untold = world.adopt("told"), world.adopt("untold")
        foreign.vm(told, now + 5 * DAY, told=1, told_at=now - 5 * DAY)
        foreign.vm(untold, now + 5 * DAY)
        assert count(take_over("--yes"), "moved") == 2
        world.settle()
        assert [mail["X-OpenStack-Server"] for mail in world.mails] == [untold]
        assert (world.state(told), world.state(untold)) == ("noticed", "noticed")
        assert "notices_taken_over" in world.events(told)
        world.live(now + 4 * DAY)
        assert [mail["X-OpenStack-Server"] for mail in world.mails].count(told) == 1
        world.live(now + 5 * DAY + timedelta(hours=1))
        assert (world.state(told), world.state(untold)) == ("deleted", "deleted")

    def test_where_all_was_said_the_end_stays_as_near_as_it_is(
        self, world: World, foreign: OsVmExpire, take_over: Import
    ) -> None:
        now = world.clock.now()
        server_id = world.adopt()
        foreign.vm(server_id, now + DAY, told=2, told_at=now - 9 * DAY)
        take_over("--yes")
        world.settle()
        assert world.row(server_id).ends_at == now + DAY
        assert world.mails == []
        world.live(now + DAY + timedelta(hours=1))
        assert world.state(server_id) == "deleted"

    @pytest.mark.parametrize(
        ("told_at", "options"),
        [
            (None, {}),
            (-1, {}),
            (-40, {}),
            (-9, {"quarantine": "12h"}),
            (-9, {"dry_run": "true"}),
        ],
        ids=["when nobody knows", "a day ago", "of another end", "quarantined", "dry run"],
    )
    def test_else_the_end_moves_until_its_owner_was_told_here(
        self,
        world: World,
        foreign: OsVmExpire,
        take_over: Import,
        told_at: int | None,
        options: dict[str, str],
    ) -> None:
        now = world.clock.now()
        server_id = world.adopt()
        moment = None if told_at is None else now + told_at * DAY
        foreign.vm(server_id, now + 23 * timedelta(hours=1), told=2, told_at=moment)
        take_over("--yes", **options)
        ends_at = world.row(server_id).ends_at
        assert ends_at is not None
        assert ends_at >= now + EARLIEST
        assert world.notices(server_id) == []

    def test_of_a_database_that_does_not_know_when_they_count_from_now(
        self, world: World, foreign_url: str, take_over: Import
    ) -> None:
        now = world.clock.now()
        there = OsVmExpire(foreign_url, now, times=False)
        server_id = world.adopt()
        there.vm(server_id, now + 3 * DAY, told=2)
        there.close()
        take_over("--yes")
        world.settle()
        assert world.row(server_id).ends_at == now + 3 * DAY
        assert [n.accepted_at for n in world.notices(server_id)] == [now]
        world.live(now + 3 * DAY + timedelta(hours=1))
        assert world.state(server_id) == "deleted"
        # The last reminder, and that it ended.
        assert len(world.mails) == 2


def test_exclusions_are_taken_over_once(
    world: World, foreign: OsVmExpire, take_over: Import, manage: Manage, database_url: str
) -> None:
    server_id, other = world.adopt(), world.adopt("b", project_id=world.beta, user_id=world.bob)
    foreign.exclude(1, world.alpha)
    foreign.exclude(1, world.alpha)
    foreign.exclude(0, "far-away")
    foreign.exclude(2, "nobody")
    foreign.exclude(7, "what")
    preview = take_over()
    assert "Exclusions to be added:" in preview.stdout
    assert preview.stdout.count(world.alpha) == 1
    assert "exclusion 'what' of type 7" in preview.stdout
    assert manage(database_url, "exclusion", "list", "--format", "json").stdout.strip() == "[]"
    assert "there already" not in take_over("--yes").stdout
    world.settle()
    assert (world.state(server_id), world.state(other)) == ("exempt", "active")
    assert "taken over from os-vm-expire" in str(world.history(server_id)[-1])
    assert take_over("--yes").stdout.count("(there already)") == 3


class TestSource:
    """What cannot be read is told in one sentence."""

    @pytest.mark.parametrize(
        ("url", "sentence"),
        [
            ("nonsense:secret", "it is no URL of a database"),
            ("mysql://u:secret@127.0.0.1:1/osvmexpire", "Can't connect to MySQL server"),
            ("oracle+none://u:secret@h/x", "it is no URL of a database"),
            ("sqlite:////nowhere/osvmexpire.sqlite", "there is no file /nowhere/osvmexpire.sqlite"),
        ],
    )
    def test_an_url_of_nothing(self, take_over: Import, url: str, sentence: str) -> None:
        done = take_over("--yes", url=url)
        assert done.returncode == 1
        assert sentence in done.stderr
        assert "secret" not in done.stderr + done.stdout
        assert len(done.stderr.splitlines()) == 1

    def test_another_database(self, take_over: Import) -> None:
        done = take_over("--yes")
        assert done.returncode == 1
        assert "this is no database of os-vm-expire's" in done.stderr


class TestMetadata:
    """Dates in metadata, as at CERN."""

    @pytest.fixture
    def take_over(self, world: World, manage: Manage, database_url: str) -> Import:
        options: dict[str, dict[str, Any]] = {**world.cloud.conf_overrides()}

        def run(*arguments: str, key: str = "expire_at") -> Done:
            return manage(
                database_url,
                "import",
                "server-metadata",
                "--key",
                key,
                *arguments,
                options=options,
            )

        return run

    def test_all_forms_are_read_and_none_goes_beyond_what_owners_may(
        self, world: World, take_over: Import
    ) -> None:
        now = world.clock.now()
        day = (now + 10 * DAY).replace(hour=0)
        iso, epoch, date, offset, far, junk, gone_by = (
            world.adopt(str(n), metadata={"expire_at": text})
            for n, text in enumerate(
                (
                    f"{now + 10 * DAY:%Y-%m-%dT%H:%M:%SZ}",
                    str(seconds(now + 20 * DAY)),
                    f"{day:%Y-%m-%d}",
                    f"{now + 10 * DAY:%Y-%m-%d %H:%M}+02:00",
                    "2099-01-01T00:00:00Z",
                    "tomorrow\n\x1b[31m",
                    "2020-01-01",
                )
            )
        )
        without = world.adopt("without")
        before = world.rows()
        preview = take_over()
        assert count(preview, "moved") == 5
        assert world.rows() == before
        assert f"VM {junk} with 'tomorrow" in preview.stdout
        assert "\x1b" not in preview.stdout

        assert count(take_over("--yes"), "moved") == 5
        world.settle()
        wanted = {
            iso: now + 10 * DAY,
            epoch: now + 20 * DAY,
            date: day + timedelta(hours=23, minutes=59),
            offset: now + 10 * DAY - timedelta(hours=2),
            # It has more already than its owner could choose.
            far: now + 60 * DAY,
            junk: now + 60 * DAY,
            gone_by: now + EARLIEST,
            without: now + 60 * DAY,
        }
        for server_id, ends_at in wanted.items():
            assert world.lease(server_id).end_date == ends_at, world.row(server_id).server_name
        assert count(take_over("--yes"), "moved") == 0

    def test_what_the_service_has_written_itself_is_none_of_theirs(
        self, world: World, take_over: Import
    ) -> None:
        server_id = world.adopt()
        ends_at = world.row(server_id).ends_at
        assert ends_at is not None
        world.wreck(expirations, sa.true(), shown_end=ends_at, shown_state="active")
        world.cloud.compute.vms[server_id].metadata["expire_at"] = labels.text(ends_at - 30 * DAY)
        done = take_over()
        assert {count(done, title) for title in ("moved", "has that end")} == {0}

    def test_a_list_that_breaks_off_is_none(self, world: World, take_over: Import) -> None:
        world.adopt(metadata={"expire_at": "2026-03-20"})
        world.cloud.fault("/servers/detail", status=503)
        done = take_over("--yes")
        assert done.returncode == 1
        assert "could not be read to its end" in done.stderr
        assert world.events(world.rows()[0].server_id) == ["adopted"]


def test_the_earliest_end_leaves_room_for_a_notice(world: World) -> None:
    terms = world.harness.plugin.tools.book.defaults()
    now = world.clock.now()
    assert lifecycle.told_in_time(now, terms) == now + EARLIEST
