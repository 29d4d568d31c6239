# SPDX-License-Identifier: Apache-2.0
"""What tables and pages say of an instance's expiration, in the reader's language."""

from __future__ import annotations

import datetime

from django.utils import dateformat, timezone
from django.utils.html import format_html
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from blazar_vmexpire.dashboard.vms import Vm

#: An en dash, as Horizon writes it.
NOTHING = "\N{EN DASH}"

#: By their name in the API.
STATES: dict[str, str] = {
    "active": gettext_lazy("Active"),
    "noticed": gettext_lazy("Announced"),
    "quarantined": gettext_lazy("Stopped and locked"),
    "ending": gettext_lazy("Ending"),
    "ended": gettext_lazy("Ended, and kept"),
    "reviving": gettext_lazy("Being restored"),
    "held": gettext_lazy("Held"),
    "exempt": gettext_lazy("Does not expire"),
    "vanished": gettext_lazy("Not found"),
    "failed": gettext_lazy("Failed"),
    "deleted": gettext_lazy("Deleted"),
}

#: What is done at the end, by the name of the action.
_ACTIONS: dict[str, str] = {
    "delete": gettext_lazy("Deleted"),
    "snapshot": gettext_lazy("Saved as an image, then deleted"),
    "shelve": gettext_lazy("Shelved: saved, and switched off"),
    "stop": gettext_lazy("Stopped and locked, and kept"),
}

#: What happens in states in which the end is not simply waited for.
_MEANWHILE: dict[str, str] = {
    "ending": gettext_lazy("Its end has begun: %(action)s"),
    "ended": gettext_lazy("Nothing more: it is kept as it is"),
    "reviving": gettext_lazy("What was done to it is being undone"),
    "held": gettext_lazy("Nothing while it is held; then: %(action)s"),
    "exempt": gettext_lazy("Nothing: it does not expire"),
    "vanished": gettext_lazy("It is looked for in the compute service"),
    "failed": gettext_lazy("Its end has failed; administrators look at it"),
    "deleted": gettext_lazy("It has been deleted"),
}


def state(name: str) -> str:
    """Say a state; one that a later version of the API may have is named as it is."""
    return STATES.get(name, name)


def action(name: str) -> str:
    """Say what is done at the end; an action of the operator's own is named as it is."""
    return _ACTIONS.get(name, name)


def what_happens(vm: Vm) -> str:
    """Say in a few words what will happen to an instance."""
    done = action(vm.on_end_action)
    if vm.state in _MEANWHILE:
        return _MEANWHILE[vm.state] % {"action": done}
    if vm.quarantine_at is not None:
        return _("%(action)s. Stopped and locked from %(date)s on.") % {
            "action": done,
            "date": date(vm.quarantine_at),
        }
    return str(done)


def date(moment: datetime.datetime) -> str:
    """Write a date in the time zone that the reader has chosen, and name that."""
    return dateformat.format(timezone.localtime(moment), "Y-m-d H:i T")


def distance(moment: datetime.datetime) -> str:
    """Say how far away a date is, in its largest unit: "in 3 days", "2 hours ago"."""
    left = moment - timezone.now()
    count, unit = _largest_unit(abs(left))
    ahead, past = {
        "day": (
            ngettext("in %(count)d day", "in %(count)d days", count),
            ngettext("%(count)d day ago", "%(count)d days ago", count),
        ),
        "hour": (
            ngettext("in %(count)d hour", "in %(count)d hours", count),
            ngettext("%(count)d hour ago", "%(count)d hours ago", count),
        ),
        "minute": (
            ngettext("in %(count)d minute", "in %(count)d minutes", count),
            ngettext("%(count)d minute ago", "%(count)d minutes ago", count),
        ),
    }[unit]
    return (past if left < datetime.timedelta(0) else ahead) % {"count": count}


def _largest_unit(length: datetime.timedelta) -> tuple[int, str]:
    for name in ("day", "hour", "minute"):
        count = length // datetime.timedelta(**{f"{name}s": 1})
        if count:
            return count, name
    return 0, "minute"


def ends(vm: Vm) -> str:
    """Write when an instance ends, and how long that is.

    The colour says again what the words, the state, and a sign of its own say. It is not that of
    Bootstrap's labels, whose white letters are too pale to be read on any of their colours.
    """
    if vm.ends_at is None:
        return format_html("{}", state(vm.state))
    kind = _urgency(vm)
    sign = (
        ""
        if kind == "default"
        else format_html('<span class="fa fa-exclamation-triangle" aria-hidden="true"></span> ')
    )
    return format_html(
        # Horizon takes blanks between tags away, but not one that is written like this.
        '<time datetime="{}">{}</time>&ensp;<span class="{}">{}{}</span>',
        vm.ends_at.isoformat(),
        date(vm.ends_at),
        _COLOURS[kind],
        sign,
        distance(vm.ends_at),
    )


def unknown() -> str:
    """Say that the API does not tell when an instance ends."""
    return format_html('{} <span class="sr-only">{}</span>', NOTHING, _("not known at the moment"))


#: Dark letters on a light ground, in each of Horizon's themes.
_COLOURS = {
    "default": "text-nowrap",
    "warning": "text-nowrap text-warning bg-warning",
    "danger": "text-nowrap text-danger bg-danger",
}


def _urgency(vm: Vm) -> str:
    if vm.has_been_told_last or vm.state in ("quarantined", "ending", "failed"):
        return "danger"
    return "warning" if vm.state == "noticed" else "default"


def extensions_left(vm: Vm) -> str:
    """Say whether an instance can be extended, and how often."""
    if vm.ends_at is None:
        return NOTHING
    if vm.extensions_left == 0:
        return _("None left")
    if vm.extendable_from is not None:
        return _("From %(date)s on") % {"date": date(vm.extendable_from)}
    if vm.extensions_left is None:
        return _("No limit")
    return str(vm.extensions_left)
