# SPDX-License-Identifier: Apache-2.0
"""The adapters against a cloud over real sockets, working and failing in every way."""

from __future__ import annotations

import configparser
import datetime
import json
import logging
import pathlib
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import pytest
import requests
from oslo_config import cfg

from blazar_vmexpire import cloud
from blazar_vmexpire.cloud import errors, session
from blazar_vmexpire.cloud.keystone import Keystone
from blazar_vmexpire.cloud.servers import Server
from blazar_vmexpire.conf import opts
from tests.fakes import identity
from tests.fakes.cloud import FakeCloud


@pytest.fixture
def fake() -> Iterator[FakeCloud]:
    """A cloud of our own, with nothing in it but the service's account."""
    with FakeCloud() as running:
        yield running


class Configure(Protocol):
    """Makes a configuration as of a Blazar that works with the cloud, with changes by group."""

    def __call__(self, **changes: dict[str, str]) -> cfg.ConfigOpts: ...


@pytest.fixture
def configure(fake: FakeCloud, tmp_path: pathlib.Path) -> Configure:
    """Return a function that makes configurations, from a file as an operator writes it."""

    def make(**changes: dict[str, str]) -> cfg.ConfigOpts:
        file = configparser.ConfigParser(interpolation=None)
        file.read_dict({"vmexpire_cloud": {"request_timeout": "5s"}})
        file.read_dict(fake.conf_overrides())
        file.read_dict(changes)
        path = tmp_path / "blazar.conf"
        with path.open("w") as stream:
            file.write(stream)
        conf = cfg.ConfigOpts()
        opts.register_opts(conf)
        conf(["--config-file", str(path)])
        return conf

    return make


@pytest.fixture
def conf(configure: Configure) -> cfg.ConfigOpts:
    """A configuration as of a Blazar that works with this cloud."""
    return configure()


@pytest.fixture
def adapters(conf: cfg.ConfigOpts) -> cloud.Cloud:
    """What is tested."""
    return cloud.connect(conf)


# Credentials and endpoints


def test_connecting_sends_nothing(fake: FakeCloud, adapters: cloud.Cloud) -> None:
    assert fake.requests() == []


def test_blazars_own_account_serves(fake: FakeCloud, adapters: cloud.Cloud) -> None:
    assert adapters.keystone.service_project_id == fake.identity.service_project
    asked = fake.requests("/identity/v3/auth/tokens", "POST")
    assert len(asked) == 1
    assert asked[0].headers["user-agent"].startswith("blazar-vmexpire/")


def test_an_account_of_our_own(fake: FakeCloud, configure: Configure) -> None:
    user = fake.add_user("expirer", password="own")
    project = fake.add_project("expiration")
    fake.identity.roles[user, project] = ["admin"]
    conf = configure(
        DEFAULT={"os_admin_password": "no longer valid"},
        vmexpire_cloud={
            "auth_type": "password",
            "auth_url": f"{fake.url}/identity",
            "username": "expirer",
            "password": "own",
            "project_name": "expiration",
            "user_domain_name": "Default",
            "project_domain_name": "Default",
        },
    )
    assert cloud.connect(conf).keystone.service_project_id == project


@pytest.mark.parametrize(
    ("host", "prefix", "url"),
    [
        ("keystone.example", "", "https://keystone.example:5000/v3"),
        ("10.0.0.1", "identity", "https://10.0.0.1:5000/identity/v3"),
        ("fd00::1", "/a/b/", "https://[fd00::1]:5000/a/b/v3"),
    ],
)
def test_the_url_is_formed_as_blazar_does(
    configure: Configure, host: str, prefix: str, url: str
) -> None:
    conf = configure(
        DEFAULT={
            "os_auth_protocol": "https",
            "os_auth_host": host,
            "os_auth_port": "5000",
            "os_auth_prefix": prefix,
        }
    )
    assert session.make_session(conf).auth.auth_url == url


def test_which_endpoints(configure: Configure) -> None:
    two = session.Endpoints(("internal", "public"), "RegionOne")
    assert session.endpoints(configure()) == two
    conf = configure(nova={"endpoint_type": "admin"}, vmexpire_cloud={"region_name": "Two"})
    assert session.endpoints(conf) == session.Endpoints(("admin", "internal", "public"), "Two")
    conf = configure(vmexpire_cloud={"valid_interfaces": "public"})
    assert session.endpoints(conf).interfaces == ("public",)


