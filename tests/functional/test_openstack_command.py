# SPDX-License-Identifier: Apache-2.0
"""``openstack vm expiration``: the real command, over HTTP, and what it says when it cannot."""

from __future__ import annotations

import datetime
import io
import os
import pty
import shlex
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from blazar_vmexpire import exclusions
from tests.functional.openstack import COMMAND, Openstack, served
from tests.functional.world import World

pytestmark = [
    pytest.mark.databases("sqlite"),
    pytest.mark.options({"virtual:vm": {"on_end_action": "snapshot"}}),
]

WHY = "ticket OPS-17"
UNKNOWN = "11111111-1111-4111-8111-111111111111"
REASON = ("--reason", WHY)

#: Each command that names VMs, up to their names.
OF_VMS = (
    ("show",),
    ("history",),
    ("extend",),
    ("set", *REASON, "--exempt"),
    ("unset", *REASON, "--hold"),
    ("expire", *REASON),
)


@pytest.fixture
def openstack(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Openstack]:
    """The command; it lives in the present, so all do."""
    for name in [name for name in os.environ if name.startswith("OS_")]:
        monkeypatch.delenv(name)
    world.clock.set(datetime.datetime.now(datetime.UTC).replace(tzinfo=None))
    with served(world.harness):
        yield Openstack(world, capsys)


def shown(moment: datetime.datetime | None) -> str:
    """Write a date as the API does."""
    assert moment is not None
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def near_its_end(world: World, name: str, **left: float) -> str:
    """Take in a VM that ends soon, as an administrator has it."""
    server_id = world.adopt(name)
    bring_near(world, server_id, **left)
    return server_id


def bring_near(world: World, server_id: str, **left: float) -> None:
    """Have a VM end soon, as an administrator has it."""
    answer = world.as_admin.patch(
        f"/v1/vm-expirations/{server_id}",
        json={"reason": WHY, "ends_at": shown(world.clock.now() + timedelta(**left))},
    )
    assert answer.status_code == 200, answer.json


# What is shown ------------------------------------------------------------------------------------


def test_a_list_has_first_what_a_person_wants_first(world: World, openstack: Openstack) -> None:
    near_its_end(world, "later", days=12, hours=4, minutes=10)
    soon = near_its_end(world, "sooner", days=5, minutes=2)
    done = openstack("list")
    assert (done.returncode, done.stderr) == (0, "")
    head, first, second = (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in done.stdout.splitlines()
        if line.startswith("|")
    )
    assert head == ["Name", "Ends In", "Ends At", "State"]
    assert first == ["sooner", "5 days", shown(world.row(soon).ends_at), "active"]
    assert (second[0], second[1]) == ("later", "12 days and 4 hours")
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_programs_get_plain_values_in_every_format(world: World, openstack: Openstack) -> None:
    server_id = near_its_end(world, "web1", days=5)
    (vm,) = openstack("list", "-f", "json").json
    assert list(vm) == ["Name", "Ends In", "Ends At", "State"]
    assert 5 * 86400 - 120 < vm["Ends In"] <= 5 * 86400
    (long,) = openstack("list", "--long", "-f", "json").json
    assert long["ID"] == server_id
    assert (long["Lease ID"], long["On End Action"]) == (
        world.row(server_id).lease_id,
        "snapshot",
    )
    assert openstack("list", "-f", "value", "-c", "ID").stdout == f"{server_id}\n"
    assert openstack("list", "-f", "csv", "-c", "Name", "-c", "State").stdout.splitlines() == [
        '"Name","State"',
        '"web1","active"',
    ]
    assert "Name: web1" in openstack("list", "-f", "yaml").stdout
    assert openstack("show", "web1", "-f", "value", "-c", "server_id").stdout == f"{server_id}\n"


def test_filters_say_which_are_listed_and_summed_up(world: World, openstack: Openstack) -> None:
    near_its_end(world, "soon", days=5)
    near_its_end(world, "late", days=50)
    world.adopt("theirs", project_id=world.beta, user_id=world.bob)

    def names(*arguments: str, name: str = "alice") -> list[str]:
        return openstack("list", "-f", "value", "-c", "Name", *arguments, name=name).stdout.split()

    assert names() == ["soon", "late"]
    assert names("--ends-within", "7d") == ["soon"]
    after = shown(world.clock.now() + timedelta(days=9))
    assert names("--ends-after", after) == ["late"]
    assert names("--ends-before", after, "--state", "noticed") == ["soon"]
    assert names("--name", "late", "--user", world.alice) == ["late"]
    assert names("--limit", "1") == ["soon"]
    assert names("--state", "deleted") == []
    assert names(name="admin") == []
    assert names("--project", world.beta, name="admin") == ["theirs"]
    assert sorted(names("--all-projects", name="admin")) == ["late", "soon", "theirs"]
    groups = openstack("summary", "--ends-within", "7d", "-f", "json").json
    assert [(group["Project ID"], group["VMs"]) for group in groups] == [(world.alpha, 1)]
    wrong = openstack("list", "--ends-within", "a week")
    assert wrong.returncode == 2
    assert "'a week' is not a duration" in wrong.stderr


