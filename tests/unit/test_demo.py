# SPDX-License-Identifier: Apache-2.0
"""The parts of tools/demo that need no cloud."""

from __future__ import annotations

import io
from datetime import datetime, timedelta
from types import SimpleNamespace

import pytest
from oslo_config import cfg

from blazar_vmexpire.conf import opts
from blazar_vmexpire.notices import Renderer, samples
from tools.demo import accounts, course, mailbox, terms
from tools.demo.__main__ import STORIES, Demo
from tools.demo.checks import NotSo, in_order, require
from tools.demo.narrator import Narrator, columns
from tools.demo.real import RECORD, RealStory
from tools.demo.story import Story
from tools.demo.timing import DONE, FAILED, INTERRUPTED, Timings, spoken
from tools.demo.waiting import countdown, wait_for
from tools.sandbox import SandboxError
from tools.sandbox.hypervisor import HYPERVISORS
from tools.sandbox.settings import parse_setting

NOON = datetime(2026, 11, 20, 12, 0)
SERVER = "62dd1843-5896-4d99-83f9-aa117462c695"


@pytest.fixture
def stream():
    return io.StringIO()


@pytest.fixture
def narrator(stream):
    return Narrator(stream, terminal=False)


# --- terms ---


def test_every_setting_is_an_option_of_the_plugin_with_a_value_that_it_takes():
    options = {(group.name, opt.name): opt for group, found in opts.list_opts() for opt in found}
    for group, name, value in map(parse_setting, terms.settings()):
        conf = cfg.ConfigOpts()
        conf([], default_config_files=[])
        conf.register_opt(options[group, name], group)
        conf.set_override(name, value, group)
        assert conf[group][name] is not None


def test_the_reminder_has_time_to_be_a_notice():
    assert terms.FIRST_NOTICE >= terms.MINIMUM_NOTICE + terms.MINUTE
    assert terms.LEASE >= terms.FIRST_NOTICE


def test_what_alice_asks_for_is_allowed_and_what_she_asks_for_next_is_not():
    # The lease is at most LEASE and a minute long when she asks.
    assert terms.LEASE + terms.MINUTE + terms.MORE < terms.EXTENSION
    assert terms.TOO_FAR > terms.EXTENSION


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (terms.from_blazar, "2026-11-20T12:00:00.000000"),
        (terms.from_glance, "2026-11-20T12:00:00Z"),
        (terms.from_blazar, terms.to_blazar(NOON)),
    ],
)
def test_dates_are_naive_utc(read, text):
    assert read(text) == NOON


def test_an_offset_is_free_when_all_of_its_ports_are():
    # 8774 is Nova's.
    assert terms.free_offset([100, 200], lambda port: port != 8774 + 100) == 200


def test_no_free_offset_is_an_error_that_says_what_to_do():
    with pytest.raises(SandboxError, match="what listens there"):
        terms.free_offset([100], lambda port: False)


# --- checks ---


def test_in_order_allows_what_stands_between():
    assert in_order(["stop", "delete"], ["create", "stop", "createImage", "delete"])
    assert not in_order(["delete", "stop"], ["create", "stop", "createImage", "delete"])
    assert not in_order(["stop", "stop"], ["stop"])


def test_what_is_not_so_says_what_was_found():
    require(True, "the sun shines", "sun")
    with pytest.raises(NotSo, match=r"not so: the sun shines\nfound: rain"):
        require([], "the sun shines", "rain")


# --- accounts ---


def test_only_the_one_known_line_is_left_out():
    noise = "Could not load 'reservation_host_unset': module has no attribute\n"
    assert accounts.without_noise(f"{noise}ERROR: no\n") == "ERROR: no\n"


def test_no_proxy_stands_between_us_and_the_loopback():
    environ = {"HTTPS_PROXY": "http://proxy", "http_proxy": "http://proxy", "PATH": "/bin"}
    assert accounts.direct(environ) == {"PATH": "/bin"}


# --- mails ---

