# SPDX-License-Identifier: Apache-2.0
"""Handing something over to who may hang for ever, without hanging oneself."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable

from blazar_vmexpire.notifiers import NotDelivered, Notification, Notifier

#: How soon it is noticed that one is to stop, in seconds.
_LOOK = 0.2


class Courier:
    """Has a notifier work in a thread of its own, one notification at a time.

    :param timeout: seconds for one of them.
    :param stopping: says whether to wait no longer at all.
    """

    def __init__(
        self, notifier: Notifier, timeout: float, stopping: Callable[[], bool] = lambda: False
    ) -> None:
        self._notifier = notifier
        self._timeout = timeout
        self._stopping = stopping
        self._under_way: tuple[str, concurrent.futures.Future[None]] | None = None

    def deliver(self, notification: Notification) -> None:
        """Hand over; of one that is still under way from before, ask how it went.

        :raises NotDelivered: not in time; or another is under way that does not come to its end.
        :raises: what the notifier raises.
        """
        if self._under_way is not None and self._under_way[0] != notification.id:
            # It was for somebody to wait for who has gone on meanwhile: another worker.
            self._wait(self._under_way[1])
            self._under_way = None
        if self._under_way is None:
            self._under_way = notification.id, self._begin(notification)
        future = self._under_way[1]
        self._wait(future)
        self._under_way = None
        future.result()

    def _begin(self, notification: Notification) -> concurrent.futures.Future[None]:
        future: concurrent.futures.Future[None] = concurrent.futures.Future()

        def work() -> None:
            try:
                self._notifier.notify(notification)
            except BaseException as error:  # noqa: BLE001 - whoever waits for it raises it
                future.set_exception(error)
            else:
                future.set_result(None)

        # A daemon: a process that stops does not wait for it.
        threading.Thread(target=work, name="vmexpire-notify", daemon=True).start()
        return future

    def _wait(self, future: concurrent.futures.Future[None]) -> None:
        """Wait for its end.

        :raises NotDelivered: it has not come in time.
        """
        left = self._timeout
        while not future.done():
            if self._stopping():
                raise NotDelivered("the service stops")
            if left <= 0:
                raise NotDelivered(f"it has not come to its end within {self._timeout:g} seconds")
            concurrent.futures.wait([future], min(_LOOK, left))
            left -= _LOOK
