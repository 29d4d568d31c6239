# SPDX-License-Identifier: Apache-2.0
"""Images that were made before an end, and are no longer wanted.

Each lease that comes near its end can leave one; an owner who extends time and again would have
them pile up. Only images that we made before an end count here, found by what we wrote into them
and by their owner, the VM's project. The image of an end is never touched: it is all that is left
of a VM. Neither is one that somebody has protected.
"""

from __future__ import annotations

import contextlib

from oslo_log import log as logging

from blazar_vmexpire.cloud import Cloud, errors
from blazar_vmexpire.cloud.glance import Image

LOG = logging.getLogger(__name__)

#: Properties of our images that tell which they are.
STAGE, SERVER, ATTEMPT = "vmexpire_stage", "vmexpire_server_id", "vmexpire_attempt"
BEFORE_END, END = "before-end", "end"


def of_server(cloud: Cloud, server_id: str, project_id: str) -> list[Image]:
    """Return the complete images that we made before ends of a VM, the newest first.

    :param project_id: the VM's, which owns them.
    :raises blazar_vmexpire.cloud.errors.Unavailable: among others, when the list is not complete.
    """
    found = cloud.glance.find(owner=project_id, **{STAGE: BEFORE_END, SERVER: server_id})
    return newest_first(found)


def of_all(cloud: Cloud) -> list[Image]:
    """Return the complete images that we made before ends of any VM, there or gone."""
    return newest_first(cloud.glance.find(**{STAGE: BEFORE_END}))


def newest_first(images: list[Image]) -> list[Image]:
    """Sort images; leave out what is not complete, or cannot be ours."""
    complete = [i for i in images if i.status == "active" and ATTEMPT in i.properties]
    return sorted(complete, key=lambda image: (image.created_at, image.id), reverse=True)


def remove(cloud: Cloud, image: Image) -> str | None:
    """Remove an image; return why it stays, if it does.

    :raises blazar_vmexpire.cloud.errors.CloudError: Glance did not say.
    """
    if image.protected:
        return "it is protected"
    try:
        with contextlib.suppress(errors.NotFound):
            cloud.glance.delete(image.id)
    except (errors.Conflict, errors.Refused) as error:
        # In use, or protected a moment ago.
        LOG.warning("Image %s is not wanted any more, and stays: %s", image.id, error)
        return error.detail
    return None