def test_certificates_and_timeouts(configure: Configure) -> None:
    made = session.make_session(configure(DEFAULT={"cafile": "/ca.pem"}))
    assert (made.verify, made.timeout) == ("/ca.pem", 5.0)
    made = session.make_session(
        configure(
            DEFAULT={"cafile": "/ca.pem"}, vmexpire_cloud={"cafile": "/our.pem", "timeout": "7"}
        )
    )
    assert (made.verify, made.timeout) == ("/our.pem", 7.0)
    assert session.make_session(configure(vmexpire_cloud={"insecure": "true"})).verify is False


def test_a_region_that_does_not_exist(configure: Configure) -> None:
    conf = configure(vmexpire_cloud={"region_name": "Nowhere"})
    with pytest.raises(errors.Unavailable, match=r"nova: get server .*Nowhere"):
        cloud.connect(conf).nova.get(str(uuid.uuid4()))


@pytest.mark.parametrize("tail", ["", "/", "/v2", "/v2/", "/v2.9"])
def test_glances_endpoint_with_and_without_version(
    fake: FakeCloud, adapters: cloud.Cloud, tail: str
) -> None:
    fake.identity.image_url = f"{fake.url}/image{tail}"
    image_id = fake.add_image(name="one")
    assert adapters.glance.get(image_id).name == "one"


@pytest.mark.parametrize("tail", ["", "/", "/v3"])
def test_keystones_endpoint_with_and_without_version(
    fake: FakeCloud, adapters: cloud.Cloud, tail: str
) -> None:
    fake.identity.identity_url = f"{fake.url}/identity{tail}"
    assert adapters.keystone.get_user(fake.add_user("bob")).name == "bob"


def test_a_token_that_ran_out_is_replaced(fake: FakeCloud, adapters: cloud.Cloud) -> None:
    server_id = fake.add_server()
    adapters.nova.get(server_id)
    fake.identity.revoke_tokens()
    assert adapters.nova.get(server_id).id == server_id
    assert len(fake.requests("auth/tokens", "POST")) == 2


def test_credentials_that_do_not_work_are_doubt(fake: FakeCloud, configure: Configure) -> None:
    broken = cloud.connect(configure(DEFAULT={"os_admin_password": "wrong"}))
    with pytest.raises(errors.Unavailable, match="requires authentication"):
        broken.nova.delete(fake.add_server())
    with pytest.raises(errors.Unavailable, match="keystone: get a token"):
        broken.keystone.service_project_id  # noqa: B018


def test_a_404_for_the_token_is_not_a_404_for_the_server(
    fake: FakeCloud, adapters: cloud.Cloud
) -> None:
    fake.fault("/auth/tokens", status=404, message="Could not find project: service.")
    with pytest.raises(errors.Unavailable):
        adapters.nova.get(fake.add_server())
    with pytest.raises(errors.Unavailable):
        adapters.keystone.get_user(fake.add_user("bob"))


@pytest.mark.parametrize(
    "body", [{}, {"token": {}}, {"token": {"catalog": []}}, [], "<p>hello</p>"]
)
def test_a_token_that_is_none(fake: FakeCloud, adapters: cloud.Cloud, body: Any) -> None:
    fake.fault("/auth/tokens", status=201, body=body)
    with pytest.raises(errors.Unavailable):
        adapters.nova.get(fake.add_server())


def test_keystone_is_gone(configure: Configure) -> None:
    conf = configure(DEFAULT={"os_auth_port": "1"})
    with pytest.raises(errors.Unavailable, match=r"nova: get server .*(refused|establish)"):
        cloud.connect(conf).nova.get(str(uuid.uuid4()))


# What is answered, and what that is worth: the same for each service


def resized(fake: FakeCloud) -> str:
    """Add a server that waits for its resize to be confirmed."""
    server_id = fake.add_server()
    fake.compute.resize(server_id, "p")
    return server_id


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


# Nova


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


def test_live_migration(fake: FakeCloud, adapters: cloud.Cloud) -> None:
    server_id = fake.add_server(locked=True)
    assert adapters.nova.migrations(server_id) == []
    adapters.nova.live_migrate(server_id, None)
    with pytest.raises(errors.Conflict):
        adapters.nova.live_migrate(server_id, None)
    assert adapters.nova.get(server_id).status == "MIGRATING"
    server = adapters.nova.get(server_id)
    assert (server.host, server.status, server.task_state) == ("compute2", "ACTIVE", None)
    adapters.nova.live_migrate(server_id, "compute1")
    fake.compute.settle(server_id)
    back, there = adapters.nova.migrations(server_id)
    assert (back.source, back.target) == ("compute2", "compute1")
    assert (there.source, there.target) == ("compute1", "compute2")
    assert (there.kind, there.status) == ("live-migration", "completed")
    assert there.project_id == adapters.keystone.service_project_id
    for vm_state in ("stopped", "suspended"):
        with pytest.raises(errors.Conflict):
            adapters.nova.live_migrate(fake.add_server(vm_state=vm_state), None)


