#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Make this checkout ready to run: distribution packages, and one virtual environment in `.venv`.

Runs under the system's python3 with nothing but the standard library. A second run finds a stamp
and returns at once; two runs at the same time wait for each other; a run that was interrupted is
repaired by the next.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
VENV = PROJECT / ".venv"
BINDEP = PROJECT / "bindep.txt"
LOCK = PROJECT / "tools" / "requirements.lock"
STAMP = VENV / ".bootstrap-done"
UNFINISHED = VENV / ".bootstrap-unfinished"
LOG = VENV / "bootstrap.log"

# What makes an installed project stale: its entry points and how it is built.
PROJECT_FILES = ("setup.cfg", "setup.py", "pyproject.toml")

Report = Callable[[str], None]


class BootstrapError(Exception):
    """Something is missing that this program cannot, or may not, install."""


# --- packages of the distribution -------------------------------------------------------------


def parse_bindep(text: str, profiles: Iterable[str] = ()) -> list[str]:
    """Names of the Debian packages in a bindep file.

    Knows what our file uses: comments, `name`, and `name [selector ...]` where a selector is
    `platform:NAME` or the name of a profile. A line with profiles counts if one of them was asked
    for; a line with platforms counts if `platform:dpkg` is among them.
    """
    wanted = set(profiles)
    names = []
    for line in text.splitlines():
        found = re.fullmatch(r"\s*([\w.+-]+)\s*(?:\[([^\]]*)\])?\s*", line.split("#", 1)[0])
        if not found:
            continue
        selectors = (found[2] or "").split()
        platforms = {s.removeprefix("platform:") for s in selectors if s.startswith("platform:")}
        line_profiles = {s for s in selectors if ":" not in s}
        if platforms and "dpkg" not in platforms:
            continue
        if line_profiles and not line_profiles & wanted:
            continue
        names.append(found[1])
    return names


def missing_packages(names: list[str]) -> list[str]:
    """Those of `names` that dpkg does not have installed; all is well where there is no dpkg."""
    if not names or not shutil.which("dpkg-query"):
        return []
    answer = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *names],
        capture_output=True,
        text=True,
        check=False,
    )
    installed = {
        line.split()[0] for line in answer.stdout.splitlines() if line.endswith(" installed")
    }
    return [name for name in names if name not in installed]


def install_packages(names: list[str], report: Report) -> None:
    """apt-get install `names`; as an ordinary user, say what root would have to do."""
    command = ["apt-get", "install", "-y", "--no-install-recommends", *names]
    if os.geteuid() != 0:
        raise BootstrapError(
            f"packages missing: {' '.join(names)}\nInstall them as root:  {shlex.join(command)}"
        )
    report(f"apt: installing {', '.join(names)}")
    apt_env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    wait = ["-o", "DPkg::Lock::Timeout=300"]
    simulated = subprocess.run(
        [*command, "--simulate"], env=apt_env, capture_output=True, check=False
    )
    # The package lists of a fresh machine are empty, and those of an old one name files that the
    # mirror no longer has: update when the names are unknown, and once more when fetching fails.
    # A dpkg that was interrupted has to be let finish first.
    if simulated.returncode != 0:
        _run(["apt-get", *wait, "update"], env=apt_env)
    try:
        _run([command[0], *wait, *command[1:]], env=apt_env)
    except BootstrapError:
        _run(["dpkg", "--configure", "-a"], env=apt_env)
        _run(["apt-get", *wait, "update"], env=apt_env)
        _run([command[0], *wait, *command[1:]], env=apt_env)


# --- the virtual environment ------------------------------------------------------------------


def _digest(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256(str(VENV).encode())
    for path in paths:
        digest.update(path.name.encode())
        if path.exists():
            digest.update(path.read_bytes())
    return digest.hexdigest()


def profile_lock(profile: str) -> Path:
    """The lock file of what a profile needs besides; most need nothing, and have none."""
    return LOCK.with_stem(f"{LOCK.stem}-{profile}")


def wanted_stamp(profiles: Iterable[str] = ()) -> dict[str, str]:
    """What the stamp of an environment says that is finished for this checkout."""
    locks = {f"lock-{profile}": profile_lock(profile) for profile in profiles}
    return {
        "lock": _digest([LOCK]),
        "project": _digest(PROJECT / name for name in PROJECT_FILES),
        **{name: _digest([lock]) for name, lock in locks.items() if lock.exists()},
    }


def is_finished(profiles: Iterable[str]) -> bool:
    """Whether the environment has all of it; what other profiles have put there is no matter."""
    return wanted_stamp(profiles).items() <= read_stamp().items()


def read_stamp() -> dict[str, str]:
    """The stamp of the environment as it is; empty if it was never finished."""
    try:
        stamp: dict[str, str] = json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}
    return stamp if (VENV / "bin" / "python").exists() else {}


