# SPDX-License-Identifier: Apache-2.0
"""What a history says happened to an instance, and how, in the reader's language."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from blazar_vmexpire import words
from blazar_vmexpire.dashboard import wording
from blazar_vmexpire.dashboard.vms import moment

#: What happened, by the name of the event in a history.
_EVENTS: dict[str, str] = {
    "adopted": gettext_lazy("Taken in"),
    "notice_accepted": gettext_lazy("Notice sent"),
    "before_end": gettext_lazy("Action before the end"),
    "extended": gettext_lazy("Extended"),
    "quarantined": gettext_lazy("Stopped and locked"),
    "revived": gettext_lazy("Restored"),
    "held": gettext_lazy("Held"),
    "released": gettext_lazy("Hold ended"),
    "exempt": gettext_lazy("Left out"),
    "end_begun": gettext_lazy("End begun"),
    "deleted": gettext_lazy("Deleted"),
    "shortened": gettext_lazy("End moved to an earlier date"),
    "moved": gettext_lazy("End moved"),
    "end_forced": gettext_lazy("End ordered by an administrator"),
    "notice_refused": gettext_lazy("Notice refused"),
    "quarantine_begun": gettext_lazy("Being stopped and locked"),
    "quarantine_left": gettext_lazy("Not stopped, because somebody has locked it"),
    "unlocked": gettext_lazy("Unlocked"),
    "kept": gettext_lazy("Ended, and kept"),
    "volumes_kept": gettext_lazy("Volumes kept"),
    "failed": gettext_lazy("Failed"),
    "retried": gettext_lazy("Tried again"),
    "lease_put_back": gettext_lazy("Lease put back"),
    "metadata_put_back": gettext_lazy("Date in its metadata put back"),
    "terms_changed": gettext_lazy("Terms changed"),
    "actions_chosen": gettext_lazy("Actions chosen"),
    "out_of_scope": gettext_lazy("Left out"),
    "clock_stopped": gettext_lazy("Clock stopped by a hold"),
    "vanished": gettext_lazy("Not found"),
    "reappeared": gettext_lazy("Found again"),
    "dry_run": gettext_lazy("Nothing done: this is a trial run"),
}

#: What belongs to it, by its name in the details.
_LABELS: dict[str, str] = {
    "action": gettext_lazy("Action"),
    "by": gettext_lazy("By"),
    "by_admin": gettext_lazy("By an administrator"),
    "ends_at": gettext_lazy("End"),
    "error": gettext_lazy("Error"),
    "evidence": gettext_lazy("Known from"),
    "held_until": gettext_lazy("Was held until"),
    "image_id": gettext_lazy("Image"),
    "image_name": gettext_lazy("Name of the image"),
    "kind": gettext_lazy("Notice"),
    "lease_id": gettext_lazy("Lease"),
    "new_end": gettext_lazy("New end"),
    "old_end": gettext_lazy("Old end"),
    "on_end_action": gettext_lazy("At the end"),
    "reason": gettext_lazy("Reason"),
    "recipient": gettext_lazy("Sent to"),
    "remedy": gettext_lazy("What helps"),
    "rule": gettext_lazy("Rule"),
    "ticket": gettext_lazy("Ticket"),
    "until": gettext_lazy("Until"),
    "value": gettext_lazy("Value"),
    "volumes": gettext_lazy("Volumes"),
    "would": gettext_lazy("Would have been done"),
}

#: What only says something to a mail server's administrator: the API has it.
_LEFT_OUT = frozenset({"message_id"})

#: What is done before the end, by the name of the action; at the end they have the words of tables.
_BEFORE_END: dict[str, str] = {
    "notification": gettext_lazy("A notice, no more"),
    "snapshot": gettext_lazy("Saved as an image"),
    "migration": gettext_lazy("Moved to another host"),
}

#: What an owner is told, by the kind of the notice.
_NOTICES: dict[str, str] = {
    "adopted": gettext_lazy("It has been taken in"),
    "reminder": gettext_lazy("Reminder"),
    "earlier": gettext_lazy("Its end is earlier"),
    "moved": gettext_lazy("Its end has been moved"),
    "extended": gettext_lazy("It has been extended"),
    "quarantined": gettext_lazy("It has been stopped and locked"),
    "revived": gettext_lazy("It has been restored"),
    "restored": gettext_lazy("Its lease has been put back"),
    "put_back": gettext_lazy("The date in its metadata has been put back"),
    "ended": gettext_lazy("It has ended"),
    "exempted": gettext_lazy("Its end is off"),
    "gone": gettext_lazy("It is gone"),
}

#: How the API writes dates.
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")


def event(name: str) -> str:
    """Say what happened; an event that has no words of ours is named as it is."""
    return _EVENTS.get(name, name.replace("_", " "))


def details(name: str, found: Mapping[str, Any]) -> str:
    """Say what belongs to it, as far as it says something to people.

    What has no words of ours is named as it is.

    :param name: of the event.
    """
    return ", ".join(
        f"{_LABELS.get(key, key.replace('_', ' '))}: {_said(name, key, value)}"
        for key, value in found.items()
        if value is not None and value is not False and key not in _LEFT_OUT
    )


def _said(name: str, key: str, value: Any) -> str:
    if value is True:
        return _("yes")
    if isinstance(value, list):
        return ", ".join(_said(name, key, each) for each in value)
    if isinstance(value, dict) and "id" in value:
        value = f"{value['name']} ({value['id']})" if value.get("name") else value["id"]
    text = words.one_line(str(value))
    if _DATE.fullmatch(text) and (at := moment(text)) is not None:
        return wording.date(at)
    if key == "action" and name == "before_end":
        return _BEFORE_END.get(text, text)
    if key in ("action", "on_end_action"):
        return wording.action(text)
    return _notice(text) if key == "kind" else text


def _notice(name: str) -> str:
    """Name a notice; the reminders of one end differ by how long they are before that."""
    kind, _slash, when = name.partition("/")
    told = str(_NOTICES.get(kind, kind.replace("_", " ")))
    return f"{told} ({when})" if when else told
