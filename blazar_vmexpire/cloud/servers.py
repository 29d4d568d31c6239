# SPDX-License-Identifier: Apache-2.0
"""What Nova says of servers: they themselves, their volumes, and their moves from host to host."""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any

from blazar_vmexpire.cloud import rest

#: The status of a server that was deleted, and is kept by Nova for a while (its
#: ``reclaim_instance_interval``).
SOFT_DELETED = "SOFT_DELETED"

#: Statuses in which a server is gone as far as its owner is concerned. A soft-deleted one that an
#: administrator restores is taken in anew.
GONE = frozenset({"DELETED", SOFT_DELETED})

#: Statuses of a server that is shelved, still on its host or not.
SHELVED = frozenset({"SHELVED", "SHELVED_OFFLOADED"})


@dataclasses.dataclass(frozen=True, slots=True)
class Server:
    """A VM as Nova sees it.

    :ivar status: in upper case, such as ``ACTIVE``, ``SHUTOFF``, ``ERROR``, ``SOFT_DELETED``;
        never ``UNKNOWN``, which is not an answer
    :ivar task_state: what Nova is doing to it, such as ``image_snapshot``; None means nothing
    :ivar power_state: 1 is running, 4 is shut down, 0 is not known to Nova
    :ivar created_at: naive UTC
    :ivar image_id: None for a VM that boots from a volume
    :ivar flavor: as Nova embeds it: ``original_name``, ``vcpus``, ``ram``, ``disk``, …
    :ivar host: the hypervisor's host; None while there is none, or for those who may not see it
    :ivar locked_reason: None when it is not locked, or was locked without a reason
    :ivar root_device: such as ``/dev/vda``; None while there is none
    :ivar volumes: ids of the volumes that are attached; in a page of :meth:`Nova.pages` Nova leaves
        them out where it could not read them, in a single GET it does not
    """

    id: str
    name: str
    status: str
    task_state: str | None
    vm_state: str
    power_state: int
    project_id: str
    user_id: str
    created_at: datetime.datetime
    image_id: str | None
    flavor: dict[str, Any]
    availability_zone: str | None
    host: str | None
    locked: bool
    locked_reason: str | None
    metadata: dict[str, str]
    tags: tuple[str, ...]
    root_device: str | None
    volumes: tuple[str, ...]

    @property
    def volume_backed(self) -> bool:
        """Whether it boots from a volume."""
        return self.image_id is None

    @classmethod
    def from_json(cls, raw: Any) -> Server:
        """Read a server from the JSON that Nova answers at our microversion.

        :param raw: an item of a page of :meth:`Nova.pages`, or ``server`` of a single GET
        :raises Unavailable: when something is missing or is not of the right type, and when Nova
            cannot reach the cell that the server lives in (status ``UNKNOWN``)
        """
        server_id = raw.get("id") if isinstance(raw, dict) else None
        fields = rest.Fields("nova", f"read server {server_id}", raw)
        status = fields.text("status")
        if status == "UNKNOWN":
            raise fields.wrong("its status is UNKNOWN: Nova cannot reach the cell it lives in")
        image = fields.need("image", (dict, str))
        if isinstance(image, dict):
            image = rest.Fields("nova", f"read image of server {server_id}", image).text("id")
        return cls(
            id=fields.text("id"),
            name=fields.need("name", (str, type(None))) or "",
            status=status.upper(),
            task_state=fields.need("OS-EXT-STS:task_state", (str, type(None))),
            vm_state=fields.need("OS-EXT-STS:vm_state", (str, type(None))) or "",
            power_state=fields.need("OS-EXT-STS:power_state", (int, type(None))) or 0,
            project_id=fields.text("tenant_id"),
            user_id=fields.text("user_id"),
            created_at=fields.time("created"),
            image_id=image or None,
            flavor=fields.need("flavor", dict),
            availability_zone=fields.text_or_none("OS-EXT-AZ:availability_zone"),
            host=fields.text_or_none("OS-EXT-SRV-ATTR:host"),
            locked=fields.need("locked", bool),
            locked_reason=fields.text_or_none("locked_reason"),
            metadata=fields.need("metadata", dict),
            tags=tuple(fields.need("tags", list)),
            root_device=fields.text_or_none("OS-EXT-SRV-ATTR:root_device_name"),
            volumes=tuple(
                rest.Fields("nova", f"read volumes of server {server_id}", volume).text("id")
                for volume in fields.need("os-extended-volumes:volumes_attached", list)
            ),
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Attachment:
    """A volume that is attached to a server.

    :ivar device: such as ``/dev/vdb``; None where Nova has not chosen it yet
    :ivar delete_on_termination: whether Nova deletes the volume together with the server
    """

    volume_id: str
    device: str | None
    delete_on_termination: bool

    @classmethod
    def from_json(cls, raw: Any) -> Attachment:
        """Read an attachment from Nova's JSON.

        :raises Unavailable: when something is missing or is not of the right type
        """
        fields = rest.Fields("nova", "read an attached volume", raw)
        return cls(
            volume_id=fields.text("volumeId"),
            device=fields.text_or_none("device"),
            delete_on_termination=fields.need("delete_on_termination", bool),
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Migration:
    """One move of a server from host to host, as Nova records it.

    :ivar kind: ``live-migration``, ``migration`` (a cold one), ``resize``, ``evacuation``
    :ivar status: such as ``running``; ``finished`` is a cold one that waits to be confirmed,
        ``completed`` and ``confirmed`` are over, ``error``, ``failed`` and ``cancelled`` came to
        nothing
    :ivar source: the host that it begins on
    :ivar target: None while none is chosen
    :ivar project_id: of whoever asked for it, which need not be the server's
    """

    id: str
    kind: str
    status: str
    source: str | None
    target: str | None
    project_id: str | None

    @classmethod
    def from_json(cls, raw: Any) -> Migration:
        """Read one from the JSON that Nova answers at our microversion.

        :raises Unavailable: when something is missing or is not of the right type
        """
        fields = rest.Fields("nova", "read a migration", raw)
        return cls(
            id=fields.text("uuid"),
            kind=fields.text("migration_type"),
            status=fields.text("status"),
            source=fields.text_or_none("source_compute"),
            target=fields.text_or_none("dest_compute"),
            project_id=fields.text_or_none("project_id"),
        )
