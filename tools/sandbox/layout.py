# SPDX-License-Identifier: Apache-2.0
"""What lies where in a sandbox's directory, and what is remembered about it."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

from tools.sandbox import ports
from tools.sandbox.errors import SandboxError

PROJECT = Path(__file__).resolve().parents[2]
VENV = PROJECT / ".venv"
HERE = Path(__file__).resolve().parent

REGION = "RegionOne"
# Everything listens on the loopback, and nothing in it is worth a secret.
PASSWORD = "secret"

# The databases of the services, in the order in which they are dumped.
DATABASES = (
    "keystone",
    "glance",
    "placement",
    "nova_api",
    "nova_cell0",
    "nova",
    "neutron",
    "cinder",
    "blazar",
)

# What services expect to find under DIR/state.
STATE_DIRECTORIES = (
    "rabbitmq",
    "images",
    "images-staging",
    "images-tasks",
    "locks",
    "nova",
    "neutron",
    "cinder",
    "volumes",
)


@dataclasses.dataclass
class State:
    """DIR/sandbox.json: how the sandbox was made, and how far that came.

    hypervisor: of its compute hosts, one of hypervisor.py; computes: how many hosts
    managers, workers: how many processes of blazar-manager, and of blazar-vmexpire-worker
    extras: what it has that was asked for by `--with`
    phase: `starting`, `up`, `stopping` or `down`: what the last command was about, and, when that
        command was killed, where.
    data: whether schemas, identity, flavor and image are complete, so that a next `up` goes on
        with them; if not, it begins anew.
    """

    ports: dict[str, int]
    port_offset: int
    hypervisor: str = "fake"
    computes: int = 2
    managers: int = 1
    workers: int = 0
    extras: list[str] = dataclasses.field(default_factory=list)
    phase: str = "starting"
    data: bool = False


class Layout:
    """The paths of one sandbox."""

    def __init__(self, directory: Path | str) -> None:
        self.directory = Path(directory).absolute().resolve()
        if not re.fullmatch(r"[\w./+@=-]+", str(self.directory)):
            raise SandboxError(
                f"{self.directory}: MariaDB's and RabbitMQ's start scripts take no blanks or "
                "special characters in a path; choose another directory"
            )
        self.etc = self.directory / "etc"
        self.log = self.directory / "log"
        self.run = self.directory / "run"
        self.mail = self.directory / "mail"
        self.bin = self.directory / "bin"
        self.state = self.directory / "state"
        self.mariadb = self.state / "mariadb"
        self.rabbitmq = self.state / "rabbitmq"
        self.libvirt = self.state / "libvirt"
        self.volumes = self.state / "volumes"
        self.static = self.state / "static"
        self.fernet = self.state / "keystone" / "fernet"
        self.credential = self.state / "keystone" / "credential"
        self.blazar_conf = self.etc / "blazar" / "blazar.conf"
        self.lock = self.directory / ".lock"
        self._memory = self.directory / "sandbox.json"

    # --- memory ---

    def remembered(self) -> State | None:
        """The state as last written; None if this is no sandbox (yet)."""
        try:
            return State(**json.loads(self._memory.read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise SandboxError(f"{self._memory} is not readable: {error}") from error

    def remember(self, state: State, **changes: Any) -> State:
        """Write `state` with `changes`, in one step; returns it."""
        state = dataclasses.replace(state, **changes)
        temporary = self._memory.with_suffix(".new")
        temporary.write_text(json.dumps(dataclasses.asdict(state), indent=2) + "\n")
        temporary.rename(self._memory)
        return state

    # --- files ---

    def claim(self) -> None:
        """Make the directory, refusing one that holds somebody's other things."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self._refuse_foreign()

    def _refuse_foreign(self) -> None:
        others = {path.name for path in self.directory.iterdir()} - {self.lock.name}
        if others and self._memory.name not in others:
            raise SandboxError(f"{self.directory} is not empty and no sandbox: choose another DIR")

    def make_directories(self) -> None:
        for path in (self.etc, self.log, self.run, self.mail, self.bin, self.state):
            path.mkdir(exist_ok=True)
        for name in STATE_DIRECTORIES:
            (self.state / name).mkdir(exist_ok=True)

    def forget_data(self) -> None:
        """Remove what a half-made or unwanted cloud holds; its ports stay remembered."""
        for path in (self.state, self.etc, self.bin, self.mail, self.log, self.run):
            shutil.rmtree(path, ignore_errors=True)

    def wipe(self) -> None:
        """Remove the whole directory, if it is a sandbox's."""
        self._refuse_foreign()
        shutil.rmtree(self.directory)


def url(state: State, service: str, path: str = "") -> str:
    """Where a service of the sandbox answers."""
    return f"http://{ports.HOST}:{state.ports[service]}{path}"


def broker_url(state: State) -> str:
    """oslo.messaging's transport_url."""
    return f"rabbit://guest:guest@{ports.HOST}:{state.ports['rabbitmq']}/"


def database_url(state: State, database: str) -> str:
    """SQLAlchemy's connection string."""
    return f"mysql+pymysql://root@{ports.HOST}:{state.ports['mariadb']}/{database}?charset=utf8"


def endpoints(state: State) -> dict[str, tuple[str, str]]:
    """The catalogue without Keystone itself: service user -> (type, URL)."""
    return {
        "glance": ("image", url(state, "glance")),
        "placement": ("placement", url(state, "placement")),
        "nova": ("compute", url(state, "nova-api", "/v2.1")),
        "neutron": ("network", url(state, "neutron")),
        "cinder": ("volumev3", url(state, "cinder-api", "/v3")),
        "blazar": ("reservation", url(state, "blazar-api", "/v1")),
    }


def compute_hosts(state: State) -> list[str]:
    """Names of the compute hosts: compute1, compute2, ..."""
    return [f"compute{number}" for number in range(1, state.computes + 1)]
