# SPDX-License-Identifier: Apache-2.0
"""What ``blazar-vmexpire-status`` looks at that is our own: tables, options, and what came in."""

from __future__ import annotations

from oslo_config import cfg
from oslo_utils import timeutils

from blazar_vmexpire import RESOURCE_TYPE, service, words
from blazar_vmexpire.actions import base as actions
from blazar_vmexpire.cmd.manage_base import CommandError, connected
from blazar_vmexpire.cmd.status_base import Check, Doubt
from blazar_vmexpire.db import blazar_indexes, migration
from blazar_vmexpire.durations import format_duration
from blazar_vmexpire.intake import arrivals
from blazar_vmexpire.terms import TermsBook
from blazar_vmexpire.worker import tools


def _tables(conf: cfg.ConfigOpts) -> str:
    with connected(conf) as database, database.begin() as connection:
        lacking = [index.name for index in blazar_indexes.missing(connection)]
    found = f"our tables are at revision {migration.head()}"
    if lacking:
        raise Doubt(f"{found}, but Blazar's tables lack {', '.join(lacking)}: Blazar is slower")
    return found


def _options(conf: cfg.ConfigOpts) -> str:
    tools.check(conf)
    book = TermsBook(conf)
    service.check(conf, book, actions.load())
    path = conf[RESOURCE_TYPE].rules_file
    if path is None:
        return "the options make sense, and there is no rules file"
    return f"the options make sense, and so do the {book.rules_count} rules of {path}"


def _notifications(conf: cfg.ConfigOpts) -> str:
    options = conf.vmexpire_intake
    if not options.notifications:
        if not options.reconciliation:
            raise CommandError("notifications and reconciliation are both switched off")
        interval = format_duration(options.reconcile_interval)
        return f"they are not listened to; VMs are looked for every {interval}"
    with connected(conf) as database, database.begin() as connection:
        last = arrivals.last(connection)
        untold = arrivals.untold(connection, last, timeutils.utcnow()) if last else 0
    if last is None:
        raise Doubt(
            "nothing is known: no listener has taken one yet, or none of this version has run; if"
            " a VM was created or deleted since blazar-manager was started, they do not arrive"
        )
    if untold:
        said = f"the last one came on {words.utc(last)}, and Nova has made {untold} VMs since"
        if not options.reconciliation:
            raise CommandError(said)
        raise Doubt(f"{said}, which only reconciliation found")
    return f"the last one came on {words.utc(last)}, and no VM has come without one since"


CHECKS = (
    Check(
        title="Tables",
        why="blazar-manager and the workers do not start with tables of another version",
        right="the tables at this version's revision, with the indexes: run"
        " blazar-vmexpire-manage db upgrade",
        look=_tables,
    ),
    Check(
        title="Options and rules file",
        why="blazar-manager does not start with an option or a rules file that is wrong",
        right="what the sentence says; blazar-vmexpire-manage plan shows what the rules then do",
        look=_options,
    ),
    Check(
        title="Notifications of Nova",
        why="with them a VM has its lease within seconds; without them it comes with the next"
        " comparison of Nova's list, if that is not switched off",
        right="Nova publishes ([oslo_messaging_notifications] driver = messagingv2 in nova.conf),"
        " and [vmexpire_intake] transport_url, exchange and topics are those that it publishes to;"
        " or notifications = false, with reconciliation left on",
        look=_notifications,
    ),
)
