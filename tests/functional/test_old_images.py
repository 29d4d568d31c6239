# SPDX-License-Identifier: Apache-2.0
"""Images made before an end: the newest are kept, older ones removed, and no others ever."""

from __future__ import annotations

import datetime
from datetime import timedelta
from typing import Any

import pytest

from blazar_vmexpire import RESOURCE_TYPE
from blazar_vmexpire.db import api as db_api
from tests.functional.world import World

pytestmark = [
    pytest.mark.databases("sqlite"),
    pytest.mark.options({RESOURCE_TYPE: {"before_end_action": "snapshot"}}),
]


def keep(world: World, **options: Any) -> None:
    """Set what is kept."""
    for name, value in options.items():
        world.harness.conf.set_override(name, value, group=RESOURCE_TYPE)


def ends_at(world: World, server_id: str) -> datetime.datetime:
    """Say when a VM's lease ends."""
    end = world.row(server_id).ends_at
    assert end is not None
    return end


def one_more(world: World, server_id: str) -> str:
    """Let the time of the next image come, have the owner extend, and return the image's id."""
    before = set(world.cloud.image.images)
    world.live(ends_at(world, server_id) - timedelta(days=10))
    world.live(world.clock.now() + timedelta(minutes=1))
    (image_id,) = set(world.cloud.image.images) - before
    # Glance's clock is the real one.
    world.cloud.image.images[image_id]["created_at"] = f"{world.clock.now():%Y-%m-%dT%H:%M:%SZ}"
    end = world.clock.now().replace(second=0, microsecond=0) + timedelta(days=29)
    assert world.update(server_id, end_date=end).status_code == 200
    world.settle()
    return image_id


def reports(world: World, server_id: str, event: str) -> list[str]:
    """Return the ids of the images that the history says something of."""
    return [d["image_id"] for name, d in world.history(server_id) if name == event]


@pytest.mark.options({RESOURCE_TYPE: {"snapshot_keep": 2}})
def test_of_those_made_again_and_again_the_newest_are_kept(world: World) -> None:
    server_id, other = world.adopt("web1"), world.adopt("web2")
    ids = [one_more_of(world, server_id, other) for _ in range(3)]
    left = {i for i, image in world.cloud.image.images.items() if of(image) == server_id}
    assert left == set(ids[1:])
    assert reports(world, server_id, "old_image_removed") == ids[:1]
    assert {image["status"] for image in world.cloud.image.images.values()} == {"active"}


def one_more_of(world: World, server_id: str, other: str) -> str:
    """As :func:`one_more`, with a second VM that is extended at the same times."""
    end = ends_at(world, other)
    world.live(end - timedelta(days=11))
    new_end = world.clock.now().replace(second=0, microsecond=0) + timedelta(days=30)
    assert world.update(other, end_date=new_end).status_code == 200
    return one_more(world, server_id)


def of(image: dict[str, Any]) -> str | None:
    """Say which VM an image was made of."""
    found: str | None = image.get("vmexpire_server_id")
    return found


def test_none_is_removed_before_the_next_one_is_complete(world: World) -> None:
    server_id = world.adopt()
    first = one_more(world, server_id)
    world.cloud.image.reads = None
    world.live(ends_at(world, server_id) - timedelta(days=10))
    world.live(world.clock.now() + timedelta(minutes=5))
    (second,) = set(world.cloud.image.images) - {first}
    assert set(world.cloud.image.images) == {first, second}
    world.cloud.image.finish(second)
    world.live(world.clock.now() + timedelta(minutes=5))
    assert set(world.cloud.image.images) == {second}


