# SPDX-License-Identifier: Apache-2.0
"""The account and the endpoints with which the adapters ask a cloud; no secret of it gets out."""

from __future__ import annotations

import logging
import pathlib
import uuid
from typing import Any

import pytest

from blazar_vmexpire import cloud
from blazar_vmexpire.cloud import errors, session
from tests.fakes import identity
from tests.fakes.cloud import FakeCloud
from tests.functional.adapters import Configure, adapters, conf, configure, fake

__all__ = ["adapters", "conf", "configure", "fake"]


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