MAIL = f"""\
X-Mail-From: cloud@example.org\r
X-Rcpt-To: alice@example.org\r
Subject: VM "web1" (alpha) will be deleted in 2 minutes, on 2026-11-20\r
 11:14 UTC\r
To: alice@example.org\r
X-OpenStack-Server: {SERVER}\r
Content-Type: text/plain; charset="utf-8"\r
Content-Transfer-Encoding: quoted-printable\r
\r
Your VM =E2=80=9Cweb1=E2=80=9D\r
\r
    openstack reservation lease set --end-date "2026-12-20 11:11" 633fa14f-09=\r
ff\r
a bell=07 and an escape=1B[2J\r
""".encode()


def test_a_mail_is_read_as_its_reader_sees_it(tmp_path):
    (tmp_path / "20261120T111101.106725Z-000001-alice@example.org.eml").write_bytes(MAIL)
    (mail,) = mailbox.mails(tmp_path, SERVER)
    assert mail.recipients == "alice@example.org"
    assert mail.arrived_at == datetime(2026, 11, 20, 11, 11, 1, 106725)
    assert mail.subject.endswith("in 2 minutes, on 2026-11-20 11:14 UTC")
    assert [name for name, _ in mail.headers] == ["To", "Subject", "X-OpenStack-Server"]
    assert mail.text.splitlines()[0] == "Your VM \N{LEFT DOUBLE QUOTATION MARK}web1\u201d"
    assert mail.text.splitlines()[2].endswith('"2026-12-20 11:11" 633fa14f-09ff')
    # What a mail says does not command the terminal.
    assert mail.text.splitlines()[3] == "a bell? and an escape?[2J"


def test_mails_to_somebody(tmp_path):
    (tmp_path / "20261120T111101.106725Z-000001-alice@example.org.eml").write_bytes(MAIL)
    assert len(mailbox.mails_to(tmp_path, "alice@example.org")) == 1
    assert mailbox.mails_to(tmp_path, "bob@example.org") == []


def test_the_command_is_taken_out_of_a_digest():
    rendered = Renderer().render_digest(samples.digest())
    mail = mailbox.Mail("bob@example.org", NOON, "", rendered.subject, (), rendered.text)
    *command, one, other = course._command(mail)
    assert command == ["openstack", "vm", "expiration", "extend"]
    assert {one, other} < {notice.server_id for notice in samples.digest()}


def test_mails_about_other_servers_are_not_this_ones(tmp_path):
    (tmp_path / "20261120T111101.106725Z-000001-alice@example.org.eml").write_bytes(MAIL)
    assert mailbox.mails(tmp_path, "another") == []


# --- waiting ---


class Clock:
    """A clock that goes on only when somebody sleeps."""

    def __init__(self):
        self.now = NOON

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += timedelta(seconds=seconds)


def wait(narrator, look, clock, **more):
    return wait_for(
        narrator, "the mail", look, timedelta(seconds=30), clock=clock, sleep=clock.sleep, **more
    )


def test_waiting_gives_what_is_found_and_needs_no_line_if_that_is_soon(narrator, stream):
    clock = Clock()
    assert wait(narrator, lambda: "it" if clock.now > NOON else None, clock) == "it"
    assert stream.getvalue() == ""


def test_waiting_tells_of_itself_every_15_s(narrator, stream):
    clock = Clock()
    due = NOON + timedelta(seconds=70)
    assert wait(narrator, lambda: "it" if clock.now >= due else None, clock, due=due)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "... waiting for the mail: due 12:01:10 UTC, 1:08 left"
    assert len(lines) == 5


def test_waiting_ends_some_time_after_what_is_due(narrator):
    clock = Clock()
    with pytest.raises(NotSo, match="the mail comes"):
        wait(narrator, lambda: None, clock, due=NOON + timedelta(seconds=60))
    assert timedelta(seconds=90) < clock.now - NOON < timedelta(seconds=92)


def test_a_countdown_does_not_go_below_zero():
    assert countdown("it", NOON, None) == "... waiting for it"
    assert countdown("it", NOON, NOON - timedelta(seconds=5)).endswith("at any moment")


# --- what the reader sees ---


def test_no_colour_in_a_file(narrator, stream):
    narrator.heading("A title")
    narrator.held("so it is")
    narrator.failed("not so: this\nfound: that")
    assert "\033" not in stream.getvalue()
    assert "[ok] so it is\n[FAILED] not so: this\n    found: that\n" in stream.getvalue()