def test_one_vm_is_shown_by_name_and_by_id_with_all_of_it(
    world: World, openstack: Openstack
) -> None:
    server_id = near_its_end(world, "web1", days=5)
    until = world.clock.now() + timedelta(days=20)
    held = openstack("set", "web1", "--hold-until", shown(until), *REASON, "--all-projects",
                     name="admin")  # fmt: skip
    assert (held.returncode, held.stdout, held.stderr) == (0, "", "")
    by_name = openstack("show", "web1", "-f", "json").json
    assert list(by_name)[:4] == ["server_name", "ends_in", "ends_at", "state"]
    assert (by_name["server_id"], by_name["state"]) == (server_id, "held")
    assert by_name["hold"]["reason"] == WHY
    by_id = openstack("show", server_id, "-f", "json").json
    assert by_id | {"ends_in": 0} == by_name | {"ends_in": 0}
    assert f"reason='{WHY}'" in openstack("show", "web1").stdout


def test_the_history_of_a_vm_outlives_it(world: World, openstack: Openstack) -> None:
    server_id = world.adopt("web1")
    assert openstack("extend", "web1", "--until", "2099-01-01 00:00").returncode == 1
    world.cloud.compute.vms.pop(server_id)
    world.see(server_id)
    world.live(world.clock.now() + timedelta(hours=2))
    assert world.state(server_id) == "deleted"
    assert openstack("list", "-f", "json").json == []
    for name in ("web1", server_id):
        entries = openstack("history", name, "-f", "json").json
        assert [entry["Event"] for entry in entries] == world.events(server_id)
    assert openstack("history", "web1", "--limit", "1", "--long", "-f", "json").json[0].keys() > {
        "Request ID"
    }


@pytest.mark.parametrize("name", ["\x1b[31mred\x1b[0m", "two\nlines", "\u202eback"])
def test_what_a_vm_is_called_does_nothing_to_a_terminal(
    world: World, openstack: Openstack, name: str
) -> None:
    world.adopt(name)
    for command in (["list"], ["show", world.rows()[0].server_id]):
        text = openstack(*command).stdout
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert all(line[0] in "+|" for line in text.splitlines())
    (vm,) = openstack("list", "-f", "json").json
    assert vm["Name"] == name


# A terminal ---------------------------------------------------------------------------------------