def uv_environment() -> dict[str, str]:
    """Environment for uv that makes it use the indexes and certificates pip is configured for.

    uv does not read pip's configuration. Behind a company's mirror that is all there is.
    """
    env = dict(os.environ)
    listed = subprocess.run(
        [VENV / "bin" / "python", "-m", "pip", "config", "list"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    names = {
        "index-url": ("UV_DEFAULT_INDEX", " "),
        "extra-index-url": ("UV_INDEX", " "),
        "find-links": ("UV_FIND_LINKS", ","),
        "cert": ("SSL_CERT_FILE", " "),
    }
    for line in listed.splitlines():
        key, _, value = line.partition("=")
        target, separator = names.get(key.rpartition(".")[2], ("", ""))
        if target and not os.environ.get(target):
            env[target] = separator.join(value.strip("'\"").split())
    # pip takes the best version from all indexes; uv would stop at the first that has the name.
    env.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")
    # Copies are slower than links by seconds, but a cache on another file system must work too.
    env.setdefault("UV_LINK_MODE", "copy")
    return env


def find_uv(report: Report) -> str | None:
    """uv from the PATH, or put into the environment at its pinned version; None if neither."""
    there = shutil.which("uv") or shutil.which("uv", path=str(VENV / "bin"))
    if there:
        return there
    pin = re.search(r"^uv==\S+$", LOCK.read_text(), re.MULTILINE)
    report("fetching uv")
    try:
        _run([VENV / "bin" / "python", "-m", "pip", "install", "-q", pin[0] if pin else "uv"])
    except BootstrapError:
        return None
    return str(VENV / "bin" / "uv")


def install_requirements(lock: Path, report: Report) -> None:
    """All that a lock file names, by uv if it can be had, else by pip."""
    pip_arguments = ["--no-deps", "-r", str(lock)]
    uv = find_uv(report)
    if uv:
        report(f"installing the pinned Python packages of {lock.name} with uv")
        python = str(VENV / "bin" / "python")
        try:
            _run(
                [uv, "pip", "install", "--python", python, "--compile-bytecode", *pip_arguments],
                env=uv_environment(),
            )
        except BootstrapError:
            report("uv failed, see " + str(LOG))
        else:
            return
    report(f"installing the pinned Python packages of {lock.name} with pip; this takes minutes")
    _run([VENV / "bin" / "python", "-m", "pip", "install", "-q", *pip_arguments])


def install_project(report: Report) -> None:
    """The checkout itself, editable, so that its entry points are found."""
    report("installing the project, editable")
    # One that an older build has left is found before what is installed, with old entry points.
    for old in PROJECT.glob("*.egg-info"):
        shutil.rmtree(old, ignore_errors=True)
    _run(
        [
            *(VENV / "bin" / "python", "-m", "pip", "install", "-q"),
            *("--no-deps", "--no-build-isolation", "-e", PROJECT),
        ]
    )


def make_venv(profiles: Iterable[str], report: Report) -> None:
    """Create, complete or repair `.venv`, and write its stamp last."""
    stamp, wanted = read_stamp(), wanted_stamp(profiles)
    if UNFINISHED.exists():
        # A killed installer may leave packages that look installed and are not.
        report("an unfinished installation was left in .venv: making it anew")
        _discard_venv()
        stamp = {}
    if stamp.get("lock") != wanted["lock"]:
        VENV.mkdir(exist_ok=True)
        UNFINISHED.touch()
        if not (VENV / "bin" / "pip").exists():
            report("creating .venv")
            _run([sys.executable, "-m", "venv", str(VENV)])
        install_requirements(LOCK, report)
        stamp = {"lock": wanted["lock"]}
        _write_stamp(stamp)
        UNFINISHED.unlink()
    for profile in profiles:
        name = f"lock-{profile}"
        if stamp.get(name) != wanted.get(name):
            install_requirements(profile_lock(profile), report)
    if stamp.get("project") != wanted["project"]:
        install_project(report)
    _write_stamp(stamp | wanted)


def _discard_venv() -> None:
    """Remove the environment, out of the way first: a program may still be running from it."""
    trash = PROJECT / ".cache" / f"broken-venv-{os.getpid()}"
    trash.parent.mkdir(exist_ok=True)
    VENV.rename(trash)
    shutil.rmtree(trash, ignore_errors=True)


def _write_stamp(stamp: dict[str, str]) -> None:
    temporary = STAMP.with_suffix(".new")
    temporary.write_text(json.dumps(stamp))
    temporary.rename(STAMP)


def _run(command: list[str | Path], env: dict[str, str] | None = None) -> None:
    """Run `command` with its output in the log; raise with the end of that output if it fails."""
    done = subprocess.run(
        command,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        close_fds=False,  # the lock, see _alone
        check=False,
    )
    line = shlex.join(str(part) for part in command)
    if VENV.exists():
        with LOG.open("a") as log:
            log.write(f"$ {line}\n{done.stdout}\n")
    if done.returncode != 0:
        tail = "\n".join(done.stdout.splitlines()[-15:])
        raise BootstrapError(f"failed with exit code {done.returncode}: {line}\n{tail}")


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Hold off other bootstraps of this checkout, by a lock on this very file: none is left.

    The installers that are started inherit the lock. One that outlives a killed bootstrap is
    waited for, and does not write into the environment that the next bootstrap repairs.
    """
    with Path(__file__).open() as own_file:
        fcntl.flock(own_file, fcntl.LOCK_EX)
        os.set_inheritable(own_file.fileno(), True)
        yield


def ensure(profiles: Iterable[str] = (), report: Report = print) -> None:
    """Make everything that is missing. Raises BootstrapError when that cannot be done."""
    profiles = list(profiles)
    names = parse_bindep(BINDEP.read_text(), profiles)
    if not missing_packages(names) and is_finished(profiles):
        return
    with _alone():
        missing = missing_packages(names)
        if missing:
            install_packages(missing, report)
        if not is_finished(profiles):
            make_venv(profiles, report)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--profile",
        action="append",
        default=[],
        help="also install bindep.txt's packages of this profile, and what its lock file names"
        " (`test`, `horizon`, `libvirt`); repeatable",
    )
    arguments = parser.parse_args()
    started = time.monotonic()

    def report(line: str) -> None:
        print(f"{time.monotonic() - started:6.1f}s  {line}", flush=True)

    try:
        ensure(arguments.profile, report)
    except BootstrapError as error:
        print(f"bootstrap: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bootstrap: interrupted; the next run repairs what is half made", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
