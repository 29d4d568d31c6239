# SPDX-License-Identifier: Apache-2.0
"""Reading the database of os-vm-expire: when VMs end, who was told, and who is left out.

Its tables differ by version: ``notified_time`` came late, and never into databases that had been
there before; ``vmexclude`` is missing in the oldest. Nothing is written to them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import pathlib
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from blazar_vmexpire.exclusions import Kind
from blazar_vmexpire.takeover.ends import Found

_VMS, _EXCLUDED = "vmexpire", "vmexclude"

#: What its numbers mean.
_KINDS = {0: Kind.DOMAIN, 1: Kind.PROJECT, 2: Kind.USER}
_EPOCH = datetime.datetime(1970, 1, 1)


class Unreadable(Exception):
    """The database cannot be read; the message says why, and has no password in it."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What is in it."""

    vms: Sequence[Found]
    exclusions: Sequence[tuple[Kind, str]]
    """Each once."""
    nonsense: Sequence[str]
    """What makes no sense, in words."""


def read(url: str) -> Source:
    """Read all of it, in one transaction.

    :param url: as in os-vm-expire's ``sql_connection``: ``mysql://…`` or ``sqlite:////…``.
    :raises Unreadable: it cannot be reached, or is no database of os-vm-expire's.
    """
    nonsense: list[str] = []
    with _connected(url) as connection:
        there = sa.inspect(connection)
        if not there.has_table(_VMS):
            raise Unreadable(f"it has no table {_VMS}: this is no database of os-vm-expire's")
        vms = list(_vms(connection, nonsense))
        excluded = list(_exclusions(connection, nonsense)) if there.has_table(_EXCLUDED) else []
    return Source(vms=vms, exclusions=excluded, nonsense=nonsense)


@contextlib.contextmanager
def _connected(url: str) -> Iterator[sa.Connection]:
    try:
        engine = sa.create_engine(_usable(url))
    except (sa.exc.ArgumentError, ModuleNotFoundError) as error:
        # SQLAlchemy's words for a URL that it cannot read have the URL in them.
        why = error if isinstance(error, ModuleNotFoundError) else "it is no URL of a database"
        raise Unreadable(
            f"{why}: it must be like mysql://user:password@host/osvmexpire or"
            " sqlite:////var/lib/osvmexpire.sqlite"
        ) from None
    try:
        with engine.connect() as connection:
            yield connection
    except sa.exc.DBAPIError as error:
        raise Unreadable(str(error.orig).strip().splitlines()[0]) from error
    finally:
        engine.dispose()


def _usable(text: str) -> sa.URL:
    url = sa.make_url(text)
    if url.get_backend_name() == "sqlite" and not pathlib.Path(url.database or "").is_file():
        # It would be made.
        raise Unreadable(f"there is no file {url.database}")
    # The driver that Blazar has; os-vm-expire had another one.
    return url.set(drivername="mysql+pymysql") if url.drivername == "mysql" else url


def _rows(connection: sa.Connection, name: str) -> Iterator[dict[str, Any]]:
    table = sa.Table(name, sa.MetaData(), autoload_with=connection)
    for row in connection.execute(sa.select(table)):
        columns = dict(row._mapping)
        if not columns.get("deleted"):
            yield columns


def _vms(connection: sa.Connection, nonsense: list[str]) -> Iterator[Found]:
    for row in _rows(connection, _VMS):
        try:
            yield Found(
                server_id=str(uuid.UUID(row["instance_id"])),
                ends_at=_moment(row["expire"]),
                told=bool(row["notified"]) + bool(row["notified"] and row["notified_last"]),
                told_at=_moment(row["notified_time"]) if row.get("notified_time") else None,
            )
        except (ValueError, TypeError, OverflowError):
            nonsense.append(f"VM {row['instance_id']!r} with expire {row['expire']!r}")


def _exclusions(connection: sa.Connection, nonsense: list[str]) -> Iterator[tuple[Kind, str]]:
    seen: set[tuple[Kind, str]] = set()
    for row in _rows(connection, _EXCLUDED):
        kind, value = _KINDS.get(row["exclude_type"]), str(row["exclude_id"]).strip()
        if kind is None or not value:
            nonsense.append(f"exclusion {value!r} of type {row['exclude_type']!r}")
        elif (kind, value) not in seen:
            seen.add((kind, value))
            yield kind, value


def _moment(seconds: Any) -> datetime.datetime:
    """Read seconds since 1970.

    :raises ValueError, TypeError, OverflowError: they are none.
    """
    return _EPOCH + datetime.timedelta(seconds=int(seconds))
