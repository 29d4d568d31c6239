# SPDX-License-Identifier: Apache-2.0
"""The sandbox as a whole: bringing it up, taking it down, and its single services."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from tools import bootstrap
from tools.sandbox import config, horizon, layout, ports, rest, seed
from tools.sandbox.errors import SandboxError
from tools.sandbox.hypervisor import FAKE, Hypervisor, choose_hypervisor, guest_disk
from tools.sandbox.identity import PEOPLE
from tools.sandbox.identity import fill as fill_identity
from tools.sandbox.layout import VENV, Layout, State
from tools.sandbox.processes import Supervisor, undisturbed
from tools.sandbox.readiness import PATIENCE, Readiness
from tools.sandbox.schema import Schema
from tools.sandbox.services import BASE, CLOUD, IDENTITY, PLUGIN, PYTHON, Service, table
from tools.sandbox.settings import Setting, parse_setting

# What `--with` adds -> the profile of tools/bootstrap.py that it needs to have installed.
EXTRAS = {horizon.NAME: "horizon"}

Report = Callable[[str], None]


class ServiceStatus(NamedTuple):
    """One line of `sandbox status`. state: `running` or `stopped`."""

    service: str
    pid: int | None
    state: str
    port: int | None
    log: Path


class Sandbox:
    """One sandbox in one directory.

    directory: made if it does not exist; must be empty otherwise, or a sandbox's
    report: takes the lines that tell of progress
    """

    def __init__(self, directory: Path | str, report: Report = print) -> None:
        self.files = Layout(directory)
        self.report = report
        self.supervisor = Supervisor(self.files.directory, self.files.run, self.files.log)
        self._cancelled = threading.Event()
        self._readiness = Readiness(self.supervisor, self._run, lambda line: self.report(line))

    # --- the whole ---

    def up(
        self,
        port_offset: int = ports.DEFAULT_OFFSET,
        settings: Iterable[str | Setting] = (),
        *,
        managers: int = 1,
        workers: int = 0,
        hypervisor: str = FAKE.name,
        extras: Iterable[str] = (),
    ) -> None:
        """Start everything and return when servers can be made.

        After a `down` without `wipe` it goes on with the same cloud; blazar.conf is written anew,
        and there are as many managers and workers as are asked for now.

        port_offset: added to the services' standard ports
        settings: `GROUP.OPTION=VALUE`, put into blazar.conf
        managers: how many blazar-managers; the plug-in works in each of them, unless
            `vmexpire_worker.enabled` is set to false
        workers: how many blazar-vmexpire-workers beside them
        hypervisor: `fake`, or `libvirt` for guests that are real; a cloud keeps the one that
            it was made with
        extras: what else to start, of EXTRAS
        """
        if managers < 1 or workers < 0:
            raise SandboxError(
                f"{managers} managers and {workers} workers: it takes at least 1 manager, 0 workers"
            )
        extras = sorted(set(extras))
        if not set(extras) <= EXTRAS.keys():
            raise SandboxError(f"no {extras} to start here, but: {', '.join(EXTRAS)}")
        parsed = [parse_setting(s) if isinstance(s, str) else s for s in settings]
        service_ports = ports.service_ports(port_offset)
        chosen = choose_hypervisor(hypervisor, self.files)
        self.files.claim()
        self._cancelled.clear()
        with self._locked():
            state = self._plan(port_offset, service_ports, chosen)
            state = self.files.remember(state, managers=managers, workers=workers, extras=extras)
            ports.require_free(state.ports)
            try:
                profiles = [*chosen.profiles, *(EXTRAS[extra] for extra in extras)]
                bootstrap.ensure(profiles, report=self.report)
                self._start_all(state, parsed)
            except BaseException:
                # Errors as well as Ctrl-C: leave no process, and let no second Ctrl-C prevent that.
                self._cancelled.set()
                with undisturbed():
                    self.supervisor.kill()
                raise

    def down(self, wipe: bool = False) -> None:
        """End every process; with `wipe`, remove the directory too. No error if there is none."""
        if not self.files.directory.exists():
            return
        with self._locked():
            # Whatever cannot be read or was never written: our processes are found without it.
            state = None
            with contextlib.suppress(SandboxError):
                state = self.files.remembered()
            if state:
                state = self.files.remember(state, phase="stopping")
                entries = table(self.files, state)
                base = {name for name, entry in entries.items() if entry.stage == BASE}
                self._stop(entries.keys() - base)
                self._stop(base)
            # What is no service: a schema command of a start that was killed, epmd, guests, ...
            self.supervisor.kill()
            if state:
                self.files.remember(state, phase="down")
            if wipe:
                self.files.wipe()

    def status(self) -> list[ServiceStatus]:
        """What runs, service by service."""
        state = self._state()
        found = []
        for name in table(self.files, state):
            pid = self.supervisor.main_pid(name)
            running = "running" if pid else "stopped"
            log = self.supervisor.log_file(name)
            found.append(ServiceStatus(name, pid, running, state.ports.get(name), log))
        return found

    # --- single services ---

    def start(self, service: str, *, wait: bool = True) -> None:
        """Start a stopped service and, with `wait`, wait until it works."""
        with self._locked():
            entry, state = self._entry(service), self._state()
            if self.supervisor.main_pid(service):
                raise SandboxError(f"{service} is running already")
            if service in state.ports:
                ports.require_free({service: state.ports[service]}, patience=5)
            self._launch([entry])
            if not wait:
                return
            self._readiness.wait([entry], state)
            if service == "keystone":
                self._open_keystone(state)

    def stop(self, service: str) -> None:
        """End a service in its own way."""
        with self._locked():
            self._stop({self._entry(service).name})

    def kill(self, service: str) -> None:
        """SIGKILL to all processes of a service."""
        with self._locked():
            self.supervisor.kill({self._entry(service).name})

    def restart(self, service: str) -> None:
        """`stop` and `start`."""
        self.stop(service)
        self.start(service)

    def wait_for_workers(self) -> None:
        """Wait until all that run take work from the broker, as they do some time after it starts.

        What they are sent earlier is lost, when the broker has been away.
        """
        with self._locked():
            state = self._state()
            serving = [entry for entry in table(self.files, state).values() if entry.queue]
            running = [entry for entry in serving if self.supervisor.main_pid(entry.name)]
            self._readiness.wait(running, state)

    def configure(self, settings: Iterable[str | Setting]) -> None:
        """Write blazar.conf anew, with these settings and no earlier ones.

        Who is to read it has to be restarted.
        """
        parsed = [parse_setting(s) if isinstance(s, str) else s for s in settings]
        with self._locked():
            config.write_blazar(self.files, self._state(), parsed)

    # --- what users of the sandbox need to know ---

    def env(self, person: str) -> dict[str, str]:
        """This process's environment as after sourcing `openrc-PERSON` (admin, alice or bob)."""
        people = {someone.name: someone for someone in PEOPLE}
        if person not in people:
            raise SandboxError(f"no {person!r} here, but {', '.join(people)}")
        env = {name: value for name, value in os.environ.items() if not name.startswith("OS_")}
        env |= config.credentials(people[person], self._state())
        env["PATH"] = f"{self.files.bin}:{env.get('PATH', os.defpath)}"
        return env

    def url(self, service: str, path: str = "") -> str:
        """Where an API of the sandbox answers, for example url("blazar-api", "/v1/leases")."""
        self._entry(service)
        return layout.url(self._state(), service, path)

    def port(self, service: str) -> int:
        """The port a service listens on, for example port("smtp")."""
        state = self._state()
        if service not in state.ports:
            raise SandboxError(f"{service!r} has no port; these have: {', '.join(state.ports)}")
        return state.ports[service]

    def log(self, service: str) -> Path:
        """The log file of a service."""
        return self.supervisor.log_file(self._entry(service).name)

    @property
    def mail(self) -> Path:
        """Where the mail server files what it takes."""
        return self.files.mail

    @property
    def volumes(self) -> Path:
        """Where the volumes and snapshots are files; a `.control.json` there makes some fail."""
        return self.files.volumes

    @property
    def blazar_conf(self) -> Path:
        return self.files.blazar_conf

    def database_url(self, database: str = "blazar") -> str:
        """SQLAlchemy's URL of one of the databases."""
        return layout.database_url(self._state(), database)

    def broker_url(self) -> str:
        """oslo.messaging's URL of the message broker."""
        return layout.broker_url(self._state())

    # --- bringing up ---

    def _plan(self, port_offset: int, service_ports: dict[str, int], chosen: Hypervisor) -> State:
        """Decide between going on and beginning anew, and clear away what a killed start left."""
        state = self.files.remembered()
        left = self.supervisor.find()
        if state and state.phase == "up" and left:
            raise SandboxError(
                f"{self.files.directory} is up already, on port offset {state.port_offset}; "
                "see `status`, or take it `down` first"
            )
        if left:
            self.report("ending what an interrupted command left running")
            self.supervisor.kill()
        if state and state.data:
            if state.port_offset != port_offset:
                raise SandboxError(
                    f"{self.files.directory} was made with --port-offset {state.port_offset}, and "
                    "its catalogue says so: use the same, or `down --wipe` first"
                )
            if state.hypervisor != chosen.name:
                raise SandboxError(
                    f"{self.files.directory} was made with --hypervisor {state.hypervisor}, and so "
                    "were its servers: use the same, or `down --wipe` first"
                )
            self.report("going on with the cloud that was taken down here")
            # One that an older version made may lack a port.
            return self.files.remember(state, ports=service_ports | state.ports, phase="starting")
        self.files.forget_data()
        auxiliary = ports.free_ports(len(ports.AUXILIARY_PORTS), avoid=service_ports.values())
        service_ports |= dict(zip(ports.AUXILIARY_PORTS, auxiliary, strict=True))
        return self.files.remember(
            State(service_ports, port_offset, chosen.name, computes=chosen.computes)
        )

    def _start_all(self, state: State, settings: Sequence[Setting]) -> None:
        self.files.make_directories()
        config.write_all(self.files, state, settings)
        self.report("configuration written")
        entries = table(self.files, state)
        base = [e for e in entries.values() if e.stage == BASE and e.name != "mariadb"]
        self._launch(base)
        self._start_database(entries["mariadb"], state)

        fresh = not state.data
        schema = Schema(self.files, state, self._run)
        cached = fresh and schema.load()
        if cached:
            self.report("schemas and users loaded from the cache")
        elif fresh:
            self.report("making schemas; the next start will find them in the cache")
            schema.create()
            self.report("schemas made")
        identity = [entry for entry in entries.values() if entry.stage == IDENTITY]
        self._launch(identity)
        manage = str(VENV / "bin" / "blazar-vmexpire-manage")
        blazar_conf = str(self.files.blazar_conf)
        if cached or not fresh:
            self._upgrade(manage, blazar_conf)
            self._readiness.wait(identity, state)
        else:
            # The plug-in's own tables are not in the cache: they change with the checkout.
            self._readiness.wait(identity, state)
            fill_identity(self._session(state), layout.endpoints(state), layout.REGION)
            schema.save()
            self.report("users and catalogue made")
            self._upgrade(manage, blazar_conf)

        self._readiness.wait(base, state)
        self._open_keystone(state)
        if horizon.NAME in state.extras:
            horizon.provide_static_files(self.files, self._make_static_files)
        horizon.write_address(self.files, state)
        cloud = [entry for entry in entries.values() if entry.stage == CLOUD]
        plugin = [entry for entry in entries.values() if entry.stage == PLUGIN]
        self._launch(cloud)
        self._readiness.wait([entry for entry in cloud if entry.http], state)
        self._launch(plugin)
        self._readiness.wait([*(entry for entry in cloud if entry.queue), *plugin], state)
        seed.fill(self._session(state), state, lambda: self._disk(state), PATIENCE)
        self.report("computes are up; flavor m1.tiny and image cirros are there")
        self.files.remember(state, phase="up", data=True)

    def _disk(self, state: State) -> bytes:
        return guest_disk(state.hypervisor, self._run, self.files.run)

    def _upgrade(self, manage: str, blazar_conf: str) -> None:
        self._run("schema", [manage, "--config-file", blazar_conf, "db", "upgrade"])
        self.report("the plug-in's tables are there")

    def _make_static_files(self, env: Mapping[str, str]) -> None:
        self.report("making Horizon's static files; the next start will find them in the cache")
        for command in (["collectstatic", "--noinput", "--verbosity=0"], ["compress", "--force"]):
            self._run("horizon-static", [*PYTHON, "-m", "django", *command], env=env)

    def _start_database(self, entry: Service, state: State) -> None:
        if not (self.files.mariadb / "mysql").exists():
            user = ["--user=root"] if os.geteuid() == 0 else []
            self._run(
                "mariadb",
                [
                    *("mariadb-install-db", "--no-defaults", f"--datadir={self.files.mariadb}"),
                    *("--skip-test-db", "--auth-root-authentication-method=normal", *user),
                    f"--tmpdir={self.files.run}",
                ],
            )
        self._launch([entry])
        self._readiness.wait([entry], state)

    def _open_keystone(self, state: State) -> None:
        """One request that is checked against the policy, before many come at the same time.

        Keystone reads its policy at the first of them, and refuses what comes meanwhile.
        """
        self._session(state).get(layout.url(state, "keystone", "/v3/services"))

    def _session(self, state: State) -> rest.Session:
        auth_url = layout.url(state, "keystone", "/v3")
        return rest.Session(auth_url, "admin", layout.PASSWORD, "admin")

    # --- starting, waiting, stopping ---

    def _launch(self, entries: Iterable[Service]) -> None:
        for entry in entries:
            self.supervisor.start(entry.name, entry.argv, entry.env)

    def _stop(self, names: set[str]) -> None:
        entries = table(self.files, self._state())
        grace = max((entries[name].grace for name in names), default=0.0)
        killed = self.supervisor.stop(names, grace)
        if killed:
            self.report(f"did not end by themselves and were killed: {', '.join(killed)}")

    def _run(
        self,
        name: str,
        argv: Sequence[str],
        given: bytes = b"",
        env: Mapping[str, str] = MappingProxyType({}),
    ) -> bytes:
        """Run a command to its end, known as ours while it runs; returns its standard output."""
        if self._cancelled.is_set():
            raise SandboxError("interrupted")
        log = self.supervisor.log_file(name)
        extra = {"PATH": f"{VENV / 'bin'}:/usr/sbin:/usr/bin:/sbin:/bin", **env}
        with log.open("ab") as errors:
            done = subprocess.run(
                argv,
                env=self.supervisor.environment(name, extra),
                input=given,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
                check=False,
            )
        if done.returncode != 0:
            tail = log.read_text(errors="replace").splitlines()[-15:]
            said = [f"{Path(argv[0]).name} failed; the end of {log}:", *tail]
            raise SandboxError("\n    ".join([*said, done.stdout.decode(errors="replace")[-500:]]))
        return done.stdout

    # --- small things ---

    def _state(self) -> State:
        state = self.files.remembered()
        if state is None:
            raise SandboxError(f"there is no sandbox in {self.files.directory}")
        return state

    def _entry(self, service: str) -> Service:
        entries = table(self.files, self._state())
        if service not in entries:
            raise SandboxError(f"no service {service!r}, but: {', '.join(entries)}")
        return entries[service]

    @contextlib.contextmanager
    def _locked(self, patience: float = 15.0) -> Iterator[None]:
        """One command at a time on one directory. A killed command's lock goes with it."""
        if not self.files.directory.exists():
            raise SandboxError(f"there is no sandbox in {self.files.directory}")
        end = time.monotonic() + patience
        with self.files.lock.open("a") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > end:
                        raise SandboxError(
                            f"another sandbox command is at work on {self.files.directory}"
                        ) from None
                    time.sleep(0.1)
            yield
