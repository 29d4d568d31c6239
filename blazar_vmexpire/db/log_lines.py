# SPDX-License-Identifier: Apache-2.0
"""One line in the log for each step of a VM: which VM, what, why, what is next, by which request.

Nothing in these lines is secret, and none has a mail address: those who read logs are many.
"""

from __future__ import annotations

import datetime
import logging as levels
from collections.abc import Iterator, Mapping
from typing import Any

from oslo_log import log as logging

from blazar_vmexpire import tracing, words
from blazar_vmexpire.db.journal import PRIVATE, Finish, Happening, Journal

LOG = logging.getLogger(__name__)

#: What an operator should look at, and what is out of the ordinary; all else is information.
_LEVELS = {
    "failed": levels.ERROR,
    "image_failed": levels.ERROR,
    "shelve_failed": levels.ERROR,
    "migration_failed": levels.WARNING,
    "migration_left": levels.ERROR,
    "dry_run": levels.WARNING,
    "explicit_lease_dropped": levels.WARNING,
    "lease_put_back": levels.WARNING,
    "lease_removed": levels.WARNING,
    "moved": levels.WARNING,
    "notice_refused": levels.WARNING,
    "orphaned": levels.WARNING,
    "stray_image_removed": levels.WARNING,
    "vanished_unexplained": levels.WARNING,
}

#: Details that say why, in the order in which they are looked for.
_REASONS = ("failed", "reason", "instead_of_owner", "evidence")
_LONGEST = 300


def write(journal: Journal) -> None:
    """Log what a transaction did: a line a VM; of a page of them, a line."""
    told: dict[str, list[Happening]] = {}
    for happening in journal.happenings:
        told.setdefault(happening.server_id, []).append(happening)
    for server_id, happenings in told.items():
        _log(server_id, happenings, journal.finishes.get(server_id))
    for server_id, finish in journal.finishes.items():
        if server_id not in told:
            _log(server_id, [], finish)
    for event, count in journal.pages.items():
        LOG.info("%d servers: %s", count, _spoken(event))


def write_of(subject: str, happening: Happening) -> None:
    """Log what happened to somebody other than one VM, of whom there is no history.

    :param subject: who that is: ``Project 1234``.
    """
    LOG.info("%s: %s", words.one_line(subject, _LONGEST), "; ".join(_parts([happening], None)))


def _log(server_id: str, happenings: list[Happening], finish: Finish | None) -> None:
    level = max((_level(it) for it in happenings), default=levels.DEBUG)
    if not happenings and finish is not None and finish.before != finish.after:
        level = levels.INFO
    # Most steps find nothing to do: then not even the line is made.
    if LOG.isEnabledFor(level):
        LOG.log(level, "Server %s: %s", server_id, "; ".join(_parts(happenings, finish)))


def _level(happening: Happening) -> int:
    if "failed" in happening.details:
        return levels.ERROR
    return _LEVELS.get(happening.event, levels.INFO)


def _parts(happenings: list[Happening], finish: Finish | None) -> Iterator[str]:
    for happening in happenings:
        yield sentence(happening)
    if finish is not None:
        state = finish.after
        if not happenings and finish.before != finish.after:
            state = f"{finish.before} becomes {finish.after}"
        due = "it rests" if finish.next_at is None else f"next at {finish.next_at:%F %T} UTC"
        yield f"{state}, {due}"
    requests = {it.request_id for it in happenings} - {None} or {tracing.current()}
    yield from (f"request {request_id}" for request_id in sorted(filter(None, requests)))


def sentence(happening: Happening) -> str:
    """Say what happened, with what, by whom, and why."""
    details = dict(happening.details)
    why = next((details.pop(name) for name in _REASONS if details.get(name)), None)
    said = _spoken(happening.event)
    shown = ", ".join(_shown(details))
    if shown:
        said += f" ({shown})"
    if happening.actor:
        said += f" by {_text(happening.actor)}"
    return f"{said}: {_text(why)}" if why else said


def _spoken(event: str) -> str:
    return event.replace("_", " ")


def _shown(details: Mapping[str, Any]) -> Iterator[str]:
    for name, value in details.items():
        if name in PRIVATE or value is None or value is False:
            continue
        yield _spoken(name) if value is True else f"{_spoken(name)} {_text(value)}"


def _text(value: Any) -> str:
    if isinstance(value, datetime.datetime):
        return words.utc(value)
    if isinstance(value, list | tuple):
        return words.without_addresses(words.one_line(" and ".join(map(str, value)), _LONGEST))
    return words.without_addresses(words.one_line(str(value), _LONGEST))
