# SPDX-License-Identifier: Apache-2.0
"""What the commands of ``blazar-vmexpire-manage`` have in common."""

from __future__ import annotations

import argparse
import datetime
import getpass
import json
import os
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from keystoneauth1 import exceptions as ksa_exceptions
from oslo_config import cfg
from sqlalchemy import exc as sa_exc

from blazar_vmexpire import extension, service
from blazar_vmexpire.actions import base as actions
from blazar_vmexpire.conf.types import parse_duration
from blazar_vmexpire.db import migration
from blazar_vmexpire.db.engine import Database
from blazar_vmexpire.terms import TermsBook
from blazar_vmexpire.worker.tools import Tools

Commands = argparse._SubParsersAction  # has no public name


class CommandError(Exception):
    """What was asked for cannot be done; the message is the sentence that the caller reads."""


@contextmanager
def connected(conf: cfg.ConfigOpts, *, current: bool = True) -> Iterator[Database]:
    """Connect to Blazar's database.

    :param current: whether our tables have to be there, at this version's revision.
    :raises CommandError: ``[database] connection`` is not set, or not usable.
    :raises blazar_vmexpire.db.migration.MigrationError: the tables are not what they have to be.
    """
    try:
        database = Database.from_conf(conf)
    except ValueError as error:
        raise CommandError(f"{error} (configuration read: {_files(conf)})") from error
    except (sa_exc.ArgumentError, ModuleNotFoundError) as error:
        raise CommandError(f"[database] connection cannot be used: {error}") from error
    try:
        if current:
            migration.require_current(database)
        yield database
    finally:
        database.engine.dispose()


@contextmanager
def prepared(conf: cfg.ConfigOpts) -> Iterator[Tools]:
    """Make the tools that the service works with.

    :raises CommandError: Keystone cannot be reached.
    :raises blazar_vmexpire.exceptions.ConfigError: with a sentence that names the option.
    """
    try:
        tools = service.prepare(conf)
    except ksa_exceptions.ClientException as error:
        raise CommandError(f"the cloud cannot be reached: {error}") from error
    try:
        yield tools
    finally:
        tools.database.engine.dispose()


def terms_book(conf: cfg.ConfigOpts) -> TermsBook:
    """Open the book of terms, with the rules file that the options name.

    :raises blazar_vmexpire.rules.RulesError: that file cannot be used.
    """
    book = TermsBook(conf)
    known = actions.load()
    book.load(*actions.usable(known))
    return book


def _files(conf: cfg.ConfigOpts) -> str:
    return ", ".join(conf.config_file or []) or "none found, name it with --config-file"


def administrator() -> str:
    """Name the account on this machine that runs the command, for the history."""
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


class Progress:
    """Says on stderr how far something is, every two seconds."""

    _PAUSE = 2.0

    def __init__(self) -> None:
        self._last = time.monotonic()

    def show(self, text: str) -> None:
        """Show it, unless something was shown a moment ago."""
        now = time.monotonic()
        if now - self._last >= self._PAUSE:
            self._last = now
            print(text, file=sys.stderr, flush=True)


def server_id(text: str) -> str:
    """Read a server's UUID, as a type of argument."""
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a server's UUID") from None


def duration(text: str) -> datetime.timedelta:
    """Read a duration such as ``90d``, as a type of argument."""
    try:
        return parse_duration(text)
    except (ValueError, OverflowError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def date(text: str) -> datetime.datetime:
    """Read a date such as ``2027-01-10T04:50``, as a type of argument: naive UTC, whole minutes."""
    try:
        return extension.parse_date(text)
    except extension.NotAllowed:
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r} is no date: it must be like 2027-01-10T04:50, in UTC"
        ) from None


def add_format(parser: argparse.ArgumentParser) -> None:
    """Add ``--format``."""
    parser.add_argument(
        "--format",
        choices=["table", "json"],
        default="table",
        help="table: for people (dates are UTC); json: for programs",
    )


def print_json(value: Any) -> None:
    """Print a value as JSON, dates as ISO 8601 with a Z."""
    print(json.dumps(value, indent=2, default=_plain))


def print_json_list(values: Iterable[Any]) -> None:
    """Print values as one JSON list, each as it comes, one a line."""
    before = "[\n"
    for value in values:
        print(before + json.dumps(value, default=_plain), end="")
        before = ",\n"
    print("[]" if before == "[\n" else "\n]")


def print_table(widths: Mapping[str, int], rows: Iterable[Sequence[Any]]) -> None:
    """Print rows in columns, each row as it comes.

    :param widths: of the columns, by their titles; the last is as wide as it gets.
    """
    _print_row(list(widths), list(widths.values()))
    for row in rows:
        _print_row(row, list(widths.values()))


def _print_row(cells: Sequence[Any], widths: Sequence[int]) -> None:
    texts = [shown(cell) for cell in cells]
    padded = [text.ljust(width) for text, width in zip(texts, widths, strict=True)]
    print("  ".join(padded).rstrip())


def shown(value: Any) -> str:
    """Write a value for a terminal, which takes some characters for commands."""
    if value is None:
        return "-"
    if isinstance(value, datetime.datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(value))


def _plain(value: object) -> str:
    if isinstance(value, datetime.datetime):
        return value.isoformat() + "Z"
    raise TypeError(f"{value!r} has no form in JSON")
