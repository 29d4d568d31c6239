# SPDX-License-Identifier: Apache-2.0
"""Exclusions in the database: which applies to a VM, and which VMs are due when one changes."""

from __future__ import annotations

import concurrent.futures
import datetime
import json
import threading
import uuid
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from blazar_vmexpire import exclusions
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db.engine import Database
from blazar_vmexpire.db.models import expirations, history, projects
from blazar_vmexpire.exceptions import ClaimLost
from blazar_vmexpire.exclusions import AlreadyExcluded, Exclusion, Invalid, Kind
from blazar_vmexpire.worker import claims
from blazar_vmexpire.worker.claims import Claims

NOW = datetime.datetime(2026, 3, 2, 10, 0)
LATER = NOW + timedelta(days=3)
SERVER = "11111111-1111-4111-8111-111111111111"

WHOSE = {
    "domain_id": "default",
    "project_id": "alpha",
    "user_id": "alice",
    "flavor": "m1.small",
    "server_id": SERVER,
}
VALUES = {
    Kind.DOMAIN: "default",
    Kind.PROJECT: "alpha",
    Kind.USER: "alice",
    Kind.FLAVOR: "m1.small",
    Kind.SERVER: SERVER,
}


def exclude(database: Database, kind: Kind, value: str, **given: Any) -> Exclusion:
    """Add one, as an administrator does."""
    columns = {"reason": "a demonstration", "author": "root", "expires_at": None, "now": NOW}
    with database.begin() as connection:
        return exclusions.add(connection, kind=kind, value=value, **columns | given)


def which(database: Database, now: datetime.datetime = NOW, **whose: Any) -> Kind | None:
    """Say which applies, asked for one VM and out of all that were read at once."""
    with database.begin() as connection:
        one = exclusions.of_subject(connection, now=now, **WHOSE | whose)
        same = exclusions.load(connection, now).find(**WHOSE | whose)
    assert one == same
    return None if one is None else one.kind


def add_vm(database: Database, **columns: Any) -> str:
    """Add a VM that is due in a week."""
    server_id = str(uuid.uuid4())
    values = {"state": "active", "next_at": NOW + timedelta(days=7), **columns}
    with database.begin() as connection:
        connection.execute(expirations.insert(), [{"server_id": server_id, **values}])
    return server_id


def due(database: Database) -> set[str]:
    """Name the VMs that are due now."""
    x = expirations.c
    with database.begin() as connection:
        return set(connection.scalars(sa.select(x.server_id).where(x.next_at <= NOW)))


def generation(database: Database, server_id: str) -> int:
    """Return a VM's."""
    with database.begin() as connection:
        row = db_api.get(connection, server_id)
    assert row is not None
    return row.generation


@pytest.mark.parametrize("kind", list(Kind))
def test_applies_to_whom_it_names_until_it_is_over(database: Database, kind: Kind) -> None:
    exclude(database, kind, VALUES[kind], expires_at=LATER)
    name = "server_id" if kind == Kind.SERVER else str(kind)
    name = name if name in WHOSE else f"{kind}_id"

    assert which(database) == kind
    assert which(database, **{name: "another"}) is None
    assert which(database, LATER - timedelta(seconds=1)) == kind
    assert which(database, LATER) is None


def test_the_narrowest_comes_first(database: Database) -> None:
    for kind in Kind:
        exclude(database, kind, VALUES[kind])
        assert which(database) == kind


def test_what_is_not_known_of_a_vm_excludes_nothing(database: Database) -> None:
    exclude(database, Kind.DOMAIN, "default")
    assert which(database, domain_id=None, flavor="", user_id=None) is None


def test_twice_is_refused_and_says_what_is_there(database: Database) -> None:
    first = exclude(database, Kind.PROJECT, "alpha", expires_at=LATER)
    with pytest.raises(AlreadyExcluded) as refusal:
        exclude(database, Kind.PROJECT, " alpha ", reason="another")
    assert str(refusal.value) == (
        "project alpha is excluded already, until 2026-03-05 10:00 UTC"
        f" (exclusion {first.id}, by root: a demonstration); remove that first to change it"
    )


def test_one_that_is_over_is_no_hindrance(database: Database) -> None:
    exclude(database, Kind.PROJECT, "alpha", expires_at=LATER)
    again = exclude(database, Kind.PROJECT, "alpha", now=LATER, reason="for longer")
    with database.begin() as connection:
        assert exclusions.listed(connection) == [again]


