# SPDX-License-Identifier: Apache-2.0
"""Gathering what a run leaves behind: from Nova, Glance, the database and the mail server."""

from __future__ import annotations

import collections
import datetime
import json
from collections.abc import Iterable, Iterator
from typing import Any

import sqlalchemy as sa

from blazar_vmexpire import RESOURCE_TYPE, leases
from blazar_vmexpire.db import models
from tests.chaos import facts
from tests.chaos.crowd import Member
from tests.chaos.plan import Scale
from tests.integration.cloudlib import Cloud
from tests.integration.waiting import utcnow

_SECOND = datetime.timedelta(seconds=1)


def gather(cloud: Cloud, members: Iterable[Member], scale: Scale) -> facts.Facts:
    """Gather all of it; every service has to be there again."""
    members = list(members)
    ids = {member.vm.id for member in members}
    with cloud.database.begin() as connection:
        rows = {row.server_id: row for row in connection.execute(sa.select(models.expirations))}
        history = _history(connection)
        notices = _notices(connection)
        found_leases = _leases(connection)
        braked = connection.execute(
            sa.select(models.brake.c.reason).where(models.brake.c.tripped_at.is_not(None))
        ).scalar()
        claims = connection.execute(
            sa.select(models.chores).where(
                models.chores.c.claimed_by.is_not(None),
                models.chores.c.claimed_until < utcnow(),
            )
        ).all()
    mails = _mails(cloud)
    images = _images(cloud)
    alive = {server["id"]: server["status"] for server in _servers(cloud)}
    known_images = {image.id for server_id in ids for image in images[server_id]}
    return facts.Facts(
        lease_duration=scale.lease * _SECOND,
        minimum_notice=scale.minimum_notice * _SECOND,
        vms=tuple(
            facts.VmFacts(
                name=f"{member.plan.name} {member.vm.id}",
                server_id=member.vm.id,
                project_id=member.vm.owner.project_id,
                asked_at=member.asked_at,
                granted=tuple(member.granted),
                status=alive.get(member.vm.id),
                **_of_row(rows.get(member.vm.id)),
                history=tuple(history[member.vm.id]),
                notices=tuple(notices[member.vm.id]),
                mails=tuple(mails[member.vm.id]),
                actions=tuple(_actions(cloud, member)),
                images=tuple(images[member.vm.id]),
                leases=tuple(found_leases[member.vm.id]),
            )
            for member in members
        ),
        dead_claims=tuple(f"{row.name} is claimed by {row.claimed_by}" for row in claims),
        braked=braked,
        other_images=tuple(
            image.id for found in images.values() for image in found if image.id not in known_images
        ),
        other_leases=tuple(
            lease.id for server_id in found_leases.keys() - ids for lease in found_leases[server_id]
        ),
    )


def _of_row(row: sa.Row[Any] | None) -> dict[str, Any]:
    names = ("state", "next_at", "claimed_by", "last_error")
    return {name: getattr(row, name, None) for name in names}


def _history(connection: sa.Connection) -> dict[str, list[facts.Event]]:
    found = collections.defaultdict(list)
    for row in connection.execute(sa.select(models.history).order_by(models.history.c.id)):
        event = facts.Event(row.event, row.at, row.generation, json.loads(row.details))
        found[row.server_id].append(event)
    return found


def _notices(connection: sa.Connection) -> dict[str, list[facts.Notice]]:
    found = collections.defaultdict(list)
    for row in connection.execute(sa.select(models.notices).order_by(models.notices.c.id)):
        notice = facts.Notice(row.kind, row.generation, row.message_id, row.accepted_at, row.due_at)
        found[row.server_id].append(notice)
    return found


def _leases(connection: sa.Connection) -> dict[str, list[facts.Lease]]:
    """By the VM that their reservation is for."""
    events = collections.defaultdict(list)
    for row in connection.execute(sa.select(leases.EVENTS.c["lease_id", "status"])):
        events[row.lease_id].append(row.status)
    found = collections.defaultdict(list)
    ours = (
        sa.select(leases.LEASES.c.id, leases.LEASES.c.status, leases.RESERVATIONS.c.resource_id)
        .join(leases.RESERVATIONS, leases.RESERVATIONS.c.lease_id == leases.LEASES.c.id)
        .where(leases.RESERVATIONS.c.resource_type == RESOURCE_TYPE)
    )
    for row in connection.execute(ours):
        lease = facts.Lease(row.id, row.status, tuple(sorted(events[row.id])))
        found[row.resource_id].append(lease)
    return found


def _mails(cloud: Cloud) -> dict[str, list[facts.Mail]]:
    found = collections.defaultdict(list)
    for mail in cloud.mails():
        server_id = str(mail.message["X-OpenStack-Server"])
        found[server_id].append(facts.Mail(mail.message_id, mail.arrived_at))
    return found


def _servers(cloud: Cloud) -> list[dict[str, Any]]:
    path = "/servers?all_tenants=1&limit=1000"
    servers: list[dict[str, Any]] = cloud.admin.get("compute", f"{path}")["servers"]
    return [cloud.admin.get("compute", f"/servers/{s['id']}")["server"] for s in servers]


def _actions(cloud: Cloud, member: Member) -> Iterator[facts.Action]:
    """Oldest first; Nova keeps them when the VM is gone."""
    path = f"/servers/{member.vm.id}/os-instance-actions"
    for action in reversed(cloud.admin.get("compute", path)["instanceActions"]):
        at = datetime.datetime.fromisoformat(action["start_time"]).replace(tzinfo=None)
        yield facts.Action(action["action"], at)


def _images(cloud: Cloud) -> dict[str, list[facts.Image]]:
    """All but the one that the VMs were booted from, by the VM that they were made of."""
    found = collections.defaultdict(list)
    path: str | None = "/v2/images?visibility=all&limit=500"
    while path:
        page = cloud.admin.get("image", path)
        for image in page["images"]:
            if image["name"] == "cirros":
                continue
            server_id = image.get("vmexpire_server_id") or image.get("instance_uuid") or ""
            found[server_id].append(
                facts.Image(image["id"], image["status"], image["size"] or 0, image["owner"])
            )
        path = page.get("next")
    return found
