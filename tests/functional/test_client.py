# SPDX-License-Identifier: Apache-2.0
"""``blazar_vmexpire.client``: our API as programs ask it, over HTTP."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from keystoneauth1 import exceptions
from keystoneauth1.session import Session

from blazar_vmexpire.client import Client, GenerationMoved, NotFound, NotUnique, sentence_of
from blazar_vmexpire.db.models import expirations
from tests.blazar_harness import START
from tests.fault_proxy import HOST, FaultProxy, page
from tests.functional.openstack import Openstack, served
from tests.functional.world import World

pytestmark = [
    pytest.mark.databases("sqlite"),
    pytest.mark.options({"virtual:vm": {"on_end_action": "snapshot"}}),
]

UNKNOWN = "11111111-1111-4111-8111-111111111111"


class Clients:
    """Clients of different people."""

    def __init__(self, openstack: Openstack, address: str) -> None:
        self.address = address
        self._openstack = openstack

    def session(self, name: str = "alice") -> Session:
        """Return a session of somebody's."""
        return self._openstack.session(name)

    def of(self, name: str = "alice", **more: Any) -> Client:
        """Return that of somebody."""
        return Client(session=self.session(name), **more)


@pytest.fixture
def clients(world: World, capsys: pytest.CaptureFixture[str]) -> Iterator[Clients]:
    """A served API, and clients for it."""
    with served(world.harness) as address:
        yield Clients(Openstack(world, capsys), address)


def put(world: World, count: int, **columns: Any) -> list[str]:
    """Write rows of VMs of Alice's, as if they had been taken in; returns their UUIDs in order."""
    rows = [
        {
            "server_id": str(uuid.uuid4()),
            "server_name": "web1",
            "project_id": world.alpha,
            "user_id": world.alice,
            "state": "active",
            "ends_at": START + timedelta(days=60, minutes=n),
            "facts": "{}",
            **columns,
        }
        for n in range(count)
    ]
    with world.harness.database.begin() as connection:
        connection.execute(expirations.insert(), rows)
    return [str(row["server_id"]) for row in rows]


def test_pages_are_followed_as_far_as_they_are_asked_for(world: World, clients: Clients) -> None:
    ids = put(world, 2001)
    vms = clients.of().vm_expirations
    assert [vm["server_id"] for vm in vms.list()] == ids
    assert [vm["server_id"] for vm in vms.list(limit=1500)] == ids[:1500]
    assert [vm["server_id"] for vm in vms.list(limit=2, marker=ids[0])] == ids[1:3]
    assert list(vms.list(limit=0)) == []
    assert next(iter(vms.list(sort_dir="desc")))["server_id"] == ids[-1]


def test_one_page_tells_where_the_next_one_begins(world: World, clients: Clients) -> None:
    ids = put(world, 5)
    vms = clients.of().vm_expirations
    found, marker = vms.page(limit=2, name="web1")
    assert [vm["server_id"] for vm in found] == ids[:2]
    found, marker = vms.page(limit=2, marker=marker)
    assert [vm["server_id"] for vm in found] == ids[2:4]
    found, last = vms.page(limit=2, marker=marker)
    assert ([vm["server_id"] for vm in found], last) == (ids[4:], None)
    assert vms.page(limit=5) == (list(vms.list()), None)


def test_some_vms_are_asked_for_by_their_ids(world: World, clients: Clients) -> None:
    ids = put(world, 3)
    vms = clients.of().vm_expirations
    assert [vm["server_id"] for vm in vms.list(server_ids=[ids[2], ids[0]])] == [ids[0], ids[2]]


def test_what_is_not_this_api_is_told(clients: Clients) -> None:
    """A proxy that wants one to log in, say."""
    with FaultProxy((HOST, int(clients.address.rpartition(":")[2]))) as proxy:
        client = clients.of(endpoint_override=f"http://{HOST}:{proxy.port}")
        with proxy.broken(page(200)), pytest.raises(exceptions.InvalidResponse):
            client.vm_expirations.summary()
        with proxy.broken(page(403)), pytest.raises(exceptions.Forbidden) as caught:
            client.vm_expirations.summary()
        assert sentence_of(caught.value) is None
        with pytest.raises(exceptions.Forbidden) as caught:
            client.vm_expirations.summary(all_projects=True)
        assert str(sentence_of(caught.value)).startswith("Policy doesn't allow")


def test_a_next_link_never_leads_to_another_host(world: World, clients: Clients) -> None:
    """A service behind a proxy tells of itself what it knows; and the token is for nobody else."""
    put(world, 1001)
    session = clients.session()
    session.additional_headers["Host"] = "elsewhere.example.org"
    assert len(list(Client(session=session).vm_expirations.list())) == 1001


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/", "/v2"])
def test_the_address_may_be_written_in_any_way(clients: Clients, path: str) -> None:
    client = clients.of(endpoint_override=clients.address + path)
    assert list(client.vm_expirations.list()) == []


