# SPDX-License-Identifier: Apache-2.0
"""A real Blazar in this process: its manager, its API, RPC between them, its database.

What is real: ``ManagerService`` with the plug-ins it loads, the WSGI application of the v1 and v2
API with keystonemiddleware in front, the database. What is not: RabbitMQ (``tests.blazar_rpc``
does to messages what it would do), the cloud (``tests.fakes``), the timers (a test calls
:meth:`Harness.tick`) and the time (``harness.clock``).

Blazar keeps its state in globals. All of them are set up and cleared here, in :class:`Harness`.
"""

from __future__ import annotations

import datetime
import functools
import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import blazar.utils.openstack.nova  # noqa: F401  (registers Blazar's options of [nova])
import flask
import jsonschema
import oslo_messaging
import sqlalchemy as sa
from blazar import policy, rpc
from blazar.api import app as blazar_api
from blazar.db.sqlalchemy import facade_wrapper
from blazar.manager import service as blazar_manager
from blazar.notification import notifier
from keystoneauth1 import loading
from oslo_config import cfg
from oslo_messaging.notify import _impl_test as recorded
from oslo_messaging.notify import notifier as messaging_notifier
from oslo_messaging.rpc import client as rpc_client
from oslo_utils import timeutils
from werkzeug.test import Client, TestResponse

from blazar_vmexpire import RESOURCE_TYPE
from blazar_vmexpire.api import v1
from blazar_vmexpire.api.reading import Reading
from blazar_vmexpire.conf import opts
from tests import databases
from tests.blazar_rpc import make_transport, wait_idle
from tests.fakes import identity
from tests.fakes.cloud import FakeCloud

#: Options by group.
Options = Mapping[str, Mapping[str, Any]]

#: When every test begins.
START = datetime.datetime(2026, 3, 2, 10, 0)

OUR_PLUGIN = "virtual.vm.plugin"

_OPTIONS: Options = {
    "DEFAULT": {"transport_url": "fake:/", "rpc_response_timeout": 30},
    "database": {"sqlite_synchronous": False, "max_retries": 0},
    "oslo_messaging_notifications": {"driver": ["test"]},
    RESOURCE_TYPE: {"undeliverable_contact": "operators@example.org"},
    # Most tests break or count what Nova is asked for an end; the metadata have tests of their own.
    "vmexpire_metadata": {"enabled": False},
}

#: They are required once they are registered, so they do not stay so.
_AUTH_OPTIONS = loading.get_auth_plugin_conf_options("password")


class Clock:
    """The time, for Blazar and for us: stands still unless it is moved. Naive UTC."""

    def __init__(self, start: datetime.datetime = START) -> None:
        self.set(start)

    def now(self) -> datetime.datetime:
        """Say what time it is."""
        now: datetime.datetime = timeutils.utcnow()
        return now

    def set(self, moment: datetime.datetime) -> None:
        """Make it that time."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            timeutils.set_time_override(moment)

    def advance(self, **duration: float) -> datetime.datetime:
        """Move on by a timedelta: ``advance(days=3)``. Returns the new time."""
        self.set(self.now() + datetime.timedelta(**duration))
        return self.now()

    def release(self) -> None:
        """Let the real time in again."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            timeutils.clear_time_override()


class Api:
    """Blazar's API, asked by somebody. ``as_user`` gives one that is asked by somebody else."""

    def __init__(self, application: Any, cloud: FakeCloud, token: str) -> None:
        self._client = Client(application)
        self._application = application
        self._cloud = cloud
        self._token = token

    def as_user(self, user_id: str, project_id: str, roles: Sequence[str] = ("member",)) -> Api:
        """Ask as a user of the cloud in one of its projects, with these roles there."""
        token = self._cloud.identity.issue(user_id, project_id, [*roles, "reader"])
        return Api(self._application, self._cloud, token)

    def as_admin(self) -> Api:
        """Ask as an administrator: one who has nothing else to do with the project."""
        user = self._cloud.add_user("the-admin", email="admin@example.org")
        project = self._cloud.add_project("admin")
        return self.as_user(user, project, ["admin", "member"])

    @property
    def application(self) -> Any:
        """What answers: a WSGI application."""
        return self._application

    def close(self) -> None:
        """Close what our routes have opened."""
        if v1.get_rest().name in self._application.v1.blueprints:
            Reading.of(self._application.v1).close()

    def request(self, method: str, path: str, **more: Any) -> TestResponse:
        """Send a request; ``json`` is its body, the rest as for werkzeug's ``Client.open``."""
        headers = {
            "X-Auth-Token": self._token,
            "Accept": "application/json",
            **more.pop("headers", {}),
        }
        caller = {"REMOTE_ADDR": "192.0.2.1"}
        answer = self._client.open(
            path, method=method, headers=headers, environ_overrides=caller, **more
        )
        _check_answer(self._application.v1, answer)
        return answer

    def get(self, path: str, **more: Any) -> TestResponse:
        """GET a path such as ``/v1/leases``."""
        return self.request("GET", path, **more)

    def put(self, path: str, **more: Any) -> TestResponse:
        """PUT ``json`` to a path."""
        return self.request("PUT", path, **more)

    def post(self, path: str, **more: Any) -> TestResponse:
        """POST ``json`` to a path."""
        return self.request("POST", path, **more)

    def patch(self, path: str, **more: Any) -> TestResponse:
        """PATCH a path with ``json``."""
        return self.request("PATCH", path, **more)

    def delete(self, path: str, **more: Any) -> TestResponse:
        """DELETE a path."""
        return self.request("DELETE", path, **more)


