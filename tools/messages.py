# SPDX-License-Identifier: Apache-2.0
"""Bring the catalogues of messages up to date: ``make messages``.

What is new in templates and code is added to each catalogue with an empty translation, and what is
not said any more is removed. A message whose words have changed is a new one: nothing is guessed.
"""

from __future__ import annotations

import io
import pathlib
import sys
from collections.abc import Iterator

from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po, write_po

from blazar_vmexpire.notices import language

_PACKAGE = pathlib.Path(language.__file__).parents[1]
_METHODS = [
    ("notices/templates/**.j2", "jinja2"),
    ("notices/**.py", "python"),
    ("worker/**.py", "python"),
]
_OPTIONS = {
    "notices/templates/**.j2": {
        "trimmed": "true",
        "trim_blocks": "true",
        "lstrip_blocks": "true",
        "newstyle_gettext": "true",
    }
}
#: What in the code has messages in it, and which of its arguments are one.
_KEYWORDS: dict[str, tuple[int | tuple[int, str], ...] | None] = {
    "_": None,
    "gettext": None,
    "ngettext": (1, 2),
    "pgettext": ((1, "c"), 2),
    "npgettext": ((1, "c"), 2, 3),
    "N_": None,
    "Saying": (1,),
}
_HEADER = """\
# SPDX-License-Identifier: Apache-2.0
# Mails of blazar-vmexpire. `make messages` adds what is new."""
#: Of a catalogue's head, what git knows better, or nobody.
_NOT_WRITTEN = tuple(
    f'"{name}:'
    for name in (
        "Project-Id-Version",
        "Report-Msgid-Bugs-To",
        "POT-Creation-Date",
        "PO-Revision-Date",
        "Last-Translator",
        "Language-Team",
        "Generated-By",
    )
)


def extract() -> Catalog:
    """Find all messages there are."""
    found = Catalog(charset="utf-8")
    for file, _, message, comments, context in extract_from_dir(
        _PACKAGE, _METHODS, _OPTIONS, _KEYWORDS, comment_tags=("i18n:",), strip_comment_tags=True
    ):
        name = pathlib.PurePath("blazar_vmexpire", file).as_posix()
        found.add(message, None, [(name, 0)], auto_comments=comments, context=context)
    return found


def updated(code: str, messages: Catalog) -> bytes:
    """Say what the catalogue of a language is to hold."""
    path = language.catalogue_file(code)
    catalogue = Catalog(locale=code)
    if path.exists():
        with path.open("rb") as file:
            catalogue = read_po(file, locale=code)
    catalogue.update(messages, no_fuzzy_matching=True)
    catalogue.obsolete.clear()
    catalogue.header_comment = _HEADER
    catalogue.fuzzy = False
    written = io.BytesIO()
    write_po(written, catalogue, width=100, sort_output=True, include_lineno=False)
    lines = written.getvalue().decode().splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith(_NOT_WRITTEN)).encode()


def _missing(code: str) -> Iterator[str]:
    with language.catalogue_file(code).open("rb") as file:
        for message in read_po(file, locale=code):
            if message.id and (not message.string or message.fuzzy):
                yield str(message.id)


def main(codes: list[str]) -> int:
    """Update the catalogues that are there, and begin those that are named.

    :returns: the exit code: 1 while something has no translation.
    """
    messages, left = extract(), 0
    for code in sorted({*language.languages(), *codes} - {language.ENGLISH}):
        path = language.catalogue_file(code)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(updated(code, messages))
        for message in _missing(code):
            print(f"{code}: not translated: {message}")
            left += 1
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