@pytest.mark.databases("mariadb", "postgresql")
def test_of_two_at_one_moment_one_wins(database: Database) -> None:
    barrier = threading.Barrier(2)

    def act(author: str) -> str:
        barrier.wait()
        try:
            return exclude(database, Kind.PROJECT, "alpha", author=author).author
        except AlreadyExcluded as refusal:
            return str(refusal)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        said = sorted(pool.map(act, ["root", "toor"]), key=len)
    winner = said[0]
    assert winner in ("root", "toor")
    assert f"by {winner}:" in said[1]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"kind": Kind.SERVER, "value": "web1"}, "server 'web1' is not a UUID"),
        ({"value": " "}, "project '' cannot be excluded: it must have 1 to 255 characters"),
        ({"value": "x" * 256}, "1 to 255 characters"),
        ({"value": "al\npha"}, "1 to 255 characters"),
        ({"reason": "  "}, "needs a reason"),
        ({"expires_at": NOW}, "2026-03-02 10:00 UTC has passed"),
    ],
)
@pytest.mark.databases("sqlite")
def test_what_makes_no_sense_is_refused(
    database: Database, given: dict[str, Any], words: str
) -> None:
    with pytest.raises(Invalid, match=words):
        exclude(database, **{"kind": Kind.PROJECT, "value": "alpha", **given})


def test_a_server_is_the_same_however_it_is_written(database: Database) -> None:
    exclude(database, Kind.SERVER, SERVER.upper())
    assert which(database) == Kind.SERVER


@pytest.mark.parametrize("kind", list(Kind))
def test_makes_those_due_that_it_names_and_calls_off_what_is_done_to_them(
    database: Database, kind: Kind
) -> None:
    with database.begin() as connection:
        connection.execute(
            projects.insert(),
            [
                {
                    "project_id": f"of-{domain}",
                    "domain_id": domain,
                    "name": domain,
                    "enabled": True,
                    "properties": "{}",
                    "tags": "[]",
                    "seen_at": NOW,
                }
                for domain in ("default", "other")
            ],
        )
    name = 'm1 "größe" 50%_\\'
    facts = json.dumps({"flavor": name})
    columns: dict[Kind, dict[str, Any]] = {
        Kind.DOMAIN: {"project_id": "of-default"},
        Kind.PROJECT: {"project_id": "alpha"},
        Kind.USER: {"user_id": "alice"},
        Kind.FLAVOR: {"facts": facts},
        Kind.SERVER: {},
    }
    meant = [add_vm(database, state=state, **columns[kind]) for state in ("noticed", "failed")]
    gone = add_vm(database, state="deleted", next_at=None, **columns[kind])
    for other in (
        {"project_id": "of-other", "user_id": "bob"},
        {"facts": json.dumps({"flavor": "m1", "metadata": {"flavor": name}})},
        {"facts": json.dumps({"flavor": name + "x"})},
        {},
    ):
        add_vm(database, **other)
    if kind == Kind.SERVER:
        del meant[1:]
    value = {**VALUES, Kind.FLAVOR: name, Kind.SERVER: meant[0]}[kind]

    added = exclude(database, kind, value)
    assert due(database) == set(meant)
    assert [generation(database, server_id) for server_id in meant] == [1] * len(meant)
    assert generation(database, gone) == 0
    with database.begin() as connection:
        assert exclusions.concerned(connection, kind, value) == len(meant)
        # The worker has let go of them.
        connection.execute(sa.update(expirations).values(next_at=None, state="exempt"))

    with database.begin() as connection:
        assert exclusions.remove(connection, added, author="root", reason=None, now=NOW)
        assert not exclusions.remove(connection, added, author="root", reason=None, now=NOW)
        assert exclusions.listed(connection) == []
    assert due(database) == set(meant) | ({gone} if kind != Kind.SERVER else set())


def test_a_step_that_is_under_way_cannot_be_finished_any_more(database: Database) -> None:
    add_vm(database, project_id="alpha", next_at=NOW)
    (row,) = Claims(database, lambda: NOW, timedelta(minutes=2)).claim(1)
    exclude(database, Kind.PROJECT, "alpha")
    with database.begin() as connection, pytest.raises(ClaimLost):
        claims.write(connection, row, progress={"irreversible": True})


def test_a_single_vm_remembers_who_did_it_and_why(database: Database) -> None:
    added = exclude(database, Kind.SERVER, SERVER, expires_at=LATER)
    with database.begin() as connection:
        exclusions.remove(connection, added, author="toor", reason="it is over", now=NOW)
        entries = connection.execute(sa.select(history).order_by(history.c.id)).all()
        # One that was left out from the beginning is looked at, too.
        row = db_api.get(connection, SERVER)
    assert [(e.server_id, e.event, e.actor, json.loads(e.details)) for e in entries] == [
        (
            SERVER,
            "excluded",
            "root",
            {"reason": "a demonstration", "until": LATER.isoformat(), "exclusion": added.id},
        ),
        (
            SERVER,
            "exclusion_removed",
            "toor",
            {"reason": "it is over", "exclusion": added.id},
        ),
    ]
    assert row is not None
    assert (row.state, row.next_at) == ("seen", NOW)
