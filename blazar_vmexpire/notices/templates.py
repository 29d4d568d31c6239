# SPDX-License-Identifier: Apache-2.0
"""Jinja2 templates found in some directories first, then among the built-in ones."""

from __future__ import annotations

import functools
import pathlib
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jinja2

from blazar_vmexpire import words
from blazar_vmexpire.notices import blocks
from blazar_vmexpire.notices.language import ENGLISH, Language, language

_PACKAGE = "blazar_vmexpire.notices"
TEXT = ".txt.j2"
HTML = ".html.j2"
_SUFFIXES = (TEXT, HTML)
#: The layout of every mail that has none of its own.
_LAYOUT = "mail"


class TemplateError(Exception):
    """A template cannot be used; the message names its file and line."""


@functools.cache
def _environment(path: tuple[pathlib.Path, ...], said_in: Language) -> jinja2.Environment:
    """Make an environment, once a path and language.

    It compiles a template once, or when its file changed.
    """
    builtin = jinja2.PackageLoader(_PACKAGE, "templates")
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(
            [
                jinja2.FileSystemLoader(list(path)),
                builtin,
                jinja2.PrefixLoader({"builtin": builtin}),
            ]
        ),
        # Plain text has nothing to escape.
        autoescape=jinja2.select_autoescape((HTML,), default=False),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        # The built-in ones do not change.
        auto_reload=bool(path),
        extensions=["jinja2.ext.i18n"],
    )
    environment.policies["ext.i18n.trimmed"] = True
    # The extension adds this at run time.
    environment.install_gettext_callables(  # type: ignore[attr-defined]
        said_in.gettext,
        said_in.ngettext,
        newstyle=True,
        pgettext=said_in.pgettext,
        npgettext=said_in.npgettext,
    )
    environment.globals["language"] = said_in.code
    environment.filters.update(
        local=said_in.date,
        utc=words.utc,
        times=said_in.times,
        cut=words.one_line,
        paragraph=blocks.paragraph,
    )
    return environment


class Templates:
    """The templates of one search path.

    :param path: directories; none of them leaves the built-in templates alone.
    :param said_in: the language of what they make.
    """

    def __init__(self, path: Sequence[pathlib.Path], said_in: Language) -> None:
        self._path = path
        self._environment = _environment(tuple(path), said_in)

    def names(self) -> set[str]:
        """List the names of all templates that are there."""
        return set(self._environment.list_templates())

    def text(self, kind: str, context: Mapping[str, Any]) -> tuple[str, str]:
        """Word something by ``<kind>.txt.j2``.

        :returns: the subject and the body, as the template made them.
        :raises TemplateError: for whatever goes wrong in a template.
        """
        name = kind + TEXT
        head, _, body = self._render([name], context).lstrip().partition("\n\n")
        subject = "Subject:"
        if not head.startswith(subject):
            raise TemplateError(f'{self._file(name)}: the first line must be "{subject} …"')
        if not words.one_line(head.removeprefix(subject)) or not body.strip():
            raise TemplateError(f"{self._file(name)}: the subject or the body is empty")
        return head.removeprefix(subject), body

    def html(self, kind: str, context: Mapping[str, Any]) -> str:
        """Lay something out by ``<kind>.html.j2``, or ``mail.html.j2`` where that is not there.

        :raises TemplateError: for whatever goes wrong in a template.
        """
        names = [kind + HTML, _LAYOUT + HTML]
        html = self._render(names, context)
        if not html.strip():
            raise TemplateError(f"{self._file(*names)}: nothing comes of it")
        return html

    def never_used(self, kinds: Sequence[str]) -> Iterator[str]:
        """Look through the directories; give a sentence for each file that has no use.

        :param kinds: of notices: each may have a layout of its own.
        """
        known = _environment((), language(ENGLISH)).list_templates() + [
            kind + HTML for kind in kinds
        ]
        for directory in self._path:
            try:
                files = sorted(p for p in directory.iterdir() if p.name.endswith(_SUFFIXES))
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

    def _render(self, names: Sequence[str], context: Mapping[str, Any]) -> str:
        try:
            return self._environment.select_template(names).render(context)
        except Exception as error:  # a template may raise anything there is
            raise TemplateError(self._describe(names, error)) from error

    def _file(self, *names: str) -> str:
        """Find the file that a template comes from; a built-in one is just named."""
        found = (str(d / name) for name in names for d in self._path if (d / name).exists())
        return next(found, names[-1])

    def _describe(self, names: Sequence[str], error: Exception) -> str:
        """Say what is wrong with a template, and where: ``file:line: what``."""
        where = self._file(*names)
        if isinstance(error, jinja2.TemplateSyntaxError):
            where = f"{error.filename or error.name or where}:{error.lineno}"
        elif isinstance(error, OSError) and error.filename:
            where = str(error.filename)
        else:
            # Jinja2 rewrites the traceback: frames of templates carry the template's file and line.
            for frame, line in traceback.walk_tb(error.__traceback__):
                if frame.f_code.co_filename.endswith(_SUFFIXES):
                    where = f"{frame.f_code.co_filename}:{line}"
        what = words.one_line(str(error)) or "no further words"
        return f"{where}: {type(error).__name__}: {what}"
