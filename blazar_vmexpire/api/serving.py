# SPDX-License-Identifier: Apache-2.0
"""What blazar-manager does for our API: each request is authorized and done in one transaction."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from blazar import exceptions
from blazar.manager import exceptions as manager_exceptions

from blazar_vmexpire import exclusions, extension, holds, steering
from blazar_vmexpire.actions import base as actions
from blazar_vmexpire.api import access, policies, views
from blazar_vmexpire.api.errors import GenerationMoved
from blazar_vmexpire.db import api as db_api
from blazar_vmexpire.db.api import Expiration
from blazar_vmexpire.db.engine import retried
from blazar_vmexpire.exclusions import Kind
from blazar_vmexpire.extension import Caller
from blazar_vmexpire.terms import Verdict
from blazar_vmexpire.worker.tools import Tools


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Raise a refusal of ours as one that crosses Blazar's RPC with its status."""
    try:
        yield
    except extension.NotFound as error:
        raise exceptions.NotFound(str(error)) from error
    except (extension.NotAllowed, holds.Invalid, exclusions.Invalid) as error:
        raise exceptions.InvalidInput(str(error)) from error
    except (extension.Conflict, holds.Refused, exclusions.AlreadyExcluded) as error:
        # The only class of Blazar's that carries a 409.
        raise manager_exceptions.CantUpdateParameter(str(error)) from error