@pytest.mark.parametrize(
    ("environ", "coloured"),
    [({"TERM": "xterm"}, True), ({"TERM": "xterm", "NO_COLOR": "1"}, False)],
)
def test_colour_on_a_terminal_unless_it_is_not_wanted(stream, environ, coloured):
    Narrator(stream, terminal=True, environ=environ).heading("A title")
    assert ("\033[1m" in stream.getvalue()) is coloured


def test_a_command_can_be_copied(narrator, stream):
    narrator.command("alice", ["openstack", "lease", "--end-date", "2026-11-20 12:00"])
    assert stream.getvalue() == "    alice$ openstack lease --end-date '2026-11-20 12:00'\n"


def test_a_wait_makes_room_for_what_comes_after_it(stream):
    narrator = Narrator(stream, terminal=True, colour=False)
    narrator.waiting("... 2")
    narrator.waiting("... 1")
    narrator.held("done")
    assert stream.getvalue() == "\r\033[K... 2\r\033[K... 1\r\033[K[ok] done\n"


TABLE = """\
id        at          event    details
1         2026-11-20  adopted  {"ends_at": "2026-11-20T11:21:00", "lease_id": "f8c617bb"}
"""


def test_some_columns_of_a_table():
    assert columns(TABLE, ("at", "details"), width=40).splitlines() == [
        "at          details",
        '2026-11-20  {"ends_at": "2026-11-20T1...',
    ]


@pytest.mark.parametrize("text", [TABLE, "no table at all\n", ""])
def test_a_table_without_the_columns_is_left_whole(text):
    assert columns(text, ("at", "nowhere")) == text.rstrip("\n")


# --- timing ---


def test_steps_are_timed_and_the_way_they_ended_is_kept():
    now = iter([0, 1, 4, 4, 6, 10]).__next__
    timings = Timings(now)
    with timings.step("one"):
        pass
    with pytest.raises(NotSo), timings.step("two"):
        raise NotSo("a", "b")
    assert [(step.title, step.seconds, step.outcome) for step in timings.steps] == [
        ("one", 3, DONE),
        ("two", 2, FAILED),
    ]
    assert timings.total == 10


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (315, "5 min 15 s")],
)
def test_durations_as_people_say_them(seconds, text):
    assert spoken(seconds) == text


# --- the whole, with a cloud that is none ---


class Cloud:
    """Counts what is asked of it."""

    def __init__(self, directory, wipes=True):
        self.files = SimpleNamespace(directory=directory, remembered=lambda: None)
        self.supervisor = SimpleNamespace(find=lambda: [])
        self.report = print
        self.calls = []
        self._wipes = wipes

    def up(self, port_offset, settings, *, hypervisor, extras):
        self.files.directory.mkdir(parents=True)
        self.calls.append("up")
        self.hypervisor, self.extras = hypervisor, extras

    def url(self, service, path):
        return f"http://127.0.0.1/{service}{path}"

    def down(self, wipe):
        self.calls.append("down")
        if wipe and self._wipes and self.files.directory.exists():
            self.files.directory.rmdir()

    def log(self, service):
        path = self.files.directory.parent / f"{service}.log"
        path.write_text(f"a line about {SERVER}\nanother\n")
        return path


def story(error=None):
    class Told:
        scene = SimpleNamespace(server_id=SERVER)

        def __init__(self, cloud, narrator, timings):
            self._timings = timings

        def tell(self):
            with self._timings.step("the only step"):
                if error:
                    raise error

    return Told


