# SPDX-License-Identifier: Apache-2.0
"""Glance v2: images that take their time."""

from __future__ import annotations

import datetime
import http
import urllib.parse
import uuid
from collections.abc import Callable
from typing import Any

from tests.fakes import identity, wire

_SIZE = 117440512
_PAGING = {"limit", "marker", "sort_key", "sort_dir", "sort", "visibility", "member_status"}


def error(status: int, message: str) -> wire.Response:
    """Make an error as Glance (WebOb) words it."""
    phrase = http.HTTPStatus(status).phrase
    return wire.Response(
        status,
        {
            "message": f"{message}<br /><br />\n\n\n",
            "code": f"{status} {phrase}",
            "title": phrase,
        },
    )


class Image:
    """Images.

    :ivar reads: how many GETs see an image as ``queued``, and again as ``saving``; None when an
        image goes on only by :meth:`finish` and :meth:`fail`
    """

    def __init__(self, keystone: identity.Identity) -> None:
        self.identity = keystone
        self.reads: int | None = 1
        self.images: dict[str, dict[str, Any]] = {}
        self._left: dict[str, int] = {}
        self._when_done: dict[str, Callable[[], None]] = {}

    def add(
        self,
        *,
        name: str = "image",
        status: str = "active",
        size: int | None = _SIZE,
        owner: str | None = None,
        created_at: datetime.datetime | None = None,
        **properties: Any,
    ) -> str:
        image_id = str(uuid.uuid4())
        created = created_at or datetime.datetime.now(datetime.UTC)
        self.images[image_id] = {
            **properties,
            "name": name,
            "disk_format": "qcow2" if status == "active" else None,
            "container_format": "bare" if status == "active" else None,
            "visibility": "private",
            "size": size if status == "active" else None,
            "virtual_size": None,
            "status": status,
            "checksum": None,
            "protected": False,
            "min_ram": 0,
            "min_disk": 1,
            "owner": owner or self.identity.service_project,
            "os_hidden": False,
            "os_hash_algo": None,
            "os_hash_value": None,
            "id": image_id,
            "created_at": f"{created:%Y-%m-%dT%H:%M:%SZ}",
            "updated_at": f"{created:%Y-%m-%dT%H:%M:%SZ}",
            "tags": [],
            "self": f"/v2/images/{image_id}",
            "file": f"/v2/images/{image_id}/file",
            "schema": "/v2/schemas/image",
        }
        return image_id

    def begin(self, name: str, owner: str, done: Callable[[], None], **properties: Any) -> str:
        """Add a queued image; ``done`` is called when it is active or lost."""
        image_id = self.add(name=name, status="queued", owner=owner, **properties)
        self._when_done[image_id] = done
        self._left[image_id] = self.reads or 0
        if self.reads == 0:
            self.finish(image_id)
        return image_id

    def advance(self, image_id: str) -> None:
        """Somebody looked: an image that is in the making gets on, after the answer was made."""
        image = self.images.get(image_id)
        if image is None or image_id not in self._when_done or self.reads is None:
            return
        self._left[image_id] -= 1
        if self._left[image_id] > 0:
            return
        if image["status"] == "queued":
            image["status"] = "saving"
            self._left[image_id] = self.reads
        else:
            self.finish(image_id)

    def finish(self, image_id: str, size: int = _SIZE) -> None:
        """Let an image become active."""
        self.images[image_id].update(
            status="active",
            size=size,
            disk_format="qcow2",
            container_format="bare",
            checksum=uuid.uuid4().hex,
        )
        self._when_done.pop(image_id, lambda: None)()

    def fail(self, image_id: str) -> None:
        """Lose an image that is in the making, as Nova does when Glance's store is full."""
        del self.images[image_id]
        self._when_done.pop(image_id, lambda: None)()

    def abandon(self, image_id: str) -> None:
        """Leave an image as it is for ever: whoever was making it has given up."""
        self._when_done.pop(image_id, None)

    def handle(self, path: str, request: wire.Request) -> wire.Response:
        token = self.identity.authenticate(request)
        parts = path.strip("/").split("/")
        if parts[:2] != ["v2", "images"] or len(parts) > 3:
            return error(404, "The resource could not be found.")
        if len(parts) == 2 and request.method == "POST":
            return self._create(request, token)
        if len(parts) == 2:
            return self._list(request)
        image = self.images.get(parts[2])
        if image is None:
            to = " to delete" if request.method == "DELETE" else ""
            text = f"Failed to find image {parts[2]}" if to else "No image found with ID "
            return error(404, text + (to or parts[2]))
        if request.method == "GET":
            answer = wire.Response(200, dict(image))
            self.advance(parts[2])
            return answer
        if request.method == "PATCH":
            return self._patch(image, request, token)
        if image["protected"]:
            return error(403, f"Image {parts[2]} is protected and cannot be deleted.")
        del self.images[parts[2]]
        self._when_done.pop(parts[2], lambda: None)()
        return wire.Response(204)

    def _create(self, request: wire.Request, token: dict[str, Any]) -> wire.Response:
        given = dict(request.body)
        visibility = given.pop("visibility", "shared")
        image_id = self.add(
            name=given.pop("name", None),
            status="queued",
            owner=token["project"]["id"],
            **given,
        )
        self.images[image_id]["visibility"] = visibility
        return wire.Response(201, self.images[image_id])

    def _patch(
        self, image: dict[str, Any], request: wire.Request, token: dict[str, Any]
    ) -> wire.Response:
        kind = request.headers.get("content-type", "")
        if not kind.startswith("application/openstack-images-v2."):
            return error(415, "The server cannot process the media type.")
        for change in request.body:
            key = change["path"].removeprefix("/")
            if key == "owner" and "admin" not in [role["name"] for role in token["roles"]]:
                return error(403, "Owner can't be updated by non admin.")
            if change["op"] == "replace" and key not in image:
                return error(409, f"Property {key} does not exist.")
            if change["op"] == "remove":
                del image[key]
            else:
                image[key] = change["value"]
        return wire.Response(200, image)

    def _list(self, request: wire.Request) -> wire.Response:
        limit = min(int(request.param("limit", "25") or 25), 1000)
        wanted = {key: request.param(key) for key in request.query if key not in _PAGING}
        found = [
            image
            for image in self.images.values()
            if all(str(image.get(key)) == value for key, value in wanted.items())
        ]
        found.sort(key=lambda image: (image["created_at"], image["id"]), reverse=True)
        marker = request.param("marker")
        if marker is not None:
            if marker not in self.images:
                return error(404, f"No image found with ID {marker}")
            at = (self.images[marker]["created_at"], marker)
            found = [image for image in found if (image["created_at"], image["id"]) < at]
        page = found[:limit]
        body: dict[str, Any] = {
            "images": page,
            "first": "/v2/images?" + urllib.parse.urlencode(wanted),
            "schema": "/v2/schemas/images",
        }
        if page and len(page) == limit:
            query = {**wanted, "limit": limit, "marker": page[-1]["id"]}
            body["next"] = "/v2/images?" + urllib.parse.urlencode(query)
        return wire.Response(200, body)
