# SPDX-License-Identifier: Apache-2.0
"""What our commands have in common: the client, tables of VMs, doing something to several VMs."""

from __future__ import annotations

import argparse
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from keystoneauth1 import exceptions as ksa_exceptions
from osc_lib import exceptions
from osc_lib.command import command

from blazar_vmexpire.client import Client, VmExpirations
from blazar_vmexpire.osc.columns import StateOf, Text, TimeLeft

Vm = Mapping[str, Any]
Table = tuple[Sequence[str], Iterable[Sequence[Any]]]

_Result = TypeVar("_Result")

#: What a person wants first of a VM.
_SHORT: tuple[tuple[str, Callable[[Vm], Any]], ...] = (
    ("Name", lambda vm: Text(vm["server_name"])),
    ("Ends In", lambda vm: TimeLeft.of(vm["ends_at"])),
    ("Ends At", lambda vm: vm["ends_at"]),
    ("State", lambda vm: StateOf(vm["state"])),
)
_REST: tuple[tuple[str, Callable[[Vm], Any]], ...] = (
    ("ID", lambda vm: vm["server_id"]),
    ("Latest Allowed End", lambda vm: vm["latest_allowed_end"]),
    ("Extendable From", lambda vm: vm["extendable_from"]),
    ("Extensions", lambda vm: vm["extensions"]),
    ("Extensions Left", lambda vm: vm["extensions_left"]),
    ("Next Notice At", lambda vm: vm["next_notice_at"]),
    ("Quarantine At", lambda vm: vm["quarantine_at"]),
    ("Before End Action", lambda vm: vm["before_end_action"]),
    ("On End Action", lambda vm: vm["on_end_action"]),
    ("Rule", lambda vm: vm["rule"]),
    ("Project ID", lambda vm: vm["project_id"]),
    ("User ID", lambda vm: vm["user_id"]),
    ("Lease ID", lambda vm: vm["lease_id"]),
)


def client_of(asked: command.Command) -> Client:
    """Return the client that a command asks."""
    # The OpenStack client puts it there, by the name of our plug-in.
    client: Client = asked.app.client_manager.vm_expiration  # type: ignore[attr-defined]
    return client


def as_uuid(text: str) -> str | None:
    """Return a UUID as it is written usually; None if the text is none."""
    try:
        return str(uuid.UUID(text))
    except ValueError:
        return None


def id_of(vms: VmExpirations, name_or_id: str, *, all_projects: bool) -> str:
    """Return the UUID of a VM; one that is given is not asked for.

    :raises LookupError: no VM has this name, or several have.
    """
    found = as_uuid(name_or_id)
    if found is None:
        found = str(vms.find(name_or_id, all_projects=all_projects)["server_id"])
    return found


def add_long(parser: argparse.ArgumentParser) -> None:
    """Have all columns shown, if one wants that."""
    parser.add_argument(
        "--long",
        action="store_true",
        help="List all columns; -c can name any of them without it",
    )


def table(vms: Iterable[Vm], parsed_args: argparse.Namespace) -> Table:
    """Show VMs in a table."""
    columns = _SHORT + _REST if parsed_args.long or parsed_args.columns else _SHORT
    return [name for name, _ in columns], ([show(vm) for _, show in columns] for vm in vms)


class Several:
    """Does something to several VMs: one for which it fails keeps no other from it.

    :param asked: the command; its log has each failure.
    :param done: what is done, as in "failed to extend".
    """

    def __init__(self, asked: command.Command, done: str) -> None:
        self._log = asked.log
        self._done = done
        self._named = 0
        self._failed = 0

    def each(self, names: Sequence[str], act: Callable[[str], _Result]) -> list[_Result]:
        """Do it, and return the results where it could be done.

        A service that fails altogether is not asked for the rest.

        :raises LookupError, keystoneauth1.exceptions.HttpError: it failed for the only one.
        """
        self.count(len(names))
        results = []
        for n, name in enumerate(names):
            try:
                results.append(act(name))
            except (LookupError, ksa_exceptions.HttpError) as error:
                if len(names) == 1:
                    raise
                self.failed(name, str(error))
                if isinstance(error, ksa_exceptions.HttpServerError):
                    for other in names[n + 1 :]:
                        self.failed(other, "not tried")
                    break
        return results

    def count(self, named: int) -> None:
        """Take note of VMs that are meant."""
        self._named += named

    @property
    def has_failed(self) -> bool:
        """Whether it has failed for one so far."""
        return self._failed > 0

    def failed(self, name: str, why: str) -> None:
        """Take note of a failure."""
        self._failed += 1
        self._log.error("Failed to %s VM %s: %s", self._done, name, why)

    def conclude(self) -> None:
        """Say how many failed, after what was done has been shown.

        :raises osc_lib.exceptions.CommandError: some have.
        """
        if self._failed:
            raise exceptions.CommandError(
                f"{self._failed} of {self._named} VMs failed to {self._done}."
            )


class SeveralLister(command.Lister):
    """A command that does something to several VMs, and lists those that it has done it to."""

    #: As in "failed to extend".
    done: str

    def run(self, parsed_args: argparse.Namespace) -> int:
        """Do it, show it, and say how many failed."""
        self.several = Several(self, self.done)
        code = super().run(parsed_args)
        self.several.conclude()
        return code
