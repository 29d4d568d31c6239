# SPDX-License-Identifier: Apache-2.0
"""The command line: `sandbox up|down|status|logs|start|stop|restart|kill --dir DIR ...`."""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from tools.bootstrap import BootstrapError
from tools.sandbox import horizon, ports
from tools.sandbox.control import EXTRAS, Sandbox
from tools.sandbox.errors import SandboxError
from tools.sandbox.hypervisor import FAKE, HYPERVISORS

EPILOG = """\
Real are all the services: Keystone, Glance, Placement, Neutron, Nova, Blazar with the plug-in,
RabbitMQ, MariaDB. Not real is the hypervisor: Nova's own fake driver, whose servers have states,
power, hosts and snapshots, but no guest; unless --hypervisor libvirt gives them one. Mail goes to
DIR/mail. Everything is on the loopback.
"""


def parser() -> argparse.ArgumentParser:
    """The grammar of the command line."""
    top = argparse.ArgumentParser(
        prog="sandbox", description="A real OpenStack on one machine.", epilog=EPILOG
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, service: bool = False) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument("--dir", required=True, metavar="DIR", help="the sandbox's directory")
        if service:
            sub.add_argument("service", metavar="SERVICE", help="a name from `status`")
        return sub

    up = command("up", "start everything; installs what is missing")
    up.add_argument(
        "--port-offset",
        type=int,
        default=ports.DEFAULT_OFFSET,
        metavar="N",
        help="added to the services' standard ports, 0 to %(const)s (default %(default)s)",
    ).const = ports.MAXIMUM_OFFSET
    up.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="GROUP.OPTION=VALUE",
        help="an option of blazar.conf, e.g. virtual:vm.lease_duration=5m; repeatable",
    )
    up.add_argument(
        "--managers",
        type=int,
        default=1,
        metavar="N",
        help="how many blazar-managers, at least 1 (default %(default)s)",
    )
    up.add_argument(
        "--workers",
        type=int,
        default=0,
        metavar="N",
        help="how many blazar-vmexpire-workers beside them (default %(default)s)",
    )
    up.add_argument(
        "--hypervisor",
        choices=HYPERVISORS,
        default=FAKE.name,
        help="fake: two compute hosts without guests; libvirt: one, with small real guests on"
        " QEMU's software emulation, as root only (default %(default)s)",
    )
    up.add_argument(
        "--with",
        dest="extras",
        action="append",
        choices=EXTRAS,
        default=[],
        help="horizon: the dashboard, with the plug-in's pages; DIR/horizon.url has its address",
    )
    down = command("down", "stop everything; the cloud's data stay for the next `up`")
    down.add_argument("--wipe", action="store_true", help="remove DIR, data and all")
    command("status", "what runs, on which port")
    logs = command("logs", "print a service's log", service=True)
    logs.add_argument("-f", "--follow", action="store_true", help="go on as the log grows")
    command("start", "start a stopped service", service=True)
    command("stop", "stop a service", service=True)
    command("restart", "stop and start a service", service=True)
    command("kill", "SIGKILL all processes of a service", service=True)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 not done, 130 interrupted."""
    arguments = parser().parse_args(argv)
    # A terminal that closes, or a CI job that is cancelled, is an interruption like Ctrl-C.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup leaves it
            signal.signal(number, signal.default_int_handler)
    started = time.monotonic()

    def report(line: str) -> None:
        print(f"{time.monotonic() - started:6.1f}s  {line}", flush=True)

    try:
        return _run(arguments, Sandbox(arguments.dir, report), report)
    except (SandboxError, BootstrapError) as error:
        print(f"sandbox: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("sandbox: interrupted", file=sys.stderr)
        return 130


def _run(arguments: argparse.Namespace, sandbox: Sandbox, report: object) -> int:
    match arguments.command:
        case "up":
            sandbox.up(
                arguments.port_offset,
                arguments.set,
                managers=arguments.managers,
                workers=arguments.workers,
                hypervisor=arguments.hypervisor,
                extras=arguments.extras,
            )
            if arguments.extras:
                print(f"Horizon: {sandbox.url(horizon.NAME, '/')}, {horizon.accounts()}")
            print(f"ready: . {sandbox.files.directory}/openrc-alice")
        case "down":
            sandbox.down(arguments.wipe)
            print("down" + (", and removed" if arguments.wipe else ""))
        case "status":
            return _print_status(sandbox)
        case "logs":
            return _print_log(sandbox, arguments.service, arguments.follow)
        case action:
            getattr(sandbox, action)(arguments.service)
    return 0


def _print_status(sandbox: Sandbox) -> int:
    """A table; exit code 0 only if everything runs."""
    rows = sandbox.status()
    line = "{:<24} {:>8}  {:<8} {:>6}  {}".format
    print(line("SERVICE", "PID", "STATE", "PORT", "LOG"))
    for row in rows:
        print(line(row.service, row.pid or "-", row.state, row.port or "-", str(row.log)))
    return 0 if all(row.pid for row in rows) else 1


def _print_log(sandbox: Sandbox, service: str, follow: bool) -> int:
    log = sandbox.log(service)
    if not log.exists():
        raise SandboxError(f"{service} has no log yet")
    if follow:
        return subprocess.run(["tail", "-n", "+1", "-F", str(log)], check=False).returncode
    sys.stdout.flush()
    with log.open("rb") as file:
        shutil.copyfileobj(file, sys.stdout.buffer)
    return 0
