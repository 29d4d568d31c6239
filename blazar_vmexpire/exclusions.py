# SPDX-License-Identifier: Apache-2.0
"""Who is left out by an administrator's act: domains, projects, users, flavors, and single VMs.

An exclusion says who made it and why, and may end by itself. It takes effect on VMs that have a
lease already: they are due at once, and the worker lets go of them; and when it is taken back, it
takes them in again. All functions work in the caller's transaction. Dates are naive UTC.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
import uuid
from collections.abc import Iterator, Mapping

import sqlalchemy as sa
from oslo_db import exception as oslo_db_exception

from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db import log_lines
from blazar_vmexpire.db.journal import Happening
from blazar_vmexpire.db.models import exclusions, expirations, projects
from blazar_vmexpire.lifecycle import State

#: VMs made due in one statement, where they have to be named.
_BATCH = 1000
_LONGEST = 255

#: States in which a VM is let go of already, or is none of ours.
_OUTSIDE = (State.SEEN, State.EXEMPT, State.DELETED)


class Kind(enum.StrEnum):
    """What is left out; the narrowest last."""

    DOMAIN = "domain"
    PROJECT = "project"
    USER = "user"
    FLAVOR = "flavor"
    SERVER = "server"


class Invalid(ValueError):
    """Something is wrong with what an exclusion is to be; the message says what would be right."""


class AlreadyExcluded(Exception):
    """It is excluded as it is."""

    def __init__(self, there: Exclusion) -> None:
        until = f"until {there.expires_at:%Y-%m-%d %H:%M} UTC" if there.expires_at else "for good"
        super().__init__(
            f"{there.kind} {there.value} is excluded already, {until} (exclusion {there.id}, by"
            f" {there.author}: {there.reason}); remove that first to change it"
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Exclusion:
    """A row of ``vm_expiration_exclusions``."""

    id: int
    kind: Kind
    value: str
    """An id; of a flavor its name."""
    reason: str
    author: str
    created_at: datetime.datetime
    expires_at: datetime.datetime | None
    """When it ends by itself; None: it is there until it is removed."""

    def applies(self, now: datetime.datetime) -> bool:
        """Say whether it is not over."""
        return self.expires_at is None or self.expires_at > now

    @classmethod
    def of(cls, row: sa.Row[tuple[object, ...]]) -> Exclusion:
        """Make one of a row of the table."""
        columns = dict(row._mapping)
        return cls(**columns | {"kind": Kind(columns["kind"])})


class Exclusions:
    """All exclusions that applied at one moment, for judging any number of VMs."""

    def __init__(self, found: Mapping[tuple[Kind, str], Exclusion]) -> None:
        self._found = found

    def find(
        self,
        *,
        domain_id: str | None,
        project_id: str | None,
        user_id: str | None,
        flavor: str | None,
        server_id: str,
    ) -> Exclusion | None:
        """Say which exclusion applies to a VM, the narrowest first."""
        if not self._found:
            return None
        for key in _keys(domain_id, project_id, user_id, flavor, server_id):
            if (exclusion := self._found.get(key)) is not None:
                return exclusion
        return None


def load(connection: sa.Connection, now: datetime.datetime) -> Exclusions:
    """Read all that apply."""
    return _those(connection, sa.true(), now)


def of_subject(
    connection: sa.Connection,
    *,
    domain_id: str | None,
    project_id: str | None,
    user_id: str | None,
    flavor: str | None,
    server_id: str,
    now: datetime.datetime,
) -> Exclusion | None:
    """Say which exclusion applies to a VM, the narrowest first.

    :param flavor: its name.
    """
    keys = list(_keys(domain_id, project_id, user_id, flavor, server_id))
    e = exclusions.c
    named = sa.or_(*(sa.and_(e.kind == kind, e.value == value) for kind, value in keys))
    return _those(connection, named, now).find(
        domain_id=domain_id,
        project_id=project_id,
        user_id=user_id,
        flavor=flavor,
        server_id=server_id,
    )


def _keys(
    domain_id: str | None,
    project_id: str | None,
    user_id: str | None,
    flavor: str | None,
    server_id: str,
) -> Iterator[tuple[Kind, str]]:
    """Yield what could exclude a VM."""
    for kind, value in (
        (Kind.SERVER, server_id),
        (Kind.FLAVOR, flavor),
        (Kind.USER, user_id),
        (Kind.PROJECT, project_id),
        (Kind.DOMAIN, domain_id),
    ):
        if value:
            yield kind, value


def _those(
    connection: sa.Connection, where: sa.ColumnElement[bool], now: datetime.datetime
) -> Exclusions:
    e = exclusions.c
    found = connection.execute(
        sa.select(exclusions).where(where, sa.or_(e.expires_at.is_(None), e.expires_at > now))
    )
    # By what is in the row: some databases do not tell capital letters from small ones.
    return Exclusions({(x.kind, x.value): x for x in map(Exclusion.of, found)})


def listed(connection: sa.Connection) -> list[Exclusion]:
    """List all there are, oldest first; those that are over, too."""
    found = connection.execute(sa.select(exclusions).order_by(exclusions.c.id))
    return [Exclusion.of(row) for row in found]


def get(connection: sa.Connection, exclusion_id: int) -> Exclusion | None:
    """Return one by its id."""
    row = connection.execute(
        sa.select(exclusions).where(exclusions.c.id == exclusion_id)
    ).one_or_none()
    return None if row is None else Exclusion.of(row)


def get_by_value(connection: sa.Connection, kind: Kind, value: str) -> Exclusion | None:
    """Return the one of a domain, project, user, flavor or VM."""
    e = exclusions.c
    row = connection.execute(
        sa.select(exclusions).where(e.kind == kind, e.value == value)
    ).one_or_none()
    return None if row is None else Exclusion.of(row)


def add(
    connection: sa.Connection,
    *,
    kind: Kind,
    value: str,
    reason: str,
    author: str,
    expires_at: datetime.datetime | None,
    now: datetime.datetime,
    request_id: str | None = None,
) -> Exclusion:
    """Leave somebody out from now on.

    VMs that have a lease are due at once; their generation is raised, so that whatever a worker is
    about to do to them is off.

    :param value: an id; of a flavor its name.
    :param author: the administrator who does it.
    :param expires_at: when it ends by itself; None: when it is removed.
    :param request_id: of the request to our API by which they do it.
    :raises Invalid: something is wrong with it.
    :raises AlreadyExcluded: it is excluded as it is.
    """
    value, reason = _checked(kind, value), reason.strip()
    if not reason:
        raise Invalid("an exclusion needs a reason: it stands in the history of the VMs")
    if expires_at is not None and expires_at <= now:
        raise Invalid(
            f"{expires_at:%Y-%m-%d %H:%M} UTC has passed: an exclusion must end in the future"
        )
    there = get_by_value(connection, kind, value)
    if there is not None:
        if there.applies(now):
            raise AlreadyExcluded(there)
        connection.execute(sa.delete(exclusions).where(exclusions.c.id == there.id))
    columns = {
        "kind": kind.value,
        "value": value,
        "reason": reason,
        "author": author,
        "created_at": now,
        "expires_at": expires_at,
    }
    try:
        with connection.begin_nested():
            connection.execute(exclusions.insert(), [columns])
    except oslo_db_exception.DBDuplicateEntry:
        # Somebody else was a moment earlier.
        there = get_by_value(connection, kind, value)
        if there is None:
            raise
        raise AlreadyExcluded(there) from None
    added = get_by_value(connection, kind, value)
    assert added is not None  # noqa: S101 - a line above
    _off(connection, added, now)
    _record(connection, added, "excluded", now, author, request_id, reason=reason, until=expires_at)
    return added


def remove(
    connection: sa.Connection,
    exclusion: Exclusion,
    *,
    author: str,
    reason: str | None,
    now: datetime.datetime,
    request_id: str | None = None,
) -> bool:
    """Take an exclusion back: VMs that nothing else leaves out begin a full first term.

    :param author: the administrator who does it.
    :param request_id: of the request to our API by which they do it.
    :returns: False when somebody else has removed it.
    """
    removed = connection.execute(
        sa.delete(exclusions).where(exclusions.c.id == exclusion.id)
    ).rowcount
    if not removed:
        return False
    for where in _concerned(connection, exclusion.kind, exclusion.value):
        connection.execute(
            sa.update(expirations)
            .where(where, expirations.c.state == State.EXEMPT)
            .values(next_at=now)
        )
    if exclusion.kind == Kind.SERVER:
        # It may have been left out from the beginning: then it has no row.
        db_api.see(connection, exclusion.value, now)
    _record(connection, exclusion, "exclusion_removed", now, author, request_id, reason=reason)
    return True


def concerned(connection: sa.Connection, kind: Kind, value: str) -> int:
    """Count the VMs that are known, and that an exclusion leaves out, or would."""
    count = sa.select(sa.func.count()).select_from(expirations)
    gone = expirations.c.state == State.DELETED
    return sum(
        connection.scalar(count.where(where, ~gone)) or 0
        for where in _concerned(connection, kind, value)
    )


def _checked(kind: Kind, value: str) -> str:
    """Return a value as it is compared.

    :raises Invalid: there can be no such one.
    """
    value = value.strip()
    if kind == Kind.SERVER:
        try:
            return str(uuid.UUID(value))
        except ValueError:
            raise Invalid(f"server {value!r} is not a UUID") from None
    if not value or len(value) > _LONGEST or not value.isprintable():
        raise Invalid(
            f"{kind} {value[:40]!r} cannot be excluded: it must have 1 to {_LONGEST} characters"
        )
    return value


def _off(connection: sa.Connection, exclusion: Exclusion, now: datetime.datetime) -> None:
    """Call off whatever is about to be done to the VMs concerned, and make them due."""
    x = expirations.c
    for where in _concerned(connection, exclusion.kind, exclusion.value):
        connection.execute(
            sa.update(expirations)
            .where(where, x.state.not_in(_OUTSIDE))
            .values(next_at=now, generation=x.generation + 1)
        )


def _concerned(
    connection: sa.Connection, kind: Kind, value: str
) -> Iterator[sa.ColumnElement[bool]]:
    """Say of which VMs an exclusion speaks, in one condition or several that do not overlap."""
    x = expirations.c
    if kind == Kind.SERVER:
        yield x.server_id == value
    elif kind == Kind.USER:
        yield x.user_id == value
    elif kind == Kind.PROJECT:
        yield x.project_id == value
    elif kind == Kind.DOMAIN:
        p = projects.c
        yield x.project_id.in_(sa.select(p.project_id).where(p.domain_id == value))
    else:
        ids = _with_flavor(connection, value)
        for begin in range(0, len(ids), _BATCH):
            yield x.server_id.in_(ids[begin : begin + _BATCH])


def _with_flavor(connection: sa.Connection, name: str) -> list[str]:
    """Name the VMs that have a flavor: it is in the JSON of their facts, among other things."""
    x = expirations.c
    found = connection.execute(
        sa.select(x.server_id, x.facts).where(
            x.facts.contains(f'"flavor": {json.dumps(name)}', autoescape=True)
        )
    )
    return [row.server_id for row in found if json.loads(row.facts).get("flavor") == name]


def _record(
    connection: sa.Connection,
    exclusion: Exclusion,
    event: str,
    now: datetime.datetime,
    author: str,
    request_id: str | None,
    **details: object,
) -> None:
    """Add to the history of a VM that was named; that of others says so once they are let go.

    Of a project and the like, the log says who did it, also when the exclusion is no more.
    """
    details["exclusion"] = exclusion.id
    if exclusion.kind != Kind.SERVER:
        log_lines.write_of(
            f"{exclusion.kind.capitalize()} {exclusion.value}",
            Happening(exclusion.value, event, details, author, request_id),
        )
        return
    row = db_api.get(connection, exclusion.value)
    db_api.write_history(
        connection,
        [
            {
                "server_id": exclusion.value,
                "project_id": None if row is None else row.project_id,
                "at": now,
                "event": event,
                "generation": 0 if row is None else row.generation,
                "actor": author,
                "request_id": request_id,
                "details": details,
            }
        ],
    )
