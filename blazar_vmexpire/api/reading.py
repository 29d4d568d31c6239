# SPDX-License-Identifier: Apache-2.0
"""What blazar-api reads by itself: our tables, and the terms that dates follow from.

Reads need no manager. Each Flask application has a :class:`Reading` of its own, which connects when
it is first asked: in the process that serves, be that forked or not.
"""

from __future__ import annotations

import contextlib
import datetime
import pathlib
import threading
from collections.abc import Callable, Iterator

import sqlalchemy as sa
from flask.sansio.app import App
from oslo_config import cfg
from oslo_db import exception as oslo_db_exception
from oslo_log import log as logging
from oslo_utils import timeutils

from blazar_vmexpire import RESOURCE_TYPE
from blazar_vmexpire.actions import base as actions
from blazar_vmexpire.api.errors import Unavailable
from blazar_vmexpire.brake import Brake
from blazar_vmexpire.conf import opts
from blazar_vmexpire.db.engine import Database
from blazar_vmexpire.rules import RulesError
from blazar_vmexpire.terms import TermsBook

LOG = logging.getLogger(__name__)

_NAME = "blazar_vmexpire"


#: What is raised when the database cannot be reached: an OperationalError, if nothing was asked.
_AWAY = (
    oslo_db_exception.DBConnectionError,
    oslo_db_exception.DBNonExistentDatabase,
    sa.exc.OperationalError,
    sa.exc.TimeoutError,
)


class Reading:
    """The database and the terms, as a process that answers requests has them.

    :param conf: Blazar's options; ours are registered on it.
    :param clock: says what time it is, naive UTC.
    """

    def __init__(
        self,
        conf: cfg.ConfigOpts,
        clock: Callable[[], datetime.datetime] = timeutils.utcnow,
    ) -> None:
        self._conf = conf
        self.brake = Brake(conf)
        self.clock = clock
        self._database: Database | None = None
        self._book: TermsBook | None = None
        self._rules_as_of: object = None
        self._guard = threading.Lock()
        opts.register_opts(conf)

    def belong_to(self, application: App) -> None:
        """Be what the routes of an application read with."""
        application.extensions[_NAME] = self

    @staticmethod
    def of(application: App) -> Reading:
        """Return what an application reads with."""
        found: Reading = application.extensions[_NAME]
        return found

    def close(self) -> None:
        """Close all connections."""
        if self._database is not None:
            self._database.engine.dispose()

    @contextlib.contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        """A transaction that reads.

        :raises Unavailable: the database does not answer.
        """
        try:
            with self._connected().begin() as connection:
                yield connection
        except _AWAY as error:
            if isinstance(error, sa.exc.OperationalError) and error.statement is not None:
                raise
            LOG.error("The database does not answer: %s", error)
            raise Unavailable("the database does not answer") from error

    @property
    def book(self) -> TermsBook:
        """What says a VM's terms, by the options and by the rules file as it is now.

        :raises Unavailable: the file cannot be used, and could not be so far.
        """
        with self._guard:
            as_of = _stamp(self._conf[RESOURCE_TYPE].rules_file)
            if self._book is None or as_of != self._rules_as_of:
                self._load()
                self._rules_as_of = as_of
            assert self._book is not None  # noqa: S101 - a line above
            return self._book

    def _load(self) -> None:
        book = TermsBook(self._conf)
        try:
            book.load(*actions.usable(actions.load()))
        except RulesError as error:
            for problem in str(error).splitlines():
                LOG.error("The rules cannot be used: %s", problem)
            if self._book is None:
                raise Unavailable(
                    "the rules file of this blazar-api cannot be used: its log says why"
                ) from error
            return
        self._book = book

    def _connected(self) -> Database:
        with self._guard:
            if self._database is None:
                # Somebody is waiting for an answer.
                self._database = Database.from_conf(self._conf, max_retries=0)
            return self._database


def _stamp(path: str | None) -> object:
    """Say something that is another whenever a file is; None where there is none."""
    if path is None:
        return None
    try:
        found = pathlib.Path(path).stat()
    except OSError:
        return None
    return path, found.st_mtime_ns, found.st_size
