# SPDX-License-Identifier: Apache-2.0
"""What an action is.

An action is run in small steps, each by whichever worker claims the VM's row next. Between two
steps nothing is remembered but the action's *notes*, which are committed with the row. Before a
call that changes something its intent is committed, so that after a crash the next worker knows
what may have been begun; each step must therefore stand being repeated.
"""

from __future__ import annotations

import abc
import dataclasses
import datetime
import random
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

from oslo_config import cfg
from stevedore import ExtensionManager

from blazar_vmexpire import lifecycle
from blazar_vmexpire.cloud import Cloud
from blazar_vmexpire.cloud.servers import Server

NAMESPACE = "blazar_vmexpire.actions"


class Ledger(Protocol):
    """Commits an action's notes to the VM's row."""

    def __call__(
        self,
        notes: Mapping[str, Any],
        *,
        irreversible: bool | None = None,
        paced: bool = False,
        undo: Mapping[str, Any] | None = None,
    ) -> None:
        """Commit.

        :param notes: replace the action's notes.
        :param irreversible: from here on an extension comes too late (or, False, no longer).
        :param paced: it can be undone, but the brake counts it, and may hold it back.
        :param undo: what an extension has to undo, added to what is there; so are, to a mapping
            that is there, the items of one of the same name. None takes one out.
        :raises blazar_vmexpire.exceptions.ClaimLost: when the VM was extended meanwhile, or taken
            over: the call that this is the intent of must not be made.
        :raises blazar_vmexpire.exceptions.Braked: nor must it be when the brake holds it back.
        """


@dataclasses.dataclass(frozen=True, slots=True)
class Wait:
    """The step is done, or under way; look again after ``delay``.

    :ivar problem: what an operator should know, if it takes unusually long.
    """

    delay: datetime.timedelta = datetime.timedelta(0)
    problem: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Done:
    """The action is complete.

    :ivar result: facts for the history and the mail, such as the image's id.
    """

    result: Mapping[str, Any] = dataclasses.field(default_factory=dict)


Outcome = Wait | Done


@dataclasses.dataclass(slots=True)
class Job:
    """One step of an action on one VM."""

    server: Server
    """As Nova showed it a moment ago."""
    project_id: str
    """The VM's project, which is to own what remains of it."""
    lease_id: str | None
    now: datetime.datetime
    """Naive UTC."""
    at_end: bool
    """Whether this is the action at the end of the lease; else the one before it."""
    conf: cfg.ConfigOpts
    cloud: Cloud
    notes: dict[str, Any]
    ledger: Ledger
    undo: Mapping[str, Any]
    """What an extension has to undo, as it was when this step began."""
    report: Callable[..., None]
    """Add to the VM's history: ``report(event, **details)``."""

    def intend(
        self,
        step: str,
        *,
        irreversible: bool = False,
        paced: bool = False,
        undo: Mapping[str, Any] | None = None,
        **notes: Any,
    ) -> None:
        """Commit what is about to be done. To be called right before a call that changes something.

        For the parameters see :class:`Ledger`.

        :raises blazar_vmexpire.exceptions.ClaimLost: it must not be done.
        :raises blazar_vmexpire.exceptions.Braked: it must not be done now.
        """
        now = self.now.isoformat()
        repeated = self.notes.get("step") == step
        begun = self.notes.get("step_begun", now) if repeated else now
        self.notes |= {"step": step, "step_begun": begun, "step_since": now, **notes}
        self.ledger(self.notes, irreversible=irreversible, paced=paced, undo=undo)

    def note(self, **notes: Any) -> None:
        """Commit what was found; None removes a note."""
        self.notes |= notes
        self.notes = {key: value for key, value in self.notes.items() if value is not None}
        self.ledger(self.notes)

    def forget_undo(self, name: str) -> None:
        """Commit that an extension need not undo something any more."""
        self.ledger(self.notes, undo={name: None})

    def lasting(self) -> datetime.timedelta:
        """Say how long ago the present step was begun for the first time."""
        return self._since("step_begun")

    def stepping_for(self) -> datetime.timedelta:
        """Say how long ago the present step was begun, or repeated."""
        return self._since("step_since")

    def _since(self, note: str) -> datetime.timedelta:
        since = self.notes.get(note)
        if since is None:
            return datetime.timedelta(0)
        return self.now - datetime.datetime.fromisoformat(since)

    def look_again(self) -> Wait:
        """Wait for what Nova or Glance is doing: the longer it takes, the less often."""
        lasting = self.lasting()
        longest = _LONGEST_LOOK if lasting < _UNUSUAL else _SELDOM_LOOK
        delay = min(max(self.stepping_for() / 4, _SHORTEST_LOOK), longest)
        if lasting < _UNUSUAL:
            return Wait(delay)
        doing = f", {self.server.task_state}" if self.server.task_state else ""
        begun = self.notes["step_begun"][:16].replace("T", " ")
        return Wait(
            delay,
            f"step {self.notes['step']} has been under way since {begun} UTC, and the server is"
            f" {self.server.status}{doing}: if nothing moves, look at the log of nova-compute on"
            " its host, and restart it",
        )

    def wait_long(self) -> Wait:
        """Wait before something costly that failed is tried again: up to retry_max_interval."""
        longest = self.conf.vmexpire_worker.retry_max_interval
        jitter = random.random()  # noqa: S311 - spreads load, guards nothing
        return Wait(lifecycle.backoff(1, longest, longest, jitter))