def test_what_is_not_ours_or_not_wanted_gone_stays(world: World) -> None:
    """A protected one, one of an end, one of the owner's own, one in another project."""
    server_id = world.adopt()
    protected = one_more(world, server_id)
    images = world.cloud.image.images
    ours = {key: value for key, value in images[protected].items() if key.startswith("vmexpire_")}
    images[protected]["protected"] = True
    at = datetime.datetime(2026, 1, 1)
    own = world.cloud.add_image(owner=world.alpha, vmexpire_server_id=server_id, created_at=at)
    theirs = world.cloud.add_image(owner=world.beta, created_at=at, **ours)
    ends = world.cloud.add_image(
        owner=world.alpha, created_at=at, **(ours | {"vmexpire_stage": "end"})
    )
    newest = one_more(world, server_id)
    assert set(images) == {protected, own, theirs, ends, newest}
    assert reports(world, server_id, "old_image_kept") == [protected]
    assert reports(world, server_id, "old_image_removed") == []


def test_a_list_that_is_not_complete_removes_nothing(world: World) -> None:
    server_id = world.adopt()
    first = one_more(world, server_id)
    cut = world.cloud.fault("/image/v2/images$", method="GET", truncate=True)
    world.live(ends_at(world, server_id) - timedelta(days=10))
    world.live(world.clock.now() + timedelta(minutes=30))
    assert first in world.cloud.image.images
    cut.remove()
    world.live(world.clock.now() + timedelta(hours=1))
    assert first not in world.cloud.image.images
    assert world.events(server_id).count("image_asked") == 2


def test_a_list_without_the_newest_one_removes_nothing(world: World) -> None:
    server_id = world.adopt()
    first = one_more(world, server_id)

    def older_only(body: Any) -> Any:
        return {**body, "images": [i for i in body["images"] if i["id"] == first]}

    world.cloud.fault("/image/v2/images$", method="GET", rewrite=older_only)
    one_more(world, server_id)
    assert first in world.cloud.image.images


@pytest.mark.options({RESOURCE_TYPE: {"snapshot_keep_for": "90d", "snapshot_keep": 3}})
def test_aged_ones_go_also_of_vms_that_are_gone(world: World) -> None:
    gone = world.adopt()
    world.live(ends_at(world, gone) + timedelta(minutes=5))
    images = world.cloud.image.images
    begun = world.clock.now()
    ((made, image),) = images.items()
    image["created_at"] = f"{begun:%Y-%m-%dT%H:%M:%SZ}"
    assert world.state(gone) == "deleted"
    end_of_old = world.cloud.add_image(
        owner=world.alpha, created_at=begun, vmexpire_stage="end", vmexpire_attempt="1"
    )
    forged = world.cloud.add_image(
        owner=world.beta,
        created_at=begun,
        vmexpire_stage="before-end",
        vmexpire_attempt="1",
        vmexpire_server_id=gone,
    )
    world.live(begun + timedelta(days=89))
    assert made in images
    world.live(begun + timedelta(days=90))
    world.live(world.clock.now() + timedelta(hours=1, minutes=1))
    assert made not in images
    assert {end_of_old, forged} <= set(images)
    assert reports(world, gone, "old_image_removed") == [made]
    with world.harness.database.begin() as connection:
        row = db_api.get(connection, gone)
    assert row is not None
    assert row.next_at is None


@pytest.mark.options({RESOURCE_TYPE: {"snapshot_keep_for": "90d"}})
def test_nothing_ages_while_the_brake_has_tripped_and_a_protected_one_is_noted_once(
    world: World,
) -> None:
    server_id = world.adopt()
    world.live(ends_at(world, server_id) + timedelta(minutes=5))
    (image,) = world.cloud.image.images.values()
    image["created_at"] = f"{world.clock.now() - timedelta(days=100):%Y-%m-%dT%H:%M:%SZ}"
    image["protected"] = True
    for _ in range(3):
        world.live(world.clock.now() + timedelta(hours=1, minutes=1))
    assert reports(world, server_id, "old_image_kept") == [image["id"]]
    image["protected"] = False
    with world.harness.database.begin() as connection:
        world.harness.plugin.tools.brake.trip(
            connection, reason="a test", by=None, now=world.clock.now()
        )
    world.live(world.clock.now() + timedelta(hours=2, minutes=1))
    assert image["id"] in world.cloud.image.images
