# SPDX-License-Identifier: Apache-2.0
"""The end, with ``snapshot``, of VMs that are shelved: the image that each is has to outlive it."""

from __future__ import annotations

import contextlib
import datetime
from datetime import timedelta
from typing import Any

import pytest

from blazar_vmexpire import RESOURCE_TYPE
from tests.functional.world import World

pytestmark = [
    pytest.mark.databases("sqlite"),
    pytest.mark.options({RESOURCE_TYPE: {"on_end_action": "snapshot"}}),
]


def ends_at(world: World, server_id: str) -> datetime.datetime:
    """Say when a VM's lease ends."""
    end = world.row(server_id).ends_at
    assert end is not None
    return end


def shelve(world: World, **image: Any) -> tuple[str, str]:
    """Have a VM taken in and shelved by its owner; return its id and its image's."""
    server_id = world.adopt("web1")
    vm = world.cloud.compute.vms[server_id]
    vm.shelved_image = add_image(world, server_id, **image)
    vm.vm_state, vm.host = "shelved_offloaded", None
    return server_id, vm.shelved_image


def add_image(world: World, server_id: str, **attributes: Any) -> str:
    """Put an image into Glance that looks like the one that a VM was shelved into."""
    attributes = {"name": "web1-shelved", "owner": world.alpha, **attributes}
    return world.cloud.add_image(instance_uuid=server_id, **attributes)


def shelved(world: World, **image: Any) -> tuple[str, str]:
    """Do the same, and come to a few minutes before its end."""
    server_id, image_id = shelve(world, **image)
    world.live(ends_at(world, server_id) - timedelta(minutes=5))
    return server_id, image_id


def extend(world: World, server_id: str) -> None:
    """Have the owner extend, as can be done past the end."""
    assert world.extend(server_id).status_code == 200
    world.live(world.clock.now() + timedelta(minutes=5))


def test_the_image_of_a_shelved_vm_is_its_owners_when_it_is_gone(world: World) -> None:
    server_id, image_id = shelved(world)
    world.live(ends_at(world, server_id) + timedelta(minutes=5))
    assert world.state(server_id) == "deleted"
    image = world.cloud.image.images[image_id]
    assert (image["owner"], image["protected"]) == (world.alpha, False)
    assert image_id in world.mails[-1].get_content()
    # Nova was asked only when it could not remove it any more.
    protected = world.events(server_id).index("image_protected")
    assert protected < world.events(server_id).index("delete_asked")


def test_an_image_that_its_owner_has_protected_stays_so(world: World) -> None:
    server_id, image_id = shelved(world)
    world.cloud.image.images[image_id]["protected"] = True
    world.live(ends_at(world, server_id) + timedelta(minutes=5))
    assert world.state(server_id) == "deleted"
    assert world.cloud.image.images[image_id]["protected"] is True


@pytest.mark.parametrize("how", [{"status": "queued"}, {"size": 0}, {"name": "web1-other"}])
def test_without_a_complete_image_the_vm_stays(world: World, how: dict[str, Any]) -> None:
    server_id, _image_id = shelved(world, **how)
    world.live(ends_at(world, server_id) + timedelta(minutes=5))
    assert world.state(server_id) == "failed"
    assert "no complete image" in str(world.row(server_id).last_error)
    assert server_id in world.cloud.compute.vms


def test_an_image_that_a_stranger_has_put_there_is_not_taken_for_it(world: World) -> None:
    """Nova would remove the right one together with the VM."""
    server_id, image_id = shelved(world)
    theirs = add_image(world, server_id, owner=world.beta)
    world.live(ends_at(world, server_id) + timedelta(minutes=5))
    assert world.state(server_id) == "deleted"
    assert world.history(server_id)[-2] == (
        "deleted",
        {"by": "the end of its lease", "image_id": image_id, "image_name": "web1-shelved"},
    )
    assert world.cloud.image.images.keys() == {image_id, theirs}
    assert world.cloud.image.images[theirs]["owner"] == world.beta


def test_an_image_that_an_administrator_has_shelved_it_into_is_given_to_its_project(
    world: World,
) -> None:
    server_id, image_id = shelved(world, owner=world.cloud.add_project("operators"))
    world.live(ends_at(world, server_id) + timedelta(minutes=5))
    assert world.state(server_id) == "deleted"
    assert world.cloud.image.images[image_id]["owner"] == world.alpha


def test_of_two_that_it_may_be_none_is_chosen(world: World) -> None:
    server_id, image_id = shelved(world)
    other = add_image(world, server_id)
    world.live(ends_at(world, server_id) + timedelta(minutes=5))
    assert world.state(server_id) == "failed"
    reason = str(world.row(server_id).last_error)
    assert "cannot be told" in reason
    assert image_id in reason
    assert other in reason
    assert server_id in world.cloud.compute.vms


def until_protected(world: World) -> tuple[str, dict[str, Any]]:
    """Have the image of a shelved VM protected, and the answer lost; return both."""
    server_id, image_id = shelved(world)
    world.cloud.fault("/image/v2/images/", method="PATCH", times=1, status=503, after=True)
    world.clock.set(ends_at(world, server_id))
    image = world.cloud.image.images[image_id]
    while not image["protected"]:
        world.harness.plugin.service.worker.work_off(1)
        world.clock.advance(seconds=1)
    assert world.state(server_id) == "ending"
    return server_id, image


def test_an_extension_meanwhile_gives_it_back_shelved_with_its_image(world: World) -> None:
    server_id, image = until_protected(world)
    extend(world, server_id)
    vm = world.cloud.compute.vms[server_id]
    assert (world.state(server_id), vm.vm_state) == ("active", "shelved_offloaded")
    assert (vm.locked, image["protected"]) == (False, False)
    assert list(world.cloud.image.images) == [image["id"]]


def test_its_image_is_not_protected_for_ever_if_it_is_deleted_by_hand(world: World) -> None:
    """By its owner, who has just extended it."""
    server_id, image = until_protected(world)
    assert world.extend(server_id).status_code == 200
    world.cloud.compute.vanish(server_id)
    world.live(world.clock.now() + timedelta(minutes=5))
    assert world.state(server_id) == "deleted"
    assert image["protected"] is False


def test_a_process_killed_in_the_middle_of_it(world: World) -> None:
    """The image is there, whichever change was its last; and not protected for ever.

    It is killed when that is done, and before it has heard of it: of the lock, of the protection,
    of the deletion, and of the end of the protection.
    """

    class Killed(BaseException):
        pass

    def killing(url: str, method: str, **kwargs: Any) -> Any:
        nonlocal left
        answer = request(url, method, **kwargs)
        left -= method != "GET"
        if left == 0:
            raise Killed
        return answer

    session = world.harness.plugin.tools.cloud.nova._rest._adapter.session
    request = session.request
    vms = []
    for _ in range(4):
        vms.append(shelve(world))
        world.clock.advance(hours=1)
    for changes, (server_id, image_id) in enumerate(vms, start=1):
        world.live(ends_at(world, server_id) - timedelta(minutes=5))
        world.clock.set(ends_at(world, server_id))
        left = changes
        session.request = killing
        while left > 0:
            with contextlib.suppress(Killed):
                world.harness.plugin.service.worker.work_off(1)
            world.clock.advance(seconds=3)
        session.request = request
        # Another worker takes over what it had claimed.
        world.live(world.clock.now() + timedelta(minutes=10))
        assert world.state(server_id) == "deleted", changes
        image = world.cloud.image.images[image_id]
        assert (image["owner"], image["protected"]) == (world.alpha, False), changes
