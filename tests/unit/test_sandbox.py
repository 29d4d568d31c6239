# SPDX-License-Identifier: Apache-2.0
"""The parts of tools/bootstrap.py and tools/sandbox that need no cloud."""

from __future__ import annotations

import ast
import configparser
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tools import bootstrap
from tools.sandbox import (
    Sandbox,
    SandboxError,
    cli,
    config,
    horizon,
    layout,
    ports,
    schema,
    services,
)
from tools.sandbox.hypervisor import HYPERVISORS, LIBVIRT, choose_hypervisor, guest_disk
from tools.sandbox.identity import ADMIN, ALICE, BOB
from tools.sandbox.layout import Layout, State
from tools.sandbox.processes import Supervisor
from tools.sandbox.settings import Setting, apply_settings, parse_setting


@pytest.fixture
def state():
    auxiliary = {name: 11000 + number for number, name in enumerate(ports.AUXILIARY_PORTS)}
    return State(ports.service_ports(21000) | auxiliary, 21000)


@pytest.fixture
def files(tmp_path):
    return Layout(tmp_path / "cloud")


# --- bindep ---


BINDEP = """
# a comment
mariadb-server [platform:dpkg]
mariadb-server-galera [platform:rpm]
git
postgresql [test platform:dpkg]  # for the tests
libfoo-dev [compile test platform:dpkg]
doc-only [doc]
"""


def test_bindep_without_profiles_has_what_everybody_needs():
    assert bootstrap.parse_bindep(BINDEP) == ["mariadb-server", "git"]


def test_bindep_with_a_profile_adds_its_lines():
    names = bootstrap.parse_bindep(BINDEP, ["test"])
    assert names == ["mariadb-server", "git", "postgresql", "libfoo-dev"]


def test_own_bindep_names_the_servers():
    names = bootstrap.parse_bindep(bootstrap.BINDEP.read_text())
    assert {"mariadb-server", "rabbitmq-server", "python3-venv"} <= set(names)
    assert {"postgresql", "chromium", "qemu-system-x86"}.isdisjoint(names)


def test_profile_with_a_lock_file_wants_it_in_the_stamp():
    plain, more = bootstrap.wanted_stamp(["test"]), bootstrap.wanted_stamp(["test", "libvirt"])
    assert more.items() - plain.items() == {("lock-libvirt", more["lock-libvirt"])}
    assert "libvirt-python==" in bootstrap.profile_lock("libvirt").read_text()


def test_environment_with_another_profile_besides_is_finished(tmp_path, monkeypatch):
    monkeypatch.setattr(bootstrap, "VENV", tmp_path)
    monkeypatch.setattr(bootstrap, "STAMP", tmp_path / "stamp")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch()
    bootstrap.STAMP.write_text(json.dumps(bootstrap.wanted_stamp(["libvirt"])))
    assert bootstrap.is_finished([])
    assert bootstrap.is_finished(["profile-without-a-lock", "libvirt"])
    bootstrap.STAMP.write_text(json.dumps(bootstrap.wanted_stamp()))
    assert bootstrap.is_finished([])
    assert not bootstrap.is_finished(["libvirt"])


def packages(lock):
    lines = lock.read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_lock_pins_every_line():
    pinned = packages(bootstrap.LOCK)
    assert len(pinned) > 150
    for profile in ("test", "horizon", "libvirt"):
        pinned += packages(bootstrap.profile_lock(profile))
    assert [line for line in pinned if line.count("==") != 1 or " " in line] == []


def test_no_package_is_pinned_twice():
    locks = [bootstrap.LOCK, *bootstrap.LOCK.parent.glob("requirements-*.lock")]
    names = [line.partition("==")[0].lower() for lock in locks for line in packages(lock)]
    assert len(locks) == 4
    assert len(set(names)) == len(names)


# --- ports ---


def test_offset_moves_every_standard_port():
    moved = ports.service_ports(20000)
    assert moved["keystone"] == 25000
    assert moved["blazar-api"] == 21234
    assert set(moved) == set(ports.STANDARD_PORTS)


def test_offsets_that_differ_by_hundreds_share_no_port():
    """So two sandboxes that start at the same moment cannot take each other's."""
    standard = ports.STANDARD_PORTS.values()
    assert len({port % 100 for port in standard}) == len(standard)


@pytest.mark.parametrize("offset", [0, ports.DEFAULT_OFFSET, ports.MAXIMUM_OFFSET])
def test_ports_stay_below_the_ephemeral_ones(offset):
    assert max(ports.service_ports(offset).values()) < ports.FIRST_EPHEMERAL


