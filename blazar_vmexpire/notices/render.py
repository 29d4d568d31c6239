# SPDX-License-Identifier: Apache-2.0
"""Word a notice by its template: the operator's own, or the built-in one."""

from __future__ import annotations

import dataclasses
import datetime
import pathlib
import shlex
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from oslo_config import cfg
from oslo_log import log as logging

from blazar_vmexpire import words
from blazar_vmexpire.notices import blocks, samples
from blazar_vmexpire.notices.content import (
    KINDS,
    Alarm,
    Failures,
    Group,
    Named,
    Notice,
    Saying,
)
from blazar_vmexpire.notices.language import ENGLISH, N_, Language, language, languages
from blazar_vmexpire.notices.templates import TemplateError, Templates

LOG = logging.getLogger(__name__)

_T = TypeVar("_T")

#: Names of the templates of the operators' mails: about the brake, about steps that have failed.
ALARM = "brake"
#: Name of the template of a mail about several VMs.
DIGEST = "digest"
FAILED = "failed"
#: Longer subjects are cut: what matters stands at their beginning.
_SUBJECT_LIMIT = 200
_NO_NAME = N_("(no name)")
#: Our part of a VM's page, where its end is shown and moved. A Horizon without it shows the page.
_TAB = "?tab=instance_details__expiration"


class UnknownKind(ValueError):
    """A notice's kind has no template."""


@dataclasses.dataclass(frozen=True, slots=True)
class Preface:
    """What begins every mail, whatever the template says."""

    #: Stands before the subject.
    mark: str
    #: The first paragraph.
    text: str


DRY_RUN = Preface(
    N_("[dry run]"),
    N_(
        "This is a dry run: nothing is done to any VM, and no owner gets a mail. Without it, this"
        " mail would have been sent:"
    ),
)
TEST = Preface(
    N_("[test]"),
    N_(
        "This is a test of the mails of VM expiration: there is no such VM, and nothing is done to"
        " any. A real mail would look like this:"
    ),
)


@dataclasses.dataclass(frozen=True, slots=True)
class Rendered:
    """A worded notice."""

    #: One line.
    subject: str
    #: Plain text in Unicode, lines ended by line feeds.
    text: str
    #: The same in HTML, a whole document; None where only text is sent.
    html: str | None = None


