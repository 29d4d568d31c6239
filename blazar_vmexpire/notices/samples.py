# SPDX-License-Identifier: Apache-2.0
"""Made-up notices of every kind, for checking templates."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping

from blazar_vmexpire.notices.content import (
    DIGESTED,
    KINDS,
    Alarm,
    Failure,
    Failures,
    Group,
    KeptVolume,
    Kind,
    Named,
    Notice,
    Saying,
)

_NOW = datetime.datetime(2026, 12, 11, 4, 50)
_DAY = datetime.timedelta(days=1)
_HOUR = datetime.timedelta(hours=1)

#: The first notice of a VM that is saved as an image and deleted nine days later.
REMINDER = Notice(
    kind=Kind.REMINDER,
    server_id="7d2c1f0e-58a4-4b6e-9a3f-0c1d2e3f4a5b",
    server_name="web-1",
    project_id="3f1e5c7a9b2d4f60818293a4b5c6d7e8",
    project_name="physics",
    lease_id="c0ffee00-1234-4567-89ab-0123456789ab",
    ends_at=datetime.datetime(2026, 12, 20, 9, 14),
    now=_NOW,
    on_end_action="snapshot",
    quarantine_at=None,
    recipient_is_owner=True,
    owner_name="alice",
    image_id=None,
    image_name=None,
    keep_volumes="all",
    volumes=(),
    reason=None,
    latest_allowed=_NOW + 30 * _DAY,
    extendable_from=None,
    extensions_used=None,
)


_ALICE = Saying('user "%(name)s"', {"name": "alice"})
_CHANGED = Saying("the terms have changed: a first term is %(term)s now", {"term": "90d"})

_VOLUME = KeptVolume(id="5a7c9e1b-2d4f-4680-8a9c-1e3b5d7f9a02", name="web-1 data", boot=False)

#: The brake tripped by itself: more VMs vanished than are named.
ALARM = Alarm(
    tripped_at=_NOW,
    tripped_by=None,
    reason="42 servers have vanished from Nova without being deleted, more than 20",
    known=900,
    pace=20,
    ending=Group(count=0, servers=()),
    vanished=Group(
        count=42,
        servers=(
            Named(id=REMINDER.server_id, name=REMINDER.server_name, project_id=REMINDER.project_id),
        ),
    ),
)

#: A VM that nobody could snapshot, and one that has been locked for too long.
FAILED = Failures(
    count=2,
    listed=(
        Failure(
            server=ALARM.vanished.servers[0],
            at=_NOW,
            reason="the image 1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed came to nothing: it is killed",
            remedy="see why Glance took no image of it, then retry",
        ),
        Failure(
            server=Named(
                id="0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d",
                name="db-2",
                project_id=REMINDER.project_id,
            ),
            at=_NOW - _DAY,
            reason="nova refused to delete the server: 403",
            remedy="remove what it was refused for, then retry",
        ),
    ),
)

#: What operators get, by the names of the templates.
ALARMS: Mapping[str, Alarm | Failures] = {"brake": ALARM, "failed": FAILED}


def moved_to(now: datetime.datetime) -> Notice:
    """Make the sample reminder as if it were written at another time, naive UTC."""
    return dataclasses.replace(
        REMINDER, now=now, ends_at=now + 9 * _DAY, latest_allowed=now + 30 * _DAY
    )


def usual(kind: str) -> Notice:
    """Make a notice of a kind with what it usually holds, and an image and a volume at the end."""
    notice = dataclasses.replace(REMINDER, kind=kind)
    if kind == Kind.ADOPTED:
        return dataclasses.replace(notice, ends_at=_NOW + 60 * _DAY)
    if kind == Kind.LAST_REMINDER:
        return dataclasses.replace(notice, ends_at=_NOW + 2 * _DAY)
    if kind == Kind.REVIVED:
        return dataclasses.replace(
            notice,
            ends_at=notice.latest_allowed,
            reason=_ALICE,
            undone=("unlock", "start"),
        )
    if kind == Kind.EXTENDED:
        return dataclasses.replace(notice, ends_at=notice.latest_allowed, reason=_ALICE)
    if kind == Kind.ENDED:
        return dataclasses.replace(
            notice,
            ends_at=_NOW - _HOUR,
            image_id="1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed",
            image_name="web-1",
            volumes=(_VOLUME,),
        )
    if kind == Kind.QUARANTINED:
        return dataclasses.replace(notice, quarantine_at=_NOW)
    if kind in (Kind.REMINDER, Kind.EXEMPTED, Kind.GONE):
        return notice
    if kind == Kind.PUT_BACK:
        # As our API says it, which speaks English.
        return dataclasses.replace(
            notice, reason="expire_at was removed: it only tells when the end is"
        )
    return dataclasses.replace(notice, reason=_CHANGED)


def every_kind() -> list[Notice]:
    """Make each kind of notice thrice: with all that it can hold, as usual, and with the least.

    And then, of VMs that are kept at their end, with and without a date to extend them to.
    """
    notices = []
    for kind in KINDS:
        usual = dataclasses.replace(REMINDER, kind=kind)
        if kind is Kind.ENDED:
            usual = dataclasses.replace(usual, ends_at=_NOW - _HOUR)
        notices += [
            usual,
            dataclasses.replace(
                usual,
                quarantine_at=_NOW + 7 * _DAY,
                recipient_is_owner=False,
                image_id="1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed",
                image_name="web-1 2026-12-20",
                volumes=(_VOLUME,),
                reason=_CHANGED,
                undone=("unlock", "unshelve", "start"),
                held_until=_NOW + 20 * _DAY,
                latest_allowed=usual.ends_at,
                extendable_from=_NOW + 2 * _DAY,
                extensions_used=3,
            ),
            dataclasses.replace(
                usual,
                server_name="",
                lease_id=None,
                ends_at=None if kind is Kind.ENDED else usual.ends_at,
                on_end_action="delete",
                owner_name=None,
                latest_allowed=None,
            ),
        ]
    return notices + [
        dataclasses.replace(REMINDER, kind=kind, on_end_action=action, latest_allowed=latest)
        for kind in KINDS
        for action in ("shelve", "stop")
        for latest in (REMINDER.latest_allowed, None)
    ]


def digest() -> list[Notice]:
    """Make notices that are told together: three VMs end, one of them cannot be extended."""
    return [
        dataclasses.replace(
            REMINDER,
            server_id="2f0c9a4e-6b1d-4c7f-8e35-a1b2c3d4e5f6",
            server_name="db-1",
            lease_id="c0ffee00-1234-4567-89ab-0123456789ac",
            ends_at=REMINDER.now + 2 * _DAY,
            on_end_action="stop",
            extensions_used=3,
        ),
        dataclasses.replace(
            REMINDER,
            server_id="91c3d7b5-0e2f-4a68-b4d6-f0e1d2c3b4a5",
            server_name="test-3",
            lease_id="c0ffee00-1234-4567-89ab-0123456789ad",
            quarantine_at=REMINDER.now + 4 * _DAY,
            ends_at=REMINDER.now + 6 * _DAY,
        ),
        REMINDER,
    ]


def digests() -> list[list[Notice]]:
    """Make digests: of VMs of one project, of several, and of every kind of notice there is."""
    project_id = "0a9b8c7d6e5f4a3b2c1d0e9f8a7b6c5d"
    first, *others = digest()
    return [
        digest(),
        [
            first,
            *(
                dataclasses.replace(other, project_id=project_id, project_name="chemistry")
                for other in others
            ),
        ],
        [notice for notice in every_kind() if notice.template in DIGESTED],
    ]