class Harness:
    """A Blazar on a database and a cloud; to be closed.

    :param url: of a database with Blazar's tables and ours.
    :param options: by group, on top of what a test needs anyway; durations as in the file.
    :param plugins: entry points that the manager loads.
    :param plugins_url: of the same database, as our plug-in reaches it, where that is another way
        than Blazar's own and the test's.

    :ivar conf: the options, ``cfg.CONF``
    :ivar clock: the time
    :ivar cloud: the cloud
    :ivar database: our own connection to the database
    :ivar manager: Blazar's ``ManagerService``
    """

    def __init__(
        self,
        url: str,
        cloud: FakeCloud,
        options: Options | None = None,
        plugins: Sequence[str] = (OUR_PLUGIN,),
        plugins_url: str | None = None,
    ) -> None:
        self.cloud = cloud
        self.clock = Clock()
        self.conf: cfg.ConfigOpts = cfg.CONF
        self._wanted_plugins = plugins
        self._running = False
        try:
            self._configure(url, options or {})
            self.database = databases.connect(url)
            self._connect_blazar()
            if plugins_url is not None:
                # Blazar has its engine by now; our plug-in makes its own when it is loaded.
                self.conf.set_override("connection", plugins_url, group="database")
            notifier.init()
            if rpc.TRANSPORT is None:
                # One for all tests: Blazar's API modules keep clients of the first they see.
                rpc.TRANSPORT = make_transport(self.conf)
            self.start()
        except BaseException:
            self.close()
            raise

    # The manager -------------------------------------------------------------------------------

    def start(self) -> None:
        """Start a manager: it answers RPC. Its timers do not run; see :meth:`tick`."""
        self.manager = blazar_manager.ManagerService()
        loaded = len(self.manager.plugins)
        assert loaded == len(self._wanted_plugins), "a plug-in was not loaded: see the log"
        # Not ManagerService.start(), which starts the timers as well.
        self.manager._server.start()
        self._running = True

    def stop(self) -> None:
        """Stop the manager; the database and the cloud stay, and requests go unanswered."""
        if not self._running:
            return
        self._running = False
        self.manager._server.stop()
        # Not its wait(): that takes a second, for idle threads.
        wait_idle(rpc.TRANSPORT)
        for plugin in self.manager.plugins.values():
            service = getattr(plugin, "service", None)
            if service is not None:
                service.stop()
                service.tools.database.engine.dispose()

    def restart(self, plugins: Sequence[str] | None = None) -> None:
        """Stop the manager and start another, as after a restart of blazar-manager.

        :param plugins: what ``[manager] plugins`` says from now on; None leaves it as it is.
        """
        self.stop()
        if plugins is not None:
            self._wanted_plugins = plugins
            self.conf.set_override("plugins", list(plugins), group="manager")
        self.start()

    @property
    def plugin(self) -> Any:
        """Our plug-in, as the manager loaded it."""
        return self.manager.plugins[RESOURCE_TYPE]

    def tick(self) -> None:
        """Have Blazar's engine run the events that are due: what it does every ten seconds."""
        self.manager._process_events()

    def work(self, rounds: int = 50) -> int:
        """Have our worker do what is due, in this thread, until nothing is due any more.

        :returns: how many steps were done.
        :raises AssertionError: when something is still due after that many rounds.
        """
        worker = self.plugin.service.worker
        done = 0
        for _ in range(rounds):
            worker.do_duties()
            steps = worker.work_off()
            if not steps:
                return done
            done += steps
        raise AssertionError(f"still not at rest after {rounds} rounds and {done} steps")

    def poll(self) -> None:
        """Start our own threads, as the first poll of the plug-in's monitor does."""
        self.plugin.monitor.poll()

    # What goes in and comes out ----------------------------------------------------------------

    @property
    def notifications(self) -> list[tuple[str, dict[str, Any]]]:
        """What has been published on the bus so far: event type and payload."""
        return [
            (message["event_type"], message["payload"])
            for _, message, _, _ in recorded.NOTIFICATIONS
        ]

    def notify(
        self, event_type: str, payload: Any, topic: str = "notifications", priority: str = "info"
    ) -> None:
        """Publish a notification as Nova does, on Nova's exchange."""
        conf = cfg.ConfigOpts()
        conf([], default_config_files=[], default_config_dirs=[])
        oslo_messaging.set_transport_defaults("nova")
        transport = oslo_messaging.get_notification_transport(conf, url="fake:/")
        oslo_messaging.set_transport_defaults("openstack")
        sender = oslo_messaging.Notifier(
            transport, "compute.host1", driver="messagingv2", topics=[topic]
        )
        getattr(sender, priority)({}, event_type, payload)

    def close(self) -> None:
        """Stop everything, and leave none of Blazar's globals behind."""
        self.stop()
        if "api" in vars(self):
            self.api.close()
        if notifier.NOTIFIER is not None:
            notifier.cleanup()
        recorded.reset()
        policy.reset()
        if facade_wrapper._engine_facade is not None:
            facade_wrapper._engine_facade.writer.get_engine().dispose()
        facade_wrapper._clear_engine()
        if hasattr(self, "database"):
            self.database.engine.dispose()
        self.conf.reset()
        self.conf.unregister_opts(_AUTH_OPTIONS, group="keystone_authtoken")
        self.clock.release()

    # Inside ------------------------------------------------------------------------------------

    def _configure(self, url: str, options: Options) -> None:
        opts.register_opts(self.conf)
        # Options that Blazar registers only when it needs them.
        self.conf.register_opts(_AUTH_OPTIONS, group="keystone_authtoken")
        oslo_messaging.get_notification_transport(self.conf, url="fake:/").cleanup()
        self.conf.register_opts(rpc_client._client_opts)
        self.conf.register_opts(
            messaging_notifier._notifier_opts, group="oslo_messaging_notifications"
        )
        here = {
            "database": {"connection": url},
            "manager": {"plugins": list(self._wanted_plugins)},
        }
        cloud = self.cloud.conf_overrides()
        for source in (_OPTIONS, here, cloud, _keystone_options(self.cloud), options):
            for group, values in source.items():
                for name, value in values.items():
                    where = None if group == "DEFAULT" else group
                    self.conf.set_override(name, value, group=where)
        self.conf([], project="blazar", default_config_files=[], default_config_dirs=[])

    def _connect_blazar(self) -> None:
        engine: sa.Engine = facade_wrapper._get_facade().writer.get_engine()
        if engine.dialect.name == "sqlite":
            # In Blazar's transactions reads come before writes. With several threads SQLite then
            # refuses some at once: "database is locked". Elsewhere this cannot happen.
            sa.event.listen(engine, "before_cursor_execute", _begin_immediate, retval=True)

    @functools.cached_property
    def api(self) -> Api:
        """Blazar's API, asked by Blazar's own account unless ``as_user`` says otherwise."""
        # Made when it is first asked for: that takes a while, and many tests do not.
        # It warns of every option of Flask's, and of its cache, which serves one process well.
        logging.getLogger("keystonemiddleware").setLevel(logging.ERROR)
        # Blazar's API answers nothing at all where it may not log (RequestLog).
        logging.getLogger("blazar").setLevel(logging.INFO)
        application = blazar_api.VersionSelectorApplication()
        token = self.cloud.identity.issue(
            self.cloud.identity.service_user, self.cloud.identity.service_project
        )
        return Api(application, self.cloud, token)


