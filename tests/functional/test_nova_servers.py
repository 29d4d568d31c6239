# SPDX-License-Identifier: Apache-2.0
"""Servers as Nova shows them, and what it does to them: stop, lock, shelve, save, delete."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from blazar_vmexpire import cloud
from blazar_vmexpire.cloud import errors
from blazar_vmexpire.cloud.servers import Server
from tests.fakes.cloud import FakeCloud
from tests.functional.adapters import adapters, conf, configure, fake

__all__ = ["adapters", "conf", "configure", "fake"]


def test_a_server(fake: FakeCloud, adapters: cloud.Cloud) -> None:
    project = fake.add_project("web")
    user = fake.add_user("alice")
    image = str(uuid.uuid4())
    server_id = fake.add_server(
        name="web1",
        project_id=project,
        user_id=user,
        created_at=datetime.datetime(2026, 2, 3, 4, 5, 6),
        image_id=image,
        flavor="m1.large",
        metadata={"keep": "no"},
        tags=["blue"],
        locked=True,
        locked_reason="mine",
    )
    server = adapters.nova.get(server_id)
    assert server.flavor["original_name"] == "m1.large"
    assert server == Server(
        id=server_id,
        name="web1",
        status="ACTIVE",
        task_state=None,
        vm_state="active",
        power_state=1,
        project_id=project,
        user_id=user,
        created_at=datetime.datetime(2026, 2, 3, 4, 5, 6),
        image_id=image,
        flavor=server.flavor,
        availability_zone="nova",
        host="compute1",
        locked=True,
        locked_reason="mine",
        metadata={"keep": "no"},
        tags=("blue",),
        root_device="/dev/vda",
        volumes=(),
    )
    assert not server.volume_backed


def test_a_volume_backed_server(fake: FakeCloud, adapters: cloud.Cloud) -> None:
    server_id = fake.add_server(image_id=None)
    volume_id = fake.attach(server_id)
    server = adapters.nova.get(server_id)
    assert server.image_id is None
    assert (server.root_device, server.volumes) == ("/dev/vda", (volume_id,))
    assert server.volume_backed


def test_a_server_that_is_gone(fake: FakeCloud, adapters: cloud.Cloud) -> None:
    server_id = str(uuid.uuid4())
    calls: list[Callable[[], object]] = [
        lambda: adapters.nova.get(server_id),
        lambda: adapters.nova.stop(server_id),
        lambda: adapters.nova.start(server_id),
        lambda: adapters.nova.lock(server_id, "because"),
        lambda: adapters.nova.unlock(server_id),
        lambda: adapters.nova.shelve(server_id),
        lambda: adapters.nova.shelve_offload(server_id),
        lambda: adapters.nova.unshelve(server_id),
        lambda: adapters.nova.delete(server_id),
        lambda: adapters.nova.create_image(server_id, "x", {}),
    ]
    for call in calls:
        with pytest.raises(errors.NotFound, match=f"404 Instance {server_id} could not be"):
            call()


def test_an_answer_about_another_server(fake: FakeCloud, adapters: cloud.Cloud) -> None:
    other = fake.add_server()
    server_id = fake.add_server()
    raw = {**fake.compute._view(fake.compute.vms[other], show=True)}
    fake.fault(f"/servers/{server_id}", body={"server": raw})
    with pytest.raises(errors.Unavailable, match=f"the answer is about server {other}"):
        adapters.nova.get(server_id)


def test_a_server_in_a_cell_that_is_down(fake: FakeCloud, adapters: cloud.Cloud) -> None:
    server_id = fake.add_server(cell="cell2")
    fake.compute.down_cells = {"cell2"}
    with pytest.raises(errors.Unavailable, match="cannot reach the cell"):
        adapters.nova.get(server_id)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("id", None),
        ("status", ""),
        ("status", 7),
        ("tenant_id", ""),
        ("user_id", None),
        ("created", "yesterday"),
        ("created", None),
        ("image", None),
        ("image", {}),
        ("flavor", "m1.small"),
        ("metadata", None),
        ("tags", None),
        ("locked", "yes"),
        ("OS-EXT-STS:power_state", True),
    ],
)
def test_a_server_that_is_not_what_it_must_be(
    fake: FakeCloud, adapters: cloud.Cloud, key: str, value: object
) -> None:
    raw = fake.compute._view(fake.compute.vms[fake.add_server()])
    Server.from_json(raw)
    with pytest.raises(errors.Unavailable, match=key):
        Server.from_json({**raw, key: value})
    del raw[key]
    with pytest.raises(errors.Unavailable, match=f"lacks '{key}'"):
        Server.from_json(raw)


def test_a_server_without_what_only_administrators_see(fake: FakeCloud) -> None:
    raw = fake.compute._view(fake.compute.vms[fake.add_server()])
    del raw["OS-EXT-SRV-ATTR:host"]
    raw["OS-EXT-AZ:availability_zone"] = ""
    raw["name"] = None
    server = Server.from_json(raw)
    assert (server.host, server.availability_zone, server.name) == (None, None, "")


def test_stop_and_start(fake: FakeCloud, adapters: cloud.Cloud) -> None:
    server_id = fake.add_server()
    adapters.nova.stop(server_id)
    with pytest.raises(errors.Conflict, match="in task_state powering-off"):
        adapters.nova.stop(server_id)
    assert adapters.nova.get(server_id).task_state == "powering-off"
    stopped = adapters.nova.get(server_id)
    assert (stopped.status, stopped.power_state) == ("SHUTOFF", 4)
    with pytest.raises(errors.Conflict, match=r"Cannot 'stop' instance .* vm_state stopped"):
        adapters.nova.stop(server_id)
    adapters.nova.start(server_id)
    adapters.nova.get(server_id)
    assert adapters.nova.get(server_id).status == "ACTIVE"
    with pytest.raises(errors.Conflict):
        adapters.nova.start(server_id)


def test_lock_and_unlock(fake: FakeCloud, adapters: cloud.Cloud) -> None:
    server_id = fake.add_server()
    adapters.nova.lock(server_id, "expired")
    adapters.nova.lock(server_id, "expired on 3 May")
    server = adapters.nova.get(server_id)
    assert (server.locked, server.locked_reason) == (True, "expired on 3 May")
    adapters.nova.stop(server_id)
    adapters.nova.unlock(server_id)
    adapters.nova.unlock(server_id)
    server = adapters.nova.get(server_id)
    assert (server.locked, server.locked_reason) == (False, None)


def test_shelve_offload_and_unshelve(fake: FakeCloud, adapters: cloud.Cloud) -> None:
    fake.compute.shelved_offload_time, fake.compute.reads, fake.image.reads = -1, 0, 0
    server_id = fake.add_server(name="web1", locked=True)
    for call in (adapters.nova.shelve_offload, adapters.nova.unshelve):
        with pytest.raises(errors.Conflict, match="vm_state active"):
            call(server_id)
    adapters.nova.shelve(server_id)
    assert adapters.nova.get(server_id).status == "SHELVED"
    with pytest.raises(errors.Conflict, match=r"Cannot 'shelve' instance .* vm_state shelved"):
        adapters.nova.shelve(server_id)
    (image,) = adapters.glance.find(instance_uuid=server_id)
    assert (image.name, image.owner) == ("web1-shelved", adapters.keystone.service_project_id)
    adapters.nova.shelve_offload(server_id)
    server = adapters.nova.get(server_id)
    assert (server.status, server.host) == ("SHELVED_OFFLOADED", None)
    adapters.nova.unshelve(server_id)
    assert adapters.nova.get(server_id).status == "ACTIVE"
    assert adapters.glance.find(instance_uuid=server_id) == []


def test_unrescue(fake: FakeCloud, adapters: cloud.Cloud) -> None:
    server_id = fake.add_server(vm_state="rescued")
    adapters.nova.unrescue(server_id)
    assert adapters.nova.get(server_id).task_state == "unrescuing"
    assert adapters.nova.get(server_id).status == "ACTIVE"
    with pytest.raises(errors.Conflict):
        adapters.nova.unrescue(server_id)


def test_delete(fake: FakeCloud, adapters: cloud.Cloud) -> None:
    server_id = fake.add_server(locked=True, vm_state="error")
    adapters.nova.delete(server_id)
    adapters.nova.delete(server_id)
    assert adapters.nova.get(server_id).task_state == "deleting"
    with pytest.raises(errors.NotFound):
        adapters.nova.get(server_id)
    with pytest.raises(errors.NotFound):
        adapters.nova.delete(server_id)


def test_delete_where_nova_reclaims_later(fake: FakeCloud, adapters: cloud.Cloud) -> None:
    fake.compute.soft_delete = True
    server_id = fake.add_server()
    adapters.nova.delete(server_id)
    adapters.nova.get(server_id)
    assert adapters.nova.get(server_id).status == "SOFT_DELETED"
    assert list(adapters.nova.pages(10)) == []


def test_the_answer_to_a_deed_gets_lost(fake: FakeCloud, adapters: cloud.Cloud) -> None:
    server_id = fake.add_server()
    fake.fault("/action", close=True, after=True)
    with pytest.raises(errors.Unavailable):
        adapters.nova.create_image(server_id, "backup", {"vmexpire:server_id": server_id})
    (image,) = adapters.glance.find(**{"vmexpire:server_id": server_id})
    assert image.name == "backup"


def test_create_image(fake: FakeCloud, adapters: cloud.Cloud) -> None:
    server_id = fake.add_server()
    image_id = adapters.nova.create_image(server_id, "backup", {"vmexpire:end": "2026-05-03"})
    assert adapters.nova.get(server_id).task_state == "image_snapshot"
    with pytest.raises(errors.Conflict, match="image_snapshot"):
        adapters.nova.create_image(server_id, "backup", {})
    statuses = [adapters.glance.get(image_id).status for _ in range(3)]
    assert statuses == ["saving", "active", "active"]
    image = adapters.glance.get(image_id)
    assert image.properties["vmexpire:end"] == "2026-05-03"
    assert image.size
    assert image.owner == adapters.keystone.service_project_id
    assert adapters.nova.get(server_id).task_state is None


def test_create_image_of_a_volume_backed_server(fake: FakeCloud, adapters: cloud.Cloud) -> None:
    image_id = adapters.nova.create_image(fake.add_server(image_id=None), "backup", {})
    image = adapters.glance.get(image_id)
    assert (image.status, image.size) == ("active", 0)
    assert "block_device_mapping" in image.properties


def test_an_image_that_nova_drops(fake: FakeCloud, adapters: cloud.Cloud) -> None:
    fake.image.reads = None
    server_id = fake.add_server()
    image_id = adapters.nova.create_image(server_id, "backup", {})
    fake.image.fail(image_id)
    with pytest.raises(errors.NotFound):
        adapters.glance.get(image_id)
    assert adapters.nova.get(server_id).task_state is None


@pytest.mark.parametrize("image_id", [None, 7, "", "x", ["y"], {}])
def test_an_image_without_an_id(fake: FakeCloud, adapters: cloud.Cloud, image_id: Any) -> None:
    fake.fault("/action", status=202, body={"image_id": image_id})
    with pytest.raises(errors.Unavailable, match=r"create image of server .*: the answer"):
        adapters.nova.create_image(fake.add_server(), "backup", {})


@pytest.mark.parametrize(
    "body", [{}, {"server": None}, {"server": []}, {"server": "x"}, "[" * 9999]
)
def test_a_server_that_is_none(fake: FakeCloud, adapters: cloud.Cloud, body: Any) -> None:
    fake.fault("/servers/", status=200, body=body)
    with pytest.raises(errors.Unavailable, match=r"nova: (get|read) server "):
        adapters.nova.get(fake.add_server())
