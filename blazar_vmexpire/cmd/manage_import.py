# SPDX-License-Identifier: Apache-2.0
"""``blazar-vmexpire-manage import``: take over the ends that VMs have in another system."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from oslo_config import cfg
from oslo_utils import timeutils

from blazar_vmexpire import exclusions, extension
from blazar_vmexpire.cloud import connect, errors
from blazar_vmexpire.cmd.manage_base import (
    CommandError,
    Commands,
    administrator,
    connected,
    print_table,
    shown,
    terms_book,
)
from blazar_vmexpire.cmd.progress import bar
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db.api import Expiration
from blazar_vmexpire.db.engine import Database, retried
from blazar_vmexpire.db.models import expirations
from blazar_vmexpire.exclusions import AlreadyExcluded, Kind
from blazar_vmexpire.extension import Caller
from blazar_vmexpire.labels import Labels
from blazar_vmexpire.lifecycle import LEASED
from blazar_vmexpire.takeover import os_vm_expire, server_metadata
from blazar_vmexpire.takeover.ends import Found, Outcome, Result, decide, take
from blazar_vmexpire.terms import TermsBook

_PAGE = 1000
#: How many are named of those that nothing is done with.
_NAMED = 20


def add_commands(commands: Commands[Any]) -> None:
    """Add ``import os-vm-expire`` and ``import server-metadata``."""
    parser = commands.add_parser(
        "import",
        help="take over the ends that VMs have in another system",
        description="Take over the ends that VMs have in another system. VMs have to be known here"
        " first (see sync). An end that somebody has chosen here stays, or moves to a later date;"
        " none comes so soon that its owner cannot be told of it minimum_notice before. It can be"
        " run again: what was taken over is left as it is. Without --yes nothing is changed.",
    )
    group = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    database = group.add_parser(
        "os-vm-expire",
        help="from a database of os-vm-expire",
        description="Take over the dates, exclusions and notices of an os-vm-expire database. It is"
        " read, and not changed. A notice counts here, and is not sent again, where the end that it"
        " told of stays, minimum_notice has passed since (from now, where the database does not"
        " know when it was sent), and nothing is done to the VM before the end.",
    )
    database.add_argument(
        "--connection",
        metavar="URL",
        required=True,
        help="its sql_connection: mysql://user:password@host/osvmexpire, or sqlite:////path",
    )
    database.add_argument("--yes", action="store_true", help="do it")
    database.set_defaults(run=_from_os_vm_expire)

    metadata = group.add_parser(
        "server-metadata",
        help="from a key of the VMs' metadata",
        description="Take over the dates that VMs have in their metadata in Nova: ISO 8601 (a day"
        " without an hour lasts to its end, all in UTC), or seconds since 1970. Owners can write"
        " there, too: a date counts up to the latest that an owner may choose here.",
    )
    metadata.add_argument("--key", required=True, help="the key, such as expire_at")
    metadata.add_argument("--yes", action="store_true", help="do it")
    metadata.set_defaults(run=_from_metadata)


def _from_os_vm_expire(conf: cfg.ConfigOpts, arguments: Any) -> None:
    try:
        source = os_vm_expire.read(arguments.connection)
    except os_vm_expire.Unreadable as error:
        raise CommandError(f"the database of os-vm-expire cannot be read: {error}") from error
    with connected(conf) as database:
        run = _Run(conf, database, "os-vm-expire", do=arguments.yes, capped=False)
        run.exclude(source.exclusions)
        run.take_over(source.vms)
        run.print_rest()
        run.finish(source.nonsense)


def _from_metadata(conf: cfg.ConfigOpts, arguments: Any) -> None:
    with connected(conf) as database:
        run = _Run(conf, database, f"metadata {arguments.key}", do=arguments.yes, capped=True)
        nonsense: list[str] = []
        try:
            found = list(_in_metadata(conf, database, arguments.key, nonsense))
        except errors.CloudError as error:
            raise CommandError(f"Nova's list could not be read to its end: {error}") from error
        run.take_over(found)
        run.finish(nonsense)


def _in_metadata(
    conf: cfg.ConfigOpts, database: Database, key: str, nonsense: list[str]
) -> Iterator[Found]:
    """Read the dates in Nova, but for those that we have written there ourselves."""
    own = Labels.of(conf).keys
    seen = 0
    with bar("servers", _count(database)) as report:
        for page in connect(conf).nova.pages(_PAGE):
            with_key = {
                raw["id"]: raw["metadata"][key] for raw in page if key in raw.get("metadata", {})
            }
            written = _written(database, list(with_key)) if key in own else set()
            for server_id, text in with_key.items():
                if server_id in written:
                    continue
                try:
                    ends_at = server_metadata.parse_end(text)
                except extension.NotAllowed:
                    nonsense.append(f"VM {server_id} with {text[:40]!r}")
                else:
                    yield Found(server_id=server_id, ends_at=ends_at)
            seen += len(page)
            report(seen)


def _count(database: Database) -> int:
    with database.begin() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(expirations)) or 0


def _written(database: Database, server_ids: Sequence[str]) -> set[str]:
    """Say which VMs have been told their end here by ourselves, in their metadata."""
    x = expirations.c
    with database.begin() as connection:
        return set(
            connection.scalars(
                sa.select(x.server_id).where(x.server_id.in_(server_ids), x.shown_end.is_not(None))
            )
        )


class _Run:
    """One run of the command: says what becomes of each VM, and does it if asked to.

    :param origin: for the history.
    """

    def __init__(
        self, conf: cfg.ConfigOpts, database: Database, origin: str, *, do: bool, capped: bool
    ) -> None:
        self._book: TermsBook = terms_book(conf)
        self._database = database
        self._origin = origin
        self._do = do
        self._capped = capped
        self._now = timeutils.utcnow()
        self._taken: set[str] = set()

    def exclude(self, wanted: Sequence[tuple[Kind, str]]) -> None:
        """Leave out those who are left out there."""
        print("Exclusions" + (" added:" if self._do else " to be added:"))
        for kind, value in wanted:
            there = self._exclude(kind, value)
            print(f"  {kind:<8} {shown(value)}{'  (there already)' if there else ''}")
        if not wanted:
            print("  none")

    @retried
    def _exclude(self, kind: Kind, value: str) -> bool:
        """Exclude one, if it is to be done, and say whether it was excluded before."""
        with self._database.begin() as connection:
            there = exclusions.get_by_value(connection, kind, value)
            if there is not None and there.applies(self._now):
                return True
            if not self._do:
                return False
            try:
                exclusions.add(
                    connection,
                    kind=kind,
                    value=value,
                    reason=f"taken over from {self._origin}",
                    author=administrator(),
                    expires_at=None,
                    now=self._now,
                )
            except AlreadyExcluded:
                return True
        return False

    def take_over(self, found: Sequence[Found]) -> None:
        """Take the ends over, and say what became of each VM, or would."""
        results = [*(self._done(found) if self._do else self._planned(found))]
        self._taken = {result.server_id for result in results}
        changed = [result for result in results if result.new_end]
        if changed:
            print()
            print_table(
                {
                    "server_id": 36,
                    "end_here": 16,
                    "end_there": 16,
                    "becomes": 16,
                    "told": 4,
                    "server_name": 0,
                },
                (_line(result) for result in changed),
            )
        print()
        counted = collections.Counter(result.outcome for result in results)
        for outcome in Outcome:
            print(f"{counted[outcome]:>8}  {outcome}")
        unknown = [r.server_id for r in results if r.outcome == Outcome.UNKNOWN]
        _print_named("Not known here (run sync first; or Nova has them no more)", unknown)

    def print_rest(self) -> None:
        """Say how many VMs expire here of which the other system knows nothing."""
        with self._database.begin() as connection:
            expiring = connection.scalars(
                sa.select(expirations.c.server_id).where(expirations.c.state.in_(LEASED))
            )
            rest = len(set(expiring) - self._taken)
        if rest:
            print(f"\nVMs that are known here alone, and keep the end that they have: {rest}")

    def finish(self, nonsense: Sequence[str]) -> None:
        """Say last what was not understood, and whether anything was done."""
        _print_named("Not understood", nonsense)
        if not self._do:
            print("\nNothing was changed. With --yes it is done.")

    def _planned(self, found: Sequence[Found]) -> Iterator[Result]:
        with self._database.begin() as connection:
            session = self._book.session(connection, self._now)
        for begin in range(0, len(found), _PAGE):
            page = found[begin : begin + _PAGE]
            rows = self._rows([each.server_id for each in page])
            for each in page:
                row = rows.get(each.server_id)
                yield decide(row, each, session.judge_row, self._now, capped=self._capped)

    def _rows(self, server_ids: Sequence[str]) -> dict[str, Expiration]:
        where = expirations.c.server_id.in_(server_ids)
        return {row.server_id: row for page in db_api.pages(self._database, where) for row in page}

    def _done(self, found: Sequence[Found]) -> Iterator[Result]:
        with bar("VMs", len(found)) as report:
            for number, each in enumerate(found, 1):
                yield self._take(each)
                report(number)

    @retried
    def _take(self, found: Found) -> Result:
        caller = Caller(
            user_id=administrator(),
            project_id=None,
            request_id=None,
            is_admin=True,
            reason=f"taken over from {self._origin}, where it ends {found.ends_at} UTC",
        )
        with self._database.begin() as connection:
            return take(
                connection,
                found,
                book=self._book,
                caller=caller,
                now=self._now,
                capped=self._capped,
            )


def _line(result: Result) -> list[Any]:
    dates = (result.ends_at, result.found, result.new_end)
    shown_dates = [f"{date:%Y-%m-%d %H:%M}" for date in dates if date]
    return [result.server_id, *shown_dates, len(result.told) or "-", result.server_name]


def _print_named(title: str, texts: Sequence[str]) -> None:
    """Name some, and say how many there are."""
    if not texts:
        return
    print(f"\n{title}: {len(texts)}")
    for text in texts[:_NAMED]:
        print(f"  {shown(text)}")
    if len(texts) > _NAMED:
        print(f"  and {len(texts) - _NAMED} more")