#: A step that takes longer is one that an operator should know of: Nova forgets what it was asked
#: for when its message bus or its database was away at the wrong moment.
_UNUSUAL = datetime.timedelta(minutes=15)
_SHORTEST_LOOK = datetime.timedelta(seconds=2)
_LONGEST_LOOK = datetime.timedelta(seconds=30)
_SELDOM_LOOK = datetime.timedelta(minutes=5)


class Action(abc.ABC):
    """Something that is done to a VM before or at the end of its lease.

    Operators can add their own by the entry point group ``blazar_vmexpire.actions``. One instance
    serves all VMs and all threads: it keeps nothing.
    """

    before_end: ClassVar[bool] = False
    """Whether it can be a ``before_end_action``."""
    paced: ClassVar[bool] = True
    """Whether the brake limits how many ends with this action are begun in an hour."""
    on_end: ClassVar[bool] = False
    """Whether it can be an ``on_end_action``."""
    keeps: ClassVar[bool] = False
    """Whether the VM is still there when it is complete at the end."""

    def check(self, server: Server) -> None:  # noqa: B027 - most have no condition
        """Say whether it can be done to this VM at all, before anything is begun.

        :raises blazar_vmexpire.exceptions.ActionFailed: it cannot, now or later.
        """

    def at_rest(self, server: Server) -> bool:
        """Say whether a VM that it has kept is still as it was left.

        If not, somebody has it in use again, and its lease begins anew. Asked only of a VM to which
        Nova is doing nothing.
        """
        return True

    @abc.abstractmethod
    def advance(self, job: Job) -> Outcome:
        """Do the one next step.

        An action at the end is complete when the VM is gone (which the caller sees by itself), or,
        if it ``keeps`` the VM, when it returns :class:`Done`.

        :raises blazar_vmexpire.cloud.errors.CloudError: the step will be tried again.
        :raises blazar_vmexpire.exceptions.ActionFailed: it cannot be done.
        """


def usable(actions: Mapping[str, Action]) -> tuple[list[str], list[str]]:
    """Name the actions that can run before the end, and those that can run at the end."""
    return (
        [name for name, action in actions.items() if action.before_end],
        [name for name, action in actions.items() if action.on_end],
    )


def load() -> dict[str, Action]:
    """Load every action there is, by name.

    :raises RuntimeError: when one cannot be loaded: an operator who installed it relies on it.
    """

    def fail(manager: ExtensionManager, entry_point: Any, error: Exception) -> None:
        raise RuntimeError(f"action {entry_point.name} cannot be loaded: {error}") from error

    found = ExtensionManager(NAMESPACE, invoke_on_load=True, on_load_failure_callback=fail)
    return {extension.name: extension.obj for extension in found}
