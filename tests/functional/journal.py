# SPDX-License-Identifier: Apache-2.0
"""Every change of state there ever was, as the database itself saw it."""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy as sa

from blazar_vmexpire.db.engine import Database
from blazar_vmexpire.lifecycle import MACHINE, State


class Change(NamedTuple):
    """The state of a VM's expiration before and after a statement."""

    before: str
    after: str


#: What may be seen: each transition; and two at once, where an end that is put off leads back into
#: the quarantine that the VM was in.
DECLARED = {Change(start, end) for start, _, end in MACHINE} | {
    Change(State.ENDING, State.QUARANTINED)
}


class Journal:
    """A trigger on ``vm_expirations`` that notes each change of ``state``, whoever writes it.

    On SQLite only: the machine is the same on all databases.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        with database.begin() as connection:
            for statement in (
                "CREATE TABLE state_changes"
                " (id INTEGER PRIMARY KEY, server_id TEXT, before TEXT, after TEXT)",
                "CREATE TRIGGER note_state_change AFTER UPDATE OF state ON vm_expirations"
                " WHEN old.state <> new.state BEGIN"
                " INSERT INTO state_changes (server_id, before, after)"
                " VALUES (new.server_id, old.state, new.state); END",
            ):
                connection.execute(sa.text(statement))

    def of(self, server_id: str) -> list[Change]:
        """Return the changes of one VM, oldest first."""
        return self._read("WHERE server_id = :server_id", server_id=server_id)

    def all(self) -> set[Change]:
        """Return each change that any VM went through."""
        return set(self._read(""))

    def _read(self, where: str, **values: str) -> list[Change]:
        question = sa.text(f"SELECT before, after FROM state_changes {where} ORDER BY id")
        with self._database.begin() as connection:
            return [Change(*row) for row in connection.execute(question, values)]
