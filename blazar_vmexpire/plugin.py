# SPDX-License-Identifier: Apache-2.0
"""The Blazar side: hooks that blazar-manager calls, and methods that our API in blazar-api calls.

A hook is a poke: Blazar's engine runs its events one after the other, and loses them when the
manager dies, so nothing here waits for anything but our own database. The one decision that is
made here is whether a lease may be moved, because Blazar asks for it here.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import oslo_messaging
from blazar import exceptions as blazar_exceptions
from blazar.manager import exceptions as manager_exceptions
from blazar.plugins import base
from oslo_config import cfg
from oslo_log import log as logging
from oslo_utils import timeutils, uuidutils

from blazar_vmexpire import RESOURCE_TYPE, choice, explicit, extension, leases, lifecycle
from blazar_vmexpire.api import access, policies
from blazar_vmexpire.api.serving import Serving
from blazar_vmexpire.conf import opts, vm
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db.engine import retried
from blazar_vmexpire.exceptions import ConfigError
from blazar_vmexpire.service import Service, prepare
from blazar_vmexpire.worker.tools import Tools

LOG = logging.getLogger(__name__)

#: What a PUT may say about a reservation of ours: what it is anyway, and what can be chosen.
_CHANGEABLE = {"id", "resource_type", "start_date", "end_date", *choice.KEYS}


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Raise a refusal of ours as one that Blazar's API passes on, and that leaves a lease alone."""
    try:
        yield
    except extension.Conflict as error:
        # The only class that crosses Blazar's RPC as a 409.
        raise manager_exceptions.CantUpdateParameter(str(error)) from error
    except extension.Refused as error:
        # Of the classes that leave a lease as it was, the one that fits.
        raise blazar_exceptions.InvalidInput(str(error)) from error


def _server_id(values: Mapping[str, Any]) -> str:
    """Say which VM a new reservation is for.

    :raises blazar.exceptions.BlazarException: it does not say, or what it says is no UUID.
    """
    server_id = values.get("server_id")
    if server_id is None:
        raise manager_exceptions.MissingParameter(param="server_id")
    if not isinstance(server_id, str) or not uuidutils.is_uuid_like(server_id):
        raise blazar_exceptions.InvalidInput(f"server_id {str(server_id)[:100]!r} is not a UUID")
    return server_id


class Starter(base.BaseMonitorPlugin):  # type: ignore[misc]
    """Starts our threads in the process that serves.

    blazar-manager forks after it has made its plug-ins, and threads do not survive that. A polling
    monitor's timer runs in the child, so its first poll is where the service can be started.
    """

    def __init__(self, start: Callable[[], None]) -> None:
        self._start = start

    def poll(self) -> dict[str, Any]:
        """Start the service, the first time."""
        self._start()
        return {}

    def is_polling_enabled(self) -> bool:
        """Say that polls are wanted."""
        return True

    def get_polling_interval(self) -> int:
        """Say how often, in seconds; after the first poll there is nothing to do."""
        return 60

    def is_notification_enabled(self) -> bool:
        """Say that Blazar's own notification monitor is not wanted: it would empty the queues."""
        return False

    def get_notification_event_types(self) -> list[str]:
        """Say none."""
        return []

    def get_notification_topics(self) -> list[str]:
        """Say none."""
        return []

    def notification_callback(self, event_type: str, payload: Any) -> dict[str, Any]:
        """Do nothing: nothing is subscribed to."""
        return {}

    def get_healing_interval(self) -> int:
        """Say that there is nothing to be healed this way."""
        return 0

    def heal(self) -> dict[str, Any]:
        """Do nothing."""
        return {}


