# SPDX-License-Identifier: Apache-2.0
"""How a command tells what goes wrong: in one sentence, and with a log that disturbs nobody."""

from __future__ import annotations

import logging

from oslo_config import cfg
from oslo_db import exception as oslo_db_exception
from sqlalchemy import exc as sa_exc

from blazar_vmexpire.cmd.manage_base import CommandError
from blazar_vmexpire.db.migration import MigrationError
from blazar_vmexpire.exceptions import ConfigError

#: What is the matter with the surroundings or the request, not with the program.
TOLD_IN_ONE_SENTENCE = (
    CommandError,
    ConfigError,
    MigrationError,
    cfg.Error,
    oslo_db_exception.DBError,
    sa_exc.DBAPIError,
)


def log_to_stderr(*, debug: bool) -> None:
    """Log what is critical to stderr, or with ``debug`` everything.

    Not where blazar.conf says: a log file that root makes here could not be written by Blazar.
    """
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.CRITICAL,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )


def one_sentence(error: BaseException) -> str:
    """Say in one line what went wrong."""
    if isinstance(error, oslo_db_exception.DBError | sa_exc.DBAPIError):
        return f"the database in [database] connection cannot be used: {_driver_said(error)}"
    return " ".join(str(error).split())


def _driver_said(error: BaseException) -> str:
    """Find the driver's own words below those of SQLAlchemy and oslo.db."""
    while True:
        cause = getattr(error, "inner_exception", None) or getattr(error, "orig", None)
        if cause is None:
            break
        error = cause
    # MySQL's drivers put a number first.
    said = str(error.args[-1] if error.args else "") or type(error).__name__
    return said.strip().splitlines()[0]