def test_a_region_without_the_service_is_told(clients: Clients) -> None:
    with pytest.raises(exceptions.EndpointNotFound, match="reservation"):
        clients.of(region_name="elsewhere").vm_expirations.summary()


def test_dates_are_datetimes_or_texts(world: World, clients: Clients) -> None:
    server_id = world.adopt()
    vms, admin = clients.of().vm_expirations, clients.of("admin").vm_expirations
    end = START + timedelta(days=5)
    east = datetime.timezone(timedelta(hours=3))
    for date in (
        end,
        end.replace(tzinfo=datetime.UTC),
        end.replace(tzinfo=datetime.UTC).astimezone(east),
        f"{end:%Y-%m-%d %H:%M}",
    ):
        changed = admin.update(server_id, reason="x", ends_at=date)
        assert changed["ends_at"] == f"{end:%Y-%m-%dT%H:%M:%SZ}"
    assert [vm["server_id"] for vm in vms.list(ends_before=end + timedelta(days=1))] == [server_id]
    assert list(vms.list(ends_after=end + timedelta(days=1))) == []
    hold = {"until": end + timedelta(days=30), "ticket": None}
    assert admin.update(server_id, reason="x", hold=hold)["state"] == "held"
    assert admin.update(server_id, reason="x", hold=None)["state"] != "held"
    later = vms.extend(server_id, end + timedelta(days=1))
    assert later["ends_at"] == f"{end + timedelta(days=1):%Y-%m-%dT%H:%M:%SZ}"


def test_the_loser_of_a_race_is_told(world: World, clients: Clients) -> None:
    server_id = world.adopt()
    admin = clients.of("admin").vm_expirations
    seen = admin.get(server_id)["generation"]
    far = START + timedelta(days=300)
    assert admin.update(server_id, reason="x", ends_at=far, if_match=seen)["generation"] == seen + 1
    for act in (
        lambda: admin.update(server_id, reason="x", exempt=True, if_match=seen),
        lambda: admin.extend(server_id, if_match=seen),
        lambda: admin.expire(server_id, reason="x", if_match=seen),
    ):
        with pytest.raises(GenerationMoved, match="somebody else") as caught:
            act()
        assert isinstance(caught.value, exceptions.Conflict)
    assert world.row(server_id).generation == seen + 1


def test_errors_are_those_of_keystoneauth_with_the_apis_sentence(
    world: World, clients: Clients
) -> None:
    server_id = world.adopt()
    vms = clients.of().vm_expirations
    with pytest.raises(exceptions.NotFound, match=f"server {UNKNOWN} could be found") as caught:
        vms.get(UNKNOWN)
    assert caught.value.request_id.startswith("req-")
    with pytest.raises(exceptions.Forbidden):
        vms.update(server_id, reason="x", exempt=True)
    with pytest.raises(exceptions.BadRequest, match="is no date"):
        vms.extend(server_id, "soon")
    world.cloud.identity.revoke_tokens()
    assert vms.get(server_id)["server_id"] == server_id


def test_what_is_no_uuid_is_never_part_of_a_path(clients: Clients) -> None:
    vms = clients.of().vm_expirations
    for text in ("..", "summary", "../leases", "", "a/b"):
        for act in (vms.get, vms.extend, vms.history):
            with pytest.raises(ValueError, match="hexadecimal"):
                act(text)


def test_a_name_is_one_vms_or_it_is_not_taken(world: World, clients: Clients) -> None:
    (one,) = put(world, 1, server_name="one")
    twins = put(world, 2, server_name="twin")
    (other,) = put(world, 1, server_name="other", project_id=world.beta)
    put(world, 1, server_name="gone", state="deleted")
    vms, admin = clients.of().vm_expirations, clients.of("admin").vm_expirations
    assert vms.find("one")["server_id"] == one
    assert vms.find(one)["server_name"] == "one"
    for name in ("ONE", "other", "gone", "", "o"):
        with pytest.raises(NotFound):
            vms.find(name)
    assert vms.find("gone", state="deleted")["server_name"] == "gone"
    assert admin.find("other", all_projects=True)["server_id"] == other
    with pytest.raises(NotUnique) as caught:
        vms.find("twin")
    assert caught.value.server_ids == twins


def test_more_than_a_hundred_are_extended_each_by_itself(world: World, clients: Clients) -> None:
    server_id = world.adopt()
    unknown = [str(uuid.uuid4()) for _ in range(120)]
    vms = clients.of().vm_expirations
    until = START + timedelta(days=61)
    clients.of("admin").vm_expirations.update(
        server_id, reason="x", ends_at=START + timedelta(days=10)
    )
    results = list(vms.extend_all([*unknown, server_id], START + timedelta(days=20)))
    assert [result["status"] for result in results] == [404] * 120 + [200]
    (refused,) = vms.extend_all([server_id], until)
    assert (refused["status"], "latest allowed" in refused["error"]) == (400, True)
