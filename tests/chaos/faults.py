# SPDX-License-Identifier: Apache-2.0
"""Breaking things, and mending them, as the plan says."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from tests.chaos.plan import Act, Say
from tools.sandbox import Sandbox, SandboxError, rest

#: How often it is looked whether all lives that should, in seconds.
_WATCH = 1.0
#: How long all may take to work again when everything is mended, in seconds.
_PATIENCE = 180.0

_APIS = ("keystone", "nova-api", "glance", "blazar-api")
_COMPUTES = ("nova-compute1", "nova-compute2")


class Breaker:
    """Does to the cloud what the plan says, in a thread of its own.

    Nothing is stopped before the crowd is there: Nova breaks VMs that it is building when its
    database goes, and those are left alone. Should that take longer than planned, all that follows
    is done later by as much.

    :param began: ``time.monotonic()`` at the first boot.
    :param say: takes a line for each thing that is done.
    """

    def __init__(self, sandbox: Sandbox, acts: Sequence[Act], began: float, say: Say) -> None:
        self._sandbox = sandbox
        self._acts = acts
        self._began = began
        self._say = say
        self._given_up = threading.Event()
        #: What went wrong with the breaking itself; the run is worth nothing then.
        self.error: Exception | None = None
        #: To be set when every VM is ACTIVE and has its lease.
        self.crowd_is_there = threading.Event()
        #: What ended though nobody ended it.
        self.ended_by_themselves: list[str] = []
        self._down: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="chaos-breaker", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    @property
    def at_work(self) -> bool:
        """Whether there is anything still to be broken or mended."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Do nothing more; returns when what is being done is done."""
        self._given_up.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            for act in self._acts:
                if not self._wait_for(act):
                    return
                self._do(act)
            self._finish()
        except Exception as error:  # noqa: BLE001 - the run reports it
            self.error = error
            self._say(f"the chaos itself broke: {error}")

    def _wait_for(self, act: Act) -> bool:
        """Wait until it is time for something; False: it is not to be done any more."""
        while (left := act.at - self._elapsed) > 0:
            if self._given_up.wait(min(left, _WATCH)):
                return False
            self._start_again()
        while act.verb == "stop" and not self.crowd_is_there.is_set():
            if self._given_up.wait(_WATCH):
                return False
            self._began += _WATCH
        return True

    @property
    def _elapsed(self) -> float:
        return time.monotonic() - self._began

    def _do(self, act: Act) -> None:
        self._say(f"{act.verb} {act.service}")
        if act.verb == "start":
            self._down.discard(act.service)
            # Nobody waits for it, as nobody does in life; but Keystone refuses who comes too early.
            self._sandbox.start(act.service, wait=act.service == "keystone")
            return
        self._down.add(act.service)
        if act.verb == "kill":
            self._sandbox.kill(act.service)
        else:
            self._sandbox.stop(act.service)

    def _start_again(self) -> None:
        """Start what ended though nobody ended it, as a service manager does."""
        for found in self._sandbox.status():
            if found.state == "stopped" and found.service not in self._down:
                self.ended_by_themselves.append(found.service)
                self._say(f"{found.service} has ended by itself: starting it again")
                self._sandbox.start(found.service, wait=False)

    def _finish(self) -> None:
        """Wait until all works again, and do what an operator of Nova does then.

        Nova notes that it stops or deletes a server, and then sends that on its way. What was on
        its way when the broker, the database or the API went is lost: Nova refuses to be asked
        again, until the nova-compute is started anew, which takes it up from Nova's database.
        """
        self._wait_for_apis()
        self._say(f"starting {' and '.join(_COMPUTES)} anew, for what Nova has lost")
        for compute in _COMPUTES:
            self._sandbox.stop(compute)
            self._sandbox.start(compute, wait=False)
        self._sandbox.wait_for_workers()
        self._say("the last fault is mended")

    def _wait_for_apis(self) -> None:
        end = time.monotonic() + _PATIENCE
        while not all(rest.answers(self._sandbox.url(name)) for name in _APIS):
            if time.monotonic() > end:
                raise SandboxError(f"the APIs do not answer {_PATIENCE:.0f} s after the last fault")
            if self._given_up.wait(_WATCH):
                return
            self._start_again()
