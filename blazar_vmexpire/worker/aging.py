# SPDX-License-Identifier: Apache-2.0
"""Removing images that were made before an end so long ago that nobody wants them any more."""

from __future__ import annotations

import datetime
from collections.abc import Callable

import sqlalchemy as sa
from oslo_log import log as logging

from blazar_vmexpire import RESOURCE_TYPE
from blazar_vmexpire.actions import old_images
from blazar_vmexpire.cloud.glance import Image
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db.models import history
from blazar_vmexpire.worker.tools import Tools

LOG = logging.getLogger(__name__)


def age(tools: Tools, renew: Callable[[], None]) -> int:
    """Remove the images that are older than ``snapshot_keep_for``, of VMs that are gone, too.

    An image whose making is not in our history is left: what Glance shows of an image, its owner
    can write. While the brake has tripped, nothing is removed.

    :param renew: called before each removal, to hold on to the chore.
    :returns: how many were removed.
    :raises blazar_vmexpire.cloud.errors.Unavailable: Glance gave no list that can be trusted.
    """
    keep_for: datetime.timedelta = tools.conf[RESOURCE_TYPE].snapshot_keep_for
    if not keep_for:
        return 0
    with tools.database.begin() as connection:
        if tools.brake.tripped(connection):
            return 0
    now = tools.clock()
    removed = 0
    for image in old_images.of_all(tools.cloud):
        if image.created_at + keep_for > now or not _made_by_us(tools, image):
            continue
        if tools.conf[RESOURCE_TYPE].dry_run:
            LOG.warning("Image %s would be removed now: it is too old", image.id)
            continue
        renew()
        removed += _remove(tools, image, now)
    return removed


def _made_by_us(tools: Tools, image: Image) -> bool:
    """Say whether our history has it that this image was made of that VM, for that project."""
    h = history.c
    with tools.database.begin() as connection:
        return (
            connection.execute(
                sa.select(h.id)
                .where(
                    h.server_id == image.properties.get(old_images.SERVER, ""),
                    h.project_id == image.owner,
                    h.event == "before_end",
                    h.details.contains(f'"{image.id}"', autoescape=True),
                )
                .limit(1)
            ).first()
            is not None
        )


def _remove(tools: Tools, image: Image, now: datetime.datetime) -> int:
    why_not = old_images.remove(tools.cloud, image)
    details = {"image_id": image.id, "created_at": image.created_at}
    event = "old_image_removed"
    if why_not is not None:
        event = "old_image_kept"
        details["reason"] = why_not
    server_id = image.properties[old_images.SERVER]
    with tools.database.begin() as connection:
        db_api.record_by_id(connection, server_id, image.owner, event, now, **details)
    return int(why_not is None)
