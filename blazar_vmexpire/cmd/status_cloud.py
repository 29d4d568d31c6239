# SPDX-License-Identifier: Apache-2.0
"""What ``blazar-vmexpire-status`` tries out: the mail server, Nova, Glance.

Nothing stays of it: no mail is sent, and the image that is handed over has no data, is seen by
nobody, and is deleted at once.
"""

from __future__ import annotations

import uuid

from oslo_config import cfg

from blazar_vmexpire import RESOURCE_TYPE
from blazar_vmexpire.actions import snapshot
from blazar_vmexpire.actions.old_images import ATTEMPT
from blazar_vmexpire.cloud import connect, errors
from blazar_vmexpire.cloud.servers import Server
from blazar_vmexpire.cmd.manage_base import CommandError
from blazar_vmexpire.cmd.status_base import Check, Doubt
from blazar_vmexpire.notices import Mailer


def _mail(conf: cfg.ConfigOpts) -> str:
    options, contact = conf.vmexpire_mail, conf[RESOURCE_TYPE].undeliverable_contact
    Mailer(conf).try_out(contact)
    takes = f"takes mail from {options.from_address}" + (f" to {contact}" if contact else "")
    return f"{options.host}:{options.port} {takes}; none was sent"


def _servers(conf: cfg.ConfigOpts) -> str:
    # The newest one is enough to see whether we may.
    page = next(connect(conf).nova.pages(1), [])
    for raw in page:
        Server.from_json(raw)
    return "our account may list them" + ("" if page else "; there is none at the moment")


def _images(conf: cfg.ConfigOpts) -> str:
    if conf[RESOURCE_TYPE].dry_run:
        raise Doubt("this was not tried, for a dry run changes nothing in Glance")
    cloud = connect(conf)
    # Without a token nothing can be made that would have to be removed.
    own = cloud.keystone.service_project_id
    # Nobody's project: nobody sees the image, even if it has to be left.
    stranger = uuid.uuid4().hex
    notes = {"attempt": str(uuid.uuid4())}
    problem: errors.CloudError | None = None
    try:
        image = cloud.glance.create("blazar-vmexpire-status", {ATTEMPT: notes["attempt"]})
        notes["image_id"] = image.id
        cloud.glance.give(image.id, stranger)
    except errors.CloudError as error:
        problem = error
    try:
        snapshot.discard(cloud, notes)
    except errors.CloudError as error:
        named = notes.get("image_id") or f"with the property {ATTEMPT}={notes['attempt']}"
        raise CommandError(
            f"{f'{problem}; and ' if problem else ''}an image may be left, {named}, which has no"
            f" data: delete it by hand, if it is there ({error})"
        ) from error
    if problem is not None:
        raise problem
    return f"an image without data was made in project {own}, given to another one, and deleted"


CHECKS = (
    Check(
        title="Mail server",
        why="nothing is done to a VM before the mail server has taken a notice of it: ends move"
        " until it does",
        right="[vmexpire_mail] names a server that answers from this host and takes mail from"
        " from_address, and from it to undeliverable_contact",
        look=_mail,
    ),
    Check(
        title="VMs of all projects",
        why="what is not listed is never noticed, unless a notification tells of it",
        right="Blazar's account, or that of [vmexpire_cloud], has the role that Nova's policy asks"
        " for to list the servers of all projects (admin)",
        look=_servers,
    ),
    Check(
        title="Handing over images",
        why="a snapshot belongs to our own project until it is given to the VM's, and no VM is"
        " deleted before that",
        right="Blazar's account, or that of [vmexpire_cloud], is an administrator in Glance's eyes,"
        " and may create images",
        look=_images,
    ),
)
