# SPDX-License-Identifier: Apache-2.0
"""A real browser: the distribution's Chromium, without a window, that reaches the loopback only.

.. code-block:: python

   with browser.chromium() as chromium:
       page = browser.open_page(chromium, dark=True)
       page.set_content(html)              # or page.goto(url)
       browser.save_picture(page, path)    # or a part of it: page.locator("table")

The pages are Playwright's own (its API is synchronous here): what they are asked waits for what it
needs, so that no test has to sleep. A browser belongs to the thread that started it.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

PROGRAM = "/usr/bin/chromium"

# As root there is no sandbox of Chromium's own, and what phones home has nowhere to call.
_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1 , EXCLUDE localhost",
    "--force-color-profile=srgb",
)

#: Milliseconds that a page gets for what it is asked: a busy machine is slow, not wrong.
PATIENCE = 60_000
expect.set_options(timeout=PATIENCE)


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Start Chromium with a fresh profile; it ends with the block, and with this process."""
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=PROGRAM, args=list(_FLAGS))
        try:
            yield started
        finally:
            started.close()


def open_page(
    browser: Browser, *, width: int = 1280, height: int = 800, dark: bool = False
) -> Page:
    """Open an empty page that shares nothing, not even cookies, with any other.

    :param width: of its window, in pixels, as is ``height``.
    :param dark: whether its user prefers dark colours.
    """
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if dark else "light",
        reduced_motion="reduce",
        locale="en-GB",
        timezone_id="UTC",
    )
    context.set_default_timeout(PATIENCE)
    return context.new_page()


def save_picture(shown: Page | Locator, path: Path, *, whole: bool = False) -> None:
    """Write what is shown as a small PNG.

    :param whole: of a page, also what one would have to scroll to.
    """
    taken = shown.screenshot(full_page=whole) if isinstance(shown, Page) else shown.screenshot()
    path.parent.mkdir(parents=True, exist_ok=True)
    # Pages have few colours: a palette makes a third of the file, and no difference to the eye.
    palette = Image.open(io.BytesIO(taken)).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    palette.save(path, optimize=True)


def serious_faults(page: Page, part: str = "body") -> list[str]:
    """Name what axe-core finds serious or critical about a page, one line for each element.

    :param part: a CSS selector of what is looked at.
    """
    found = Axe().run(page, context=part, options={"resultTypes": ["violations"]})
    return [
        f"{fault['id']} ({fault['impact']}): {node['html'][:200]}: {node.get('failureSummary', '')}"
        for fault in found.response["violations"]
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]
