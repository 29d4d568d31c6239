# SPDX-License-Identifier: Apache-2.0
"""Whether the service does its work: what is wrong with it, in sentences."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence

import sqlalchemy as sa
from oslo_db import exception as oslo_db_exception

from blazar_vmexpire.db.engine import Database

#: How long the database may take to answer, in seconds.
_PATIENCE = 5.0


class Health:
    """Looks at the database and at the worker.

    :param ailing: says what is wrong with the worker: sentences, none when it is well.
    """

    def __init__(
        self,
        database: Database,
        ailing: Callable[[], Sequence[str]],
        patience: float = _PATIENCE,
    ) -> None:
        self._database = database
        self._ailing = ailing
        self._patience = patience
        self._asking = threading.Lock()

    def problems(self) -> list[str]:
        """Say what is wrong: sentences, none when all is well. Takes seconds at most."""
        return [*self._of_the_database(), *self._ailing()]

    def _of_the_database(self) -> list[str]:
        """Ask it in a thread of its own: a host that has gone away keeps who asks for minutes."""
        if not self._asking.acquire(timeout=self._patience):
            return ["the database has not answered yet when it was asked before"]
        answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(
            target=self._ask, args=(answers,), name="vmexpire-health", daemon=True
        ).start()
        try:
            problem = answers.get(timeout=self._patience)
        except queue.Empty:
            return [f"the database does not answer within {self._patience:g} seconds"]
        return [] if problem is None else [problem]

    def _ask(self, answers: queue.SimpleQueue[str | None]) -> None:
        try:
            with self._database.begin() as connection:
                connection.execute(sa.select(1))
        except (oslo_db_exception.DBError, sa.exc.SQLAlchemyError) as error:
            # Of what it says, whoever asks needs the kind alone: addresses are none of theirs.
            answers.put(f"the database cannot be used: {type(error).__name__}")
        else:
            answers.put(None)
        finally:
            self._asking.release()
