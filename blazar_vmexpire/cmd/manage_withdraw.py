# SPDX-License-Identifier: Apache-2.0
"""``blazar-vmexpire-manage withdraw``: let go of everything, to take the plug-in out."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from typing import Any

from keystoneauth1 import exceptions as ksa_exceptions
from oslo_config import cfg
from oslo_utils import timeutils

from blazar_vmexpire import RESOURCE_TYPE
from blazar_vmexpire.cmd.manage_base import (
    CommandError,
    Commands,
    Progress,
    administrator,
    connected,
    duration,
    shown,
)
from blazar_vmexpire.db.api import Expiration
from blazar_vmexpire.intake import queues
from blazar_vmexpire.intake.queues import PoolQueue, QueueLeft
from blazar_vmexpire.withdrawal import Survey, Withdrawal
from blazar_vmexpire.worker import showing
from blazar_vmexpire.worker.service import Worker
from blazar_vmexpire.worker.showing import Showing
from blazar_vmexpire.worker.tools import Tools, assemble

#: Between two looks at what is left, in seconds.
_PAUSE = 0.5
#: How many VMs are named of those that could not be let go of.
_NAMED = 20


def add_commands(commands: Commands[Any]) -> None:
    """Add ``withdraw``."""
    withdraw = commands.add_parser(
        "withdraw",
        help="let go of every VM and remove all leases of VMs; without --yes only say what it does",
        description="Unlock what was locked, start what was stopped before its end, remove all"
        " leases of VMs from Blazar's tables, and what was written to the VMs' metadata, and delete"
        " the queue of our notification pool on RabbitMQ, so that the plug-in can be taken out. VMs"
        " that were shelved or stopped at their end stay so. The history stays."
        f" [{RESOURCE_TYPE}] scope must be none, in the configuration of every blazar-manager that"
        " runs: one that still has 'all' would take the VMs in again. The queue is left while a"
        " listener of ours reads from it, and when the message bus cannot be reached: all else is"
        " done, and the exit status is 1. The command can be run again.",
    )
    withdraw.add_argument("--yes", action="store_true", help="do it")
    withdraw.add_argument(
        "--wait",
        metavar="DURATION",
        type=duration,
        default="10m",
        help="how long to wait for VMs that have to be unlocked or started (default: 10m)",
    )
    withdraw.add_argument(
        "--keep-metadata",
        action="store_true",
        help="leave the VMs' metadata as they are: to remove them takes two requests to Nova for"
        " each VM, at the pace that [vmexpire_metadata] per_second allows",
    )
    withdraw.set_defaults(run=_withdraw)


def _withdraw(conf: cfg.ConfigOpts, arguments: Any) -> None:
    scope = conf[RESOURCE_TYPE].scope
    if scope != "none":
        raise CommandError(
            f"[{RESOURCE_TYPE}] scope is {scope}: set it to none and restart blazar-manager first,"
            " or it would take every VM in again"
        )
    with connected(conf) as database:
        withdrawal = Withdrawal(database, timeutils.utcnow, administrator())
        survey = withdrawal.survey()
        _preview(survey)
        queue = _preview_queue(conf)
        if not arguments.yes:
            print("Nothing was changed. With --yes it is done.")
            return
        progress = Progress()
        done = withdrawal.let_go(
            lambda number: progress.show(f"{number} of {survey.untouched} VMs let go")
        )
        left = list(withdrawal.held())
        if left:
            withdrawal.hasten()
            left = _give_back(conf, withdrawal, arguments.wait.total_seconds(), progress)
        swept = withdrawal.sweep(lambda number: progress.show(f"{number} leases removed"))
        print(f"Done: {done} VMs let go at once, {swept} leases beside theirs removed.")
        queue_left = _delete(queue)
        kept = 0 if arguments.keep_metadata else _remove_metadata(conf, withdrawal, progress)
    unfinished = []
    if left:
        unfinished.append(_what_is_left(left))
    if kept:
        unfinished.append(
            f"the metadata of {kept} VMs could not be removed yet, because Nova does not take a"
            " change in the state that they are in, or did not answer; run it again later, or with"
            " --keep-metadata"
        )
    if queue_left:
        unfinished.append(queue_left)
    if unfinished:
        raise CommandError("; ".join(unfinished))
    print("Now take virtual.vm.plugin out of [manager] plugins and restart blazar-manager.")


def _preview(survey: Survey) -> None:
    print(f"Leases of VMs to be removed: {survey.leases}")
    print(f"VMs of which only the lease is removed: {survey.untouched}")
    print(f"VMs whose metadata tell their end, which is removed: {survey.labelled}")
    for title, rows in (
        ("VMs to be unlocked", survey.unlock),
        ("VMs to be started", survey.start),
        ("VMs that were shelved or stopped at their end, and stay so", survey.kept),
        ("VMs whose deletion was asked of Nova already, which goes on", survey.going),
    ):
        print(f"{title}: {len(rows)}")
        for row in rows:
            print(f"  {row.server_id}  {shown(row.server_name)}")


def _preview_queue(conf: cfg.ConfigOpts) -> PoolQueue | None:
    try:
        queue = queues.of(conf)
    except QueueLeft as error:
        print(f"Queue to be deleted: none; {error}")
        return None
    print(f"Queue to be deleted: {shown(queue)}")
    return queue


def _delete(queue: PoolQueue | None) -> str:
    """Delete it, if there is one; return what to say when it was left."""
    if queue is None:
        return ""
    try:
        was_there = queue.delete()
    except QueueLeft as error:
        command = ["rabbitmqctl", "delete_queue", "--vhost", queue.virtual_host, queue.name]
        # To delete it while one listens is no use: it would make the queue anew.
        return (
            f"queue {shown(queue.name)} was left: {shown(error)}; it would grow when nobody reads"
            " it any more: stop every blazar-manager and blazar-vmexpire-worker that listens, or"
            " set [vmexpire_intake] notifications to false and restart them, and run this again, or"
            f" on RabbitMQ's own machine: {shown(shlex.join(command))}"
        )
    print(f"Queue {shown(queue.name)} {'deleted' if was_there else 'is not there (any more)'}.")
    return ""


def _give_back(
    conf: cfg.ConfigOpts, withdrawal: Withdrawal, seconds: float, progress: Progress
) -> list[Expiration]:
    """Work until nothing is held any more, or time is up; return what still is."""
    tools = _assemble(conf)
    worker = Worker(tools)
    worker.start()
    until = time.monotonic() + seconds
    try:
        while (left := list(withdrawal.held())) and time.monotonic() < until:
            progress.show(f"{len(left)} VMs are still to be given back")
            time.sleep(_PAUSE)
    finally:
        worker.stop()
        tools.database.engine.dispose()
    return left


def _remove_metadata(conf: cfg.ConfigOpts, withdrawal: Withdrawal, progress: Progress) -> int:
    """Remove what was written to the metadata of VMs; say of how many that was not possible."""
    found = left = withdrawal.labelled()
    if not found:
        return 0
    tools = _assemble(conf)
    try:
        shower = Showing(tools)
        while left:
            again_at = time.monotonic() + showing.INTERVAL.total_seconds()
            tried = shower.run()
            before, left = left, withdrawal.labelled()
            # Managers that still run remove some, too: then it goes on without us.
            if not left or (not tried and left == before):
                break
            progress.show(f"{found - left} of {found} VMs' metadata removed")
            time.sleep(max(0.0, again_at - time.monotonic()))
    finally:
        tools.database.engine.dispose()
    return left


def _assemble(conf: cfg.ConfigOpts) -> Tools:
    try:
        return assemble(conf)
    except (ksa_exceptions.ClientException, RuntimeError) as error:
        raise CommandError(f"the cloud cannot be reached: {error}") from error


def _what_is_left(left: Sequence[Expiration]) -> str:
    named = ", ".join(
        f"{row.server_id} ({row.state}{': ' + shown(row.last_error) if row.last_error else ''})"
        for row in left[:_NAMED]
    )
    more = f" and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
    return (
        f"{len(left)} VMs could not be let go of yet: {named}{more}; see to what is said of them"
        " and run it again; if there are new ones each time, a blazar-manager still runs with"
        " scope = all: restart it"
    )
