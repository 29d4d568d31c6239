# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: RUF001 - other languages have other quotation marks
"""Mails in other languages: each catalogue is complete, and says what the English says."""

from __future__ import annotations

import dataclasses
import datetime
import re
from collections.abc import Iterable

import pytest
from babel.messages.catalog import Message
from babel.messages.pofile import read_po

from blazar_vmexpire.conf import mail
from blazar_vmexpire.notices import DRY_RUN, TEST, Notice, Renderer, Saying, blocks, samples
from blazar_vmexpire.notices.language import (
    ENGLISH,
    Language,
    catalogue_file,
    known,
    language,
    languages,
)
from tools import messages

OTHERS = [code for code in languages() if code != ENGLISH]
#: Words that every English mail has, and that are none in the other languages.
ENGLISH_WORDS = {
    *("the", "it", "its", "you", "your", "has", "had", "been", "be", "of", "for", "from", "until"),
    *("this", "that", "if", "and", "not", "any", "more", "with", "extend", "ended", "deleted"),
}
#: What is the same in these languages.
SAME = {
    "VM",
    "UUID",
    "Image",
    "Lease",
    "%(num)d minute",
    "%(num)d minutes",
    "[test]",
    "in %(length)s",
}


def catalogue(code: str) -> list[Message]:
    """Return what a catalogue holds, but for its head."""
    with catalogue_file(code).open("rb") as file:
        return [message for message in read_po(file, locale=code) if message.id]


def texts(value: str | Iterable[str]) -> list[str]:
    """Return one text, or the forms of a plural."""
    return [value] if isinstance(value, str) else list(value)


def test_languages_are_those_of_the_option() -> None:
    (option,) = [opt for opt in mail.OPTS if opt.name == "language"]
    assert tuple(sorted(option.type.choices)) == tuple(sorted(languages()))


@pytest.mark.parametrize("code", OTHERS)
def test_a_catalogue_has_every_message_and_no_other(code: str) -> None:
    wanted = {(message.context, message.id) for message in messages.extract() if message.id}
    assert {(message.context, message.id) for message in catalogue(code)} == wanted
    # As `make messages` would write it.
    assert messages.updated(code, messages.extract()) == catalogue_file(code).read_bytes()


@pytest.mark.parametrize("code", OTHERS)
def test_every_message_is_translated_with_its_places(code: str) -> None:
    for message in catalogue(code):
        assert not message.fuzzy, message.id
        translated = texts(message.string)
        assert all(translated), message.id
        originals = texts(message.id)
        for said in translated:
            assert said.strip() == said
            assert said not in originals or said in SAME, said
        if message.context == "date pattern":
            continue
        places = [sorted(re.findall(r"%\(\w+\)[sd]", text)) for text in originals]
        # One plural form may have its number in words.
        assert all(sorted(re.findall(r"%\(\w+\)[sd]", text)) in places for text in translated)
        assert not any(re.search(r"%(?!\(\w+\)[sd])", text) for text in translated)
        # A sentence ends as the original does.
        assert {text[-1] in ".:" and text[-1] for text in translated} == {
            text[-1] in ".:" and text[-1] for text in originals
        }


def running_words(text: str) -> set[str]:
    """Return the words of the paragraphs: commands, links and tables are the same everywhere."""
    found = blocks.read(text)
    lines = [line for block in found if block.kind == "paragraph" for line in block.lines]
    return set(re.findall(r"[a-z]+", " ".join(lines).lower()))


def every_notice() -> list[Notice]:
    """Return all samples; a reason that is none of our own sayings is foreign text."""
    return [
        notice if isinstance(notice.reason, Saying) else dataclasses.replace(notice, reason=None)
        for notice in [*samples.every_kind(), *map(samples.usual, samples.KINDS)]
    ]


