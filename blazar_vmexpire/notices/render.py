# SPDX-License-Identifier: Apache-2.0
"""Words a notice by its template: the operator's own, or the built-in one."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import pathlib
import shlex
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jinja2
from oslo_log import log as logging

from blazar_vmexpire import words
from blazar_vmexpire.notices import samples
from blazar_vmexpire.notices.content import KINDS, Alarm, Group, Notice

LOG = logging.getLogger(__name__)

_PACKAGE = "blazar_vmexpire.notices"
_SUFFIX = ".txt.j2"
_SUBJECT = "Subject:"
#: Name of the template of the operator's mail about the brake.
_ALARM = "brake"
#: Longer subjects are cut: what matters stands at their beginning.
_SUBJECT_LIMIT = 200
_NO_NAME = "(no name)"
#: Begins every mail of a dry run, whatever the template says.
_DRY_RUN = (
    "This is a dry run: nothing is done to any VM, and no owner gets a mail. Without it, this\n"
    "mail would have been sent:"
)


class UnknownKind(ValueError):
    """A notice's kind has no template."""


class TemplateError(Exception):
    """A template cannot be used; the message names its file and line."""


@dataclasses.dataclass(frozen=True, slots=True)
class Rendered:
    """A worded notice."""

    #: One line.
    subject: str
    #: Plain text in Unicode, lines ended by line feeds.
    text: str


class Renderer:
    """Words notices by Jinja2 templates named ``<kind>.txt.j2``.

    A template makes a text whose first line is ``Subject: …``, followed by an empty line and the
    body. It may extend or include any other one. Names that begin with ``builtin/`` mean the
    built-in templates, so that a replacement of ``reminder.txt.j2`` can say
    ``{% extends "builtin/reminder.txt.j2" %}`` and change one block.

    In a template the fields of :class:`Notice` are there by name, its texts made harmless by
    :func:`words.one_line`, ``kind`` without its suffix; beside them ``extend_command`` (None where
    the recipient cannot move the end), ``away(date)`` ("in 9 days and 4 hours") and the filters
    ``utc``, ``times``, ``cut(length)`` and ``paragraph``. Several empty lines in a row become one.

    :param template_path: directories that are searched before the built-in templates.
    :param dry_run: whether every text says that nothing is done.
    """

    def __init__(self, template_path: Sequence[str] = (), *, dry_run: bool = False) -> None:
        self._dry_run = dry_run
        self._path = [pathlib.Path(directory) for directory in template_path]
        self._builtin = _Templates([])
        self._chosen = _Templates(self._path) if self._path else self._builtin

    def render(self, notice: Notice) -> Rendered:
        """Word a notice.

        Where an operator's template fails, the error is logged and the built-in template is used.

        :raises UnknownKind: when there is no template for the notice's kind.
        """
        if notice.template not in KINDS:
            raise UnknownKind(
                f"no template for notices of kind {notice.kind!r}: known are {', '.join(KINDS)}"
            )
        return self._word(
            notice.template, _context(notice), f"Notice {notice.kind} for server {notice.server_id}"
        )

    def render_alarm(self, alarm: Alarm) -> Rendered:
        """Word the operator's mail about the brake, by ``brake.txt.j2``.

        Its template has the fields of :class:`Alarm`. Where an operator's own fails, the error is
        logged and the built-in one is used.
        """
        return self._word(_ALARM, _alarm_context(alarm), "The mail about the brake")

    def _word(self, template: str, context: Mapping[str, Any], what: str) -> Rendered:
        worded = self._by_template(template, context, what)
        if not self._dry_run:
            return worded
        return Rendered(f"[dry run] {worded.subject}", f"{_DRY_RUN}\n\n{worded.text}")

    def _by_template(self, template: str, context: Mapping[str, Any], what: str) -> Rendered:
        if self._chosen is not self._builtin:
            try:
                return self._chosen.render(template, context)
            except TemplateError as error:
                LOG.error("%s is worded by the built-in template: %s", what, error)
        return self._builtin.render(template, context)

    def check(self) -> list[str]:
        """Render every kind with made-up data, and look through the operator's directories.

        Where there are none, nothing is to be seen: tests look at the built-in templates.

        :returns: the problems found, a sentence each; empty when all is well. None of them stops
            notices: the built-in templates take the place of what cannot be used.
        """
        if self._chosen is self._builtin:
            return []
        problems = dict.fromkeys(self._check_directories())
        every = [(notice.template, _context(notice)) for notice in samples.every_kind()]
        for template, context in [*every, (_ALARM, _alarm_context(samples.ALARM))]:
            try:
                self._chosen.render(template, context)
            except TemplateError as error:
                problems[str(error)] = None
        return list(problems)

    def _check_directories(self) -> Iterator[str]:
        known = self._builtin.names()
        for directory in self._path:
            try:
                files = sorted(p for p in directory.iterdir() if p.name.endswith(_SUFFIX))
                texts = [path.read_text(encoding="utf-8") for path in files]
            except OSError as error:
                yield f"template_path: {error.filename} cannot be read: {error.strerror}"
                continue
            except UnicodeDecodeError:
                continue  # Rendering names the file.
            for path in files:
                if path.name not in known and not any(f'"{path.name}"' in t for t in texts):
                    yield (
                        f"{path} is never used: no built-in template has that name,"
                        f' and no template beside it names "{path.name}"'
                    )