@pytest.mark.parametrize(
    ("error", "keep", "code", "calls"),
    [
        (None, False, 0, ["up", "down"]),
        (None, True, 0, ["up"]),
        (NotSo("a", "b"), False, 1, ["up", "down"]),
        (NotSo("a", "b"), True, 1, ["up"]),
        (OSError("disk full"), False, 1, ["up", "down"]),
        (KeyboardInterrupt(), False, 130, ["up", "down"]),
        (KeyboardInterrupt(), True, 130, ["up", "down"]),
    ],
)
def test_exit_code_and_whether_the_cloud_stays(
    tmp_path, narrator, stream, error, keep, code, calls
):
    cloud = Cloud(tmp_path / "sandbox" / "demo")
    assert Demo(narrator, cloud, keep, story(error)).run() == code
    assert cloud.calls == calls
    assert "Summary" in stream.getvalue()
    assert ("down --dir" in stream.getvalue()) is (calls == ["up"])
    assert (f"a line about {SERVER}" in stream.getvalue()) is (code == 1)


@pytest.mark.parametrize("hypervisor", HYPERVISORS)
def test_the_cloud_gets_the_hypervisor_that_the_opening_tells_of(
    tmp_path, narrator, stream, hypervisor
):
    cloud = Cloud(tmp_path / "sandbox" / "demo")
    assert Demo(narrator, cloud, False, story(), hypervisor).run() == 0
    assert cloud.hypervisor == hypervisor
    assert ("QEMU" in stream.getvalue()) is (hypervisor == "libvirt")
    assert hypervisor in STORIES


def test_a_cloud_that_stays_says_where_its_horizon_is_and_who_can_log_in(
    tmp_path, narrator, stream
):
    cloud = Cloud(tmp_path / "sandbox" / "demo")
    assert Demo(narrator, cloud, True, story(), extras=["horizon"]).run() == 0
    assert cloud.extras == ["horizon"]
    said = stream.getvalue()
    assert "http://127.0.0.1/horizon/" in said
    assert "alice (domain Default), bob (domain partners); password secret" in said


def test_a_cloud_without_horizon_says_nothing_of_one(tmp_path, narrator, stream):
    cloud = Cloud(tmp_path / "sandbox" / "demo")
    assert Demo(narrator, cloud, True, story()).run() == 0
    assert "in a browser" not in stream.getvalue()


def test_a_real_guest_lives_the_same_life_and_shows_more():
    steps = [title for title, _ in Story.steps() if "course" not in title]
    more = [title for title, _ in RealStory.steps()]
    assert [title for title in more if title in steps] == steps
    assert more.index("It runs") == 1
    assert more.index("The image boots") == more.index("The last mail arrives") - 1


def test_a_guests_record_on_its_console():
    line = "SANDBOXGUEST boots=0002 beats=000065 rtc=20261120135455 state=up  "
    assert RECORD.search(f"SeaBIOS\r\n{line}\r\n")[1] == "0002"
    assert not RECORD.search("SeaBIOS\r\n")


def test_a_defect_of_the_demonstration_leaves_no_cloud_either(tmp_path, narrator):
    cloud = Cloud(tmp_path / "sandbox" / "demo")
    with pytest.raises(ZeroDivisionError):
        Demo(narrator, cloud, True, story(ZeroDivisionError())).run()
    assert cloud.calls == ["up", "down"]


def test_what_is_left_behind_is_a_failure(tmp_path, narrator, stream):
    cloud = Cloud(tmp_path / "sandbox" / "demo", wipes=False)
    assert Demo(narrator, cloud, False, story()).run() == 1
    assert "left behind" in stream.getvalue()


def test_a_cloud_that_is_in_use_is_left_alone(tmp_path, narrator, stream):
    cloud = Cloud(tmp_path)
    cloud.files.remembered = lambda: SimpleNamespace(phase="up")
    cloud.supervisor.find = lambda: ["a process"]
    assert Demo(narrator, cloud, False, story()).run() == 1
    assert cloud.calls == []
    assert "take it down" in stream.getvalue()


def test_what_a_killed_run_left_is_removed_first(tmp_path, narrator):
    directory = tmp_path / "sandbox" / "demo"
    directory.mkdir(parents=True)
    cloud = Cloud(directory)
    assert Demo(narrator, cloud, False, story()).run() == 0
    assert cloud.calls == ["down", "up", "down"]


def test_an_interrupted_step_is_named_so():
    timings = Timings(lambda: 0.0)
    with pytest.raises(KeyboardInterrupt), timings.step("one"):
        raise KeyboardInterrupt
    assert [step.outcome for step in timings.steps] == [INTERRUPTED]
