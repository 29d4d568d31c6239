# SPDX-License-Identifier: Apache-2.0
"""Reconciliation of many pages: two are compared at once, and no VM is lost or doubled."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import sqlalchemy as sa

from blazar_vmexpire.cloud import errors
from blazar_vmexpire.db.models import expirations
from blazar_vmexpire.exceptions import ClaimLost
from blazar_vmexpire.intake.reconcile import Reconciliation, Result
from blazar_vmexpire.leases import EVENTS, LEASES
from tests.blazar_harness import Harness

#: Pages are of two servers.
pytestmark = [
    pytest.mark.every_database,
    pytest.mark.options({"vmexpire_intake": {"page_size": 2}}),
]


def _rows(harness: Harness) -> list[int]:
    with harness.database.begin() as connection:
        return [
            connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0
            for table in (expirations, LEASES, EVENTS)
        ]


def test_all_pages_are_taken_in_and_the_counts_add_up(harness: Harness) -> None:
    for _ in range(7):
        harness.cloud.add_server()
    harness.cloud.add_server(vm_state="error")
    kept: list[None] = []
    reconciliation = Reconciliation(harness.plugin.service.tools, lambda: kept.append(None))
    assert reconciliation.run(first=False) == Result(listed=8, adopted=7, busy=1)
    assert len(kept) == 4, "the chore is renewed at each page"
    assert reconciliation.run(first=False) == Result(listed=8, busy=1)
    assert _rows(harness) == [7, 7, 21]


def test_a_server_listed_twice_on_a_page_is_taken_in_once(harness: Harness) -> None:
    for _ in range(3):
        harness.cloud.add_server()

    def double(body: Any) -> Any:
        return {**body, "servers": [server for server in body["servers"] for _ in range(2)]}

    harness.cloud.fault("/servers/detail", rewrite=double)
    result = Reconciliation(harness.plugin.service.tools).run(first=False)
    assert dataclasses.asdict(result) == {**dataclasses.asdict(Result()), "listed": 3, "adopted": 3}
    assert _rows(harness) == [3, 3, 9]


def test_a_page_that_fails_leaves_those_before_it_in(harness: Harness) -> None:
    for _ in range(4):
        harness.cloud.add_server()
    # The first page comes, the second does not.
    pages = iter(range(2))

    def second(body: Any) -> Any:
        return body if next(pages) == 0 else {"servers": None}

    harness.cloud.fault("/servers/detail", rewrite=second)
    with pytest.raises(errors.Unavailable):
        Reconciliation(harness.plugin.service.tools).run(first=False)
    assert _rows(harness) == [2, 2, 6]


def test_who_lost_the_chore_gives_up(harness: Harness) -> None:
    for _ in range(20):
        harness.cloud.add_server()

    def lost() -> None:
        raise ClaimLost("reconciliation was taken over by another worker")

    with pytest.raises(ClaimLost):
        Reconciliation(harness.plugin.service.tools, lost).run(first=False)
    assert 2 <= _rows(harness)[0] <= 8, "what was under way was finished, the rest left"
