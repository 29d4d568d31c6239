# SPDX-License-Identifier: Apache-2.0
"""What a notifier is: it hands over one notification after the other to another program."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any

from oslo_config import cfg
from stevedore import NamedExtensionManager

from blazar_vmexpire.exceptions import ConfigError

NAMESPACE = "blazar_vmexpire.notifiers"


class NotDelivered(Exception):
    """It could not be handed over now: it is tried again, and what comes after it waits."""


class Rejected(Exception):
    """It was refused for good, and nothing else will be for that: it is left out, and logged."""


@dataclasses.dataclass(frozen=True, slots=True)
class Notification:
    """What happened to a VM, for a program."""

    id: str
    """A UUID, the same however often it is handed over."""
    event_type: str
    """``vmexpire.`` and the event, as the VM's history has it."""
    payload: Mapping[str, Any]
    """What JSON can hold; its form is that of the version that it names."""
    text: str
    """The same in one line for people."""


class Notifier(abc.ABC):
    """Hands notifications over.

    Operators can add their own by the entry point group ``blazar_vmexpire.notifiers``, and switch
    it on by its name there. One instance serves a process; it is used by one thread at a time, and
    never by those that work on VMs. It need not try again: that is done for it.

    :param conf: Blazar's options and ours. An own notifier registers its own here.
    :raises blazar_vmexpire.exceptions.ConfigError: with these options it cannot work; the sentence
        names one.
    """

    @abc.abstractmethod
    def __init__(self, conf: cfg.ConfigOpts) -> None: ...

    @abc.abstractmethod
    def notify(self, notification: Notification) -> None:
        """Hand a notification over; return when the other side has it.

        The same one may come twice, after a crash: the id tells. What takes longer than
        ``[vmexpire_notifiers] timeout`` is waited for no longer, and asked after at the next try.

        :raises NotDelivered: it is to be tried again. So it is after any other exception.
        :raises Rejected: it is to be left out.
        """

    def close(self) -> None:  # noqa: B027 - most have nothing to close
        """Let go of connections: the service stops."""


def load(conf: cfg.ConfigOpts) -> dict[str, Notifier]:
    """Make the notifiers that are switched on, by name.

    :raises ConfigError: one is not there, or cannot work with its options.
    """
    names = list(dict.fromkeys(conf.vmexpire_notifiers.enabled))

    def fail(manager: NamedExtensionManager, entry_point: Any, error: Exception) -> None:
        if isinstance(error, ConfigError):
            raise error
        raise ConfigError(
            f"[vmexpire_notifiers] enabled: {entry_point.name} cannot be loaded: {error}"
        ) from error

    if not names:
        return {}
    found = NamedExtensionManager(
        NAMESPACE,
        names,
        invoke_on_load=True,
        invoke_args=(conf,),
        on_load_failure_callback=fail,
        warn_on_missing_entrypoint=False,
    )
    notifiers = {extension.name: extension.obj for extension in found}
    missing = [name for name in names if name not in notifiers]
    if missing:
        raise ConfigError(
            f"[vmexpire_notifiers] enabled: there is no notifier {missing[0]!r} installed"
        )
    return notifiers
