# SPDX-License-Identifier: Apache-2.0
"""Cinder: the volumes of VMs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from keystoneauth1 import session as ksa_session

from blazar_vmexpire.cloud import rest
from blazar_vmexpire.cloud.session import ANY, Endpoints


@dataclasses.dataclass(frozen=True, slots=True)
class Volume:
    """A volume as Cinder sees it.

    :ivar name: empty for one that Nova has made for a VM to boot from
    :ivar status: ``in-use`` while it is attached, ``reserved`` while its VM is shelved,
        ``available`` when it can be attached or booted from, ``error``, …
    :ivar project_id: whose it is, and whose quota it counts against
    """

    id: str
    name: str
    description: str
    status: str
    project_id: str
    metadata: dict[str, str]

    @classmethod
    def from_json(cls, raw: Any) -> Volume:
        """Read a volume from Cinder's JSON, as an administrator gets it.

        :raises Unavailable: when something is missing or is not of the right type
        """
        volume_id = raw.get("id") if isinstance(raw, dict) else None
        fields = rest.Fields("cinder", f"read volume {volume_id}", raw)
        return cls(
            id=fields.text("id"),
            name=fields.text_or_none("name") or "",
            description=fields.text_or_none("description") or "",
            status=fields.text("status"),
            project_id=fields.text("os-vol-tenant-attr:tenant_id"),
            metadata=fields.need("metadata", dict),
        )


class Cinder:
    """Cinder's volumes, asked with the service's own (administrator's) token.

    Each method makes one request, and raises a :class:`~blazar_vmexpire.cloud.errors.CloudError`
    when that was not done. Nothing is sent before the first: a cloud without Cinder is none the
    worse for it.
    """

    def __init__(self, session: ksa_session.Session, endpoints: Endpoints = ANY) -> None:
        # Catalogues have it as `volumev3`, `block-storage` or `block-store`, with or without our
        # own project in the URL: it is used as it is there, and serves any project's volumes.
        self._rest = rest.Rest(session, endpoints, service="cinder", service_type="block-storage")

    def get(self, volume_id: str) -> Volume:
        """Return the volume with this id, of whatever project.

        :raises NotFound: Cinder has no such volume
        """
        what = f"get volume {volume_id}"
        answer = self._rest.call(
            "GET", rest.path("volumes", volume_id), what, expected=(200,), about=volume_id
        )
        volume = Volume.from_json(rest.Fields("cinder", what, answer).need("volume", dict))
        if volume.id != volume_id:
            raise self._rest.unavailable(what, f"the answer is about volume {volume.id}")
        return volume

    def describe(
        self,
        volume_id: str,
        *,
        name: str | None = None,
        description: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Change what a volume says of itself; what is None stays as it is.

        :param name: at most 255 characters, as is ``description``
        :param metadata: takes the place of all that it has
        :raises NotFound: Cinder has no such volume
        """
        given = {"name": name, "description": description, "metadata": metadata}
        self._rest.call(
            "PUT",
            rest.path("volumes", volume_id),
            f"describe volume {volume_id}",
            expected=(200,),
            about=volume_id,
            body={"volume": {key: value for key, value in given.items() if value is not None}},
        )
