# SPDX-License-Identifier: Apache-2.0
"""``blazar-vmexpire-status upgrade check``: what it finds right, and what it finds wrong."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa
from oslo_config import cfg
from oslo_log import log as oslo_log

from blazar_vmexpire import RESOURCE_TYPE
from blazar_vmexpire.cmd.status import CHECKS, main
from blazar_vmexpire.db.models import chores
from tests import databases
from tests.fakes.cloud import FakeCloud
from tests.functional.intake import Bus, at_work, wait_for_state, wait_until
from tests.functional.manage import settings
from tests.functional.world import World
from tests.mail_servers import MailServer

__all__ = ["at_work"]

SUCCESS, WARNING, FAILURE = 0, 1, 2

pytestmark = pytest.mark.databases("sqlite")

Options = Mapping[str, Mapping[str, Any]]


class Checked(NamedTuple):
    """What a run of the command came to."""

    returncode: int
    results: dict[str, int]
    details: dict[str, str]


Status = Callable[..., Checked]


@pytest.fixture
def status(
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    cloud: FakeCloud,
    mail: MailServer,
    database_url: str,
) -> Status:
    """Run the command against the test's database, cloud and mail server."""

    def run(options: Options | None = None, url: str | None = database_url) -> Checked:
        given: dict[str, dict[str, Any]] = {
            **{group: dict(values) for group, values in cloud.conf_overrides().items()},
            RESOURCE_TYPE: {"undeliverable_contact": "operators@example.org"},
            "vmexpire_mail": {"host": "127.0.0.1", "port": mail.port},
        }
        for group, values in (options or {}).items():
            given.setdefault(group, {}).update(values)
        conf = cfg.ConfigOpts()
        oslo_log.register_options(conf)
        capsys.readouterr()
        arguments = [*settings(tmp_path, url, given), "upgrade", "check", "--json"]
        returncode = main(arguments, conf)
        out, err = capsys.readouterr()
        assert err == ""
        checks = json.loads(out)["checks"]
        return Checked(
            returncode,
            {check["check"]: check["result"] for check in checks},
            {check["check"]: check["details"] for check in checks},
        )

    return run


def wrong(checked: Checked) -> dict[str, int]:
    """Return what is not as it should be, but for the notifications, of which nothing is known."""
    return {
        title: code
        for title, code in checked.results.items()
        if code and title != "Notifications of Nova"
    }


def test_all_is_well_and_nothing_is_left_of_the_checks(
    status: Status, cloud: FakeCloud, mail: MailServer
) -> None:
    done = status({"vmexpire_intake": {"notifications": "false"}})
    assert done.returncode == SUCCESS, done.details
    assert list(done.results) == [check.title for check in CHECKS]
    assert all("It matters because" in text for text in done.details.values())
    assert not any("What would be right" in text for text in done.details.values())
    assert cloud.image.images == {}
    assert mail.mails == []
    made, given, removed = (cloud.requests("/image/", m) for m in ("POST", "PATCH", "DELETE"))
    assert (len(made), len(given), len(removed)) == (1, 1, 1)
    assert given[0].body[0]["value"] not in cloud.identity.projects


