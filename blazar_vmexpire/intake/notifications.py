# SPDX-License-Identifier: Apache-2.0
"""Listening to Nova's notifications: the fast leg of intake.

A notification of either format means only "look at this UUID". What it claims beyond that is not
believed: a worker asks Nova. So one that is forged, doubled or late does no harm, and one that is
lost is made good by reconciliation.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import oslo_messaging
import sqlalchemy as sa
from oslo_config import cfg
from oslo_log import log as logging
from oslo_utils import uuidutils

from blazar_vmexpire import lifecycle
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db.engine import Database, retried
from blazar_vmexpire.db.models import expirations
from blazar_vmexpire.exceptions import ConfigError
from blazar_vmexpire.intake.arrivals import Arrivals
from blazar_vmexpire.labels import Labels
from blazar_vmexpire.worker.claims import Clock

LOG = logging.getLogger(__name__)

#: Events after which a VM's expiration may have to change, unversioned names; versioned ones are
#: the same without the leading ``compute.``.
_EVENTS = frozenset(
    f"compute.instance.{event}"
    for event in (
        "create.end",
        "delete.end",
        "finish_resize.end",
        "force_delete.end",
        # Also of a shelved one that is still on its host, and is unshelved.
        "power_on.end",
        "rebuild.end",
        "restore.end",
        "soft_delete.end",
        # Versioned only.
        "unlock",
        "unrescue.end",
        "unshelve.end",
    )
)
#: Those of them that tell of a deletion. The third is unversioned only: its host was down.
_DELETIONS = frozenset(
    f"compute.instance.{event}.end" for event in ("delete", "soft_delete", "force_delete")
)
#: Comes with each change of a VM's state and metadata, if Nova is told to send it: far too often
#: to look at the VM each time.
_UPDATE = "compute.instance.update"
#: A longer one is none of Nova's.
_MOST_EVENT_NAME = 255

#: How long a start and a stop wait for the message bus, in seconds.
_PATIENCE = 5.0
#: Between two tries to listen, in seconds.
_AGAIN = 10.0
#: What oslo.messaging raises for a transport URL, for options in it, and for want of a library.
_UNUSABLE = (
    oslo_messaging.InvalidTransportURL,
    oslo_messaging.DriverLoadFailure,
    ValueError,
    cfg.NoSuchOptError,
    ImportError,
)


def server_of(event_type: Any, payload: Any) -> str | None:
    """Say which VM a notification is about; None when it does not concern us or makes no sense.

    :param payload: of either format: ``instance_id`` (unversioned) or
        ``nova_object.data`` with ``uuid`` (versioned).
    """
    if not isinstance(event_type, str) or len(event_type) > _MOST_EVENT_NAME:
        return None
    if _unversioned(event_type) not in _EVENTS and not tells_of_update(event_type):
        return None
    found: Any = None
    if isinstance(payload, Mapping):
        data = payload.get("nova_object.data")
        found = data.get("uuid") if isinstance(data, Mapping) else payload.get("instance_id")
    if not isinstance(found, str) or not uuidutils.is_uuid_like(found):
        shown = repr(found[:80]) if isinstance(found, str) else type(found).__name__
        LOG.warning("Notification %s names no server: %s is no UUID", event_type, shown)
        return None
    # It becomes a key, so it has to be spelled as Nova's list spells it.
    return str(uuid.UUID(found))


def tells_of_deletion(event_type: str) -> bool:
    """Say whether a notification that concerns us says that a VM was deleted."""
    return _unversioned(event_type) in _DELETIONS


def tells_of_update(event_type: str) -> bool:
    """Say whether a notification that concerns us says only that something of a VM changed."""
    return _unversioned(event_type) == _UPDATE


def metadata_of(payload: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Say which metadata a notification shows, of either format; None where it shows none."""
    data = payload.get("nova_object.data", payload)
    found = data.get("metadata") if isinstance(data, Mapping) else None
    return found if isinstance(found, Mapping) else None


def _unversioned(event_type: str) -> str:
    return event_type if event_type.startswith("compute.") else f"compute.{event_type}"