def test_the_program_itself_colours_what_is_urgent_on_a_terminal_alone(
    world: World, openstack: Openstack
) -> None:
    """The installed ``openstack``, as a process, with credentials and nothing else."""
    near_its_end(world, "web1", days=5)
    environment = {
        "PATH": os.environ["PATH"],
        "COLUMNS": "200",
        **{f"OS_{key.upper()}": value for key, value in openstack.credentials().items()},
    }
    program = [str(Path(sys.executable).with_name("openstack")), *COMMAND, "list"]
    outer, inner = pty.openpty()
    try:
        subprocess.run(program, env=environment, stdout=inner, check=True, timeout=120)
        on_terminal = os.read(outer, 65536).decode()
    finally:
        os.close(outer)
        os.close(inner)
    assert "\x1b[33m4\x1b[0m \x1b[33mdays\x1b[0m" in on_terminal
    piped = subprocess.run(
        program, env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    assert "4 days" in piped.stdout
    assert "\x1b" not in piped.stdout


# Extending ----------------------------------------------------------------------------------------


def test_one_or_several_are_extended_by_name_or_id(world: World, openstack: Openstack) -> None:
    first, second = (near_its_end(world, name, days=5) for name in ("web1", "web2"))
    until = (world.clock.now() + timedelta(days=20)).replace(second=0, microsecond=0)
    (vm,) = openstack("extend", "web1", "--until", shown(until), "-f", "json").json
    assert (vm["Name"], vm["Ends At"]) == ("web1", shown(until))
    assert world.row(first).ends_at == until
    vms = openstack("extend", first, "web1", second, "-f", "json").json
    assert [vm["Name"] for vm in vms] == ["web1", "web2"]
    latest = world.clock.now() + timedelta(days=30)
    for server_id in (first, second):
        assert abs(world.row(server_id).ends_at - latest) < timedelta(minutes=2)


def test_one_that_cannot_be_extended_keeps_no_other_from_it(
    world: World, openstack: Openstack
) -> None:
    server_id = near_its_end(world, "web1", days=5)
    world.adopt("twin")
    world.adopt("twin")
    done = openstack("extend", "twin", UNKNOWN, "web1", "nobody", "-f", "value", "-c", "Name")
    assert (done.returncode, done.stdout) == (1, "web1\n")
    assert "Failed to extend VM twin: More than one VM that expires" in done.stderr
    assert f"Failed to extend VM {UNKNOWN}: no expiration of server {UNKNOWN}" in done.stderr
    assert "Failed to extend VM nobody: No expiration of a VM" in done.stderr
    assert done.stderr.splitlines()[-1] == "3 of 4 VMs failed to extend."
    assert world.row(server_id).extensions == 1


def test_a_date_beyond_the_cap_is_refused_with_the_latest_allowed(
    world: World, openstack: Openstack
) -> None:
    near_its_end(world, "web1", days=5)
    done = openstack("extend", "web1", "--until", "2099-01-01 00:00")
    assert (done.returncode, done.stdout) == (1, "")
    assert "2099-01-01 00:00 is past the latest allowed" in done.stderr
    assert "(HTTP 400)" in done.stderr
    assert openstack("extend", "web1", "--until", "soon").returncode == 1


def test_all_that_end_soon_are_extended_once_that_is_confirmed(
    world: World, openstack: Openstack, monkeypatch: pytest.MonkeyPatch
) -> None:
    near_its_end(world, "late", days=20)
    soon = [near_its_end(world, f"web{n}", days=5, hours=n) for n in range(3)]
    before = [world.row(server_id) for server_id in soon]
    command = ("extend", "--all-ending-within", "7d", "-f", "value", "-c", "Name")
    for answer in ("n\n", "\n", ""):
        monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
        done = openstack(*command)
        assert (done.returncode, done.stdout) == (1, "")
        assert f"  web0, {shown(before[0].ends_at)}\n" in done.stderr
        assert "late" not in done.stderr
        assert "Extend these VMs (3)? [y/N]: " in done.stderr
        assert done.stderr.endswith("Nothing was extended.\n")
    assert [world.row(server_id) for server_id in soon] == before
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    done = openstack(*command)
    assert (done.returncode, done.stdout.split()) == (0, ["web0", "web1", "web2"])
    assert {world.row(server_id).extensions for server_id in soon} == {1}
    nobody = openstack(*command)
    assert (nobody.returncode, nobody.stdout, nobody.stderr) == (0, "", "")
    at_once = openstack("extend", "--all-ending-within", "21d", "--auto-approve", "-f", "value")
    assert at_once.stdout.startswith("late ")


@pytest.mark.parametrize("arguments", [[], ["web1", "--all-ending-within", "7d"]])
def test_either_vms_are_named_or_a_time(openstack: Openstack, arguments: list[str]) -> None:
    done = openstack("extend", *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert "one of the two" in done.stderr


# Steering -----------------------------------------------------------------------------------------


def test_an_administrator_sets_and_unsets(world: World, openstack: Openstack) -> None:
    servers = [near_its_end(world, name, days=20) for name in ("web1", "web2")]

    def steer(*arguments: str) -> None:
        done = openstack(*arguments, *servers, *REASON, name="admin")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), arguments
        world.settle()

    def states() -> set[str]:
        return {world.state(server_id) for server_id in servers}

    far = (world.clock.now() + timedelta(days=300)).replace(second=0, microsecond=0)
    steer("set", "--ends-at", shown(far), "--on-end-action", "stop")
    assert {world.row(server_id).ends_at for server_id in servers} == {far}
    (first, _) = openstack("list", "--long", "-f", "json").json
    assert first["On End Action"] == "stop"
    steer("unset", "--on-end-action")
    (first, _) = openstack("list", "--long", "-f", "json").json
    assert first["On End Action"] == "snapshot"
    steer("set", "--hold-until", shown(far), "--ticket", "OPS-17")
    assert states() == {"held"}
    steer("unset", "--hold")
    assert states() == {"active"}
    steer("set", "--exempt-until", shown(far))
    assert states() == {"exempt"}
    steer("unset", "--exempt")
    assert states() == {"active"}
    steer("set", "--exempt")
    assert states() == {"exempt"}
    for command in ("set", "unset"):
        idle = openstack(command, servers[0], *REASON, name="admin")
        assert (idle.returncode, idle.stderr) == (1, f"Say what to {command}: see --help.\n")
    alone = openstack("set", servers[0], *REASON, "--ticket", "OPS-17", name="admin")
    assert "--ticket belongs to --hold-until" in alone.stderr
    silent = openstack("set", servers[0], "--exempt", name="admin")
    assert (silent.returncode, "--reason" in silent.stderr) == (2, True)


def test_an_administrator_takes_in_and_ends(world: World, openstack: Openstack) -> None:
    server_id = world.boot("web1")
    (vm,) = openstack("adopt", server_id, "-f", "json", name="admin").json
    assert vm == {"ID": server_id, "State": "seen"}
    world.settle()
    assert world.state(server_id) == "active"
    (vm,) = openstack("expire", "web1", *REASON, "--all-projects", "-f", "json", name="admin").json
    assert vm["Ends At"] == shown(world.row(server_id).ends_at)
    assert timedelta(seconds=vm["Ends In"]) < timedelta(days=3)
    now = openstack("expire", server_id, *REASON, "--force", name="admin")
    assert now.returncode == 0, now.stderr
    world.live(world.clock.now() + timedelta(minutes=10))
    assert world.state(server_id) in ("ending", "deleted")


def test_an_administrator_leaves_out_and_takes_back(world: World, openstack: Openstack) -> None:
    made = openstack(
        "exclusion", "create", "--project", world.alpha, *REASON, "--until", "2099-01-01 00:00",
        "-f", "json", name="admin",
    ).json  # fmt: skip
    assert (made["kind"], made["value"], made["reason"]) == ("project", world.alpha, WHY)
    listed = openstack("exclusion", "list", "-f", "json", name="admin").json
    assert [(x["ID"], x["Until"]) for x in listed] == [(made["id"], "2099-01-01T00:00:00Z")]
    assert openstack("exclusion", "list", "--user", "x", "-f", "json", name="admin").json == []
    with world.harness.database.begin() as connection:
        assert len(exclusions.listed(connection)) == 1
    again = openstack("exclusion", "create", "--project", world.alpha, *REASON, name="admin")
    assert (again.returncode, "(HTTP 409)" in again.stderr) == (1, True)
    gone = openstack("exclusion", "delete", str(made["id"]), "99", name="admin")
    assert (gone.returncode, gone.stdout) == (1, "")
    assert "Failed to delete exclusion 99: no exclusion 99 could be found (HTTP 404)" in gone.stderr
    assert gone.stderr.splitlines()[-1] == "1 of 2 exclusions failed to delete."
    assert openstack("exclusion", "list", "-f", "json", name="admin").json == []


def test_an_administrator_sees_and_moves_the_brake(openstack: Openstack) -> None:
    tripped = openstack("brake", "trip", *REASON, "-f", "json", name="admin").json
    assert (tripped["reason"], tripped["ending_now"]) == (WHY, 0)
    assert openstack("brake", "show", "-f", "json", name="admin").json["tripped_at"]
    again = openstack("brake", "trip", *REASON, name="admin")
    assert again.returncode == 1
    assert "the brake has tripped before (HTTP 409)" in again.stderr
    released = openstack("brake", "release", *REASON, "-f", "json", name="admin").json
    assert released["release_reason"] == WHY


# What does not go ---------------------------------------------------------------------------------


def test_every_command_says_which_name_or_id_it_does_not_know(
    world: World, openstack: Openstack
) -> None:
    """Those of somebody else are not known, either."""
    theirs = world.adopt("theirs", project_id=world.beta, user_id=world.bob)
    for command in OF_VMS:
        for name in ("nobody", "theirs"):
            done = openstack(*command, name)
            assert (done.returncode, done.stdout) == (1, ""), command
            assert done.stderr == f"No expiration of a VM with a name or ID of '{name}' exists.\n"
        for server_id in (UNKNOWN, theirs):
            done = openstack(*command, server_id)
            assert (done.returncode, done.stdout) == (1, ""), command
            told = f"no expiration of server {server_id} could be found (HTTP 404)"
            assert done.stderr.startswith(told), command


def test_every_command_says_which_vms_share_a_name(world: World, openstack: Openstack) -> None:
    twins = [world.adopt("twin"), world.adopt("twin")]
    before = [world.row(server_id) for server_id in twins]
    for command in OF_VMS:
        done = openstack(*command, "twin")
        assert (done.returncode, done.stdout) == (1, ""), command
        assert "More than one VM that expires has the name 'twin'; use an ID: " in done.stderr
        assert all(server_id in done.stderr for server_id in twins)
    assert [world.row(server_id) for server_id in twins] == before


FORBIDDEN = (
    ("list", "--all-projects"),
    ("summary", "--all-projects"),
    ("show", "web1", "--all-projects"),
    ("set", "web1", *REASON, "--exempt"),
    ("set", "web1", *REASON, "--hold-until", "2099-01-01 00:00"),
    ("unset", "web1", *REASON, "--exempt"),
    ("expire", "web1", *REASON),
    ("adopt", UNKNOWN),
    ("exclusion", "create", "--server", UNKNOWN, *REASON),
    ("exclusion", "list"),
    ("brake", "show"),
    ("brake", "trip", *REASON),
    ("brake", "release", *REASON),
)


def test_every_command_says_what_a_role_does_not_suffice_for(
    world: World, openstack: Openstack
) -> None:
    server_id = world.adopt("web1")
    before = world.row(server_id)
    for command in FORBIDDEN:
        done = openstack(*command)
        assert (done.returncode, done.stdout) == (1, ""), command
        assert "(HTTP 403) (Request-ID: req-" in done.stderr, (command, done.stderr)
    read_only = openstack("extend", "web1", roles=["reader"])
    assert (read_only.returncode, "(HTTP 403)" in read_only.stderr) == (1, True)
    assert openstack("list", roles=["reader"]).returncode == 0
    assert world.row(server_id) == before


@pytest.mark.options({"DEFAULT": {"rpc_response_timeout": 1}})
def test_every_command_says_that_the_manager_is_away(world: World, openstack: Openstack) -> None:
    server_id = world.adopt("web1")
    world.harness.stop()
    for command in (
        ("extend", server_id),
        ("extend", server_id, "web1"),
        ("set", server_id, *REASON, "--exempt"),
        ("unset", server_id, *REASON, "--hold"),
        ("expire", server_id, *REASON),
        ("adopt", UNKNOWN),
        ("exclusion", "create", "--server", UNKNOWN, *REASON),
        ("exclusion", "delete", "1"),
        ("brake", "trip", *REASON),
        ("brake", "release", *REASON),
    ):
        name = "alice" if command[0] == "extend" else "admin"
        done = openstack(*command, name=name)
        assert (done.returncode, done.stdout) == (1, ""), command
        assert "(HTTP 503)" in done.stderr, (command, done.stderr)
    # The rest is not tried: each would take as long.
    several = openstack("expire", server_id, UNKNOWN, *REASON, name="admin")
    assert f"Failed to expire VM {UNKNOWN}: not tried" in several.stderr
    for command in (("list",), ("show", "web1"), ("history", "web1"), ("summary",)):
        assert openstack(*command).returncode == 0, command


def test_a_cloud_without_blazar_has_no_expiration(world: World, openstack: Openstack) -> None:
    world.cloud.identity.reservation_url = None
    done = openstack("list")
    assert (done.returncode, done.stdout) == (1, "")
    assert "reservation" in done.stderr


def test_one_who_is_not_let_in_is_told_so(openstack: Openstack) -> None:
    credentials = {**openstack.credentials(), "password": "wrong"}
    openstack.credentials = lambda *_: credentials  # type: ignore[method-assign]
    done = openstack("list")
    assert (done.returncode, done.stdout) == (1, "")
    assert "(HTTP 401)" in done.stderr


@pytest.mark.options({"vmexpire_mail": {"digest": "daily 08:00 UTC"}})
def test_the_command_in_a_digest_extends_what_it_names(world: World, openstack: Openstack) -> None:
    servers = [world.adopt(f"vm-{n}") for n in range(3)]
    for server_id in servers:
        bring_near(world, server_id, hours=51)
    now = world.clock.now()
    world.settle()
    world.live(now + timedelta(hours=1))
    world.clock.set(now)
    (mail,) = world.mails
    text = mail.get_content().replace("\r\n", "\n")
    begin = text.index("openstack vm expiration extend")
    # As a shell reads it.
    words = shlex.split(text[begin : text.index("\n\n", begin)].replace("\\\n", ""))
    assert words[: 1 + len(COMMAND)] == ["openstack", *COMMAND]
    listed = openstack(*words[1 + len(COMMAND) :], "-f", "json").json
    assert {row["Name"] for row in listed} == {"vm-0", "vm-1", "vm-2"}
    for server_id in servers:
        end = world.row(server_id).ends_at
        assert end is not None
        assert end > now + timedelta(days=29)
