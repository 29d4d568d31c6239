# SPDX-License-Identifier: Apache-2.0
"""Writing the configuration: the templates filled in, the openrc files, the commands in DIR/bin."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path
from string import Template

from tools.sandbox import horizon, layout, ports
from tools.sandbox.hypervisor import HYPERVISORS
from tools.sandbox.identity import PEOPLE, Person
from tools.sandbox.layout import HERE, VENV, Layout, State
from tools.sandbox.settings import Setting, apply_settings

TEMPLATES = HERE / "templates"

# Place under DIR/etc -> the templates it is made of, one after the other.
FILES: dict[str, tuple[str, ...]] = {
    "keystone/keystone.conf": ("keystone.conf",),
    "glance/glance-api.conf": ("glance-api.conf",),
    "placement/placement.conf": ("placement.conf",),
    "nova/nova.conf": ("nova.conf", "nova-database.conf"),
    "neutron/neutron.conf": ("neutron.conf",),
    "cinder/cinder.conf": ("cinder.conf",),
    "rabbitmq/rabbitmq.conf": ("rabbitmq.conf",),
    "horizon/local/local_settings.py": ("horizon.py",),
}
# Once for each compute host, followed by the hypervisor's part.
COMPUTE_FILE = ("nova.conf", "nova-compute.conf")

# The middleware pipelines, and what Cinder lets users filter by, as the packages bring them: place
# under VENV/etc and under DIR/etc. Nova looks for its own beside nova.conf whatever nova.conf says.
AS_PACKAGED = (
    "nova/api-paste.ini",
    "neutron/api-paste.ini",
    "glance/glance-api-paste.ini",
    "cinder/api-paste.ini",
    "cinder/resource_filters.json",
)

# Commands put into DIR/bin, with the arguments they need to work on this sandbox.
PROJECT_COMMANDS = ("blazar-vmexpire-manage", "blazar-vmexpire-status", "blazar-vmexpire-worker")
CLIENT_COMMANDS = ("openstack",)


def variables(files: Layout, state: State) -> dict[str, str]:
    """The names that templates may use."""
    known = {
        "etc": str(files.etc),
        "state": str(files.state),
        "run": str(files.run),
        "venv": str(VENV),
        "host": ports.HOST,
        "region": layout.REGION,
        "password": layout.PASSWORD,
        "broker_url": layout.broker_url(state),
        "auth_url": layout.url(state, "keystone", "/v3"),
        **horizon.variables(),
    }
    known |= {f"port_{name.replace('-', '_')}": str(port) for name, port in state.ports.items()}
    known |= {f"database_{name}": layout.database_url(state, name) for name in layout.DATABASES}
    known["credentials"] = fill(["credentials.conf"], known).strip()
    return known


def fill(templates: Iterable[str], known: dict[str, str]) -> str:
    """Templates with their ${names} replaced, put together; an unknown name is an error."""
    text = "".join((TEMPLATES / template).read_text() for template in templates)
    return Template(text).substitute(known)


def write_all(files: Layout, state: State, settings: Iterable[Setting]) -> None:
    """Everything in DIR/etc and DIR/bin, and the openrc files."""
    known = variables(files, state)
    for place, templates in FILES.items():
        _write(files.etc / place, fill(templates, known))
    write_blazar(files, state, settings)
    for place in AS_PACKAGED:
        _write(files.etc / place, (VENV / "etc" / place).read_text())
    for host in layout.compute_hosts(state):
        (files.state / host / "instances").mkdir(parents=True, exist_ok=True)
        template = HYPERVISORS[state.hypervisor].template
        text = fill([*COMPUTE_FILE, template], known | {"compute_host": host})
        _write(files.etc / "nova" / f"{host}.conf", text)
    _write(files.etc / "rabbitmq" / "enabled_plugins", "[].\n")
    _write(files.etc / "horizon" / "local" / "__init__.py", "")
    for person in PEOPLE:
        _write(files.directory / f"openrc-{person.name}", openrc(person, files, state))
    for command in CLIENT_COMMANDS:
        _write_command(files.bin / command, [])
    for command in PROJECT_COMMANDS:
        _write_command(files.bin / command, ["--config-file", str(files.blazar_conf)])


def write_blazar(files: Layout, state: State, settings: Iterable[Setting]) -> None:
    """blazar.conf alone, its defaults overridden by `settings`."""
    text = fill(["blazar.conf"], variables(files, state))
    _write(files.blazar_conf, apply_settings(text, settings))


def credentials(person: Person, state: State) -> dict[str, str]:
    """The OS_* variables of one of the sandbox's people."""
    return {
        "OS_AUTH_TYPE": "password",
        "OS_AUTH_URL": layout.url(state, "keystone", "/v3"),
        "OS_IDENTITY_API_VERSION": "3",
        "OS_REGION_NAME": layout.REGION,
        "OS_USERNAME": person.name,
        "OS_PASSWORD": layout.PASSWORD,
        "OS_USER_DOMAIN_NAME": person.domain,
        "OS_PROJECT_NAME": person.project,
        "OS_PROJECT_DOMAIN_NAME": person.domain,
        # The first that python-openstackclient's users need here: `--nic none`, locked_reason.
        "OS_COMPUTE_API_VERSION": "2.96",
        "OS_PLACEMENT_API_VERSION": "1.39",
    }


def openrc(person: Person, files: Layout, state: State) -> str:
    """A file to be sourced: one person's variables, and DIR/bin in the PATH."""
    exports = "".join(
        f"export {name}={shlex.quote(value)}\n"
        for name, value in credentials(person, state).items()
    )
    known = {
        "name": person.name,
        "project": person.project,
        "domain": person.domain,
        "exports": exports,
        "bin": shlex.quote(str(files.bin)),
    }
    return fill(["openrc"], known)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _write_command(path: Path, arguments: list[str]) -> None:
    target = shlex.join([str(VENV / "bin" / path.name), *arguments])
    path.write_text(f'#!/bin/sh\nexec {target} "$@"\n')
    path.chmod(0o755)
