# SPDX-License-Identifier: Apache-2.0
"""Group ``[virtual:vm]``: which VMs expire, and on what terms."""

from __future__ import annotations

import datetime

from oslo_config import cfg, types

from blazar_vmexpire import RESOURCE_TYPE
from blazar_vmexpire.conf.types import Duration

GROUP = cfg.OptGroup(
    RESOURCE_TYPE,
    title="Expiration of virtual machines",
    help="Which VMs expire, and on what terms.",
)

_MINUTE = datetime.timedelta(minutes=1)

OPTS = [
    cfg.StrOpt(
        "scope",
        default="all",
        choices=[
            ("all", "every VM outside the service project and excluded_projects gets a lease"),
            ("none", "no VM gets a lease: install without acting"),
        ],
        help="""
Which VMs are taken in.

With ``none`` the plug-in can be installed and its database prepared while nothing happens to any
VM. Set to ``none`` later, it lets go of every VM: what was begun is undone where it can be, and
the leases are removed as their VMs are next looked at, at the latest by the next reconciliation.
Set to ``all`` again, every VM begins anew with a full term.
""",
    ),
    cfg.BoolOpt(
        "dry_run",
        default=False,
        help="""
Run the whole service without changing anything in Nova, Glance or Cinder.

VMs get their leases, and these end, but nothing is done to a VM: its history and the log say what
would have been done, and its lease goes on for another first term. No owner gets a mail: all of
them go to undeliverable_contact, and say that it is a dry run. When this is switched off again,
what was told in the dry run counts for nothing: owners are told before anything is done.
""",
    ),
    cfg.StrOpt(
        "rules_file",
        help="""
Path of a file with rules: which VMs expire on other terms than the options of this group say, or
not at all.

Unset, the options count for every VM. The file is read at the start, where a mistake in it stops
the service, and again on SIGHUP, where a mistake leaves the rules as they were and is logged. Every
blazar-manager and blazar-vmexpire-worker needs the same file. ``blazar-vmexpire-manage plan
--rules FILE`` shows what another file would change.
""",
    ),
    cfg.Opt(
        "lease_duration",
        type=Duration(minimum=_MINUTE),
        default="60d",
        help="""
How long a VM lives before its owner has to extend it for the first time.

Counted from the moment the VM is taken in, not from its creation: switching this plug-in on never
ends a VM at once. A change applies to VMs that are taken in from then on.
""",
    ),
    cfg.Opt(
        "extension_duration",
        type=Duration(minimum=_MINUTE),
        default="30d",
        help="""
How far from now an owner may move the end of a lease.

Owners extend with Blazar's own lease update, as often as they like; a date later than now plus
this duration is refused with 400, and the answer names the latest allowed date. A lease that
already ends later is never cut by this. Administrators are not bound by it.
""",
    ),
    cfg.Opt(
        "max_total_duration",
        type=Duration(),
        default="0",
        help="""
How long a VM may live in all, counted from its creation in Nova.

0 means no limit: a VM lives as long as its owner goes on extending it. When set, no owner can
move the end past it; an administrator can.
""",
    ),
    cfg.IntOpt(
        "max_extensions",
        default=0,
        min=0,
        help="""
How often an owner may move the end of a VM's lease to a later date.

0 means no limit. When set, a further extension is refused, and the answer says so; to shorten a
lease stays possible. What an administrator does is neither bound by this nor counted.
""",
    ),
    cfg.Opt(
        "extension_window",
        type=Duration(),
        default="0",
        help="""
How long before the end of a lease its owner may begin to extend it.

0 means at any time. When set, an earlier extension is refused, and the answer says from when on it
is possible. It has to hold minimum_notice and quarantine, so that whoever is told of the end can
still extend. Administrators are not bound by it.
""",
    ),
    cfg.Opt(
        "adoption_spread",
        type=Duration(),
        default="14d",
        help="""
Spreads the first ends of the VMs that exist when expiration is switched on.

The VMs found by the very first reconciliation get lease_duration plus an even share of this
duration, so that they do not all end on one day. 0 gives all of them the same first end.
""",
    ),
    cfg.FloatOpt(
        "hours_before_end_lease",
        default=240.0,
        min=0,
        help="""
Hours before the end of a lease at which its owner gets the first notice and before_end_action runs.

It is moved earlier where minimum_notice asks for it. A lease that is shorter than this is noticed
as soon as it begins.
""",
    ),
    cfg.ListOpt(
        "reminders",
        item_type=Duration(minimum=_MINUTE),
        default=["2d"],
        help="""
Further notices: how long before the end each is sent, for example ``7d, 2d, 6h``.

Empty means that the first notice is the only one. Two notices that fall on one date make one mail.
""",
    ),
    cfg.Opt(
        "minimum_notice",
        type=Duration(minimum=_MINUTE),
        default="2d",
        help="""
The least time between a notice that the mail server accepted and anything disruptive.

Without such a notice nothing happens to the VM: its lease is moved, visibly, and the mail is tried
again. It is also the shortest lease that an owner can choose by shortening one.
""",
    ),
    cfg.Opt(
        "quarantine",
        type=Duration(),
        default="0",
        help="""
How long before the end of its lease a VM is locked and stopped.

0 means that VMs run until the end. A quarantined VM is given back by extending its lease: it is
unlocked, and started again if it was running. A VM that somebody else has locked is left as it is
until its end, which comes as announced.
""",
    ),
    cfg.StrOpt(
        "before_end_action",
        default="notification",
        help="""
What happens hours_before_end_lease before the end, beside the notice.

``notification`` does nothing more than the notice. ``snapshot`` also takes an image of the running
VM and gives it to the VM's project. ``migration`` moves the VM to another host: live if it runs or
is paused, cold if it is stopped; see migration_host and migration_aggregate. What cannot be done
stands in the VM's history, and the end comes as announced.
""",
    ),
    cfg.IntOpt(
        "snapshot_keep",
        default=1,
        min=1,
        mutable=True,
        help="""
How many images of before_end_action ``snapshot`` are kept of a VM.

Each lease that comes near its end makes one. When it is complete, those beyond this number that we
made of the same VM before are removed from its project, the oldest first, and its history says so.
Images that somebody has protected stay, and so does the image of on_end_action ``snapshot``.
""",
    ),
    cfg.Opt(
        "snapshot_keep_for",
        type=Duration(),
        default="0",
        mutable=True,
        help="""
How long images of before_end_action ``snapshot`` are kept, of VMs that are gone, too.

0 means without limit: what is left when a VM is gone is its owner's to remove. When set, every such
image is removed when it is so old, the newest of a VM included, unless somebody has protected it.
""",
    ),
    cfg.StrOpt(
        "migration_host",
        mutable=True,
        help="""
The host that before_end_action ``migration`` moves VMs to.

Nova's scheduler still checks that it can take the VM. A VM that is there already stays. Unset, and
with migration_aggregate unset, Nova chooses any other host. Not to be set together with
migration_aggregate.
""",
    ),
    cfg.StrOpt(
        "migration_aggregate",
        mutable=True,
        help="""
The host aggregate that before_end_action ``migration`` moves VMs to, by its name.

Of its hosts those that are up and enabled are tried one after the other, in another order for each
VM, until Nova's scheduler takes one. A VM on one of its hosts already stays.
""",
    ),
    cfg.StrOpt(
        "on_end_action",
        default="delete",
        help="""
What happens to the VM at the end of its lease.

``stop`` locks and stops it, and keeps it: its owner has it back by extending its lease. ``shelve``
shelves it and takes it off its host, which frees what it used there: its owner unshelves it when
they need it again, and its next term begins then. ``delete`` deletes it. ``snapshot`` stops it,
takes an image, verifies that the image is complete, gives it to the VM's project, and only then
deletes the VM; without a verified image the VM stays.
Of a VM that boots from a volume ``snapshot`` takes no image: it keeps that volume.
""",
    ),
    cfg.ListOpt(
        "allowed_actions",
        default=[],
        item_type=types.String(),
        help="""
Actions that an owner may choose for their VM instead of before_end_action and on_end_action.

Empty means none: all VMs are treated alike.
""",
    ),
    cfg.ListOpt(
        "calendar_closed",
        default=[],
        item_type=types.String(),
        help="""
Days on which no VM is quarantined or ended, for example ``sat, sun, 12-20..01-05, 2026-12-24``.

Weekdays, dates, days of each year, and ranges of the last two, which may go over the turn of the
year. An end that falls on such a day, or whose quarantine would begin on one, moves to the next
day that will do, at the same local time of day. Empty means that all days are the same.
""",
    ),
    cfg.StrOpt(
        "calendar_time_zone",
        default="UTC",
        help="""
Time zone of the days in calendar_closed: a name of the IANA database, for example Europe/Zurich.

With ``UTC`` a day begins and ends at 00:00 UTC. It changes no date that is shown or given: those
are UTC.
""",
    ),
    cfg.StrOpt(
        "keep_volumes",
        default="all",
        choices=[
            ("all", "every volume that is attached to it stays, whatever its mark says"),
            ("boot", "the volume that it boots from stays; the others go by their marks"),
            ("none", "each goes or stays by its mark"),
        ],
        help="""
Which volumes stay in the project when a VM is deleted at the end of its lease.

Nova deletes a volume with its VM where it is marked *delete on termination*. That mark is taken
off the volumes that stay, and put back when the owner extends. They stay in the project, and in
its quota, until somebody deletes them: set ``boot`` or ``none`` where users are to count on
nothing but their own marks. A volume without that mark stays in any case. So does the one that a
VM boots from where on_end_action is ``snapshot``: it takes the place of the image.
""",
    ),
    cfg.ListOpt(
        "excluded_projects",
        default=[],
        mutable=True,
        item_type=types.String(),
        help="""
IDs of projects whose VMs never expire.

A project that is added later is let go of with the next reconciliation, and one that is taken out
begins anew with a full term. The service project (the one that Blazar's own user works in) is
always left out.
""",
    ),
    cfg.StrOpt(
        "undeliverable_contact",
        help="""
Mail address that gets the notices whose owner cannot be reached.

Used when the owner has no usable mail address, no longer exists, or their address is refused time
and again. Acceptance by this address counts as notice, so that a VM whose owner is gone still
ends. Required unless scope is ``none``.
""",
    ),
]


def list_opts() -> list[tuple[cfg.OptGroup, list[cfg.Opt]]]:
    """Say what this module registers, for the sample generator."""
    return [(GROUP, OPTS)]
