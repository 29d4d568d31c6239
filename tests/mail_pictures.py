# SPDX-License-Identifier: Apache-2.0
"""The pictures of mails in the documentation: ``make pictures`` takes them anew.

Each holds a digest of the HTML that it shows, in a text chunk of the PNG. So a test can tell that
it is one of the present templates without comparing pixels, which other fonts would change.
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

from PIL import Image, PngImagePlugin
from playwright.sync_api import Browser

from blazar_vmexpire.notices import DIGEST, Renderer, samples
from tests import browser

DIRECTORY = Path(__file__).resolve().parents[1] / "doc" / "source" / "admin" / "pictures"
_DIGEST = "html-sha256"


@dataclasses.dataclass(frozen=True, slots=True)
class Picture:
    """One of the pictures."""

    kind: str
    width: int
    """Of the window, in pixels."""
    dark: bool = False

    @property
    def path(self) -> Path:
        """Where it is."""
        look = "dark" if self.dark else "narrow" if self.width < 500 else "wide"
        return DIRECTORY / f"mail-{self.kind}-{look}.png"

    @property
    def html(self) -> str:
        """What it shows."""
        renderer = Renderer(dashboard_url="https://cloud.example.org/horizon", strict=True)
        if self.kind == DIGEST:
            return str(renderer.render_digest(samples.digest()).html)
        return str(renderer.render(samples.usual(self.kind)).html)

    @property
    def digest(self) -> str:
        """A digest of what it shows."""
        return hashlib.sha256(self.html.encode()).hexdigest()

    @property
    def digest_in_file(self) -> str | None:
        """That of what the file shows; None where there is none."""
        if not self.path.exists():
            return None
        found = Image.open(self.path)
        assert isinstance(found, PngImagePlugin.PngImageFile)
        text = found.text.get(_DIGEST)
        return None if text is None else str(text)

    def take(self, chromium: Browser) -> None:
        """Take it anew."""
        page = browser.open_page(chromium, width=self.width, height=400, dark=self.dark)
        page.set_content(self.html)
        browser.save_picture(page, self.path, whole=True)
        page.context.close()
        info = PngImagePlugin.PngInfo()
        info.add_text(_DIGEST, self.digest)
        Image.open(self.path).save(self.path, pnginfo=info, optimize=True)


PICTURES = [
    picture
    for kind in ("reminder", "ended", DIGEST)
    for picture in (Picture(kind, 760), Picture(kind, 360), Picture(kind, 760, dark=True))
]


def main() -> None:
    """Take those that show what is not so any more."""
    with browser.chromium() as chromium:
        for picture in PICTURES:
            if picture.digest_in_file != picture.digest:
                picture.take(chromium)
                print(f"taken: {picture.path.name}")  # noqa: T201 - a command


if __name__ == "__main__":
    main()
