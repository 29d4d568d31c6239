# SPDX-License-Identifier: Apache-2.0
"""Group ``[vmexpire_mail]``: how notices are sent."""

from __future__ import annotations

from oslo_config import cfg

from blazar_vmexpire.conf.types import DailyOrOff, Duration

GROUP = cfg.OptGroup("vmexpire_mail", title="Mail", help="How notices are sent.")

#: What mails can be written in.
LANGUAGES = {"en": "English", "de": "German", "fr": "French"}

OPTS = [
    cfg.HostAddressOpt(
        "host",
        default="localhost",
        help="The mail server (SMTP) that takes the notices for delivery.",
    ),
    cfg.PortOpt("port", default=25, help="Port of the mail server."),
    cfg.StrOpt(
        "tls",
        default="none",
        choices=[
            ("none", "the connection is not encrypted: only for a relay on the same machine"),
            ("starttls", "encrypt after connecting; the mail is not sent if that fails"),
            ("tls", "encrypt from the first byte (often port 465)"),
        ],
        help="How the connection to the mail server is encrypted.",
    ),
    cfg.StrOpt(
        "cafile",
        help="File with the CA certificates that the mail server's certificate is checked"
        " against; unset means the system's own.",
    ),
    cfg.StrOpt(
        "username",
        help="Account to log in to the mail server with; unset means no login.",
    ),
    cfg.StrOpt(
        "password", secret=True, help="Password for username; not used while that is unset."
    ),
    cfg.Opt(
        "timeout",
        type=Duration(minimum=Duration()("1s")),
        default="30s",
        help="How long one exchange with the mail server may take. A mail server that hangs longer"
        " counts as down: the mail is tried again later, and the lease moves if it must.",
    ),
    cfg.StrOpt(
        "from_address",
        default="vm-expiration@localhost",
        help="The sender of the notices. Set it to an address that your mail server may send for"
        " and that people may answer to.",
    ),
    cfg.ListOpt(
        "template_path",
        default=[],
        help="Directories that are searched for mail templates before the built-in ones. A file"
        " there replaces the built-in template of the same name; the others stay.",
    ),
    cfg.StrOpt(
        "language",
        default="en",
        choices=list(LANGUAGES.items()),
        help="The language of mails to people of whom it is not known which one they read.",
    ),
    cfg.StrOpt(
        "language_attribute",
        help="The attribute of users in Keystone that tells which language they read, such as"
        " language, with values such as de or fr_CH. It comes before the language of a rule; one"
        " that there is no catalogue for counts for nothing. Unset: users are not asked for it.",
    ),
    cfg.StrOpt(
        "time_zone",
        default="UTC",
        help="The zone of the dates in mails, by its name in the time zone database, such as"
        " Europe/Zurich. Each date names its zone; the commands in mails take UTC.",
    ),
    cfg.BoolOpt(
        "tell_adoptions",
        default=False,
        help="Whether the owner of a new VM is told, as soon as it has its lease, that it will end"
        " one day. Only of VMs that are less than a day old then: when expiration is switched on"
        " for a cloud, or for some of it, the owners of what is there already get their first mail"
        " with the first reminder.",
    ),
    cfg.BoolOpt(
        "tell_extensions",
        default=True,
        help="Whether an owner who was told of an end is told when that is extended, by whom and"
        " until when; the calendar entry of that end moves with it, at once. Without it, the entry"
        " moves with the next reminder.",
    ),
    cfg.BoolOpt(
        "tell_deletions",
        default=False,
        help="Whether an owner who was told of an end is told when the VM is gone before that,"
        " whoever deleted it; the calendar entry of that end goes with it. Without it, the entry"
        " stays: who deletes their own VM gets no mail about that.",
    ),
    cfg.Opt(
        "digest",
        type=DailyOrOff(),
        default="off",
        help="Whether an owner of several VMs gets one mail a day about them, instead of one a VM:"
        " off, or daily with a time and its time zone, such as daily 08:00 Europe/Zurich. What can"
        " wait for that time waits for it: reminders, and mails that an end was moved. When it is"
        " of no use that late, or would leave less than minimum_notice, the mail comes earlier.",
    ),
    cfg.BoolOpt(
        "html",
        default=True,
        help="Whether a mail has an HTML part beside its text, which says the same. Without it,"
        " mails are plain text.",
    ),
    cfg.BoolOpt(
        "calendar",
        default=True,
        help="Whether a mail about an end that is to come has a calendar entry (iCalendar)"
        " attached, which later mails move or cancel. Without it, mails are text and HTML alone.",
    ),
    cfg.URIOpt(
        "dashboard_url",
        schemes=["http", "https"],
        help="Where users find the dashboard (Horizon), such as https://cloud.example.org/horizon."
        " Mails then link to the VM's page there; unset means no link.",
    ),
    cfg.IntOpt(
        "max_per_minute",
        default=0,
        min=0,
        help="How many notices one blazar-manager or worker hands to the mail server in a minute at"
        " most, where that limits what it takes from one client; the others wait their turn."
        " 0 means no limit. A notice that is late because of it moves the end that it is about: the"
        " owner has minimum_notice all the same.",
    ),
    cfg.Opt(
        "failures_interval",
        type=Duration(),
        default="15m",
        help="How often the operators (contact of [vmexpire_brake], or else of [virtual:vm],"
        " undeliverable_contact) get a mail about VMs of which a step has failed for good, at most:"
        " it lists those that have failed since the mail before. 0 means no such mail.",
    ),
    cfg.IntOpt(
        "max_refusals",
        default=3,
        min=1,
        help="How often the mail server may refuse an address for good before a notice goes to who"
        " is told next: after the owner the contacts that the rules file names, and last"
        " undeliverable_contact.",
    ),
    cfg.StrOpt(
        "mail_address_template",
        help="How the mail address of a user is made for whom Keystone holds none, as is usual with"
        " users of a federation or of LDAP: a Jinja2 template with name, id, domain_id, unique_id"
        " (by which the identity provider knows a federated user) and user (all attributes that"
        " Keystone shows), such as {{ name }}@example.org. Unset: such users have none, and others"
        " are told in their place.",
    ),
]


def list_opts() -> list[tuple[cfg.OptGroup, list[cfg.Opt]]]:
    """Say what this module registers, for the sample generator."""
    return [(GROUP, OPTS)]
