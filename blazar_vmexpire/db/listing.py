# SPDX-License-Identifier: Apache-2.0
"""Reading VMs' rows as our API lists them: a page at a time, in an order that an index has.

A page begins where the last one ended, not after so many rows: so the thousandth page costs what
the first one does, and VMs that come and go meanwhile move no other from one page to the next.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterator, Mapping
from typing import Any

import sqlalchemy as sa

from blazar_vmexpire.db.api import Expiration
from blazar_vmexpire.db.models import expirations, history
from blazar_vmexpire.lifecycle import State

_X = expirations.c

#: What VMs can be listed by; those that are equal in it by their UUID.
SORT_KEYS: Mapping[str, sa.Column[Any]] = {
    "ends_at": _X.ends_at,
    "server_name": _X.server_name,
    "server_id": _X.server_id,
    "state": _X.state,
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Which VMs are listed; None: any. Dates are naive UTC.

    Without a ``state`` those that are gone are left out. Those of which nothing is known yet but
    their UUID are never listed: nobody knows whose they are.
    """

    project_id: str | None = None
    user_id: str | None = None
    state: str | None = None
    rule: str | None = None
    name: str | None = None
    server_ids: tuple[str, ...] | None = None
    ends_before: datetime.datetime | None = None
    ends_after: datetime.datetime | None = None
    """Or at that very moment."""

    def conditions(self) -> Iterator[sa.ColumnElement[bool]]:
        """Say it in SQL."""
        yield (
            _X.project_id.is_not(None)
            if self.project_id is None
            else (_X.project_id == self.project_id)
        )
        yield (
            _X.state.not_in([State.SEEN, State.DELETED])
            if self.state is None
            else _X.state == self.state
        )
        for column, value in (
            (_X.user_id, self.user_id),
            (_X.rule, self.rule),
            (_X.server_name, self.name),
        ):
            if value is not None:
                yield column == value
        if self.server_ids is not None:
            yield _X.server_id.in_(self.server_ids)
        if self.ends_before is not None:
            yield _X.ends_at < self.ends_before
        if self.ends_after is not None:
            yield _X.ends_at >= self.ends_after


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a page begins: after the VM that has this value of the sort key, and this UUID."""

    value: Any
    """None: it has no end."""
    server_id: str


def place_of(row: Expiration, sort_key: str) -> Place:
    """Say where the page begins that follows this VM."""
    return Place(value=getattr(row, sort_key), server_id=row.server_id)


def find(connection: sa.Connection, filters: Filters, server_id: str) -> Expiration | None:
    """Read a VM's row, if it is one of those that are listed, whatever has become of it."""
    conditions = [_X.project_id == filters.project_id] if filters.project_id is not None else []
    row = connection.execute(
        sa.select(expirations).where(_X.server_id == server_id, *conditions)
    ).one_or_none()
    return None if row is None else Expiration.of(row)


def page(
    connection: sa.Connection,
    filters: Filters,
    *,
    sort_key: str = "ends_at",
    descending: bool = False,
    after: Place | None = None,
    limit: int,
) -> list[Expiration]:
    """Read a page of VMs' rows.

    :param sort_key: one of :data:`SORT_KEYS`. VMs without an end come last, in both directions.
    :param after: where it begins; None: at the first.
    """
    found: list[str] = []
    for conditions, order in _stretches(sort_key, descending, after):
        found += connection.scalars(
            sa.select(_X.server_id)
            .where(*filters.conditions(), *conditions)
            .order_by(*order)
            .limit(limit - len(found))
        )
        if len(found) == limit:
            break
    # Whole rows are read of those alone that are shown, whatever the database sorts.
    rows = connection.execute(sa.select(expirations).where(_X.server_id.in_(found)))
    by_id = {row.server_id: Expiration.of(row) for row in rows}
    return [by_id[server_id] for server_id in found if server_id in by_id]


_Stretch = tuple[list[sa.ColumnElement[bool]], list[sa.ColumnElement[Any]]]