class Renderer:
    """Words notices by Jinja2 templates named ``<kind>.txt.j2``, and lays them out in HTML.

    A template makes a text whose first line is ``Subject: …``, followed by an empty line and the
    body. It may extend or include any other one. Names that begin with ``builtin/`` mean the
    built-in templates, so that a replacement of ``reminder.txt.j2`` can say
    ``{% extends "builtin/reminder.txt.j2" %}`` and change one block.

    In a template the fields of :class:`Notice` are there by name, its texts made harmless by
    :func:`words.one_line`, ``kind`` without its suffix; beside them ``extend_command`` (None where
    the recipient cannot move the end), ``dashboard_link``, ``away(date)`` ("in 9 days and 4 hours")
    and the filters ``local``, ``utc``, ``times``, ``cut(length)`` and ``paragraph``; and gettext's
    functions. Several empty lines in a row become one.

    Each notice is in the language that it names, where there is a catalogue for that. The mails to
    the operators are in English, as the logs and commands are that they quote.

    The HTML says the same words: ``<kind>.html.j2``, or else ``mail.html.j2``, has the text's
    parts as ``blocks`` (see :mod:`.blocks`), and ``subject``, beside all that. What it prints is
    escaped.

    :param template_path: directories that are searched before the built-in templates.
    :param preface: what begins every mail.
    :param dashboard_url: where the dashboard is, for links to VMs.
    :param html: whether there is HTML at all.
    :param strict: whether a template that fails is an error, and not replaced by the built-in one.
    :param language: of notices that name none, or one that there is no catalogue for.
    :param time_zone: of the dates, by its name in the time zone database.
    """

    def __init__(
        self,
        template_path: Sequence[str] = (),
        *,
        preface: Preface | None = None,
        dashboard_url: str | None = None,
        html: bool = True,
        strict: bool = False,
        language: str = ENGLISH,
        time_zone: str = "UTC",
    ) -> None:
        self._preface = preface
        self._dashboard_url = dashboard_url
        self._html = html
        self._strict = strict
        self._path = [pathlib.Path(d) for d in template_path]
        self._language = language
        self._time_zone = time_zone

    @classmethod
    def from_conf(
        cls, conf: cfg.ConfigOpts, *, preface: Preface | None = None, strict: bool = False
    ) -> Renderer:
        """Make one by the options of ``[vmexpire_mail]``."""
        options = conf.vmexpire_mail
        return cls(
            options.template_path,
            preface=preface,
            dashboard_url=options.dashboard_url,
            html=options.html,
            strict=strict,
            language=options.language,
            time_zone=options.time_zone,
        )

    def render(self, notice: Notice) -> Rendered:
        """Word a notice.

        Where an operator's template fails, the error is logged and the built-in template is used.

        :raises UnknownKind: when there is no template for the notice's kind.
        :raises TemplateError: a template fails, and the renderer is strict.
        """
        if notice.template not in KINDS:
            raise UnknownKind(
                f"no template for notices of kind {notice.kind!r}: known are {', '.join(KINDS)}"
            )
        return self._word(
            notice.template,
            self._context(notice),
            f"Notice {notice.kind} for server {notice.server_id}",
            self.said_in(notice),
        )

    def render_alarm(self, alarm: Alarm | Failures) -> Rendered:
        """Word a mail to the operators, by ``brake.txt.j2`` or ``failed.txt.j2``.

        Its template has the fields of what it is about. Where an operator's own fails, the error is
        logged and the built-in one is used.

        :raises TemplateError: a template fails, and the renderer is strict.
        """
        context = _alarm_context(alarm)
        what = f"The mail to the operators ({context['kind']})"
        return self._word(context["kind"], context, what, language(ENGLISH))

    def render_digest(self, notices: Sequence[Notice]) -> Rendered:
        """Word a mail about several VMs, by ``digest.txt.j2``.

        Its template has, beside ``vms`` with all that a template has for one VM, what they have in
        common. Where an operator's own fails, the error is logged and the built-in one is used.

        :param notices: to one recipient about VMs of one owner, one a VM, most urgent first; it is
            written in the language of the first.
        :raises TemplateError: a template fails, and the renderer is strict.
        """
        context = self._digest_context(notices)
        what = f"The digest about {len(notices)} servers"
        return self._word(DIGEST, context, what, self.said_in(notices[0]))

    def _word(
        self, kind: str, context: Mapping[str, Any], what: str, said_in: Language
    ) -> Rendered:
        def by_template(use: Callable[[Templates], _T]) -> _T:
            return self._by_template(use, what, said_in)

        subject, body = by_template(lambda found: found.text(kind, context))
        if self._preface is not None:
            subject = f"{said_in.gettext(self._preface.mark)} {subject}"
            body = f"{blocks.paragraph(said_in.gettext(self._preface.text))}{body}"
        subject = words.one_line(subject, _SUBJECT_LIMIT)
        html = None
        if self._html:
            parts = {"subject": subject, "blocks": blocks.read(body)}
            html = words.plain_body(
                by_template(lambda found: found.html(kind, {**context, **parts}))
            )
        return Rendered(subject, _sparse(words.plain_body(body)), html)

    def _by_template(self, use: Callable[[Templates], _T], what: str, said_in: Language) -> _T:
        if self._path:
            try:
                return use(Templates(self._path, said_in))
            except TemplateError as error:
                if self._strict:
                    raise
                LOG.error("%s is worded by the built-in template: %s", what, error)
        return use(Templates((), said_in))

    def check(self) -> list[str]:
        """Render every kind with made-up data, and look through the operator's directories.

        Where there are none, nothing is to be seen: tests look at the built-in templates.

        :returns: the problems found, a sentence each; empty when all is well. None of them stops
            notices: the built-in templates take the place of what cannot be used.
        """
        if not self._path:
            return []
        chosen = Templates(self._path, language(self._language, self._time_zone))
        problems = dict.fromkeys(chosen.never_used([*KINDS, ALARM, FAILED, DIGEST]))
        every = [(notice.template, self._context(notice)) for notice in samples.every_kind()]
        every += [(DIGEST, self._digest_context(those)) for those in samples.digests()]
        every += [(name, _alarm_context(alarm)) for name, alarm in samples.ALARMS.items()]
        for kind, context in every:
            try:
                _, body = chosen.text(kind, context)
                parts = {"subject": "", "blocks": blocks.read(body)}
                chosen.html(kind, {**context, **parts})
            except TemplateError as error:
                problems[str(error)] = None
        return list(problems)

    def _context(self, notice: Notice) -> dict[str, Any]:
        return _context(notice, self.said_in(notice)) | {
            "dashboard_link": self.dashboard_link(notice),
            "in_utc": self._time_zone == "UTC",
        }

    def said_in(self, notice: Notice) -> Language:
        """Say in which language a notice is written."""
        code = notice.language if notice.language in languages() else None
        return language(code or self._language, self._time_zone)

    def _digest_context(self, notices: Sequence[Notice]) -> dict[str, Any]:
        """Say what the template of a digest can use."""
        vms = [self._context(notice) for notice in notices]
        projects: dict[str, dict[str, Any]] = {}
        for vm in vms:
            stops = vm["quarantine_at"]
            vm["stops_first"] = stops is not None and stops > vm["now"]
            vm["first_at"] = stops if vm["stops_first"] else vm["ends_at"]
            project = {"id": vm["project_id"], "name": vm["project_name"], "vms": []}
            projects.setdefault(vm["project_id"], project)["vms"].append(vm)
        link = self._dashboard_url and f"{self._dashboard_url.rstrip('/')}/project/instances/"
        common = (
            "now",
            "away",
            "language",
            "in_utc",
            "owner_name",
            "recipient_is_owner",
            "contact_property",
            "contact_role",
            "keep_volumes",
        )
        return {name: vms[0][name] for name in common} | {
            "kind": DIGEST,
            "vms": vms,
            "projects": list(projects.values()),
            "dashboard_link": link,
        }

    def dashboard_link(self, notice: Notice) -> str | None:
        """Say where in Horizon a VM's end is shown and moved; None where no dashboard is known."""
        if self._dashboard_url is None:
            return None
        server_id = urllib.parse.quote(notice.server_id, safe="")
        return f"{self._dashboard_url.rstrip('/')}/project/instances/{server_id}/{_TAB}"


