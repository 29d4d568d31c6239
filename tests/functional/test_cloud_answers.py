# SPDX-License-Identifier: Apache-2.0
"""What an answer of a cloud is worth, and what it leaves in doubt: the same for each service."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from blazar_vmexpire import cloud
from blazar_vmexpire.cloud import errors
from tests.fakes.cloud import FakeCloud
from tests.functional.adapters import Configure, adapters, conf, configure, fake, resized

__all__ = ["adapters", "conf", "configure", "fake"]

CALLS: dict[str, tuple[str, Callable[[cloud.Cloud, FakeCloud], Any]]] = {
    "nova get": ("/compute/.*/servers/", lambda a, f: a.nova.get(f.add_server())),
    "nova stop": ("/action", lambda a, f: a.nova.stop(f.add_server())),
    "nova delete": ("/compute/.*/servers/", lambda a, f: a.nova.delete(f.add_server())),
    "nova image": (
        "/action",
        lambda a, f: a.nova.create_image(f.add_server(), "backup", {"a": "b"}),
    ),
    "nova pages": (
        "/servers/detail",
        lambda a, f: f.add_server() and list(a.nova.pages(10)),
    ),
    "nova services": (
        "/os-services",
        lambda a, f: f.add_server() and list(a.nova.pages(10)),
    ),
    "nova deleted": (
        "/servers/detail",
        lambda a, f: a.nova.was_deleted(f.add_server()),
    ),
    "nova live migration": ("/action", lambda a, f: a.nova.live_migrate(f.add_server(), None)),
    "nova cold migration": ("/action", lambda a, f: a.nova.migrate(f.add_server(), "compute2")),
    "nova confirm": ("/action", lambda a, f: a.nova.confirm_resize(resized(f))),
    "nova unrescue": (
        "/action",
        lambda a, f: a.nova.unrescue(f.add_server(vm_state="rescued")),
    ),
    "nova migrations": ("/os-migrations", lambda a, f: a.nova.migrations(resized(f))),
    "nova aggregates": ("/os-aggregates", lambda a, f: a.nova.aggregate_hosts("old")),
    "nova hosts": ("/os-services", lambda a, f: a.nova.hosts_up()),
    "glance get": ("/image/v2/images/", lambda a, f: a.glance.get(f.add_image())),
    "glance give": ("/image/v2/images/", lambda a, f: a.glance.give(f.add_image(), "p")),
    "glance protect": ("/image/v2/images/", lambda a, f: a.glance.protect(f.add_image(), True)),
    "glance delete": ("/image/v2/images/", lambda a, f: a.glance.delete(f.add_image())),
    "glance find": ("/image/v2/images$", lambda a, f: a.glance.find(owner="p")),
    "keystone user": ("/users/", lambda a, f: a.keystone.get_user(f.add_user("bob"))),
    "keystone project": (
        "/projects/",
        lambda a, f: a.keystone.get_project(f.add_project("web")),
    ),
}
FAULTS: dict[str, dict[str, Any]] = {
    "connection reset": {"close": True},
    "connection reset after the deed": {"close": True, "after": True},
    "500": {"status": 500},
    "502 of a proxy": {"status": 502, "html": True},
    "503": {"status": 503},
    "504 with nothing": {"status": 504, "empty": True},
    "429": {"status": 429},
    "401": {"status": 401},
    "404 of a proxy": {"status": 404, "html": True},
    "404 with nothing": {"status": 404, "empty": True},
    "404 of a gateway": {"status": 404, "body": {"message": "no Route matched"}},
    "404 of a gateway in one key": {"status": 404, "body": {"detail": "Not Found"}},
    "404 about something else": {"status": 404, "message": "The resource was not found."},
    "403 of a proxy": {"status": 403, "html": True},
    "409 of a proxy": {"status": 409, "html": True},
    "a page of a captive portal": {"status": 200, "html": True},
    "an unexpected success": {"status": 203, "body": {}},
    "JSON that is a list": {"status": 200, "body": ["x"]},
}
#: The answer to these has a body; to the others an empty one is right.
HAVE_BODY = set(CALLS) - {
    "nova stop",
    "nova delete",
    "nova live migration",
    "nova cold migration",
    "nova confirm",
    "nova unrescue",
    "glance delete",
    "nova services",
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("call", CALLS)
def test_doubt(fake: FakeCloud, adapters: cloud.Cloud, call: str, fault: str) -> None:
    path, make = CALLS[call]
    fake.fault(path, **FAULTS[fault])
    with pytest.raises(errors.Unavailable) as caught:
        make(adapters, fake)
    assert caught.value.service == call.split()[0]
    assert str(caught.value).startswith(f"{caught.value.service}: {caught.value.what}: ")


@pytest.mark.parametrize("call", sorted(HAVE_BODY))
@pytest.mark.parametrize("fault", [{"truncate": True}, {"empty": True, "after": True}])
def test_doubt_about_a_body(
    fake: FakeCloud, adapters: cloud.Cloud, call: str, fault: dict[str, Any]
) -> None:
    path, make = CALLS[call]
    fake.fault(path, **fault)
    with pytest.raises(errors.Unavailable):
        make(adapters, fake)


@pytest.mark.parametrize("fault", [{"hang": True}, {"delay": 3.0}])
def test_a_service_that_hangs(fake: FakeCloud, configure: Configure, fault: dict[str, Any]) -> None:
    adapters = cloud.connect(configure(vmexpire_cloud={"request_timeout": "1s"}))
    server_id = fake.add_server()
    fake.fault("/compute/", **fault)
    with pytest.raises(errors.Unavailable, match="timed out"):
        adapters.nova.get(server_id)
    assert len(fake.requests("/compute/")) == 1


def test_keystone_that_hangs(fake: FakeCloud, configure: Configure) -> None:
    conf = configure(vmexpire_cloud={"request_timeout": "1s"})
    fake.fault("/auth/tokens", hang=True)
    with pytest.raises(errors.Unavailable, match="timed out"):
        cloud.connect(conf).nova.get(fake.add_server())


def test_a_late_answer_within_the_time_is_an_answer(fake: FakeCloud, adapters: cloud.Cloud) -> None:
    server_id = fake.add_server()
    fake.fault("/compute/", delay=0.3)
    assert adapters.nova.get(server_id).id == server_id


@pytest.mark.parametrize("status", [400, 403, 405, 413, 415])
@pytest.mark.parametrize("call", sorted(set(CALLS) - {"nova services"}))
def test_refused(fake: FakeCloud, adapters: cloud.Cloud, call: str, status: int) -> None:
    path, make = CALLS[call]
    fake.fault(path, status=status, message="Quota exceeded")
    with pytest.raises(errors.Refused, match=rf": {status} Quota exceeded \(request id"):
        make(adapters, fake)


@pytest.mark.parametrize("call", CALLS)
def test_conflict(fake: FakeCloud, adapters: cloud.Cloud, call: str) -> None:
    path, make = CALLS[call]
    fake.fault(path, status=409, message="in use")
    with pytest.raises(errors.Conflict, match="409 in use"):
        make(adapters, fake)


def test_an_empty_id_is_not_the_whole_collection(fake: FakeCloud, adapters: cloud.Cloud) -> None:
    calls = [adapters.nova.delete, adapters.glance.delete, adapters.keystone.get_user]
    for call in calls:
        with pytest.raises(errors.Refused, match="there is no id"):
            call("")
    assert fake.requests() == []


def test_an_id_stays_one_segment_of_the_path(fake: FakeCloud, adapters: cloud.Cloud) -> None:
    server_id = fake.add_server()
    with pytest.raises(errors.CloudError):
        adapters.nova.delete(f"x/../{server_id}")
    (asked,) = fake.requests("/compute/")
    assert asked.path.endswith(f"/servers/x%2F..%2F{server_id}")
    assert fake.compute.vms[server_id].task_state is None


def test_nothing_is_repeated(fake: FakeCloud, adapters: cloud.Cloud) -> None:
    fake.fault("/compute/", status=503)
    server_id = fake.add_server()
    for act in (adapters.nova.get, adapters.nova.stop, adapters.nova.delete):
        before = len(fake.requests("/compute/"))
        with pytest.raises(errors.Unavailable):
            act(server_id)
        assert len(fake.requests("/compute/")) == before + 1
