# SPDX-License-Identifier: Apache-2.0
"""Images in Glance: given away, protected, deleted and found."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from blazar_vmexpire import cloud
from blazar_vmexpire.cloud import errors
from tests.fakes.cloud import FakeCloud
from tests.functional.adapters import adapters, conf, configure, fake

__all__ = ["adapters", "conf", "configure", "fake"]


def test_give(fake: FakeCloud, adapters: cloud.Cloud) -> None:
    image_id = fake.add_image()
    project = fake.add_project("web")
    assert adapters.glance.give(image_id, project).owner == project
    assert adapters.glance.get(image_id).owner == project
    with pytest.raises(errors.NotFound):
        adapters.glance.give(str(uuid.uuid4()), project)


def test_give_that_does_not_take(fake: FakeCloud, adapters: cloud.Cloud) -> None:
    image_id = fake.add_image()
    fake.fault("/image/", method="PATCH", status=200, body={})
    with pytest.raises(errors.Unavailable, match="its owner is still"):
        adapters.glance.give(image_id, fake.add_project("web"))


def test_protect(fake: FakeCloud, adapters: cloud.Cloud) -> None:
    image_id = fake.add_image()
    assert adapters.glance.protect(image_id, True).protected is True
    with pytest.raises(errors.Refused):
        adapters.glance.delete(image_id)
    assert adapters.glance.protect(image_id, False).protected is False
    adapters.glance.delete(image_id)
    with pytest.raises(errors.NotFound):
        adapters.glance.protect(image_id, True)


def test_protect_that_does_not_take(fake: FakeCloud, adapters: cloud.Cloud) -> None:
    image_id = fake.add_image()
    fake.fault("/image/", method="PATCH", status=200, body={})
    with pytest.raises(errors.Unavailable, match="its protection is still False"):
        adapters.glance.protect(image_id, True)


def test_delete_image(fake: FakeCloud, adapters: cloud.Cloud) -> None:
    image_id = fake.add_image()
    adapters.glance.delete(image_id)
    with pytest.raises(errors.NotFound, match=f"404 No image found with ID {image_id}"):
        adapters.glance.get(image_id)
    with pytest.raises(errors.NotFound, match="to delete"):
        adapters.glance.delete(image_id)


def test_find(fake: FakeCloud, adapters: cloud.Cloud) -> None:
    web, mail = fake.add_project("web"), fake.add_project("mail")
    wanted = {fake.add_image(owner=web, **{"a:b": "1"}) for _ in range(3)}
    fake.add_image(owner=web, **{"a:b": "2"})
    other = fake.add_image(owner=mail, **{"a:b": "1"})
    find = adapters.glance.find
    assert {image.id for image in find(owner=web, **{"a:b": "1"})} == wanted
    assert {image.id for image in find(**{"a:b": "1"})} == {*wanted, other}
    assert find(owner="nobody") == []


def test_find_in_pages(fake: FakeCloud, adapters: cloud.Cloud) -> None:
    wanted = {fake.add_image(kind="x") for _ in range(200)}
    assert {image.id for image in adapters.glance.find(kind="x")} == wanted
    assert len(fake.requests("/image/")) == 3


def test_find_in_pages_that_do_not_advance(fake: FakeCloud, adapters: cloud.Cloud) -> None:
    marker = fake.add_image(kind="x")
    for _ in range(100):
        fake.add_image(kind="x")

    def stuck(body: Any) -> Any:
        return {**body, "next": f"/v2/images?marker={marker}"}

    fake.fault("/image/", rewrite=stuck)
    with pytest.raises(errors.Unavailable, match="leads nowhere"):
        adapters.glance.find(kind="x")