def _context(notice: Notice, said_in: Language) -> dict[str, Any]:
    """Say what a template can use."""
    context: dict[str, Any] = {}
    for field in dataclasses.fields(notice):
        value = getattr(notice, field.name)
        context[field.name] = words.one_line(value) if isinstance(value, str) else value
    for name in ("server_name", "project_name"):
        context[name] = context[name] or said_in.gettext(_NO_NAME)
    if isinstance(notice.reason, Saying):
        context["reason"] = words.one_line(
            said_in.gettext(notice.reason.message) % notice.reason.values
        )
    context["volumes"] = [
        {
            "id": words.one_line(volume.id),
            "name": words.one_line(volume.name) or said_in.gettext(_NO_NAME),
            "boot": volume.boot,
        }
        for volume in notice.volumes
    ]

    def away(date: datetime.datetime) -> str:
        return said_in.away(date - notice.now)

    return context | {
        "language": said_in.code,
        "kind": notice.bare_kind,
        "away": away,
        "extend_command": _extend_command(notice),
    }


def _alarm_context(alarm: Alarm | Failures) -> dict[str, Any]:
    """Say what the template of a mail to the operators can use."""
    context = {field.name: getattr(alarm, field.name) for field in dataclasses.fields(alarm)}
    context["dashboard_link"] = None
    if isinstance(alarm, Failures):
        return context | {
            "kind": FAILED,
            "listed": [
                {
                    "server": _named(failure.server),
                    "at": failure.at,
                    "reason": words.one_line(failure.reason, 2000),
                    "remedy": words.one_line(failure.remedy, 2000),
                }
                for failure in alarm.listed
            ],
        }
    return context | {
        "kind": ALARM,
        "reason": words.one_line(alarm.reason, 2000),
        "tripped_by": words.one_line(alarm.tripped_by or ""),
        "ending": _group(alarm.ending),
        "vanished": _group(alarm.vanished),
    }


def _group(group: Group) -> dict[str, Any]:
    return {"count": group.count, "servers": [_named(server) for server in group.servers]}


def _named(server: Named) -> dict[str, str]:
    return {
        "id": server.id,
        "name": words.one_line(server.name) or _NO_NAME,
        "project_id": words.one_line(server.project_id),
    }


def _extend_command(notice: Notice) -> str | None:
    """Give the command that moves the end as far as is allowed; None where it cannot be moved."""
    if notice.lease_id is None or notice.latest_allowed is None:
        return None
    if notice.extendable_from is not None or notice.extensions_used is not None:
        return None
    date = notice.latest_allowed.replace(second=0, microsecond=0)
    if notice.ends_at is not None and date <= notice.ends_at:
        return None
    lease = shlex.quote(words.one_line(notice.lease_id))
    return f'openstack reservation lease set --end-date "{words.minutes(date)}" {lease}'


def _sparse(text: str) -> str:
    """Make one empty line of several: what stands between the parts of a template adds up."""
    lines: list[str] = []
    for line in text.split("\n"):
        if line or (lines and lines[-1]):
            lines.append(line)
    return "\n".join(lines)