def _stretches(sort_key: str, descending: bool, after: Place | None) -> Iterator[_Stretch]:
    """Say, stretch by stretch, which rows are still to come, and in which order."""
    column = SORT_KEYS[sort_key]

    def directed(what: sa.Column[Any]) -> sa.ColumnElement[Any]:
        return what.desc() if descending else what.asc()

    def beyond(what: sa.Column[Any], value: Any) -> sa.ColumnElement[bool]:
        found: sa.ColumnElement[bool] = what < value if descending else what > value
        return found

    by_id = directed(_X.server_id)
    if column is _X.server_id:
        yield [] if after is None else [beyond(column, after.server_id)], [by_id]
        return
    if after is None or after.value is not None:
        conditions: list[sa.ColumnElement[bool]] = [column.is_not(None)] if column.nullable else []
        if after is not None:
            conditions += [
                # Says nothing new, but lets PostgreSQL begin there.
                column <= after.value if descending else column >= after.value,
                beyond(column, after.value)
                | ((column == after.value) & beyond(_X.server_id, after.server_id)),
            ]
        yield conditions, [directed(column), by_id]
    if column.nullable:
        conditions = [column.is_(None)]
        if after is not None and after.value is None:
            conditions.append(beyond(_X.server_id, after.server_id))
        yield conditions, [by_id]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """VMs of one project that end on one day (UTC) by one rule, and what they have."""

    day: datetime.date | None
    """None: they have no end."""
    project_id: str
    rule: str | None
    servers: int
    vcpus: int
    ram_mb: int


def summary(connection: sa.Connection, filters: Filters) -> list[Group]:
    """Count VMs by day, project and rule, in this order; those without an end come last."""
    day = sa.func.date(_X.ends_at)
    found = connection.execute(
        sa.select(
            day,
            _X.project_id,
            _X.rule,
            sa.func.count(),
            *(
                sa.func.coalesce(sa.func.sum(_number(connection, key)), 0)
                for key in ("vcpus", "ram_mb")
            ),
        )
        .where(*filters.conditions())
        .group_by(day, _X.project_id, _X.rule)
    )
    groups = [
        Group(
            # SQLite has no dates.
            day=datetime.date.fromisoformat(str(when)) if when is not None else None,
            project_id=project_id,
            rule=rule,
            servers=servers,
            vcpus=int(vcpus),
            ram_mb=int(ram_mb),
        )
        for when, project_id, rule, servers, vcpus, ram_mb in found
    ]
    return sorted(groups, key=lambda g: (g.day or datetime.date.max, g.project_id, g.rule or ""))


def _number(connection: sa.Connection, key: str) -> sa.ColumnElement[Any]:
    """Say in SQL a number of a VM's facts, which are a text that holds JSON."""
    if connection.dialect.name == "postgresql":
        return sa.cast(sa.cast(_X.facts, sa.JSON)[key].as_string(), sa.BigInteger)
    return sa.func.json_extract(_X.facts, f"$.{key}")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A row of ``vm_expiration_history``; ``details`` as they are there, a JSON text."""

    id: int
    server_id: str
    project_id: str | None
    at: datetime.datetime
    event: str
    generation: int
    actor: str | None
    request_id: str | None
    details: str


def projects_in_history(connection: sa.Connection, server_id: str) -> set[str | None]:
    """Say of which projects a VM was, as far as its history goes."""
    h = history.c
    return set(
        connection.scalars(sa.select(h.project_id).where(h.server_id == server_id).distinct())
    )


def past(
    connection: sa.Connection,
    server_id: str,
    project_ids: set[str] | None,
    *,
    after: int,
    limit: int,
) -> list[Entry]:
    """Read a page of a VM's history, oldest first.

    :param project_ids: only what happened to it while it was of one of these; None: all.
    :param after: the id of the entry before the first.
    """
    h = history.c
    conditions = [] if project_ids is None else [h.project_id.in_(project_ids)]
    rows = connection.execute(
        sa.select(history)
        .where(h.server_id == server_id, h.id > after, *conditions)
        .order_by(h.id)
        .limit(limit)
    )
    return [Entry(**row._mapping) for row in rows]
