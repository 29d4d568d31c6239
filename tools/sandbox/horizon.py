# SPDX-License-Identifier: Apache-2.0
"""What `sandbox up --with horizon` adds: Horizon, with the plug-in's pages in it.

Its static files take some seconds to be collected and compressed, and are the same in every
sandbox: they are made once, and then found beside the schemas in the cache.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from tools import bootstrap
from tools.sandbox import layout
from tools.sandbox.identity import PEOPLE
from tools.sandbox.layout import HERE, PROJECT, Layout, State
from tools.sandbox.schema import cache_directory

NAME = "horizon"
PLUGIN = PROJECT / "blazar_vmexpire" / "dashboard"

# The one path that is different while the static files are made: see templates/horizon.py.
STATIC_VARIABLE = "SANDBOX_STATIC"


def variables() -> dict[str, str]:
    """The names that its templates may use beside all others'."""
    domains = dict.fromkeys(person.domain for person in PEOPLE)
    return {
        "domains": repr([(domain, domain) for domain in domains]),
        "enabled": str(PLUGIN / "enabled"),
    }


def environment(files: Layout, static: Path | None = None) -> dict[str, str]:
    """What tells Django where its settings are: they import DIR/etc/horizon/local."""
    return {
        "DJANGO_SETTINGS_MODULE": "openstack_dashboard.settings",
        "PYTHONPATH": str(files.etc / NAME),
        STATIC_VARIABLE: str(static or files.static),
    }


def write_address(files: Layout, state: State) -> None:
    """DIR/horizon.url, or none where there is no Horizon."""
    address = files.directory / "horizon.url"
    if NAME in state.extras:
        address.write_text(layout.url(state, NAME, "/") + "\n")
    else:
        address.unlink(missing_ok=True)


def accounts() -> str:
    """Who can log in, in words."""
    people = ", ".join(f"{person.name} (domain {person.domain})" for person in PEOPLE)
    return f"as {people}; password {layout.PASSWORD}"


def provide_static_files(files: Layout, make: Callable[[Mapping[str, str]], None]) -> None:
    """Put the static files, or a link to those in the cache, where the settings say.

    make: has Django collect and compress them, in the environment that it is given
    """
    if files.static.is_symlink():
        files.static.unlink()
    cached = cache_directory() / f"static-{_digest()}"
    if not cached.exists():
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
            workshop = Path(tempfile.mkdtemp(dir=cached.parent, prefix=".static-"))
        except OSError:
            # A cache that cannot be written is no error.
            shutil.rmtree(files.static, ignore_errors=True)
            make(environment(files))
            return
        try:
            make(environment(files, workshop))
            _keep(workshop, cached)
        finally:
            shutil.rmtree(workshop, ignore_errors=True)
    shutil.rmtree(files.static, ignore_errors=True)
    files.static.symlink_to(cached)


def _keep(made: Path, cached: Path) -> None:
    """Move what was made into the cache in one step; another start may have been first."""
    try:
        os.rename(made, cached)
    except OSError:
        if not cached.exists():
            raise


def _digest() -> str:
    """Of all that the static files follow from."""
    sources = [bootstrap.profile_lock(NAME), HERE / "horizon.py", HERE / "templates" / "horizon.py"]
    sources += sorted(path for path in PLUGIN.glob("enabled/*.py"))
    sources += sorted(path for path in PLUGIN.rglob("static/**/*") if path.is_file())
    digest = hashlib.sha256()
    for source in sources:
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]