class Endpoint:
    """Receives notifications and makes the VMs they name due.

    :param wake: called after that, to wake a worker in this process.
    :param labels: keys of metadata in which an edit is looked for; None: in none.
    :param arrivals: notes that notifications come; None: nobody does.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        wake: Callable[[], None],
        labels: Labels | None = None,
        arrivals: Arrivals | None = None,
    ) -> None:
        self._labels = labels
        self._arrivals = arrivals
        self._database = database
        self._clock = clock
        self._wake = wake

    def info(
        self, context: Any, publisher_id: Any, event_type: Any, payload: Any, metadata: Any
    ) -> Any:
        """Take a notification of priority info."""
        return self._take(event_type, payload)

    def warn(
        self, context: Any, publisher_id: Any, event_type: Any, payload: Any, metadata: Any
    ) -> Any:
        """Take a notification of priority warn."""
        return self._take(event_type, payload)

    def error(
        self, context: Any, publisher_id: Any, event_type: Any, payload: Any, metadata: Any
    ) -> Any:
        """Take a notification of priority error."""
        return self._take(event_type, payload)

    def _take(self, event_type: Any, payload: Any) -> Any:
        server_id = server_of(event_type, payload)
        if server_id is not None:
            try:
                if self._arrivals is not None:
                    self._arrivals.note()
                if tells_of_update(event_type):
                    if not self._look_if_edited(server_id, metadata_of(payload)):
                        return oslo_messaging.NotificationResult.HANDLED
                else:
                    self._see(server_id, deletion_told=tells_of_deletion(event_type))
            except Exception:
                # The message goes back to the queue and comes again.
                LOG.exception("Server %s could not be noted; the notification is kept", server_id)
                return oslo_messaging.NotificationResult.REQUEUE
            self._wake()
        return oslo_messaging.NotificationResult.HANDLED

    @retried
    def _see(self, server_id: str, *, deletion_told: bool) -> None:
        with self._database.begin() as connection:
            db_api.see(connection, server_id, self._clock(), deletion_told=deletion_told)

    @retried
    def _look_if_edited(self, server_id: str, metadata: Mapping[str, Any] | None) -> bool:
        """Have a VM looked at whose end in its metadata is not what we wrote there.

        The notification is not believed in this either: what it shows only spares a look at a VM
        of which it shows nothing new. One short read decides that; nothing is written for it.
        """
        if self._labels is None or metadata is None:
            return False
        x = expirations.c
        with self._database.begin() as connection:
            row = connection.execute(
                sa.select(x.state, x.shown_end, x.shown_state, x.show_after).where(
                    x.server_id == server_id
                )
            ).one_or_none()
            if (
                row is None
                or row.state not in lifecycle.LEASED
                or not self._labels.edited(metadata, row)
            ):
                return False
            return db_api.ask(connection, [server_id], self._clock()) > 0


def check(conf: cfg.ConfigOpts) -> None:
    """Check what a listener needs, without one. Nothing is connected.

    :raises ConfigError: the message bus is none that oslo.messaging knows.
    """
    if conf.vmexpire_intake.notifications:
        bus_of(conf)


def bus_of(conf: cfg.ConfigOpts) -> oslo_messaging.TransportURL:
    """Say which message bus Nova's notifications are on. Nothing is connected.

    The options of its driver are registered from then on.

    :raises ConfigError: it is none that oslo.messaging can use.
    """
    url = conf.vmexpire_intake.transport_url
    try:
        oslo_messaging.get_notification_transport(conf, url=url)
        if url is None:
            url = conf.oslo_messaging_notifications.transport_url
        return oslo_messaging.TransportURL.parse(conf, url)
    except _UNUSABLE:
        # Their words may have the password in them.
        raise ConfigError(
            "[vmexpire_intake] transport_url (or, where that is unset, the one of"
            " [oslo_messaging_notifications] or [DEFAULT]) names no message bus that can be used"
            " here: it must be like rabbit://user:password@bus.example.org:5672/, and after a ?"
            " there may only be options of its driver"
        ) from None


def make_listener(conf: cfg.ConfigOpts, endpoint: Endpoint) -> Any:
    """Make the listener: own pool, so that other consumers of Nova's notifications lose none.

    :returns: an ``oslo_messaging`` server, to be started and stopped by the caller.
    """
    options = conf.vmexpire_intake
    transport = oslo_messaging.get_notification_transport(conf, url=options.transport_url)
    targets = [
        oslo_messaging.Target(topic=topic, exchange=options.exchange) for topic in options.topics
    ]
    return oslo_messaging.get_notification_listener(
        transport,
        targets,
        [endpoint],
        executor="threading",
        allow_requeue=True,
        pool=options.pool,
    )


class Listening:
    """Listens in a thread of its own, for which it is no matter whether the message bus is there.

    To connect takes as long as the bus is away, and to let go of it may. Nothing else has to wait
    for that: VMs are found without it, and a service that is told to stop has to stop.

    :param make: makes the listener; see :func:`make_listener`.
    :param again: seconds between two tries when the bus refuses us.
    :param patience: seconds for which :meth:`start` and :meth:`stop` wait.
    """

    def __init__(
        self, make: Callable[[], Any], *, again: float = _AGAIN, patience: float = _PATIENCE
    ) -> None:
        self._make = make
        self._again = again
        self._patience = patience
        self._listening = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vmexpire-listen", daemon=True)

    def start(self) -> bool:
        """Begin, and say whether a connection was made within a few seconds; else it will be."""
        self._thread.start()
        return self._listening.wait(self._patience)

    def stop(self) -> bool:
        """End, with the message in hand noted; say whether that was possible within seconds."""
        self._stopping.set()
        self._thread.join(self._patience)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                listener = self._make()
                listener.start()
            except Exception:
                LOG.exception("Cannot listen to Nova's notifications: tried again in a moment")
                self._stopping.wait(self._again)
                continue
            self._listening.set()
            self._stopping.wait()
            listener.stop()
            listener.wait()
