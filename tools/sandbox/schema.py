# SPDX-License-Identifier: Apache-2.0
"""Databases with their schemas, and a Keystone with its users: from nothing, or from a cache.

Making them takes the better part of a start. So the fresh databases are dumped into one archive
with Keystone's keys, and the next sandbox loads that. The archive's name has a digest of all that
decides what is in it. It appears in one step, so that two starts cannot disturb each other, and
what cannot be loaded is thrown away and made anew.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tools.sandbox import identity, layout
from tools.sandbox.errors import SandboxError
from tools.sandbox.layout import DATABASES, HERE, PROJECT, VENV, Layout, State

# (name for the log, command, input) -> its standard output
Run = Callable[..., bytes]

# All that the archive's content follows from.
SOURCES = (
    PROJECT / "tools" / "requirements.lock",
    HERE / "schema.py",
    HERE / "identity.py",
    HERE / "layout.py",
)

DUMP = "databases.sql"


class Schema:
    """The databases of one sandbox whose MariaDB is running."""

    def __init__(self, files: Layout, state: State, run: Run) -> None:
        self.files = files
        self.state = state
        self.run = run
        self._client = ["--no-defaults", f"-h{layout.ports.HOST}", f"-P{state.ports['mariadb']}"]
        self._client += ["-uroot"]

    # --- from nothing ---

    def create(self) -> None:
        """Empty databases, then everybody's migrations, in two lanes."""
        statements = "".join(
            f"DROP DATABASE IF EXISTS {name}; CREATE DATABASE {name} CHARACTER SET utf8;"
            for name in DATABASES
        )
        self._sql(statements.encode())
        for repository in (self.files.fernet, self.files.credential):
            identity.make_keys(repository)
        lanes = ThreadPoolExecutor(2)
        try:
            for lane in [lanes.submit(self._first_lane), lanes.submit(self._second_lane)]:
                lane.result()
        finally:
            # Not waiting: when interrupted, the lanes' commands are killed by the caller.
            lanes.shutdown(wait=False, cancel_futures=True)

    def _first_lane(self) -> None:
        keystone = ["keystone-manage", *self._config("keystone/keystone.conf")]
        self._migrate(*keystone, "db_sync")
        url = layout.url(self.state, "keystone", "/v3")
        self._migrate(
            *keystone,
            "bootstrap",
            *("--bootstrap-password", layout.PASSWORD),
            *("--bootstrap-region-id", layout.REGION),
            *("--bootstrap-public-url", url),
            *("--bootstrap-internal-url", url),
        )
        self._migrate("glance-manage", *self._config("glance/glance-api.conf"), "db_sync")
        self._migrate("cinder-manage", *self._config("cinder/cinder.conf"), "db", "sync")
        self._migrate("blazar-db-manage", *self._config("blazar/blazar.conf"), "upgrade", "head")

    def _second_lane(self) -> None:
        nova = ["nova-manage", *self._config("nova/nova.conf")]
        cell0 = layout.database_url(self.state, "nova_cell0")
        self._migrate(*nova, "api_db", "sync")
        self._migrate(*nova, "cell_v2", "map_cell0", "--database_connection", cell0)
        self._migrate(*nova, "db", "sync")
        self._migrate(
            *(*nova, "cell_v2", "create_cell", "--name", "cell1"),
            *("--transport-url", layout.broker_url(self.state)),
            *("--database_connection", layout.database_url(self.state, "nova")),
        )
        neutron = ["neutron-db-manage", *self._config("neutron/neutron.conf")]
        self._migrate(*neutron, "upgrade", "heads")

    def _config(self, place: str) -> list[str]:
        return ["--config-file", str(self.files.etc / place)]

    def _migrate(self, command: str, *arguments: str) -> None:
        self.run("schema", [str(VENV / "bin" / command), *arguments])

    def _sql(self, statements: bytes) -> None:
        self.run("schema", ["mariadb", *self._client], statements)

    # --- from the cache ---

    def load(self) -> bool:
        """Fill the databases from the cache; False if there is nothing usable in it."""
        archive = archive_path()
        try:
            content = read_archive(archive)
            self._sql(self.with_ports(content.pop(DUMP)))
        except FileNotFoundError:
            return False
        except (OSError, EOFError, zlib.error, tarfile.TarError, KeyError, SandboxError):
            archive.unlink(missing_ok=True)
            return False
        for name, key in content.items():
            path = self.files.state / "keystone" / name
            path.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
            path.write_bytes(key)
            path.chmod(0o600)
        return True

    def save(self) -> None:
        """Put the databases and keys into the cache. A cache that cannot be written is no error."""
        dump = self.run(
            "schema",
            [
                *("mariadb-dump", *self._client, "--skip-lock-tables", "--skip-comments"),
                *("--databases", *DATABASES),
            ],
        )
        content = {DUMP: self.without_ports(dump)}
        for repository in (self.files.fernet, self.files.credential):
            for key in repository.iterdir():
                content[f"{repository.name}/{key.name}"] = key.read_bytes()
        try:
            write_archive(archive_path(), content)
        except OSError:
            return

    def without_ports(self, dump: bytes) -> bytes:
        """A dump with the services' names instead of their addresses."""
        for service, port in self.state.ports.items():
            address = re.escape(f"{layout.ports.HOST}:{port}").encode() + rb"\b"
            dump = re.sub(address, f"@@{service}@@".encode(), dump)
        return dump

    def with_ports(self, dump: bytes) -> bytes:
        """The opposite, with this sandbox's addresses."""
        for service, port in self.state.ports.items():
            dump = dump.replace(f"@@{service}@@".encode(), f"{layout.ports.HOST}:{port}".encode())
        return dump


def cache_directory() -> Path:
    """Where archives are kept between sandboxes."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "blazar-vmexpire" / "sandbox"


def archive_path(sources: Sequence[Path] = SOURCES) -> Path:
    digest = hashlib.sha256()
    for source in sources:
        digest.update(source.read_bytes())
    return cache_directory() / f"{digest.hexdigest()[:16]}.tar.gz"


def read_archive(path: Path) -> dict[str, bytes]:
    """The files of an archive; gzip's checksum finds what was cut off or changed."""
    with tarfile.open(path, "r:gz") as archive:
        members = [(member.name, archive.extractfile(member)) for member in archive]
        return {name: file.read() for name, file in members if file}


def write_archive(path: Path, content: dict[str, bytes]) -> None:
    """Write an archive that is there whole or not at all, readable by its owner only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(handle, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
            for name, data in content.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