def _check_answer(application: flask.Flask, answer: TestResponse) -> None:
    """See that an answer of a route of ours is as we have declared it."""
    where = answer.request.path
    if not where.startswith("/v1/vm-expiration") or answer.status_code >= 300:
        return
    adapter = application.url_map.bind("localhost")
    endpoint, _ = adapter.match(where, answer.request.method)
    (route,) = [r for r in v1.declared() if r.name == str(endpoint).rpartition(".")[2]]
    assert answer.status_code == route.status
    if route.answer is None:
        assert answer.data == b""
    else:
        jsonschema.Draft202012Validator(route.answer).validate(answer.json)


def _begin_immediate(
    connection: sa.Connection, cursor: Any, statement: str, parameters: Any, *_: Any
) -> tuple[str, Any]:
    return "BEGIN IMMEDIATE" if statement == "BEGIN" else statement, parameters


def _keystone_options(cloud: FakeCloud) -> Options:
    """Return the options by which keystonemiddleware asks this cloud about tokens."""
    return {
        "keystone_authtoken": {
            "www_authenticate_uri": f"{cloud.url}/identity",
            "auth_type": "password",
            "auth_url": f"{cloud.url}/identity/v3",
            "username": identity.SERVICE_USER,
            "password": identity.SERVICE_PASSWORD,
            "project_name": identity.SERVICE_PROJECT,
            "user_domain_name": "Default",
            "project_domain_name": "Default",
        }
    }
