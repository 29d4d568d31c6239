# SPDX-License-Identifier: Apache-2.0
"""Mails as a browser shows them: nothing sticks out, everything can be read, light and dark."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from blazar_vmexpire.notices import KINDS, Rendered, Renderer, samples
from blazar_vmexpire.notices.language import languages
from tests import browser
from tests.mail_pictures import PICTURES, Picture

LINK = "https://cloud.example.org/horizon"
#: In pixels: the narrowest telephone, a pane of a mail reader, a wide window.
WIDTHS = (320, 640, 1280)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser.chromium() as started:
        yield started


def mails(code: str) -> Iterator[Rendered]:
    """Render each kind of mail in a language, with names that are as long as Nova takes them."""
    renderer = Renderer(dashboard_url=LINK, language=code, strict=True)
    for kind in KINDS:
        yield renderer.render(samples.usual(kind))
    long = dataclasses.replace(samples.usual("ended"), server_name="n" * 255, project_name="p" * 64)
    yield renderer.render(long)
    yield renderer.render_digest(samples.digests()[1])
    for alarm in samples.ALARMS.values():
        yield renderer.render_alarm(alarm)


def sticks_out(page: Page) -> bool:
    """Say whether one has to scroll sideways."""
    return bool(
        page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
    )


@pytest.mark.parametrize("code", languages())
def test_nothing_sticks_out_on_any_screen(chromium: Browser, code: str) -> None:
    for width in WIDTHS:
        page = browser.open_page(chromium, width=width, height=600)
        for rendered in mails(code):
            page.set_content(str(rendered.html))
            assert not sticks_out(page), (width, rendered.subject)
        page.context.close()


def test_what_sticks_out_is_found(chromium: Browser) -> None:
    page = browser.open_page(chromium, width=320, height=600)
    page.set_content("<pre>" + "x" * 200 + "</pre>")
    assert sticks_out(page)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_everything_can_be_read(chromium: Browser, dark: bool) -> None:
    """By axe-core: computed colours with the contrast of WCAG AA, and whatever else is serious."""
    page = browser.open_page(chromium, width=640, height=600, dark=dark)
    for rendered in mails("en"):
        page.set_content(str(rendered.html))
        assert browser.serious_faults(page) == [], rendered.subject


def test_dark_screens_get_dark_mails(chromium: Browser) -> None:
    grounds = set()
    for dark in (False, True):
        page = browser.open_page(chromium, width=640, height=600, dark=dark)
        page.set_content(PICTURES[0].html)
        color = "getComputedStyle(document.querySelector('.card')).backgroundColor"
        grounds.add((dark, page.evaluate(color)))
    assert grounds == {(False, "rgb(255, 255, 255)"), (True, "rgb(31, 41, 55)")}


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture.path.stem)
def test_pictures_in_the_documentation_are_of_the_present_templates(picture: Picture) -> None:
    assert picture.digest_in_file == picture.digest, "run `make pictures`, and look at them"