class VirtualMachinePlugin(base.BasePlugin):  # type: ignore[misc]
    """Expiration of virtual machines."""

    resource_type = RESOURCE_TYPE
    title = "Virtual Machine Expiration Plugin"
    description = "Tells owners when their virtual machines expire, and ends them then."

    def __init__(
        self,
        conf: cfg.ConfigOpts = cfg.CONF,
        clock: Callable[[], datetime.datetime] = timeutils.utcnow,
    ) -> None:
        self._conf = conf
        self._clock = clock
        self._tools: Tools | None = None
        self.service: Service | None = None
        self.monitor = Starter(self._start)
        opts.register_opts(conf, resource_group=False)

    def get_plugin_opts(self) -> list[cfg.Opt]:
        """Return the options of ``[virtual:vm]``, which Blazar registers."""
        return list(vm.OPTS)

    def setup(self, conf: None) -> None:
        """Check the configuration, and get ready.

        :raises blazar_vmexpire.exceptions.ConfigError: with a sentence that names the option: the
            manager does not start.
        """
        try:
            tools = prepare(self._conf, self._clock)
        except ConfigError as error:
            LOG.critical("Virtual machine expiration cannot start: %s", error)
            raise
        policies.register()
        # What was opened so far must not be shared with the process that is forked next.
        tools.database.dispose()
        self._tools = tools
        self.service = Service(tools)

    @property
    def tools(self) -> Tools:
        """What the plug-in works with, once it is set up."""
        assert self._tools is not None, "setup() has not been called"  # noqa: S101
        return self._tools

    def _start(self) -> None:
        if self.service is not None and self._conf.vmexpire_worker.enabled:
            self.service.start()

    # Hooks that are pokes ----------------------------------------------------------------------

    def on_start(self, resource_id: str) -> None:
        """Take note that a lease began."""
        self._poke(resource_id)

    def before_end(self, resource_id: str) -> None:
        """Take note that a lease is about to end."""
        self._poke(resource_id)

    def on_end(self, resource_id: str) -> None:
        """Take note that a lease ended, or is being deleted."""
        self._poke(resource_id)

    def _poke(self, server_id: str) -> None:
        @retried
        def poke() -> None:
            with self.tools.database.begin() as connection:
                db_api.poke(connection, [server_id], self.tools.clock())

        poke()
        self._wake()

    # What Blazar asks --------------------------------------------------------------------------

    def get(self, resource_id: str) -> dict[str, Any]:
        """Describe a VM, for Blazar's usage enforcement."""
        with self.tools.database.begin() as connection:
            row = db_api.get(connection, resource_id)
        found: dict[str, Any] = {"id": resource_id, "server_id": resource_id}
        if row is not None:
            found |= {"project_id": row.project_id, "user_id": row.user_id}
        return found

    def list_allocations(self, query: dict[str, Any], detail: bool = False) -> list[dict[str, Any]]:
        """List the VMs that have a lease, each with its reservation."""
        with self.tools.database.begin() as connection:
            found = leases.allocations(connection, query.get("reservation_id"))
        return [
            {"resource_id": server_id, "reservations": reservations}
            for server_id, reservations in found.items()
        ]

    def query_allocations(
        self,
        resource_id_list: list[str],
        lease_id: str | None = None,
        reservation_id: str | None = None,
    ) -> dict[str, list[dict[str, Any]]]:
        """Return the reservations of some VMs."""
        with self.tools.database.begin() as connection:
            found = leases.allocations(connection, reservation_id)
        return {
            server_id: [
                reservation
                for reservation in found.get(server_id, [])
                if lease_id is None or reservation["lease_id"] == lease_id
            ]
            for server_id in resource_id_list
        }

    def allocation_candidates(self, lease_values: dict[str, Any]) -> list[str]:
        """Say which VM a reservation is for: of an existing one its own.

        :raises blazar.exceptions.InvalidInput: for a new one, saying what is wrong with it.
        :raises blazar.manager.exceptions.CantUpdateParameter: 409: the VM cannot have one now.
        """
        server_id = lease_values.get("resource_id")
        if "id" not in lease_values or server_id is None:
            server_id = _server_id(lease_values)
            with _refusals():
                self._request(server_id, lease_values, None)
        return [server_id]

    def reserve_resource(self, reservation_id: str, values: dict[str, Any]) -> str:
        """Take note that Blazar makes a lease for a VM: once it has started, it is the VM's.

        :returns: the VM's UUID, which is to be the reservation's ``resource_id``.
        :raises blazar.exceptions.InvalidInput: saying what is wrong.
        :raises blazar.manager.exceptions.CantUpdateParameter: 409: the VM cannot have one now.
        """
        server_id = _server_id(values)
        with _refusals():
            self._request(server_id, values, reservation_id)
        return server_id

    @retried
    def _request(self, server_id: str, values: dict[str, Any], reservation_id: str | None) -> None:
        caller, now = access.caller(), self.tools.clock()
        wish = explicit.Wish(
            values=values,
            reservation_id=reservation_id,
            default_before_end=datetime.timedelta(
                minutes=self._conf.manager.minutes_before_end_lease
            ),
        )
        with self.tools.database.begin() as connection:
            row = explicit.known(connection, server_id, caller)
            explicit.request(
                connection,
                row,
                wish,
                caller=caller,
                verdict=choice.own_verdict(self.tools.book, connection, row, now),
                possible=self._possible(),
                now=now,
            )

    def _possible(self) -> dict[str, list[str]]:
        """Say which actions there are for each time."""
        actions = self.tools.actions.items()
        return {
            "before_end_action": [name for name, action in actions if action.before_end],
            "on_end_action": [name for name, action in actions if action.on_end],
        }

    def update_reservation(self, reservation_id: str, values: dict[str, Any]) -> None:
        """Decide whether a lease may be changed, and change our own clock if so.

        Blazar asks before it writes anything; what is raised here leaves the lease as it was.

        :param values: ``start_date`` and ``end_date`` as naive UTC datetimes, and whatever else the
            request said about this reservation.
        :raises blazar.exceptions.InvalidInput: 400: the date, or an action, is not allowed.
        :raises blazar.manager.exceptions.CantUpdateParameter: 409: the VM is being deleted, or its
            actions cannot be changed now.
        """
        end_date = values.get("end_date")
        unknown = sorted(set(values) - _CHANGEABLE)
        if unknown:
            raise blazar_exceptions.InvalidInput(
                f"of a {RESOURCE_TYPE} reservation only {' and '.join(choice.KEYS)} can be changed:"
                f" not {', '.join(map(str, unknown))}"
            )
        if not isinstance(end_date, datetime.datetime) or not isinstance(
            values.get("start_date"), datetime.datetime
        ):
            # They would hide the lease's own dates, which Blazar is going to write, from us.
            raise blazar_exceptions.InvalidInput(
                "start_date and end_date belong to the lease, not to its reservation"
            )
        with _refusals():
            self._update(reservation_id, values)
        self._wake()

    @retried
    def _update(self, reservation_id: str, values: dict[str, Any]) -> None:
        caller = access.caller()
        now = self.tools.clock()
        new_end = values["end_date"]
        with self.tools.database.begin() as connection:
            server_id = leases.server_of(connection, reservation_id)
            if server_id is None:
                raise extension.NotAllowed(f"reservation {reservation_id} is not for a server")
            row = extension.movable(connection, server_id)
            explicit.refuse_pending(row, reservation_id)
            if row.adopted_at is None:
                raise extension.NotFound(server_id)
            begun = lifecycle.floor_minute(row.adopted_at)
            if values["start_date"] != begun:
                raise extension.NotAllowed(
                    f"start_date cannot be changed: the lease began {begun:%Y-%m-%d %H:%M} UTC"
                )
            own = choice.own_verdict(self.tools.book, connection, row, now)
            actions = choice.parse(values, own.terms, self._possible())
            other_end = new_end if new_end != row.ends_at else None
            choice.check(row, actions, own.terms, now, other_end)
            row = choice.change(
                connection,
                row,
                actions,
                caller=caller,
                verdict=own,
                now=now,
                next_at=now + extension.SETTLE,
            )
            extension.move_end(
                connection,
                server_id,
                new_end,
                caller=caller,
                terms=lifecycle.with_choice(own.terms, row.chosen),
                now=now,
            )

    # What our own API asks -----------------------------------------------------------------------

    @oslo_messaging.expected_exceptions(  # type: ignore[untyped-decorator]
        blazar_exceptions.BlazarException
    )
    def serve(self, request: str, arguments: Mapping[str, Any]) -> Any:
        """Do what our API asks; see :class:`blazar_vmexpire.api.serving.Serving`.

        Called over RPC as ``virtual:vm:serve``, in the caller's context.

        :raises blazar.exceptions.BlazarException: as the API is to tell it.
        """
        return Serving(self.tools, self._wake).answer(request, arguments)

    def _wake(self) -> None:
        if self.service is not None:
            self.service.worker.wake()
