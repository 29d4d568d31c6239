# SPDX-License-Identifier: Apache-2.0
"""``blazar-vmexpire-manage db``: our tables in Blazar's database."""

from __future__ import annotations

from typing import Any

from oslo_config import cfg

from blazar_vmexpire.cmd.manage_base import Commands, connected
from blazar_vmexpire.db import migration


def add_commands(commands: Commands[Any]) -> None:
    """Add ``db upgrade``, ``db version`` and ``db history``."""
    parser = commands.add_parser("db", help="our tables in Blazar's database")
    group = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    upgrade = group.add_parser(
        "upgrade",
        help="make or renew our tables, and add the indexes that Blazar's tables lack",
        description="Make our tables in Blazar's database, or bring them to this version's form,"
        " and add the indexes that Blazar's own tables lack. Can be run at any time, also while"
        " Blazar runs; does nothing that has been done already.",
    )
    upgrade.add_argument(
        "revision",
        metavar="REVISION",
        nargs="?",
        default="head",
        help="one of those that 'db history' lists (default: head, the newest)",
    )
    upgrade.add_argument(
        "--no-blazar-indexes",
        dest="blazar_indexes",
        action="store_false",
        help="add no indexes to Blazar's own tables: with many leases its engine gets slow",
    )
    upgrade.set_defaults(run=_upgrade)

    version = group.add_parser("version", help="say which revision our tables are at")
    version.set_defaults(run=_version)

    history = group.add_parser("history", help="list the revisions that this version knows")
    history.set_defaults(run=_history)


def _upgrade(conf: cfg.ConfigOpts, arguments: Any) -> None:
    with connected(conf, current=False) as database:
        migration.upgrade(
            database,
            arguments.revision,
            blazar_indexes=arguments.blazar_indexes,
            report=lambda line: print(line, flush=True),
        )


def _version(conf: cfg.ConfigOpts, arguments: Any) -> None:
    with connected(conf, current=False) as database:
        current, head = migration.version(database), migration.head()
    print(current or "none", "(head)" if current == head else f"(head is {head})")


def _history(conf: cfg.ConfigOpts, arguments: Any) -> None:
    for revision in migration.history():
        print(revision.name, revision.title, sep="  ")