def test_cold_migration(fake: FakeCloud, adapters: cloud.Cloud) -> None:
    server_id = fake.add_server(vm_state="stopped")
    adapters.nova.migrate(server_id, None)
    assert adapters.nova.get(server_id).status == "RESIZE"
    server = adapters.nova.get(server_id)
    assert (server.host, server.status, server.power_state) == ("compute2", "VERIFY_RESIZE", 4)
    (migration,) = adapters.nova.migrations(server_id)
    assert (migration.kind, migration.status) == ("migration", "finished")
    adapters.nova.confirm_resize(server_id)
    assert adapters.nova.migrations(server_id)[0].status == "confirming"
    with pytest.raises(errors.Refused):
        adapters.nova.confirm_resize(server_id)
    adapters.nova.get(server_id)
    assert adapters.nova.get(server_id).status == "SHUTOFF"
    assert adapters.nova.migrations(server_id)[0].status == "confirmed"


def test_unrescue(fake: FakeCloud, adapters: cloud.Cloud) -> None:
    server_id = fake.add_server(vm_state="rescued")
    adapters.nova.unrescue(server_id)
    assert adapters.nova.get(server_id).task_state == "unrescuing"
    assert adapters.nova.get(server_id).status == "ACTIVE"
    with pytest.raises(errors.Conflict):
        adapters.nova.unrescue(server_id)


@pytest.mark.parametrize("host", ["compute1", "compute9"])
def test_a_host_that_a_server_cannot_be_moved_to(
    fake: FakeCloud, adapters: cloud.Cloud, host: str
) -> None:
    """Nova refuses it; a live migration to its own host comes to nothing only later."""
    server_id = fake.add_server(vm_state="stopped")
    with pytest.raises(errors.Refused):
        adapters.nova.migrate(server_id, host)
    fake.compute.vms[server_id].vm_state = "active"
    if host == "compute9":
        with pytest.raises(errors.Refused):
            adapters.nova.live_migrate(server_id, host)
        return
    adapters.nova.live_migrate(server_id, host)
    fake.compute.settle(server_id)
    assert [m.status for m in adapters.nova.migrations(server_id)] == ["error"]


def test_migrations_of_other_servers_are_no_answer(fake: FakeCloud, adapters: cloud.Cloud) -> None:
    """A Nova that drops the filter without a word."""
    resized(fake)
    server_id = fake.add_server()
    assert adapters.nova.migrations(server_id) == []
    fake.fault("/os-migrations", rewrite=lambda body: {"migrations": fake.compute.migrations})
    with pytest.raises(errors.Unavailable, match="other servers"):
        adapters.nova.migrations(server_id)


def test_hosts(fake: FakeCloud, adapters: cloud.Cloud) -> None:
    fake.compute.hosts = {"a", "b", "c", "d"}
    fake.compute.down_hosts, fake.compute.disabled_hosts = {"b"}, {"c"}
    fake.add_server(host="e", cell="cell2")
    fake.compute.down_cells = {"cell2"}
    assert adapters.nova.hosts_up() == {"a", "d"}
    fake.compute.aggregates = {"old": ["a", "b"], "new": []}
    assert adapters.nova.aggregate_hosts("old") == ["a", "b"]
    assert adapters.nova.aggregate_hosts("new") == []
    assert adapters.nova.aggregate_hosts("none") is None


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


# novaclient, which single servers are acted on through


def test_nothing_is_asked_beside_the_request(fake: FakeCloud, adapters: cloud.Cloud) -> None:
    """No version is negotiated, and none is looked for: a token, then the request itself."""
    adapters.nova.get(fake.add_server())
    assert [request.method for request in fake.requests()] == ["POST", "GET"]
    asked = fake.requests("/compute/")[0].headers
    assert asked["openstack-api-version"] == "compute 2.90"
    assert asked["user-agent"].startswith("blazar-vmexpire/")


