# SPDX-License-Identifier: Apache-2.0
"""The services of the sandbox: one entry each. To add one, add an entry (and its template)."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping

from tools.sandbox import horizon, layout
from tools.sandbox.hypervisor import LIBVIRT
from tools.sandbox.layout import HERE, VENV, Layout, State

PYTHON = [str(VENV / "bin" / "python"), "-W", "ignore", "-P"]

# The stages of a start; those of one stage are started together.
BASE = "base"  # no OpenStack: database, message broker, mail
IDENTITY = "identity"  # what the others cannot start without
CLOUD = "cloud"
PLUGIN = "plugin"  # what acts on the cloud from its first moment: once the APIs are there


@dataclasses.dataclass(frozen=True)
class Service:
    """How one service is started, and how it is known to work.

    name: as the user types it; also the name of its log, and its key among the ports, if any
    argv, env: the command; the environment has what Supervisor.environment gives besides
    http: a path that answers once the service works; None if it speaks no HTTP
    queue: the RPC queue that has a consumer once the service works
    socket: a Unix socket that accepts connections once the service works
    says: what its log has once it works, of a service that has neither port nor queue
    grace: seconds it gets for ending by itself
    """

    name: str
    stage: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    http: str | None = None
    queue: str | None = None
    socket: str | None = None
    says: str | None = None
    grace: float = 5.0


def table(files: Layout, state: State) -> dict[str, Service]:
    """All services by name, in the order of their start."""
    nova_conf = str(files.etc / "nova" / "nova.conf")
    cinder_conf = str(files.etc / "cinder" / "cinder.conf")
    entries = [
        _mariadb(files, state),
        _rabbitmq(files, state),
        *([_libvirtd(files)] if state.hypervisor == LIBVIRT.name else []),
        _helper("smtp", BASE, "smtp.py", str(state.ports["smtp"]), str(files.mail)),
        _wsgi("keystone", "keystone.wsgi.api", files, state, stage=IDENTITY, http="/v3"),
        _wsgi("placement", "placement.wsgi.api", files, state, stage=IDENTITY),
        _command("nova-conductor", "conductor", nova_conf),
        _command("nova-scheduler", "scheduler", nova_conf),
        *(_compute(host, files, state) for host in layout.compute_hosts(state)),
        _wsgi("nova-api", "nova.wsgi.osapi_compute", files, state),
        _wsgi("glance", "glance.wsgi.api", files, state),
        _wsgi("neutron", "neutron.wsgi.api", files, state),
        _wsgi("cinder-api", "cinder.wsgi.api", files, state),
        _command("cinder-scheduler", "cinder-scheduler.volume1", cinder_conf),
        _volume(cinder_conf),
        _wsgi("blazar-api", "blazar.wsgi.api", files, state),
        *(_manager(number, files) for number in range(1, state.managers + 1)),
        *(_worker(number, files) for number in range(1, state.workers + 1)),
        *([_horizon(files, state)] if horizon.NAME in state.extras else []),
    ]
    return {entry.name: entry for entry in entries}


def _wsgi(
    name: str, module: str, files: Layout, state: State, stage: str = CLOUD, http: str = "/"
) -> Service:
    """An API: a WSGI module that finds its configuration by an environment variable."""
    project = module.partition(".")[0]
    env = {f"OS_{project.upper()}_CONFIG_DIR": str(files.etc / project)}
    if project == "neutron":
        env["OS_NEUTRON_CONFIG_FILES"] = "neutron.conf"
    argv = (*PYTHON, str(HERE / "wsgi.py"), module, str(state.ports[name]))
    return Service(name, stage, argv, env, http=http)


def _command(name: str, queue: str, config: str, stage: str = CLOUD) -> Service:
    """A stock command that serves RPC."""
    argv = (*PYTHON, str(VENV / "bin" / name), "--config-file", config)
    return Service(name, stage, argv, queue=queue)


def _manager(number: int, files: Layout) -> Service:
    """A blazar-manager: blazar-manager, blazar-manager-2, ... share database and queue."""
    stock = _command("blazar-manager", "blazar.manager", str(files.blazar_conf), stage=PLUGIN)
    name = stock.name if number == 1 else f"{stock.name}-{number}"
    # The option `host`, by oslo.config's environment: by it the queues of managers differ.
    env = {"OS_DEFAULT__HOST": name}
    return dataclasses.replace(stock, name=name, env=env, queue=f"blazar.manager.{name}")


def _worker(number: int, files: Layout) -> Service:
    """A blazar-vmexpire-worker: blazar-vmexpire-worker-1, blazar-vmexpire-worker-2, ..."""
    stock = _command("blazar-vmexpire-worker", "", str(files.blazar_conf), stage=PLUGIN)
    says = "The expiration of virtual machines is at work"
    # It finishes the steps in hand, and each may wait for a service that does not answer.
    return dataclasses.replace(
        stock, name=f"{stock.name}-{number}", queue=None, says=says, grace=30.0
    )


def _horizon(files: Layout, state: State) -> Service:
    """The page where one logs in is the first that works."""
    stock = _wsgi(horizon.NAME, "openstack_dashboard.wsgi", files, state, http="/auth/login/")
    return dataclasses.replace(stock, env=horizon.environment(files))


def _helper(name: str, stage: str, script: str, *arguments: str) -> Service:
    """A script of this directory."""
    return Service(name, stage, (*PYTHON, str(HERE / script), *arguments))


def _compute(host: str, files: Layout, state: State) -> Service:
    """A nova-compute: the stock command, or, without a hypervisor, ours around it."""
    own_conf = str(files.etc / "nova" / f"{host}.conf")
    stock = _command("nova-compute", f"compute.{host}", own_conf)
    entry = dataclasses.replace(stock, name=f"nova-{host}")
    if state.hypervisor == LIBVIRT.name:
        return entry
    argv = (*PYTHON, str(HERE / "compute.py"), "--config-file", own_conf)
    return dataclasses.replace(entry, argv=argv)


def _volume(config: str) -> Service:
    """A cinder-volume with one backend: the stock program around a driver of ours."""
    stock = _command("cinder-volume", "cinder-volume.volume1@file", config)
    argv = (*PYTHON, str(HERE / "volume.py"), "--config-file", config)
    # A parent that is told to end while its only child has ended first begins another.
    return dataclasses.replace(stock, argv=argv, grace=10.0)


def _libvirtd(files: Layout) -> Service:
    argv = (str(HERE / "libvirtd.sh"), str(files.libvirt), str(files.run))
    return Service("libvirtd", BASE, argv, socket=str(files.run / "libvirt-sock"))


def _mariadb(files: Layout, state: State) -> Service:
    argv = [
        "/usr/sbin/mariadbd",
        "--no-defaults",
        f"--datadir={files.mariadb}",
        # A server that starts removes the temporary tables it finds, whosever they are.
        f"--tmpdir={files.run}",
        f"--bind-address={layout.ports.HOST}",
        f"--port={state.ports['mariadb']}",
        # Relative to the data directory: a socket's path must be short, and DIR need not be.
        "--socket=mariadb.sock",
        "--pid-file=mariadb.pid",
        # Safe against a killed server, not against a power cut: this is no place for data.
        "--debug-no-sync",
        "--skip-sync-frm",
        "--innodb-flush-log-at-trx-commit=2",
        "--innodb-doublewrite=0",
        "--innodb-file-per-table=0",
        "--innodb-buffer-pool-size=64M",
        "--skip-log-bin",
        "--skip-name-resolve",
        "--performance-schema=0",
        "--max-connections=400",
    ]
    if os.geteuid() == 0:
        argv.insert(2, "--user=root")
    return Service("mariadb", BASE, tuple(argv), grace=10.0)


def _rabbitmq(files: Layout, state: State) -> Service:
    home, etc = files.rabbitmq, files.etc / "rabbitmq"
    env = {
        "HOME": str(home),
        "ERL_EPMD_ADDRESS": layout.ports.HOST,
        "ERL_EPMD_PORT": str(state.ports["epmd"]),
        "RABBITMQ_NODENAME": "sandbox@localhost",
        "RABBITMQ_DIST_PORT": str(state.ports["rabbitmq-distribution"]),
        "RABBITMQ_CONFIG_FILE": str(etc / "rabbitmq.conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(etc / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
        "RABBITMQ_LOG_BASE": str(home / "log"),
        "RABBITMQ_PID_FILE": str(home / "rabbitmq.pid"),
        # Two schedulers that sleep when idle: Erlang's default is to spin on every core.
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
            "-kernel inet_dist_use_interface {127,0,0,1} "
            "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none"
        ),
    }
    # Debian's /usr/sbin/rabbitmq-server would change the user and needs its own directories.
    argv = ("/usr/lib/rabbitmq/bin/rabbitmq-server",)
    return Service("rabbitmq", BASE, argv, env, grace=10.0)
