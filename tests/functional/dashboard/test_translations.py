# SPDX-License-Identifier: Apache-2.0
"""Everything that pages say is there in German and in French, and in the catalogues that are read.

Renew them there: ``python -m django makemessages --all --add-location never``, translate,
``python -m django compilemessages``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from babel.messages.catalog import Catalog
from babel.messages.extract import extract
from babel.messages.mofile import read_mo
from babel.messages.pofile import read_po
from django.utils.translation.template import templatize

import blazar_vmexpire.dashboard
from tests.functional.dashboard.pages import PANEL, Pages
from tests.functional.world import World

ROOT = Path(blazar_vmexpire.dashboard.__file__).parent
LANGUAGES = ("de", "fr")

_KEYWORDS = {
    "_": None,
    "gettext": None,
    "gettext_lazy": None,
    "ngettext": (1, 2),
    "ngettext_lazy": (1, 2),
}
_IN_TEMPLATES = re.compile(
    r"\bgettext\(u?(?:'''(.*?)'''|'((?:[^'\\]|\\.)*)')\)|_\(\"(.*?)\"\)", re.S
)
_PLACEHOLDER = re.compile(r"%\(\w+\)[ds]|%s")


def said() -> Iterator[str]:
    """Yield all that code and templates say."""
    for path in ROOT.rglob("*.py"):
        with path.open("rb") as file:
            for _line, message, _comments, _context in extract("python", file, _KEYWORDS):
                yield message if isinstance(message, str) else message[0]
    for path in ROOT.rglob("*.html"):
        for found in _IN_TEMPLATES.finditer(templatize(path.read_text(), origin=path.name)):
            yield next(group for group in found.groups() if group is not None)


def catalogue(language: str) -> Catalog:
    """Read what translators write."""
    path = ROOT / "locale" / language / "LC_MESSAGES" / "django.po"
    with path.open("rb") as file:
        return read_po(file, locale=language)


def told(known: Catalog) -> dict[str, list[str]]:
    """Return all translations, by their first form."""

    def forms(texts: str | list[str] | tuple[str, ...]) -> list[str]:
        return [texts] if isinstance(texts, str) else list(texts)

    return {forms(m.id)[0]: forms(m.string) for m in known if m.id}


def test_something_is_said() -> None:
    found = set(said())
    assert {"Extend", "in %(count)d day", "Timeline", "Tripped since %(tripped)s."} <= found
    assert len(found) > 150


@pytest.mark.parametrize("language", LANGUAGES)
def test_everything_is_translated_with_all_that_is_filled_in(language: str) -> None:
    known = catalogue(language)
    assert [message for message in said() if not known.get(message)] == []
    for message in known:
        if not message.id:
            continue
        plural = isinstance(message.id, (list, tuple))
        ids = message.id if plural else [message.id]
        strings = message.string if plural else [message.string]
        assert all(strings), message.id
        assert not message.fuzzy, message.id
        for one, other in zip(ids, strings, strict=True):
            assert sorted(_PLACEHOLDER.findall(one)) == sorted(_PLACEHOLDER.findall(other))


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_is_read_is_what_is_written(language: str) -> None:
    with (ROOT / "locale" / language / "LC_MESSAGES" / "django.mo").open("rb") as file:
        compiled = read_mo(file)
    assert told(compiled) == told(catalogue(language))


@pytest.mark.databases("sqlite")
@pytest.mark.options({"virtual:vm": {"lease_duration": "5d", "on_end_action": "snapshot"}})
@pytest.mark.parametrize(
    ("language", "happens", "distance"),
    [
        ("de", "Als Abbild gesichert, dann gelöscht", "in 4 Tagen"),
        ("fr", "Enregistrée comme image, puis supprimée", "dans 4 jours"),
    ],
)
def test_a_page_is_in_its_readers_language(
    world: World, pages: Pages, language: str, happens: str, distance: str
) -> None:
    world.adopt("web-1")
    shown = pages.get(PANEL, headers={"Accept-Language": language})
    (row,) = shown.rows().values()
    assert row[2] == happens
    assert distance in row[1]
