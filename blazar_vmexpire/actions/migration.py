# SPDX-License-Identifier: Apache-2.0
"""Moving the VM to another host: live where it runs, cold where it is stopped.

Nova's scheduler has the last word on the host, whoever named it. A cold migration has to be
confirmed, which may be later than an extension of the lease: so that it has to be is noted as
something to undo, and the VM does not stay in VERIFY_RESIZE whatever comes between.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable

from blazar_vmexpire import RESOURCE_TYPE, lifecycle
from blazar_vmexpire.actions.base import Action, Done, Job, Outcome, Wait
from blazar_vmexpire.cloud import Cloud, errors, servers
from blazar_vmexpire.cloud.servers import Server
from blazar_vmexpire.exceptions import ActionFailed

#: What an extension finds under ``undo`` while a cold migration has to be confirmed: the id of the
#: VM's last migration before it.
CONFIRM = "confirm"

#: How Nova calls the two.
_LIVE, _COLD = "live-migration", "migration"
_KIND = {"ACTIVE": _LIVE, "PAUSED": _LIVE, "SHUTOFF": _COLD}
_OVER = frozenset({"completed", "confirmed"})
_CAME_TO_NOTHING = frozenset({"error", "failed", "cancelled", "reverted", "reverting"})

#: How often Nova is asked that takes the request, and then knows of no migration.
_MOST_ASKED = 3


def find_ours(cloud: Cloud, server_id: str, before: str, kind: str) -> servers.Migration | None:
    """Find the migration that we asked for, if Nova has begun it.

    :param before: id of the last one before it; empty when there was none.
    :raises errors.CloudError: Nova gave no answer that would be one.
    """
    for migration in cloud.nova.migrations(server_id):
        if migration.id == before:
            break
        if migration.kind == kind and migration.project_id == cloud.keystone.service_project_id:
            return migration
    return None


def finish(cloud: Cloud, server: Server, before: str, fence: Callable[[], None]) -> bool:
    """Do the next step of confirming a cold migration of ours.

    That somebody else has begun one, or a resize, is their own business.

    :param before: what was noted under :data:`CONFIRM`.
    :param fence: called right before Nova is asked to confirm.
    :returns: True when there is nothing left to confirm.
    :raises errors.CloudError: Nova did not do what it was asked.
    """
    if server.task_state is not None:
        return False
    ours = find_ours(cloud, server.id, before, _COLD)
    if ours is None or ours.status in _OVER | _CAME_TO_NOTHING:
        return True
    if ours.status == "finished" and server.status == "VERIFY_RESIZE":
        fence()
        cloud.nova.confirm_resize(server.id)
    return False


class Migration(Action):
    """Ask for it, see it through, confirm it."""

    before_end = True

    def check(self, server: Server) -> None:
        """Refuse VMs that Nova moves in no way."""
        if server.status not in _KIND:
            raise ActionFailed(
                f"Nova migrates no server in status {server.status}",
                "nothing has to be done: the end comes as announced; to have it moved all the same,"
                " bring it to ACTIVE or SHUTOFF and move it by hand",
            )

    def advance(self, job: Job) -> Outcome:
        """Do the one next step."""
        kind = job.notes.get("kind")
        if kind is None:
            return self._begin(job)
        if job.server.task_state is not None:
            return self._wait(job)
        ours = find_ours(job.cloud, job.server.id, job.notes["before"], kind)
        if ours is None:
            return self._ask(job, job.notes.get("host"))
        if ours.status in _OVER:
            job.forget_undo(CONFIRM)
            return Done({"kind": kind, "from_host": ours.source, "to_host": job.server.host})
        if ours.status in _CAME_TO_NOTHING:
            job.forget_undo(CONFIRM)
            return self._next_host(job, f"Nova has it as {ours.status}")
        wait = self._wait(job)
        if ours.status == "finished" and job.server.status == "VERIFY_RESIZE":
            job.intend("confirm")
            job.cloud.nova.confirm_resize(job.server.id)
            job.report("resize_confirmed", to_host=job.server.host)
        return wait

    @staticmethod
    def _wait(job: Job) -> Wait:
        timeout: datetime.timedelta = job.conf.vmexpire_worker.migration_timeout
        # What Nova did not take for so long, because it was away, has not been under way.
        lasting = job.lasting() if job.notes["step"] == "confirm" else job.stepping_for()
        if lasting <= timeout:
            return job.look_again()
        raise ActionFailed(
            f"its migration has been under way for {timeout}",
            "look at the logs of nova-compute on both hosts; a server in VERIFY_RESIZE is confirmed"
            " by the end of its lease, or by an extension",
        )

    def _begin(self, job: Job) -> Outcome:
        targets = _targets(job)
        if job.server.host in (targets or []):
            return Done({"on_host": job.server.host, "reason": "it is where it should be"})
        if targets is not None:
            up = job.cloud.nova.hosts_up()
            # Of an aggregate's hosts, another one for each VM.
            targets = sorted(up.intersection(targets), key=lambda host: _share(job, host))
            if not targets:
                raise ActionFailed(
                    "no host that it could be moved to is up and enabled",
                    "look at migration_host and migration_aggregate, and at"
                    " `openstack compute service list`",
                )
        return self._ask_anew(job, targets[0] if targets else None, (targets or [])[1:])

    def _ask_anew(self, job: Job, host: str | None, others: list[str]) -> Outcome:
        self.check(job.server)
        past = job.cloud.nova.migrations(job.server.id)
        job.notes |= {
            "kind": _KIND[job.server.status],
            "before": past[0].id if past else "",
            "host": host,
            "others": others,
            "asked": 0,
        }
        return self._ask(job, host)

    def _ask(self, job: Job, host: str | None) -> Outcome:
        """Ask Nova, which does it later; again, if it has forgotten."""
        self.check(job.server)
        if _KIND[job.server.status] != job.notes["kind"]:
            # It was started or stopped, before Nova has heard of anything.
            return self._ask_anew(job, host, job.notes["others"])
        if job.notes["asked"] >= _MOST_ASKED:
            job.forget_undo(CONFIRM)
            raise ActionFailed(
                f"Nova was asked {_MOST_ASKED} times, and knows of no migration",
                "look at the log of nova-conductor",
            )
        live = job.notes["kind"] == _LIVE
        job.intend(
            "migrate",
            undo=None if live else {CONFIRM: job.notes["before"]},
        )
        move = job.cloud.nova.live_migrate if live else job.cloud.nova.migrate
        try:
            move(job.server.id, host)
        except errors.Refused as refused:
            job.forget_undo(CONFIRM)
            return self._next_host(job, str(refused))
        job.note(asked=job.notes["asked"] + 1)
        job.report("migration_asked", kind=job.notes["kind"], host=host)
        return job.look_again()

    def _next_host(self, job: Job, problem: str) -> Outcome:
        """Try the next host of the aggregate, if there is one."""
        host, others = job.notes.get("host"), job.notes["others"]
        if not others:
            raise ActionFailed(
                f"it could not be moved to {host or 'any other host'}: {problem}",
                f"`openstack server event list {job.server.id}` and the log of nova-scheduler tell"
                " more",
            )
        job.report("migration_failed", host=host, reason=problem)
        return self._ask_anew(job, others[0], others[1:])


def _targets(job: Job) -> list[str] | None:
    """Say which hosts the operator wants VMs on; None leaves it to Nova."""
    options = job.conf[RESOURCE_TYPE]
    if options.migration_host:
        return [options.migration_host]
    if not options.migration_aggregate:
        return None
    hosts = job.cloud.nova.aggregate_hosts(options.migration_aggregate)
    if hosts is None:
        raise ActionFailed(
            f"Nova has no host aggregate {options.migration_aggregate!r}",
            "set migration_aggregate to the name of one",
        )
    return hosts


def _share(job: Job, host: str) -> float:
    return lifecycle.share(f"{job.server.id} {host}")
