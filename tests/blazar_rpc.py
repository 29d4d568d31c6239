# SPDX-License-Identifier: Apache-2.0
"""RPC inside one process that does to messages what RabbitMQ does: all of them become JSON.

oslo.messaging's own ``fake://`` hands objects and exceptions over as they are. On a real bus dates
become strings, and an exception of the manager reaches the API as a ``RemoteError`` that has its
class's name only; Blazar's API behaves differently then.
"""

from __future__ import annotations

import queue
import threading
from typing import Any

import oslo_messaging
from oslo_config import cfg
from oslo_messaging._drivers import base
from oslo_messaging._drivers import common as driver_common
from oslo_messaging.transport import RPCTransport
from oslo_serialization import jsonutils

Topics = dict[str, "queue.SimpleQueue[Any]"]


def make_transport(conf: cfg.ConfigOpts) -> RPCTransport:
    """Make a transport for clients and servers in this process."""
    return RPCTransport(_Driver(conf, oslo_messaging.TransportURL(conf, "fake")))


def wait_idle(transport: RPCTransport, timeout: float = 30) -> None:
    """Wait until every request that a server has taken is answered.

    :raises TimeoutError: when one is still at work after so many seconds.
    """
    if not transport._driver.at_work.wait_for_none(timeout):
        raise TimeoutError(f"an RPC request is still at work after {timeout} s")


class _Counter:
    def __init__(self) -> None:
        self._count = 0
        self._changed = threading.Condition()

    def add(self, difference: int) -> None:
        with self._changed:
            self._count += difference
            self._changed.notify_all()

    def wait_for_none(self, timeout: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._count == 0, timeout)


class _Driver(base.BaseDriver):
    def __init__(self, conf: cfg.ConfigOpts, url: oslo_messaging.TransportURL) -> None:
        super().__init__(conf, url)
        self._topics: Topics = {}
        self.at_work = _Counter()

    def _topic(self, name: str) -> queue.SimpleQueue[Any]:
        return self._topics.setdefault(name, queue.SimpleQueue())

    def send(
        self,
        target: oslo_messaging.Target,
        ctxt: dict[str, Any],
        message: dict[str, Any],
        wait_for_reply: bool | None = None,
        timeout: float | None = None,
        **_: Any,
    ) -> Any:
        replies: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._topic(target.topic).put((jsonutils.dumps([ctxt, message]), replies))
        if not wait_for_reply:
            return None
        try:
            answer = jsonutils.loads(replies.get(timeout=timeout))
        except queue.Empty:
            raise oslo_messaging.MessagingTimeout(
                f"no reply on {target.topic} in {timeout} s"
            ) from None
        if answer["failure"] is not None:
            raise driver_common.deserialize_remote_exception(
                answer["failure"], self._allowed_remote_exmods
            )
        return answer["reply"]

    def send_notification(self, *_: Any, **__: Any) -> None:
        raise NotImplementedError("this transport is for RPC")

    def listen(
        self, target: oslo_messaging.Target, batch_size: int, batch_timeout: float
    ) -> base.PollStyleListenerAdapter:
        # What was sent while no server listened is lost, as if it had timed out.
        self._topics[target.topic] = queue.SimpleQueue()
        return base.PollStyleListenerAdapter(
            _Listener(self._topics[target.topic], self.at_work), batch_size, batch_timeout
        )

    def listen_for_notifications(self, *_: Any, **__: Any) -> None:
        raise NotImplementedError("this transport is for RPC")

    def cleanup(self) -> None:
        self._topics.clear()


class _Listener(base.PollStyleListener):
    def __init__(self, requests: queue.SimpleQueue[Any], at_work: _Counter) -> None:
        super().__init__(prefetch_size=1)
        self._requests = requests
        self._at_work = at_work
        self._stopped = False

    def poll(self, timeout: float | None = None, **_: Any) -> list[_Incoming]:
        item = None if self._stopped else self._requests.get(timeout=timeout)
        if item is None:
            return []
        message, replies = item
        self._at_work.add(1)
        return [_Incoming(*jsonutils.loads(message), replies, self._at_work)]

    def stop(self) -> None:
        self._stopped = True
        self._requests.put(None)


class _Incoming(base.RpcIncomingMessage):
    def __init__(
        self, ctxt: Any, message: Any, replies: queue.SimpleQueue[str], at_work: _Counter
    ) -> None:
        super().__init__(ctxt, message)
        self._replies = replies
        self._at_work = at_work

    def reply(self, reply: Any = None, failure: Any = None) -> None:
        if failure is not None:
            failure = driver_common.serialize_remote_exception(failure)
        self._at_work.add(-1)
        self._replies.put(jsonutils.dumps({"reply": reply, "failure": failure}))

    def acknowledge(self) -> None:
        pass

    def requeue(self) -> None:
        pass

    def heartbeat(self) -> None:
        pass
