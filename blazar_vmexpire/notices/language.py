# SPDX-License-Identifier: Apache-2.0
"""The language of a mail: its catalogue of messages, and its dates, durations and counts.

Messages are English in the templates and in the code. A catalogue (``locale/<code>/LC_MESSAGES``)
has them in another language; it is compiled in memory when it is first used, so that what was
compiled is never older than what was written.
"""

from __future__ import annotations

import datetime
import functools
import gettext
import io
import pathlib
import re
import zoneinfo
from collections.abc import Callable

from babel import Locale
from babel.dates import format_datetime
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po

from blazar_vmexpire import words

#: The language that the messages are written in.
ENGLISH = "en"

_CATALOGUES = pathlib.Path(__file__).parents[1] / "locale"
_DOMAIN = "blazar_vmexpire"


def catalogue_file(code: str) -> pathlib.Path:
    """Say where the catalogue of a language is, or would be."""
    return _CATALOGUES / code / "LC_MESSAGES" / f"{_DOMAIN}.po"


def N_(message: str) -> str:
    """Mark a text for the catalogues; it is translated where it is used."""
    return message


@functools.cache
def languages() -> tuple[str, ...]:
    """List the codes of all languages that mails can be written in."""
    others = (path.parents[1].name for path in _CATALOGUES.glob(f"*/LC_MESSAGES/{_DOMAIN}.po"))
    return (ENGLISH, *sorted(others))


def known(text: object) -> str | None:
    """Find the language that somebody asked for; None where there is no such catalogue.

    :param text: a code as people and browsers write it: ``de``, ``de_CH``, ``fr-FR``.
    """
    if not isinstance(text, str):
        return None
    code = re.split(r"[-_.@]", text.strip().lower(), maxsplit=1)[0]
    return code if code in languages() else None


@functools.cache
def _catalogue(code: str) -> gettext.NullTranslations:
    if code == ENGLISH:
        return gettext.NullTranslations()
    compiled = io.BytesIO()
    with catalogue_file(code).open("rb") as file:
        write_mo(compiled, read_po(file, locale=code, abort_invalid=True))
    compiled.seek(0)
    return gettext.GNUTranslations(compiled)


class Language:
    """Says things in one language.

    :param code: one of :func:`languages`.
    :param time_zone: of the dates, by its name in the time zone database.
    """

    def __init__(self, code: str, time_zone: str = "UTC") -> None:
        self.code = code
        self._zone = zoneinfo.ZoneInfo(time_zone)
        self._locale = Locale.parse(code)
        catalogue = _catalogue(code)
        self.gettext: Callable[[str], str] = catalogue.gettext
        self.ngettext: Callable[[str, str, int], str] = catalogue.ngettext
        self.pgettext: Callable[[str, str], str] = catalogue.pgettext
        self.npgettext: Callable[[str, str, str, int], str] = catalogue.npgettext
        # Babel's letters: years, months (M, MMMM), days, hours, minutes; '...' is text as it is.
        self._pattern = self.pgettext("date pattern", "y-MM-dd HH:mm")

    def date(self, date: datetime.datetime) -> str:
        """Write a naive UTC date in the language's way, to the minute, with its zone named."""
        return _local(
            date.replace(second=0, microsecond=0), self._zone, self._pattern, self._locale
        )

    def away(self, distance: datetime.timedelta) -> str:
        """Say how far away a moment is: "in 9 days and 4 hours", "now", "2 hours ago".

        :param distance: the moment minus now; negative for what is past.
        """
        if not distance:
            return self.gettext("now")
        length = self._length(distance)
        if distance > datetime.timedelta(0):
            return self.gettext("in %(length)s") % {"length": length}
        return self.gettext("%(length)s ago") % {"length": length}

    def times(self, count: int) -> str:
        """Say how often: "once", "3 times"."""
        return self.ngettext("once", "%(num)d times", count) % {"num": count}

    def _length(self, length: datetime.timedelta) -> str:
        """Say a duration as it stands after "in" and before "ago"."""
        parts = [self._counted(count, unit) for count, unit in words.units(length)]
        if not parts:
            return self.gettext("less than a minute")
        if len(parts) == 1:
            return parts[0]
        return self.gettext("%(first)s and %(second)s") % {"first": parts[0], "second": parts[1]}

    def _counted(self, count: int, unit: str) -> str:
        said = {
            "day": self.ngettext("%(num)d day", "%(num)d days", count),
            "hour": self.ngettext("%(num)d hour", "%(num)d hours", count),
            "minute": self.ngettext("%(num)d minute", "%(num)d minutes", count),
        }
        return said[unit] % {"num": count}


@functools.lru_cache(maxsize=256)  # A mail names the same date several times.
def _local(date: datetime.datetime, zone: zoneinfo.ZoneInfo, pattern: str, locale: Locale) -> str:
    local = date.replace(tzinfo=datetime.UTC).astimezone(zone)
    return f"{format_datetime(local, pattern, locale=locale)} {local.tzname()}"


@functools.cache
def language(code: str, time_zone: str = "UTC") -> Language:
    """Return a language, made once.

    :param code: one of :func:`languages`.
    """
    return Language(code, time_zone)
