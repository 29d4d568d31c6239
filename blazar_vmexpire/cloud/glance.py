# SPDX-License-Identifier: Apache-2.0
"""Glance: the images made of VMs."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping
from typing import Any

from keystoneauth1 import session as ksa_session

from blazar_vmexpire.cloud import rest
from blazar_vmexpire.cloud.session import ANY, Endpoints

#: What every image has; all else is an extra property.
_BASE = frozenset(
    {
        "id",
        "name",
        "status",
        "visibility",
        "protected",
        "checksum",
        "owner",
        "size",
        "virtual_size",
        "container_format",
        "disk_format",
        "created_at",
        "updated_at",
        "tags",
        "direct_url",
        "locations",
        "min_ram",
        "min_disk",
        "self",
        "file",
        "schema",
        "stores",
        "os_hash_algo",
        "os_hash_value",
        "os_hidden",
    }
)
_PAGE = 100


@dataclasses.dataclass(frozen=True, slots=True)
class Image:
    """An image as Glance sees it.

    :ivar status: ``queued``, ``saving``, ``active``, ``killed``, ``deleted``, …
    :ivar size: bytes; None until it is known; 0 for an image of a volume-backed VM
    :ivar owner: project; None for an image of nobody
    :ivar protected: whether somebody has protected it against deletion
    :ivar properties: extra properties, those that were given to ``create_image`` among them
    :ivar created_at: naive UTC
    """

    id: str
    name: str
    status: str
    size: int | None
    owner: str | None
    protected: bool
    properties: dict[str, str]
    created_at: datetime.datetime

    @classmethod
    def from_json(cls, raw: Any) -> Image:
        """Read an image from Glance's JSON.

        :raises Unavailable: when something is missing or is not of the right type
        """
        image_id = raw.get("id") if isinstance(raw, dict) else None
        fields = rest.Fields("glance", f"read image {image_id}", raw)
        return cls(
            id=fields.text("id"),
            name=fields.text_or_none("name") or "",
            status=fields.text("status"),
            size=fields.need("size", (int, type(None))),
            owner=fields.text_or_none("owner"),
            protected=fields.need("protected", bool),
            properties={
                key: value
                for key, value in raw.items()
                if key not in _BASE and isinstance(value, str)
            },
            created_at=fields.time("created_at"),
        )


class Glance:
    """Glance's images, asked with the service's own (administrator's) token.

    Each method raises a :class:`~blazar_vmexpire.cloud.errors.CloudError` when it was not done.
    """

    def __init__(self, session: ksa_session.Session, endpoints: Endpoints = ANY) -> None:
        self._rest = rest.Rest(
            session, endpoints, service="glance", service_type="image", version="/v2"
        )

    def get(self, image_id: str) -> Image:
        """Return the image with this id, of whatever project.

        :raises NotFound: Glance has no such image: Nova drops those that it could not fill
        """
        what = f"get image {image_id}"
        answer = self._rest.call(
            "GET", rest.path("images", image_id), what, expected=(200,), about=image_id
        )
        image = Image.from_json(answer)
        if image.id != image_id:
            raise self._rest.unavailable(what, f"the answer is about image {image.id}")
        return image

    def create(self, name: str, properties: Mapping[str, str]) -> Image:
        """Make an image of our own project that has no data: ``queued``, and seen by nobody else.

        :param properties: extra properties, to find it again by
        :raises Unavailable: among others, when the answer got lost: the image may be there
        """
        answer = self._rest.call(
            "POST",
            "/images",
            f"create image {name}",
            expected=(201,),
            body={**properties, "name": name, "visibility": "private"},
        )
        return Image.from_json(answer)

    def give(self, image_id: str, project_id: str) -> Image:
        """Make an image the property of another project, see that it is so, and return it.

        :raises Refused: our account is not an administrator's in Glance's eyes
        :raises Unavailable: among others, when Glance took the change but shows another owner
        """
        what = f"give image {image_id} to project {project_id}"
        self._replace(image_id, "owner", project_id, what)
        image = self.get(image_id)
        if image.owner != project_id:
            raise self._rest.unavailable(what, f"its owner is still {image.owner}")
        return image

    def protect(self, image_id: str, protected: bool) -> Image:
        """Protect an image against deletion, or no longer, see that it is so, and return it.

        :raises NotFound: Glance has no such image
        :raises Unavailable: among others, when Glance took the change but shows another state
        """
        what = f"{'protect' if protected else 'unprotect'} image {image_id}"
        self._replace(image_id, "protected", protected, what)
        image = self.get(image_id)
        if image.protected is not protected:
            raise self._rest.unavailable(what, f"its protection is still {image.protected}")
        return image

    def delete(self, image_id: str) -> None:
        """Delete an image.

        :raises NotFound: Glance cannot find it, or its data; :meth:`get` tells which
        :raises Conflict: it is in use
        :raises Refused: it is protected
        """
        self._rest.call(
            "DELETE",
            rest.path("images", image_id),
            f"delete image {image_id}",
            expected=(204,),
            about=image_id,
        )

    def find(self, *, owner: str | None = None, **properties: str) -> list[Image]:
        """Return the images of this owner that have all these properties, in no special order.

        :param owner: project; None means of any project
        :param properties: extra properties and the values they have to have; names that are no
            Python names are given as ``**{"vmexpire:server_id": …}``
        :raises Unavailable: among others, when the list is not complete
        """
        wanted = dict(properties) if owner is None else {**properties, "owner": owner}
        what = "find images with " + ", ".join(f"{key}={value}" for key, value in wanted.items())
        found: list[Image] = []
        seen: set[str] = set()
        params = {**wanted, "limit": str(_PAGE)}
        while True:
            answer = self._rest.call("GET", "/images", what, expected=(200,), params=params)
            fields = rest.Fields("glance", what, answer)
            found += [Image.from_json(raw) for raw in fields.need("images", list)]
            if "next" not in answer:
                break
            marker = rest.next_marker(answer["next"])
            if marker is None or marker in seen:
                raise fields.wrong(f"the link to the next page leads nowhere: {answer['next']!r}")
            seen.add(marker)
            params["marker"] = marker
        # A Glance that does not know a filter ignores it.
        return [
            image
            for image in found
            if (owner is None or image.owner == owner)
            and all(image.properties.get(key) == value for key, value in properties.items())
        ]

    def _replace(self, image_id: str, name: str, value: Any, what: str) -> None:
        self._rest.call(
            "PATCH",
            rest.path("images", image_id),
            what,
            expected=(200,),
            about=image_id,
            body=[{"op": "replace", "path": f"/{name}", "value": value}],
            headers={"Content-Type": "application/openstack-images-v2.1-json-patch"},
        )