@functools.cache
def _environment(path: tuple[pathlib.Path, ...]) -> jinja2.Environment:
    """Make an environment, once a path: it compiles a template once, or when its file changed."""
    builtin = jinja2.PackageLoader(_PACKAGE, "templates")
    environment = jinja2.Environment(  # noqa: S701 - plain text has nothing to escape
        loader=jinja2.ChoiceLoader(
            [
                jinja2.FileSystemLoader(list(path)),
                builtin,
                jinja2.PrefixLoader({"builtin": builtin}),
            ]
        ),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        utc=words.utc, times=words.times, cut=words.one_line, paragraph=words.paragraph
    )
    return environment


class _Templates:
    """Templates found in some directories first, then among the built-in ones."""

    def __init__(self, path: Sequence[pathlib.Path]) -> None:
        self._path = path
        self._environment = _environment(tuple(path))

    def names(self) -> set[str]:
        """List the names of all templates that are there."""
        return set(self._environment.list_templates())

    def render(self, template: str, context: Mapping[str, Any]) -> Rendered:
        """Word something by the template of that name, without its suffix.

        :raises TemplateError: for whatever goes wrong in a template.
        """
        name = template + _SUFFIX
        try:
            text = self._environment.get_template(name).render(context)
        except Exception as error:  # a template may raise anything there is
            raise TemplateError(self._describe(name, error)) from error
        head, _, body = text.lstrip().partition("\n\n")
        if not head.startswith(_SUBJECT):
            raise TemplateError(f'{self._file(name)}: the first line must be "{_SUBJECT} …"')
        rendered = Rendered(
            subject=words.one_line(head.removeprefix(_SUBJECT), _SUBJECT_LIMIT),
            text=_sparse(words.plain_body(body)),
        )
        if not rendered.subject or not rendered.text.strip():
            raise TemplateError(f"{self._file(name)}: the subject or the body is empty")
        return rendered

    def _file(self, name: str) -> str:
        """Find the file that a template comes from; a built-in one is just named."""
        return next((str(d / name) for d in self._path if (d / name).exists()), name)

    def _describe(self, name: str, error: Exception) -> str:
        """Say what is wrong with a template, and where: ``file:line: what``."""
        where = self._file(name)
        if isinstance(error, jinja2.TemplateSyntaxError):
            where = f"{error.filename or error.name or name}:{error.lineno}"
        elif isinstance(error, OSError) and error.filename:
            where = str(error.filename)
        else:
            # Jinja2 rewrites the traceback: frames of templates carry the template's file and line.
            for frame, line in traceback.walk_tb(error.__traceback__):
                if frame.f_code.co_filename.endswith(_SUFFIX):
                    where = f"{frame.f_code.co_filename}:{line}"
        what = words.one_line(str(error)) or "no further words"
        return f"{where}: {type(error).__name__}: {what}"


def _context(notice: Notice) -> dict[str, Any]:
    """Say what a template can use."""
    context: dict[str, Any] = {}
    for field in dataclasses.fields(notice):
        value = getattr(notice, field.name)
        context[field.name] = words.one_line(value) if isinstance(value, str) else value
    for name in ("server_name", "project_name"):
        context[name] = context[name] or _NO_NAME
    context["volumes"] = [
        {
            "id": words.one_line(volume.id),
            "name": words.one_line(volume.name) or _NO_NAME,
            "boot": volume.boot,
        }
        for volume in notice.volumes
    ]

    def away(date: datetime.datetime) -> str:
        return words.in_words(date - notice.now)

    return context | {
        "kind": notice.template,
        "away": away,
        "extend_command": _extend_command(notice),
    }


def _alarm_context(alarm: Alarm) -> dict[str, Any]:
    """Say what the template of the operator's mail can use."""

    def harmless(group: Group) -> dict[str, Any]:
        return {
            "count": group.count,
            "servers": [
                {
                    "id": server.id,
                    "name": words.one_line(server.name) or _NO_NAME,
                    "project_id": words.one_line(server.project_id),
                }
                for server in group.servers
            ],
        }

    context = {field.name: getattr(alarm, field.name) for field in dataclasses.fields(alarm)}
    return context | {
        "reason": words.one_line(alarm.reason, 2000),
        "tripped_by": words.one_line(alarm.tripped_by or ""),
        "ending": harmless(alarm.ending),
        "vanished": harmless(alarm.vanished),
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