@pytest.mark.parametrize("offset", [-1, ports.MAXIMUM_OFFSET + 1])
def test_offset_out_of_range_is_refused(offset):
    with pytest.raises(SandboxError, match="not between 0 and 22000"):
        ports.service_ports(offset)


def test_taken_port_is_named_with_its_service():
    with socket.create_server((ports.HOST, 0)) as server:
        taken = server.getsockname()[1]
        with pytest.raises(SandboxError, match=rf"{taken} \(keystone\)"):
            ports.require_free({"keystone": taken})
    ports.require_free({"keystone": taken})


def test_a_port_that_is_becoming_free_is_waited_for():
    with socket.create_server((ports.HOST, 0)) as server:
        taken = server.getsockname()[1]
        closing = threading.Timer(0.2, server.close)
        closing.start()
        ports.require_free({"keystone": taken}, patience=60)
        closing.join()


def test_auxiliary_ports_are_free_and_not_the_services():
    first = ports.free_ports(2, avoid=[])
    found = ports.free_ports(5, avoid=first)
    assert len(set(found)) == 5
    assert not set(found) & set(first)
    assert max(found) < ports.FIRST_EPHEMERAL


# --- settings ---


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ("virtual:vm.lease_duration=5m", ("virtual:vm", "lease_duration", "5m")),
        ("DEFAULT.debug = true", ("DEFAULT", "debug", "true")),
        ("manager.plugins=dummy.vm.plugin", ("manager", "plugins", "dummy.vm.plugin")),
        ("a.b.c=x=y", ("a.b", "c", "x=y")),
        ("virtual:vm.reminders=", ("virtual:vm", "reminders", "")),
        ("virtual:vm.lease-duration=1d", ("virtual:vm", "lease_duration", "1d")),
    ],
)
def test_setting_is_split_at_the_last_dot_before_the_equals_sign(text, setting):
    assert parse_setting(text) == setting


@pytest.mark.parametrize("text", ["", "lease_duration=5m", "virtual:vm.x", ".x=1", "x.=1"])
def test_what_is_no_setting_is_refused(text):
    with pytest.raises(SandboxError, match=r"is not GROUP\.OPTION=VALUE"):
        parse_setting(text)


def read(text: str) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(default_section="\0none", delimiters=("=",))
    parser.read_string(text)
    return parser


def test_settings_replace_add_and_make_groups():
    text = "# head\n[DEFAULT]\nhost = a\n[virtual:vm]\nscope = all\n"
    new = [
        Setting("virtual:vm", "scope", "none"),
        Setting("virtual:vm", "quarantine", "1h"),
        Setting("vmexpire_brake", "limit", "7"),
        Setting("DEFAULT", "debug", "true"),
        Setting("DEFAULT", "debug", "false"),
    ]
    result = apply_settings(text, new)
    assert result.startswith("# head\n[DEFAULT]")
    parsed = read(result)
    assert dict(parsed["virtual:vm"]) == {"scope": "none", "quarantine": "1h"}
    assert parsed["vmexpire_brake"]["limit"] == "7"
    assert dict(parsed["DEFAULT"]) == {"host": "a", "debug": "false"}


# --- configuration ---


def test_blazar_has_the_sandbox_defaults_and_its_own_ports(files, state):
    text = apply_settings(config.fill(["blazar.conf"], config.variables(files, state)), [])
    parsed = read(text)
    assert parsed["manager"]["plugins"] == "virtual.vm.plugin"
    assert parsed["DEFAULT"]["port"] == "22234"
    assert parsed["vmexpire_mail"]["port"] == "22025"
    assert parsed["keystone_authtoken"]["username"] == "blazar"
    terms = parsed["virtual:vm"]
    assert (terms["scope"], terms["minimum_notice"], terms["quarantine"]) == ("all", "1m", "0")
    assert terms["reminders"] == ""
    assert terms["undeliverable_contact"]
    assert parsed["vmexpire_brake"]["deletions_per_hour"] == "1000"


def test_every_template_fills(files, state):
    known = config.variables(files, state) | {"compute_host": "compute1"}
    computes = [[*config.COMPUTE_FILE, chosen.template] for chosen in HYPERVISORS.values()]
    for templates in [*config.FILES.values(), *computes, ["blazar.conf"]]:
        assert "${" not in config.fill(templates, known)