@pytest.mark.parametrize("code", OTHERS)
def test_every_kind_is_said_with_no_english_left_over(code: str) -> None:
    for preface in (None, DRY_RUN, TEST):
        renderer = Renderer(
            language=code, preface=preface, dashboard_url="https://x.example", strict=True
        )
        for notice in every_notice():
            rendered = renderer.render(notice)
            english = (running_words(rendered.text) | running_words(rendered.subject)) - {"web"}
            assert english & ENGLISH_WORDS == set(), rendered.text
            assert f'<html lang="{code}">' in str(rendered.html)
            assert "%(" not in rendered.text + rendered.subject
        for digest in samples.digests():
            rendered = renderer.render_digest(digest)
            assert running_words(rendered.text) & ENGLISH_WORDS == set(), rendered.text
    # The same of the labels before the facts.
    english, other = (Renderer(language=each).render(samples.REMINDER) for each in (ENGLISH, code))
    assert f"    {Language(code).pgettext('label', 'Project')}" in other.text
    assert other.text.splitlines()[-1] != english.text.splitlines()[-1]


def test_the_words_that_betray_english_are_found_in_it() -> None:
    for notice in every_notice():
        assert len(running_words(Renderer().render(notice).text) & ENGLISH_WORDS) > 3


@pytest.mark.parametrize(
    ("code", "subject", "line"),
    [
        (
            "de",
            "Letzte Erinnerung: VM „web-1“ (physics) wird in 9 Tagen und 4 Stunden"
            " (am 20. Dezember 2026 um 09:14 UTC) gelöscht",
            "Dies ist die letzte Erinnerung. Ihre VM „web-1“ im Projekt „physics“ wird am"
            " 20. Dezember 2026 um 09:14 UTC (in 9 Tagen und 4 Stunden) als Image gesichert und"
            " gelöscht.",
        ),
        (
            "fr",
            "Dernier rappel : VM « web-1 » (physics) sera supprimée dans 9 jours et 4 heures"
            " (le 20 décembre 2026 à 09:14 UTC)",
            "Ceci est le dernier rappel. Votre VM « web-1 » du projet « physics » sera enregistrée"
            " sous forme d’image, puis supprimée le 20 décembre 2026 à 09:14 UTC"
            " (dans 9 jours et 4 heures).",
        ),
    ],
)
def test_a_reminder_as_a_person_reads_it(code: str, subject: str, line: str) -> None:
    notice = dataclasses.replace(samples.REMINDER, kind="last_reminder/2d", language=code)
    rendered = Renderer().render(notice)
    assert rendered.subject == subject
    assert " ".join(rendered.text.partition("\n\n")[0].split()) == line


@pytest.mark.parametrize(
    ("code", "zone", "text"),
    [
        ("en", "UTC", "2026-07-01 22:30 UTC"),
        ("en", "Europe/Zurich", "2026-07-02 00:30 CEST"),
        ("de", "Europe/Zurich", "2. Juli 2026 um 00:30 CEST"),
        ("fr", "America/Montreal", "1 juillet 2026 à 18:30 EDT"),
    ],
)
def test_dates_name_their_zone(code: str, zone: str, text: str) -> None:
    assert language(code, zone).date(datetime.datetime(2026, 7, 1, 22, 30, 59)) == text


def test_a_command_in_utc_beside_a_date_that_is_not_says_so() -> None:
    rendered = Renderer(time_zone="Europe/Zurich").render(samples.REMINDER)
    text = " ".join(rendered.text.split())
    assert "today is 2027-01-10 05:50 CET (the command takes UTC):" in text
    assert '--end-date "2027-01-10 04:50"' in text


@pytest.mark.parametrize(
    ("code", "minutes", "text"),
    [
        ("de", 1440, "in 1 Tag"),
        ("de", 2 * 1440 + 60, "in 2 Tagen und 1 Stunde"),
        ("de", -90, "vor 1 Stunde und 30 Minuten"),
        ("de", 0.5, "in weniger als einer Minute"),
        ("fr", 0, "maintenant"),
        ("fr", -1, "il y a 1 minute"),
    ],
)
def test_durations(code: str, minutes: float, text: str) -> None:
    assert language(code).away(datetime.timedelta(minutes=minutes)) == text


@pytest.mark.parametrize(
    ("asked", "code"),
    [("de", "de"), ("de_CH.UTF-8", "de"), (" FR-fr ", "fr"), ("ja", None), (None, None), (7, None)],
)
def test_which_language_somebody_asks_for(asked: object, code: str | None) -> None:
    assert known(asked) == code


def test_an_unknown_language_is_that_of_the_options() -> None:
    notice = dataclasses.replace(samples.REMINDER, language="xx")
    assert Renderer(language="de").render(notice).subject.endswith("gelöscht")