def test_as_people_run_it(
    tmp_path: pathlib.Path, cloud: FakeCloud, database_url: str, mail: MailServer
) -> None:
    options: dict[str, Any] = {
        **cloud.conf_overrides(),
        RESOURCE_TYPE: {"undeliverable_contact": "operators@example.org"},
        "vmexpire_mail": {"host": "127.0.0.1", "port": mail.port},
    }
    done = subprocess.run(
        [
            str(pathlib.Path(sys.executable).with_name("blazar-vmexpire-status")),
            *settings(tmp_path, databases.elsewhere(database_url), options),
            "upgrade",
            "check",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (WARNING, "")
    assert "| Check: Handing over images" in done.stdout
    assert "Result: Warning" in done.stdout
    assert "nothing is known" in " ".join(done.stdout.lower().split())
    assert not (tmp_path / "blazar.log").exists()


class TestTables:
    """Migrations at head."""

    def test_that_are_not_there(self, status: Status, backend: databases.Backend) -> None:
        url = backend.create("blazar")
        done = status(url=url)
        backend.drop(url)
        assert done.returncode == FAILURE
        assert wrong(done) == {"Tables": FAILURE}
        assert "this version needs" in done.details["Tables"]
        assert "blazar-vmexpire-manage db upgrade" in done.details["Tables"]

    def test_that_lack_an_index(self, status: Status, world: World) -> None:
        with world.harness.database.begin() as connection:
            connection.execute(sa.text("DROP INDEX ix_vmexpire_events_status_time"))
        done = status()
        assert wrong(done) == {"Tables": WARNING}
        assert "ix_vmexpire_events_status_time" in done.details["Tables"]

    def test_in_a_database_that_does_not_answer(self, status: Status) -> None:
        done = status(url="mysql+pymysql://u:secret@127.0.0.1:1/b")
        assert wrong(done) == {"Tables": FAILURE}
        assert "Can't connect" in done.details["Tables"]
        assert "secret" not in str(done)


class TestOptions:
    """Options and rules file."""

    def test_a_rules_file_that_is_good(self, status: Status, tmp_path: pathlib.Path) -> None:
        path = tmp_path / "rules.yaml"
        path.write_text("rules: [{name: a, set: {expire: false}}]\n")
        done = status({RESOURCE_TYPE: {"rules_file": path}})
        assert wrong(done) == {}
        assert f"the 1 rules of {path}" in done.details["Options and rules file"]

    def test_a_rules_file_that_is_not(self, status: Status, tmp_path: pathlib.Path) -> None:
        path = tmp_path / "rules.yaml"
        path.write_text("rules:\n- {name: a, set: {lease: 3d}}\n- {name: b, set: {expire: 7}}\n")
        done = status({RESOURCE_TYPE: {"rules_file": path}})
        assert wrong(done) == {"Options and rules file": FAILURE}
        assert "line 2, rule 'a'" in done.details["Options and rules file"]
        assert "line 3, rule 'b'" in done.details["Options and rules file"]

    @pytest.mark.parametrize(
        ("name", "value"),
        [("undeliverable_contact", "nobody"), ("lease_duration", "long"), ("quarantine", "90d")],
    )
    def test_an_option_that_is_not(self, status: Status, name: str, value: str) -> None:
        done = status({RESOURCE_TYPE: {name: value}})
        assert wrong(done)["Options and rules file"] == FAILURE
        assert name in done.details["Options and rules file"]


class TestNotifications:
    """Notifications arriving."""

    def of(self, status: Status, **intake: str) -> tuple[int, str]:
        done = status({"vmexpire_intake": intake})
        title = "Notifications of Nova"
        return done.results[title], done.details[title]

    def test_of_which_nothing_is_known(self, status: Status) -> None:
        code, said = self.of(status)
        assert code == WARNING
        assert "nothing is known" in said.lower()

    @pytest.mark.parametrize("format_", ["unversioned", "versioned"])
    def test_that_come(self, at_work: World, status: Status, format_: str) -> None:
        server_id = at_work.boot()
        Bus(at_work, format_).say("create.end", server_id)
        wait_for_state(at_work, server_id, "active")
        came_at = at_work.clock.now()
        at_work.clock.advance(days=7)
        code, said = self.of(status)
        assert code == SUCCESS, said
        assert f"The last one came on {came_at:%Y-%m-%d %H:%M} UTC" in said

    def test_that_come_no_more(self, at_work: World, status: Status) -> None:
        first, second = at_work.boot(), None
        bus = Bus(at_work, "unversioned")
        bus.say("create.end", first)
        wait_for_state(at_work, first, "active")
        at_work.clock.advance(hours=3)
        second = at_work.boot("unheard")
        at_work.see(second)
        # It may still be on its way.
        assert self.of(status)[0] == SUCCESS
        at_work.clock.advance(minutes=11)
        code, said = self.of(status)
        assert code == WARNING
        assert "Nova has made 1 VMs since" in said
        assert "[vmexpire_intake] transport_url" in said
        assert self.of(status, reconciliation="false")[0] == FAILURE
        bus.say("create.end", second)
        wait_until(lambda: self.of(status)[0] == SUCCESS, "the next one is noted")

    def test_of_which_many_cost_one_write(self, at_work: World) -> None:
        server_id = at_work.boot()
        bus = Bus(at_work, "unversioned")

        def noted_at() -> Any:
            with at_work.harness.database.begin() as connection:
                return connection.scalar(
                    sa.select(chores.c.last_finished_at).where(chores.c.name == "notifications")
                )

        def say() -> None:
            before = at_work.row(server_id).questions if at_work.row_or_none(server_id) else -1
            bus.say("create.end", server_id)
            wait_until(
                lambda: (row := at_work.row_or_none(server_id)) and row.questions > before,
                "it is taken",
            )

        say()
        first = noted_at()
        at_work.clock.advance(seconds=59)
        say()
        assert noted_at() == first
        at_work.clock.advance(seconds=1)
        say()
        assert noted_at() == first + timedelta(minutes=1)

    def test_that_nobody_wants(self, status: Status) -> None:
        code, said = self.of(status, notifications="false")
        assert (code, "every 15m" in said) == (SUCCESS, True)
        assert self.of(status, notifications="false", reconciliation="false")[0] == FAILURE


class TestMail:
    """Mail server answering."""

    @pytest.mark.parametrize("command", ["MAIL", "RCPT"])
    def test_that_refuses(self, status: Status, mail: MailServer, command: str) -> None:
        mail.answers[command] = "550 5.7.1 not from you"
        done = status()
        assert wrong(done) == {"Mail server": FAILURE}
        assert "not from you" in done.details["Mail server"]
        assert "undeliverable_contact" in done.details["Mail server"]

    def test_that_is_away(self, status: Status) -> None:
        assert wrong(status({"vmexpire_mail": {"port": "1"}})) == {"Mail server": FAILURE}


class TestCloud:
    """What the service's account may do."""

    def test_an_account_that_is_no_administrator(self, status: Status, cloud: FakeCloud) -> None:
        identity = cloud.identity
        identity.roles[identity.service_user, identity.service_project] = ["member"]
        done = status()
        assert wrong(done) == {"VMs of all projects": FAILURE, "Handing over images": FAILURE}
        assert "get_all_tenants" in done.details["VMs of all projects"]
        assert "Owner can't be updated" in done.details["Handing over images"]
        assert cloud.image.images == {}

    def test_an_account_that_cannot_log_in(self, status: Status) -> None:
        done = status({"DEFAULT": {"os_admin_password": "wrong"}})
        assert wrong(done) == {"VMs of all projects": FAILURE, "Handing over images": FAILURE}
        assert "get a token" in done.details["Handing over images"]
        assert "may be left" not in done.details["Handing over images"]

    def test_services_that_do_not_answer(self, status: Status, cloud: FakeCloud) -> None:
        cloud.fault("^/(compute|image)/", status=503)
        done = status()
        assert wrong(done) == {"VMs of all projects": FAILURE, "Handing over images": FAILURE}

    def test_an_image_of_which_the_answer_got_lost_is_removed(
        self, status: Status, cloud: FakeCloud
    ) -> None:
        cloud.fault("/images$", method="POST", status=502, html=True, after=True)
        done = status()
        assert wrong(done) == {"Handing over images": FAILURE}
        assert cloud.requests("/image/", "DELETE")
        assert cloud.image.images == {}

    def test_an_image_that_cannot_be_removed_is_named(
        self, status: Status, cloud: FakeCloud
    ) -> None:
        cloud.fault("/images/", method="DELETE", status=403)
        done = status()
        (image_id,) = cloud.image.images
        assert wrong(done) == {"Handing over images": FAILURE}
        assert f"An image may be left, {image_id}" in done.details["Handing over images"]

    def test_a_dry_run_changes_nothing(self, status: Status, cloud: FakeCloud) -> None:
        done = status({RESOURCE_TYPE: {"dry_run": "true"}})
        assert wrong(done) == {"Handing over images": WARNING}
        assert cloud.requests("/image/") == []


def test_a_configuration_that_cannot_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["--config-file", "/nowhere/blazar.conf", "upgrade", "check"], cfg.ConfigOpts()) == 255
    )
    assert "/nowhere/blazar.conf" in capsys.readouterr().err
