# SPDX-License-Identifier: Apache-2.0
"""A VM's end as a calendar entry (iCalendar, RFC 5545), which later mails move or cancel."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from email.headerregistry import Address

import icalendar

from blazar_vmexpire import words
from blazar_vmexpire.notices.content import Kind, Notice
from blazar_vmexpire.notices.language import Language

#: How long before the end a calendar says something.
_WARNING = datetime.timedelta(days=1)

#: What tells of an end to come, or of another one than was told before.
_PUBLISHED = frozenset(
    {
        Kind.ADOPTED,
        Kind.REMINDER,
        Kind.QUARANTINED,
        Kind.REVIVED,
        Kind.EARLIER,
        Kind.MOVED,
        Kind.EXTENDED,
    }
)
#: What tells that it is over, or off.
_CANCELLED = frozenset({Kind.ENDED, Kind.EXEMPTED, Kind.GONE})


def entry(
    notice: Notice,
    *,
    generation: int,
    sender: Address,
    said_in: Language,
    link: str | None = None,
) -> icalendar.Calendar | None:
    """Make the calendar entry that belongs to a notice; None where it has none.

    There is one entry a VM: its UID stays, and SEQUENCE goes up with the generation, so that a
    calendar takes the newer end for the older one, in whatever order the mails arrive. What has
    ended cancels it, and so does what is gone, or has no end any more.

    :param generation: of the VM's expiration.
    :param sender: of the mail: who publishes the entry.
    :param said_in: the mail's language.
    :param link: the VM's page in the dashboard.
    """
    off = notice.template in _CANCELLED
    if notice.ends_at is None or not (off or notice.template in _PUBLISHED):
        return None
    server = words.one_line(notice.server_name) or notice.server_id
    project = words.one_line(notice.project_name) or notice.project_id
    event = icalendar.Event()
    event.add("uid", f"{words.one_line(notice.server_id)}@{sender.domain}")
    # Two for each generation: a cancellation has to be the later one.
    event.add("sequence", 2 * generation + (1 if off else 0))
    event.add("dtstamp", _utc(notice.now))
    event.add("dtstart", _utc(notice.ends_at))
    _ = said_in.gettext
    event.add(
        "summary",
        _('VM "%(server)s" (%(project)s): its lease ends') % {"server": server, "project": project},
    )
    event.add("organizer", icalendar.vCalAddress(f"mailto:{sender.addr_spec}"))
    event.add("status", "CANCELLED" if off else "CONFIRMED")
    # Nobody is busy because of it.
    event.add("transp", "TRANSPARENT")
    if not off:
        event.add(
            "description",
            _("If it is still needed, extend it in time:")
            + f"\nopenstack vm expiration extend {words.one_line(notice.server_id)}",
        )
        if link is not None:
            event.add("url", link)
        event.add_component(_alarm(_('The lease of VM "%(server)s" ends') % {"server": server}))
    calendar = icalendar.Calendar()
    calendar.add("prodid", "-//blazar-vmexpire//EN")
    calendar.add("version", "2.0")
    calendar.add("method", "CANCEL" if off else "PUBLISH")
    calendar.add_component(event)
    return calendar


def together(
    calendars: Iterable[icalendar.Calendar | None],
) -> icalendar.Calendar | None:
    """Make one calendar of those of several notices, all of which tell of ends to come, or of one.

    :param calendars: as :func:`entry` makes them.
    :returns: None where none of them has an entry.
    """
    found = [each for each in calendars if each is not None]
    for other in found[1:]:
        for event in other.subcomponents:
            found[0].add_component(event)
    return found[0] if found else None


def _alarm(text: str) -> icalendar.Alarm:
    alarm = icalendar.Alarm()
    alarm.add("action", "DISPLAY")
    alarm.add("description", text)
    alarm.add("trigger", -_WARNING)
    return alarm


def _utc(date: datetime.datetime) -> datetime.datetime:
    return date.replace(microsecond=0, tzinfo=datetime.UTC)