def test_sourced_openrc_gives_credentials_and_commands(tmp_path, files, state):
    rc = tmp_path / "openrc"
    rc.write_text(config.openrc(BOB, files, state))
    script = '. "$0" && . "$0" && env'
    out = subprocess.run(
        ["sh", "-c", script, rc],
        env={"PATH": "/usr/bin:/bin", "OS_CLOUD": "another"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    env = dict(line.split("=", 1) for line in out.splitlines())
    assert env["OS_USERNAME"] == "bob"
    assert env["OS_PROJECT_DOMAIN_NAME"] == env["OS_USER_DOMAIN_NAME"] == "partners"
    assert env["OS_AUTH_URL"] == "http://127.0.0.1:26000/v3"
    assert env["PATH"] == f"{files.bin}:/usr/bin:/bin"
    assert "OS_CLOUD" not in env


def test_people_are_in_two_domains_with_mail_addresses():
    assert ALICE.domain == ADMIN.domain != BOB.domain
    assert all("@" in person.mail for person in (ADMIN, ALICE, BOB))


def test_catalogue_has_version_for_reservations_and_none_for_images(state):
    found = dict(layout.endpoints(state).values())
    assert found["reservation"] == "http://127.0.0.1:22234/v1"
    assert found["image"] == "http://127.0.0.1:30292"
    assert found["volumev3"] == "http://127.0.0.1:29776/v3"


def test_every_port_has_a_service_and_every_api_a_port(files, state):
    entries = services.table(files, state)
    assert set(ports.STANDARD_PORTS) - {horizon.NAME} <= set(entries)
    assert {name for name, entry in entries.items() if entry.http} <= set(state.ports)
    assert {"nova-compute1", "nova-compute2"} <= set(entries)


def test_volume_service_is_waited_for_under_the_name_it_has(files, state):
    conf = read(config.fill(config.FILES["cinder/cinder.conf"], config.variables(files, state)))
    host, backend = conf["DEFAULT"]["host"], conf["DEFAULT"]["enabled_backends"]
    entries = services.table(files, state)
    assert entries["cinder-scheduler"].queue == f"cinder-scheduler.{host}"
    assert entries["cinder-volume"].queue == f"cinder-volume.{host}@{backend}"
    assert conf[backend]["sandbox_directory"] == str(files.volumes)


def test_managers_and_workers_are_services_of_their_own(files, state):
    state.managers, state.workers = 2, 3
    entries = services.table(files, state)
    managers = ["blazar-manager", "blazar-manager-2"]
    workers = [f"blazar-vmexpire-worker-{number}" for number in (1, 2, 3)]
    assert [name for name in entries if entries[name].stage == services.PLUGIN] == [
        *managers,
        *workers,
    ]
    for name in managers:
        # One process' consumer must not be taken for the other's.
        assert entries[name].queue == f"blazar.manager.{name}"
        assert entries[name].env["OS_DEFAULT__HOST"] == name
    assert all(entries[name].says for name in workers)


@pytest.mark.parametrize(("managers", "workers"), [(0, 1), (1, -1)])
def test_impossible_number_of_processes_is_refused(tmp_path, managers, workers):
    with pytest.raises(SandboxError, match="at least 1 manager, 0 workers"):
        Sandbox(tmp_path / "cloud").up(managers=managers, workers=workers)
    assert not (tmp_path / "cloud").exists()


# --- the hypervisor ---


def test_libvirt_has_one_stock_compute_and_its_daemon(files, state):
    state.hypervisor, state.computes = LIBVIRT.name, LIBVIRT.computes
    entries = services.table(files, state)
    assert entries["libvirtd"].stage == services.BASE
    assert "nova-compute2" not in entries
    assert str(layout.VENV / "bin" / "nova-compute") in entries["nova-compute1"].argv
    assert entries["nova-compute1"].queue == "compute.compute1"


def test_ordinary_user_is_told_what_libvirt_takes(files, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(SandboxError, match=r"takes root.*profile libvirt"):
        choose_hypervisor("libvirt", files)
    assert choose_hypervisor("fake", files).computes == 2


def test_directory_too_deep_for_libvirts_sockets_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(SandboxError, match="choose a shorter directory"):
        choose_hypervisor("libvirt", Layout(tmp_path / ("x" * 100)))
    assert choose_hypervisor("fake", Layout(tmp_path / ("x" * 100))).computes == 2


def test_unknown_hypervisor_is_refused(files):
    with pytest.raises(SandboxError, match="no hypervisor 'xen', but: fake, libvirt"):
        choose_hypervisor("xen", files)


def test_fake_hypervisor_needs_nothing_built(tmp_path):
    assert set(guest_disk("fake", None, tmp_path)) == {0}


# --- Horizon ---


def test_horizon_is_there_only_where_it_was_asked_for(files, state):
    assert horizon.NAME not in services.table(files, state)
    state.extras = ["horizon"]
    entry = services.table(files, state)["horizon"]
    assert entry.http == "/auth/login/"
    assert entry.argv[-1] == "29080"


def test_unknown_extra_is_refused(tmp_path):
    with pytest.raises(SandboxError, match=r"no \['heat'\] to start here, but: horizon"):
        Sandbox(tmp_path / "cloud").up(extras=["heat"])
    assert not (tmp_path / "cloud").exists()


def test_horizon_lets_people_of_both_domains_log_in_and_reads_our_pages(files, state):
    text = config.fill(["horizon.py"], config.variables(files, state))
    settings = {
        target.id: node.value
        for node in ast.parse(text).body
        if isinstance(node, ast.Assign)
        for target in node.targets
    }
    domains = ast.literal_eval(settings["OPENSTACK_KEYSTONE_DOMAIN_CHOICES"])
    assert domains == [("Default", "Default"), ("partners", "partners")]
    assert ast.literal_eval(settings["OPENSTACK_KEYSTONE_URL"]) == "http://127.0.0.1:26000/v3"
    # Every name without an underscore replaces one of Horizon's.
    names = {
        node.asname or node.name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.alias)
    }
    assert names == {"os", "secret_key", "_enabled"}
    assert f'_enabled.__path__.append("{horizon.PLUGIN}/enabled")' in text


def test_address_is_written_and_removed(files, state):
    files.claim()
    address = files.directory / "horizon.url"
    state.extras = ["horizon"]
    horizon.write_address(files, state)
    assert address.read_text() == "http://127.0.0.1:29080/\n"
    state.extras = []
    horizon.write_address(files, state)
    assert not address.exists()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_static_files_are_made_once_for_all_sandboxes(tmp_path, cache):
    made = []

    def make(env):
        made.append(env)
        (Path(env[horizon.STATIC_VARIABLE]) / "style.css").write_text("body {}")

    for name in ("one", "two", "two"):
        files = Layout(tmp_path / name)
        files.directory.mkdir(exist_ok=True)
        files.make_directories()
        horizon.provide_static_files(files, make)
        assert (files.static / "style.css").read_text() == "body {}"
    assert len(made) == 1
    (kept,) = schema.cache_directory().iterdir()
    assert files.static.resolve() == kept


def test_static_files_that_could_not_be_made_are_made_again(files, cache):
    files.claim()
    files.make_directories()

    def fail(env):
        raise SandboxError("compress failed")

    with pytest.raises(SandboxError, match="compress failed"):
        horizon.provide_static_files(files, fail)
    assert list(schema.cache_directory().iterdir()) == []


def test_static_files_stay_in_the_sandbox_where_no_cache_can_be_written(files, cache):
    cache.write_text("a file, no directory")
    files.claim()
    files.make_directories()

    def make(env):
        Path(env[horizon.STATIC_VARIABLE]).mkdir()
        (Path(env[horizon.STATIC_VARIABLE]) / "style.css").write_text("body {}")

    horizon.provide_static_files(files, make)
    assert not files.static.is_symlink()
    assert (files.static / "style.css").exists()


# --- the directory ---


def test_state_is_remembered(files, state):
    files.claim()
    assert files.remembered() is None
    files.remember(state, phase="up", data=True)
    again = files.remembered()
    assert again == State(state.ports, 21000, phase="up", data=True)


def test_somebody_elses_directory_is_neither_used_nor_wiped(tmp_path):
    (tmp_path / "thesis.txt").touch()
    files = Layout(tmp_path)
    with pytest.raises(SandboxError, match="not empty and no sandbox"):
        files.claim()
    with pytest.raises(SandboxError, match="not empty and no sandbox"):
        files.wipe()
    assert (tmp_path / "thesis.txt").exists()


def test_path_that_start_scripts_would_trip_over_is_refused(tmp_path):
    with pytest.raises(SandboxError, match="choose another directory"):
        Layout(tmp_path / "my cloud")


def test_command_on_no_sandbox_says_so(tmp_path, capsys):
    assert cli.main(["status", "--dir", str(tmp_path / "none")]) == 1
    assert "there is no sandbox in" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


# --- the cache of schemas ---


def test_archive_comes_back_as_it_was(tmp_path):
    path = tmp_path / "cache" / "x.tar.gz"
    content = {"databases.sql": b"CREATE", "fernet/0": b"key"}
    schema.write_archive(path, content)
    assert schema.read_archive(path) == content
    assert path.stat().st_mode & 0o077 == 0
    assert [entry.name for entry in path.parent.iterdir()] == ["x.tar.gz"]


def test_broken_archive_is_thrown_away(tmp_path, monkeypatch, files, state):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = schema.archive_path()
    schema.write_archive(path, {"databases.sql": os.urandom(5000)})
    path.write_bytes(path.read_bytes()[:-1000])

    def run(*arguments):
        raise AssertionError("nothing of it may be executed")

    assert schema.Schema(files, state, run).load() is False
    assert not path.exists()


def test_dump_is_independent_of_ports(files, state):
    other = State(ports.service_ports(0) | {"epmd": 1, "rabbitmq-distribution": 2}, 0)
    url = layout.broker_url(state).encode() + b" 'http://127.0.0.1:30292' " + b"127.0.0.1:9292"
    dump = schema.Schema(files, state, None).without_ports(url)
    loaded = schema.Schema(files, other, None).with_ports(dump)
    expected = layout.broker_url(other).encode() + b" 'http://127.0.0.1:9292' " + b"127.0.0.1:9292"
    assert loaded == expected


# --- processes ---


@pytest.fixture
def supervisor(tmp_path):
    (tmp_path / "log").mkdir()
    made = Supervisor(tmp_path, tmp_path / "run", tmp_path / "log")
    yield made
    made.kill()


STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True)"
)
LEAVES_A_CHILD = (
    "import subprocess, sys\n"
    "sleep = [sys.executable, '-c', 'import time; time.sleep(60)']\n"
    "subprocess.Popen(sleep, start_new_session=True)\n"
    "print(1, flush=True)"
)


