# SPDX-License-Identifier: Apache-2.0
"""The dates of an instance on a line: what was said, what is to come, and where now is."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from django.utils import timezone
from django.utils.translation import gettext as _

from blazar_vmexpire.dashboard import wording
from blazar_vmexpire.dashboard.vms import Vm, moment

#: Of the drawing, in its own units: where the line begins, and how long it is.
_LEFT, _LENGTH = 20, 960
#: How far the numbers of two dates are apart at least, however near the dates are.
_APART = 24


@dataclasses.dataclass(frozen=True, slots=True)
class Mark:
    """One date, drawn as a shape with its number, and told in a list below it."""

    number: int
    kind: str
    """``notice``, ``now``, ``quarantine``, ``end``: each has a shape of its own."""
    x: float
    label_x: float
    """Where its number is: beside that of a date that is all but the same."""
    words: str
    date: str
    is_over: bool


def marks(vm: Vm, notices: Sequence[Mapping[str, Any]]) -> list[Mark]:
    """Return the dates of an instance in their order; none if it has no end.

    :param notices: what the API has of notices that were accepted.
    """
    if vm.ends_at is None:
        return []
    now = timezone.now()
    dates: list[tuple[datetime.datetime, str, str]] = [(now, "now", _("Now"))]
    for notice in notices:
        told = moment(notice["accepted_at"])
        if told is not None:
            dates.append((told, "notice", _("Notice to %(who)s") % {"who": notice["recipient"]}))
    if vm.next_notice_at is not None:
        dates.append((vm.next_notice_at, "notice", _("Next notice")))
    if vm.quarantine_at is not None:
        dates.append((vm.quarantine_at, "quarantine", _("Stopped and locked")))
    end = _("End: %(action)s") % {"action": wording.action(vm.on_end_action)}
    dates.append((vm.ends_at, "end", end))
    dates.sort()
    first, last = dates[0][0], dates[-1][0]
    length = max(last - first, datetime.timedelta(minutes=1))
    places = [
        round(_LEFT + _LENGTH * ((when - first) / length), 1) for when, _kind, _words in dates
    ]
    return [
        Mark(
            number=n,
            kind=kind,
            x=x,
            label_x=label_x,
            words=words,
            date=wording.date(when),
            is_over=when < now,
        )
        for n, ((when, kind, words), x, label_x) in enumerate(
            zip(dates, places, spread(places), strict=True), 1
        )
    ]


def spread(places: Sequence[float]) -> list[float]:
    """Say where numbers stand that are to be read: beside their dates, and none over another.

    :param places: where the dates are, in their order.
    """
    found: list[float] = []
    for place in places:
        found.append(max(place, found[-1] + _APART) if found else place)
    # Those at the right end have no room beside them there.
    right = float(_LEFT + _LENGTH)
    for index in range(len(found) - 1, -1, -1):
        found[index] = min(found[index], right)
        right = found[index] - _APART
    return found