@pytest.mark.parametrize("interfaces", ["internal", "public", "nonesuch, public"])
def test_the_interfaces_are_tried_in_their_order(
    fake: FakeCloud, configure: Configure, interfaces: str
) -> None:
    adapters = cloud.connect(configure(vmexpire_cloud={"valid_interfaces": interfaces}))
    server_id = fake.add_server()
    adapters.nova.lock(server_id, "expired")
    assert adapters.nova.get(server_id).locked
    broken = cloud.connect(configure(vmexpire_cloud={"valid_interfaces": "nonesuch"}))
    with pytest.raises(errors.Unavailable, match=r"nova: get server .*nonesuch"):
        broken.nova.get(server_id)


def test_no_secret_is_logged(
    fake: FakeCloud,
    adapters: cloud.Cloud,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    server_id = fake.add_server()
    adapters.nova.get(server_id)
    adapters.nova.create_image(server_id, "backup", {"a": "b"})
    with pytest.raises(errors.NotFound):
        adapters.nova.stop(str(uuid.uuid4()))
    said = caplog.text + "".join(capfd.readouterr())
    assert server_id in said
    tokens = {request.token for request in fake.requests("/compute/")}
    assert len(tokens) == 1
    for secret in (*tokens, identity.SERVICE_PASSWORD):
        assert secret
        assert secret not in said


def test_nothing_is_kept_on_disk(
    fake: FakeCloud,
    adapters: cloud.Cloud,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("NOVACLIENT_UUID_CACHE_DIR", str(cache))
    server_id = fake.add_server()
    adapters.nova.get(server_id)
    adapters.nova.delete(server_id)
    assert not cache.exists()


# Listing


def _ids(pages: Any) -> list[str]:
    return [raw["id"] for page in pages for raw in page]


def _add_servers(fake: FakeCloud, count: int) -> list[str]:
    """Add servers, the oldest first, two to a second."""
    begin = datetime.datetime(2026, 1, 1)
    return [
        fake.add_server(created_at=begin + datetime.timedelta(seconds=number // 2))
        for number in range(count)
    ]


@pytest.mark.parametrize(("count", "limit"), [(0, 3), (1, 3), (3, 3), (7, 3), (9, 3), (5, 1000)])
def test_pages(fake: FakeCloud, adapters: cloud.Cloud, count: int, limit: int) -> None:
    servers = _add_servers(fake, count)
    pages = list(adapters.nova.pages(limit))
    assert sorted(_ids(pages)) == sorted(servers)
    assert all(0 < len(page) <= limit for page in pages)
    for raw in (raw for page in pages for raw in page):
        assert Server.from_json(raw).id == raw["id"]


def test_novas_own_limit_is_smaller(fake: FakeCloud, adapters: cloud.Cloud) -> None:
    fake.compute.max_limit = 2
    servers = _add_servers(fake, 5)
    assert sorted(_ids(adapters.nova.pages(1000))) == sorted(servers)


def test_paging_while_servers_come_and_go(fake: FakeCloud, adapters: cloud.Cloud) -> None:
    servers = _add_servers(fake, 8)
    pages = adapters.nova.pages(2)
    got = [next(pages)]
    last_of_page = got[0][-1]["id"]
    fake.compute.vanish(last_of_page)
    fake.compute.vanish(servers[0])
    fake.add_server()
    got += list(pages)
    assert set(servers) - set(_ids(got)) == {servers[0]}


def test_a_page_without_a_link_is_not_the_end(fake: FakeCloud, adapters: cloud.Cloud) -> None:
    servers = _add_servers(fake, 6)

    def one_less_and_no_link(body: Any) -> Any:
        return {"servers": body["servers"][:-1]}

    fake.fault("/servers/detail", rewrite=one_less_and_no_link, times=1)
    assert sorted(_ids(adapters.nova.pages(3))) == sorted(servers)


def test_a_link_that_does_not_advance(fake: FakeCloud, adapters: cloud.Cloud) -> None:
    _add_servers(fake, 6)
    first = next(adapters.nova.pages(3))
    page = {"servers": first}
    fake.fault("/servers/detail", body=page)
    with pytest.raises(errors.Unavailable, match="once more"):
        list(adapters.nova.pages(3))


def test_a_marker_that_was_purged(fake: FakeCloud, adapters: cloud.Cloud) -> None:
    _add_servers(fake, 6)
    pages = adapters.nova.pages(3)
    last = next(pages)[-1]["id"]
    del fake.compute.vms[last]
    with pytest.raises(errors.Unavailable, match=rf"400 marker \[{last}\] not found"):
        next(pages)


@pytest.mark.parametrize("body", [{}, {"servers": None}, {"servers": {}}, {"servers": [{}]}])
def test_a_page_that_is_none(fake: FakeCloud, adapters: cloud.Cloud, body: Any) -> None:
    fake.fault("/servers/detail", body=body)
    with pytest.raises(errors.Unavailable):
        list(adapters.nova.pages(3))


def test_a_page_in_the_middle_fails(fake: FakeCloud, adapters: cloud.Cloud) -> None:
    _add_servers(fake, 6)
    pages = adapters.nova.pages(3)
    next(pages)
    fake.fault("/servers/detail", truncate=True)
    with pytest.raises(errors.Unavailable, match="list servers after"):
        next(pages)


def test_a_cell_that_is_down_makes_the_list_incomplete(
    fake: FakeCloud, adapters: cloud.Cloud
) -> None:
    up = fake.add_server()
    fake.add_server(cell="cell2", host="compute2")
    fake.compute.down_cells = {"cell2"}
    pages = adapters.nova.pages(10)
    assert _ids([next(pages)]) == [up]
    with pytest.raises(errors.Unavailable, match="cannot reach the cell of 1 hosts"):
        next(pages)


def test_an_account_that_may_not_see_the_services(fake: FakeCloud, adapters: cloud.Cloud) -> None:
    server_id = fake.add_server()
    fake.fault("/os-services", status=403, message="Policy doesn't allow")
    assert _ids(adapters.nova.pages(10)) == [server_id]


def test_whether_a_server_was_deleted(fake: FakeCloud, adapters: cloud.Cloud) -> None:
    alive, soft, deleted, lost = (fake.add_server() for _ in range(4))
    fake.compute.vms[soft].vm_state = "soft-delete"
    fake.compute.vanish(deleted)
    fake.compute.lose(lost)
    found = [adapters.nova.was_deleted(server_id) for server_id in (alive, soft, deleted, lost)]
    assert found == [False, True, True, False]


@pytest.mark.parametrize("living", [True, False])
def test_filters_that_nova_drops_do_not_make_a_server_a_deleted_one(
    fake: FakeCloud, adapters: cloud.Cloud, *, living: bool
) -> None:
    """It lists other servers instead, or living ones."""
    deleted, other = fake.add_server(), fake.add_server()
    shown = fake.compute._view(fake.compute.vms[deleted if living else other])
    fake.compute.vanish(deleted)
    if not living:
        shown["status"] = "DELETED"
    fake.fault("/servers/detail", body={"servers": [shown]})
    assert adapters.nova.was_deleted(deleted) is False


@pytest.mark.parametrize("body", [{}, {"servers": None}, {"servers": {}}, {"servers": [{}]}])
def test_a_list_of_deleted_servers_that_is_none(
    fake: FakeCloud, adapters: cloud.Cloud, body: Any
) -> None:
    fake.fault("/servers/detail", body=body)
    with pytest.raises(errors.Unavailable):
        adapters.nova.was_deleted(fake.add_server())


# Glance


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


# Keystone


def test_a_user_and_a_project(fake: FakeCloud, adapters: cloud.Cloud) -> None:
    user = adapters.keystone.get_user(
        fake.add_user("alice", email="alice@example.org", domain_id="d1")
    )
    assert (user.name, user.email, user.domain_id, user.enabled) == (
        "alice",
        "alice@example.org",
        "d1",
        True,
    )
    assert adapters.keystone.get_user(fake.add_user("bob", email=" ")).email is None
    project = adapters.keystone.get_project(
        fake.add_project("web", enabled=False, tags=["x"], expire="on", type="personal")
    )
    assert project.properties == {"expire": "on", "type": "personal"}
    assert (project.name, project.enabled, project.tags) == ("web", False, ("x",))


@pytest.mark.parametrize("kind", ["user", "project"])
def test_keystones_404(fake: FakeCloud, adapters: cloud.Cloud, kind: str) -> None:
    get = getattr(adapters.keystone, f"get_{kind}")
    with pytest.raises(errors.NotFound, match=f"404 Could not find {kind}"):
        get(uuid.uuid4().hex)
    fake.fault(f"/{kind}s/", status=404, message=f"Could not find {kind}: jdoe.")
    with pytest.raises(errors.NotFound):
        get(uuid.uuid4().hex)
    fake.fault(f"/{kind}s/", status=404, message="The requested URL was not found.")
    with pytest.raises(errors.Unavailable):
        get(uuid.uuid4().hex)


def test_users_and_projects_are_remembered_for_a_minute(
    fake: FakeCloud, conf: cfg.ConfigOpts
) -> None:
    now = 0.0
    keystone = Keystone(session.make_session(conf), session.endpoints(conf), clock=lambda: now)
    user_id = fake.add_user("alice", email="old@example.org")
    project_id = fake.add_project("web")
    for _ in range(5):
        assert keystone.get_user(user_id).email == "old@example.org"
        keystone.get_project(project_id)
    assert len(fake.requests("/users/|/projects/")) == 2
    fake.identity.users[user_id]["email"] = "new@example.org"
    now = 59.0
    assert keystone.get_user(user_id).email == "old@example.org"
    now = 61.0
    assert keystone.get_user(user_id).email == "new@example.org"


def test_what_was_not_found_is_not_remembered(fake: FakeCloud, adapters: cloud.Cloud) -> None:
    user_id = fake.add_user("alice")
    user = fake.identity.users.pop(user_id)
    with pytest.raises(errors.NotFound):
        adapters.keystone.get_user(user_id)
    fake.identity.users[user_id] = user
    assert adapters.keystone.get_user(user_id).name == "alice"


# The fake itself


VALIDATE = """
import json, sys
from importlib import import_module
from nova.api.validation import validators
for name, values in json.load(sys.stdin).items():
    module, schema = name.split(".")
    module = import_module("nova.api.openstack.compute.schemas." + module)
    is_body = "index_query" not in schema
    for value in values:
        validators._SchemaValidator(getattr(module, schema), is_body=is_body).validate(value)
"""


def test_the_fake_speaks_as_nova_does(fake: FakeCloud, adapters: cloud.Cloud) -> None:
    for vm_state in ("active", "stopped", "error", "building"):
        fake.add_server(vm_state=vm_state, tags=["a"], metadata={"b": "c"})
    fake.attach(fake.add_server(image_id=None))
    down = fake.add_server(cell="cell2")
    token = {"X-Auth-Token": adapters.nova._rest._adapter.get_token()}
    headers = {**token, "OpenStack-API-Version": "compute 2.90"}

    def ask(path: str) -> Any:
        answer = requests.get(fake.identity.compute_url + path, headers=headers, timeout=5)
        assert answer.status_code == 200
        return answer.json()

    details = [ask("/servers/detail?all_tenants=1&limit=4")]
    shows = [ask(f"/servers/{vm}") for vm in fake.compute.vms]
    fake.compute.down_cells = {"cell2"}
    details.append(ask("/servers/detail?all_tenants=1"))
    shows.append(ask(f"/servers/{down}"))
    fake.compute.down_cells = set()
    fake.compute.vanish(down)
    details.append(ask(f"/servers/detail?all_tenants=1&deleted=true&uuid={down}"))
    assert [server["status"] for server in details[-1]["servers"]] == ["DELETED"]
    fake.compute.aggregates = {"old": ["compute1"]}
    fake.compute.down_hosts = {"compute2"}
    resized(fake)
    # And that Nova takes what we ask it.
    list(adapters.nova.pages(3))
    adapters.nova.was_deleted(down)
    server_id = fake.add_server()
    for host in (None, "compute2"):
        adapters.nova.live_migrate(server_id, host)
        fake.compute.settle(server_id)
        adapters.nova.migrate(server_id, host)
        fake.compute.settle(server_id)
        fake.compute.vms[server_id].vm_state = "active"
        fake.compute.vms[server_id].host = "compute1"
    bodies = [request.body for request in fake.requests(f"/servers/{server_id}/action")]
    answers = {
        "aggregates.index_response_v241": [ask("/os-aggregates")],
        "migrations.index_response_v280": [ask("/os-migrations")],
        "services.index_response_v269": [ask("/os-services")],
        "migrate_server.migrate_live_v2_68": [b for b in bodies if "os-migrateLive" in b],
        "migrate_server.migrate": [b for b in bodies if "migrate" in b],
        "servers.detail_response_v290": details,
        "servers.show_response_v290": shows,
        "servers.index_query_v275": [
            request.query
            for request in fake.requests("/servers/detail")
            if request.headers["user-agent"].startswith("blazar-vmexpire/")
        ],
    }
    assert len(answers["servers.index_query_v275"]) >= 3
    assert len(bodies) == 4
    # In a process of its own: Nova and Blazar both claim the option "host".
    done = subprocess.run(
        [sys.executable, "-c", VALIDATE],
        input=json.dumps(answers),
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