def start(supervisor, name, code):
    argv = [sys.executable, "-c", code + "\nimport time; time.sleep(60)"]
    supervisor.start(name, argv, {})
    end = time.monotonic() + 10
    while not supervisor.log_file(name).stat().st_size and time.monotonic() < end:
        time.sleep(0.02)


def test_service_ends_by_sigterm(supervisor):
    start(supervisor, "one", "print(1, flush=True)")
    start(supervisor, "two", "print(1, flush=True)")
    assert supervisor.main_pid("one")
    assert supervisor.stop(["one"]) == []
    assert supervisor.main_pid("one") is None
    assert supervisor.main_pid("two")


def test_only_what_was_said_since_the_start_counts(supervisor):
    start(supervisor, "one", "print('ready', flush=True)")
    assert supervisor.has_said("one", "ready")
    supervisor.kill(["one"])
    supervisor.start("one", [sys.executable, "-c", "import time; time.sleep(60)"], {})
    assert not supervisor.has_said("one", "ready")


def test_service_that_will_not_end_is_killed(supervisor):
    start(supervisor, "one", STUBBORN)
    assert supervisor.stop(["one"], grace=0.2) == ["one"]
    assert supervisor.find() == []


def test_child_in_another_session_is_found_after_its_parent(supervisor):
    start(supervisor, "one", LEAVES_A_CHILD)
    os.kill(supervisor.main_pid("one"), signal.SIGKILL)
    time.sleep(0.1)
    assert len(supervisor.find()) == 1
    supervisor.kill()
    assert supervisor.find() == []


def test_reused_pid_is_not_taken_for_the_service(supervisor):
    supervisor.run.mkdir()
    (supervisor.run / "one.pid").write_text(f"{os.getpid()} 1\n")
    assert supervisor.main_pid("one") is None
    with contextlib.suppress(FileNotFoundError):
        supervisor.kill(["one"])
    assert not (supervisor.run / "one.pid").exists()


def test_callers_credentials_and_proxies_do_not_reach_services(supervisor, monkeypatch):
    monkeypatch.setenv("OS_USERNAME", "x")
    monkeypatch.setenv("https_proxy", "x")
    env = supervisor.environment("one", {"EXTRA": "1"})
    assert {"OS_USERNAME", "https_proxy", "PYTHONPATH"}.isdisjoint(env)
    assert env["EXTRA"] == "1"
