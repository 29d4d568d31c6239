# SPDX-License-Identifier: Apache-2.0
"""The browser of the tests: what it shows, finds wrong, and does not reach."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from PIL import Image
from playwright.sync_api import Browser, Error

from tests import browser

HTML = """
<html lang="en"><title>t</title><style>
  body { background: white } @media (prefers-color-scheme: dark) { body { background: black } }
</style><main><h1>Instances</h1>%s</main></html>
"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser.chromium() as started:
        yield started


@pytest.mark.parametrize(("dark", "colour"), [(False, (255, 255, 255)), (True, (0, 0, 0))])
def test_picture_has_the_colours_that_its_user_prefers(chromium, tmp_path, dark, colour):
    page = browser.open_page(chromium, width=400, height=300, dark=dark)
    page.set_content(HTML % "")
    path = tmp_path / "pictures" / "page.png"
    browser.save_picture(page, path)
    picture = Image.open(path)
    assert picture.size == (400, 300)
    assert picture.convert("RGB").getpixel((399, 299)) == colour
    assert path.stat().st_size < 5000


def test_picture_of_a_part_is_as_large_as_the_part(chromium, tmp_path):
    page = browser.open_page(chromium)
    place = "position: absolute; top: 10px; width: 50px; height: 20px"
    page.set_content(HTML % f"<div id='part' style='{place}'></div>")
    browser.save_picture(page.locator("#part"), tmp_path / "part.png")
    assert Image.open(tmp_path / "part.png").size == (50, 20)


@pytest.mark.parametrize(
    ("html", "fault"),
    [
        ("<img src='data:,'>", "image-alt"),
        ("<p style='color: #ccc; background: #fff'>pale</p>", "color-contrast"),
        ("<form><input></form>", "label"),
    ],
)
def test_fault_of_a_page_is_found_and_named(chromium, html, fault):
    page = browser.open_page(chromium)
    page.set_content(HTML % html)
    (found,) = browser.serious_faults(page)
    assert found.startswith(f"{fault} (")
    assert browser.serious_faults(page, "h1") == []


@pytest.mark.parametrize("address", ["http://example.org/", "http://192.0.2.1/"])
def test_nothing_beyond_the_loopback_is_reached(chromium, address):
    page = browser.open_page(chromium)
    with pytest.raises(Error, match=r"ERR_(NAME_NOT_RESOLVED|ADDRESS_UNREACHABLE)"):
        page.goto(address)