class Serving:
    """Answers requests of our API. Dates in arguments are texts that were found to be dates.

    :param wake: called when there is something to do for the worker.
    """

    def __init__(self, tools: Tools, wake: Callable[[], object]) -> None:
        self._tools = tools
        self._wake = wake

    def answer(self, request: str, arguments: Mapping[str, Any]) -> Any:
        """Do what is asked.

        :param request: one of :data:`REQUESTS`.
        :raises blazar.exceptions.BlazarException: as the API is to tell it.
        """
        if request not in REQUESTS:
            raise exceptions.InvalidInput(f"this blazar-manager knows no request {request!r}")
        with refusals():
            found = getattr(self, request)(**arguments)
        self._wake()
        return found

    # A VM --------------------------------------------------------------------------------------

    def extend(
        self, server_id: str, until: str | None, if_match: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """Give a VM a later end, and give it back to its owner if anything was done to it.

        :param until: None for the latest allowed.
        """

        def change(connection: sa.Connection, row: Expiration, now: datetime.datetime) -> Any:
            return extension.extend(
                connection,
                server_id,
                end_date=None if until is None else extension.parse_date(until),
                caller=access.caller(),
                terms=self._verdict(connection, row, now).terms,
                now=now,
            )

        return self._change(server_id, [policies.EXTEND], if_match, change)

    def extend_many(self, server_ids: Sequence[str], until: str | None) -> list[dict[str, Any]]:
        """Extend VMs, each by itself, and say what became of each."""
        return [self._one_of_many(server_id, until) for server_id in server_ids]

    def _one_of_many(self, server_id: str, until: str | None) -> dict[str, Any]:
        result = {"server_id": server_id, "status": 200, "vm_expiration": None, "error": None}
        try:
            with refusals():
                return result | {"vm_expiration": self.extend(server_id, until)}
        except exceptions.BlazarException as error:
            return result | {"status": error.code, "error": str(error)}

    def update(
        self,
        server_id: str,
        changes: Mapping[str, Any],
        reason: str,
        if_match: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """Hold a VM, leave it out, move its end, set what is done to it: one, or several at once.

        :param changes: ``hold``, ``exempt``, ``ends_at``, ``on_end_action``, as the API takes them.
        """
        rules = sorted({policies.HOLD if name == "hold" else policies.UPDATE for name in changes})
        caller = dataclasses.replace(access.caller(), reason=reason)
        book = self._tools.book

        def change(connection: sa.Connection, row: Expiration, now: datetime.datetime) -> Any:
            if "exempt" in changes:
                self._exempt(connection, row, changes["exempt"], caller, now)
            if "hold" in changes:
                self._hold(connection, row, changes["hold"], caller, now)
            if "ends_at" in changes:
                end_date = extension.parse_date(changes["ends_at"], "ends_at")
                steering.set_end(connection, server_id, end_date, caller=caller, book=book, now=now)
            if "on_end_action" in changes:
                before_end, on_end = actions.usable(self._tools.actions)
                steering.set_on_end_action(
                    connection,
                    server_id,
                    changes["on_end_action"],
                    before_end=before_end,
                    on_end=on_end,
                    caller=caller,
                    book=book,
                    now=now,
                )
            return db_api.get(connection, server_id)

        return self._change(server_id, rules, if_match, change)

    def expire_now(
        self,
        server_id: str,
        reason: str,
        force: bool,
        if_match: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """Have a VM end as soon as its owner has had notice; with ``force`` at once."""
        caller = dataclasses.replace(access.caller(), reason=reason)

        def change(connection: sa.Connection, row: Expiration, now: datetime.datetime) -> Any:
            return steering.expire_now(
                connection,
                server_id,
                force=force,
                caller=caller,
                book=self._tools.book,
                now=now,
            )

        return self._change(server_id, [policies.EXPIRE_NOW], if_match, change)

    def adopt(self, server_id: str) -> dict[str, Any]:
        """Have a VM looked at in Nova now, and taken in if it is to be."""
        access.require(access.asking(), policies.ADOPT)

        @retried
        def see() -> Expiration | None:
            with self._tools.database.begin() as connection:
                db_api.see(connection, server_id, self._tools.clock())
                return db_api.get(connection, server_id)

        row = see()
        return {"server_id": server_id, "state": "seen" if row is None else row.state}

    # Who is left out ---------------------------------------------------------------------------

    def exclude(self, kind: str, value: str, reason: str, expires_at: str | None) -> dict[str, Any]:
        """Leave somebody out."""
        access.require(access.asking(), policies.EXCLUDE)
        until = None if expires_at is None else extension.parse_date(expires_at, "expires_at")
        caller = access.caller()

        @retried
        def add() -> exclusions.Exclusion:
            with self._tools.database.begin() as connection:
                return exclusions.add(
                    connection,
                    kind=Kind(kind),
                    value=value,
                    reason=reason,
                    author=_author(caller),
                    expires_at=until,
                    now=self._tools.clock(),
                    request_id=caller.request_id,
                )

        return views.exclusion(add())

    def include(self, exclusion_id: int, reason: str | None) -> None:
        """Take an exclusion back."""
        access.require(access.asking(), policies.INCLUDE)
        caller = access.caller()

        @retried
        def remove() -> bool:
            with self._tools.database.begin() as connection:
                found = exclusions.get(connection, exclusion_id)
                return found is not None and exclusions.remove(
                    connection,
                    found,
                    author=_author(caller),
                    reason=reason,
                    now=self._tools.clock(),
                    request_id=caller.request_id,
                )

        if not remove():
            raise exceptions.NotFound(f"no exclusion {exclusion_id} could be found")

    # The brake ---------------------------------------------------------------------------------

    def change_brake(self, action: str, reason: str) -> dict[str, Any]:
        """Trip the brake, or release it."""
        access.require(access.asking(), policies.CHANGE_BRAKE)
        control, by = self._tools.brake, _author(access.caller())
        if action == "trip" and not control.enabled:
            raise manager_exceptions.CantUpdateParameter(
                "[vmexpire_brake] enabled is false: a tripped brake would stop nothing"
            )

        @retried
        def change() -> dict[str, Any] | None:
            now = self._tools.clock()
            with self._tools.database.begin() as connection:
                act = control.trip if action == "trip" else control.release
                if not act(connection, reason=reason, by=by, now=now):
                    return None
                return views.brake(control, connection, now)

        found = change()
        if found is None:
            before = "has tripped before" if action == "trip" else "has not tripped"
            raise manager_exceptions.CantUpdateParameter(f"the brake {before}")
        return found

    # -------------------------------------------------------------------------------------------

    @retried
    def _change(
        self,
        server_id: str,
        rules: Sequence[str],
        if_match: Sequence[str] | None,
        change: Callable[[sa.Connection, Expiration, datetime.datetime], Any],
    ) -> dict[str, Any]:
        """Change a VM's row, for whoever may, and if it is the one that they have seen.

        :param change: done with the row held; returns it as it is then.
        """
        now = self._tools.clock()
        with self._tools.database.begin() as connection:
            found = db_api.get(connection, server_id, for_update=True)
            for rule in rules:
                access.authorize(access.asking(), rule, found, server_id)
            if found is None or found.project_id is None:
                raise extension.NotFound(server_id)
            if if_match is not None and str(found.generation) not in if_match:
                raise GenerationMoved(
                    f"the expiration of server {server_id} was changed by somebody else: its"
                    f" generation is {found.generation}, not {' or '.join(if_match) or 'that'}"
                )
            row = change(connection, found, now)
            verdict = self._verdict(connection, row, now)
        return views.vm_expiration(row, verdict, now)

    def _verdict(
        self, connection: sa.Connection, row: Expiration, now: datetime.datetime
    ) -> Verdict:
        return self._tools.book.verdict(connection, row, now)

    def _hold(
        self,
        connection: sa.Connection,
        row: Expiration,
        wanted: Mapping[str, Any] | None,
        caller: Caller,
        now: datetime.datetime,
    ) -> None:
        book, author = self._tools.book, _author(caller)
        if wanted is not None:
            holds.hold(
                connection,
                row.server_id,
                until=extension.parse_date(wanted["until"], "hold.until"),
                reason=caller.reason or "",
                ticket=wanted.get("ticket"),
                author=author,
                book=book,
                now=now,
                request_id=caller.request_id,
            )
            return
        released = holds.release(
            connection,
            row.server_id,
            reason=caller.reason,
            author=author,
            book=book,
            now=now,
            request_id=caller.request_id,
        )
        if released is None:
            raise extension.Conflict(f"server {row.server_id} is not held")

    @staticmethod
    def _exempt(
        connection: sa.Connection,
        row: Expiration,
        wanted: bool | Mapping[str, Any],
        caller: Caller,
        now: datetime.datetime,
    ) -> None:
        author = _author(caller)
        if wanted is not False:
            until = wanted.get("until") if isinstance(wanted, Mapping) else None
            exclusions.add(
                connection,
                kind=Kind.SERVER,
                value=row.server_id,
                reason=caller.reason or "",
                author=author,
                expires_at=until and extension.parse_date(until, "exempt.until"),
                now=now,
                request_id=caller.request_id,
            )
            return
        found = exclusions.get_by_value(connection, Kind.SERVER, row.server_id)
        if found is None or not exclusions.remove(
            connection,
            found,
            author=author,
            reason=caller.reason,
            now=now,
            request_id=caller.request_id,
        ):
            raise extension.Conflict(
                f"server {row.server_id} is not exempt by an act of its own: see the exclusions"
            )


#: What can be asked.
REQUESTS = frozenset(
    {
        "extend",
        "extend_many",
        "update",
        "expire_now",
        "adopt",
        "exclude",
        "include",
        "change_brake",
    }
)

_NOBODY = "unknown"


def _author(caller: Caller) -> str:
    return caller.user_id or _NOBODY
