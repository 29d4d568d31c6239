# SPDX-License-Identifier: Apache-2.0
"""Nova's list of all servers, page by page, and that of the deleted ones."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from blazar_vmexpire import cloud
from blazar_vmexpire.cloud import errors
from blazar_vmexpire.cloud.servers import Server
from tests.fakes.cloud import FakeCloud
from tests.functional.adapters import adapters, conf, configure, fake

__all__ = ["adapters", "conf", "configure", "fake"]


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
