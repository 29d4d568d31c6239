# SPDX-License-Identifier: Apache-2.0
"""The ``openstack`` command, and the harness's blazar-api served over HTTP for it."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pytest
from keystoneauth1.identity import v3
from keystoneauth1.session import Session
from openstackclient.common.clientmanager import ClientManager
from openstackclient.shell import OpenStackShell
from osc_lib.clientmanager import ClientCache
from werkzeug import serving

from blazar_vmexpire.osc import plugin
from tests.blazar_harness import Harness
from tests.functional.world import World

COMMAND = ("vm", "expiration")

#: What is not the command's own: another plug-in (python-blazarclient 4.6.0 names a class that it
#: does not have), and blazar-api's log, which comes from this process.
_FOREIGN = ("Could not load 'reservation_", "Using RPCClient manually ")


class Done(NamedTuple):
    """What a run of the command came to."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """What it printed, with ``-f json``; it has to have gone well."""
        assert self.returncode == 0, self.stderr
        return json.loads(self.stdout)


class _Quiet(serving.WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:
        pass


@contextlib.contextmanager
def served(harness: Harness) -> Iterator[str]:
    """Serve blazar-api, and have it in the catalogue; yields its address without a version."""
    server = serving.make_server(
        "127.0.0.1", 0, harness.api.application, threaded=True, request_handler=_Quiet
    )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    harness.cloud.identity.reservation_url = f"{address}/v1"
    try:
        yield address
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Openstack:
    """Runs the command in this process, as Alice unless said otherwise."""

    def __init__(self, world: World, capsys: pytest.CaptureFixture[str]) -> None:
        self._world = world
        self._capsys = capsys

    def credentials(
        self, name: str = "alice", roles: Sequence[str] = ("member", "reader")
    ) -> dict[str, str]:
        """Give somebody roles in their project, and return what they log in with."""
        identity, world = self._world.cloud.identity, self._world
        if name == "admin":
            user_id, project_id = identity.service_user, identity.service_project
        elif name == "bob":
            user_id, project_id = world.bob, world.beta
            identity.roles[user_id, project_id] = list(roles)
        else:
            user_id, project_id = world.alice, world.alpha
            identity.roles[user_id, project_id] = list(roles)
        return {
            "auth_url": f"{world.cloud.url}/identity/v3",
            "username": identity.users[user_id]["name"],
            "password": identity.passwords[user_id],
            "project_name": identity.projects[project_id]["name"],
            "user_domain_name": "Default",
            "project_domain_name": "Default",
        }

    def session(self, name: str = "alice") -> Session:
        """Return a session as a program makes it."""
        return Session(auth=v3.Password(**self.credentials(name)))

    def __call__(
        self, *arguments: str, name: str = "alice", roles: Sequence[str] = ("member", "reader")
    ) -> Done:
        """Run ``openstack vm expiration`` with these arguments."""
        options = [
            f"--os-{key.replace('_', '-')}={value}"
            for key, value in self.credentials(name, roles).items()
        ]
        self._capsys.readouterr()
        # A process has one client; ours is many runs of the command.
        setattr(ClientManager, plugin.API_NAME, ClientCache(plugin.make_client))
        with _logging_as_before(), warnings.catch_warnings():
            try:
                returncode = OpenStackShell().run([*options, *COMMAND, *arguments])
            except SystemExit as end:
                returncode = int(end.code or 0)
        stdout, stderr = self._capsys.readouterr()
        lines = stderr.splitlines(keepends=True)
        return Done(
            returncode, stdout, "".join(line for line in lines if not line.startswith(_FOREIGN))
        )


@contextlib.contextmanager
def _logging_as_before() -> Iterator[None]:
    """Undo what the command does to the process's logging: else it is a process of its own."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers
