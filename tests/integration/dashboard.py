# SPDX-License-Identifier: Apache-2.0
"""The sandbox's Horizon, as somebody sees it who is logged in, in a real browser."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Locator, Page, expect

from tests import browser
from tests.integration.cloudlib import Cloud, Vm
from tools.sandbox.identity import PEOPLE
from tools.sandbox.layout import PASSWORD

#: One at a time: they are what takes the processor, while the other scenarios wait for dates.
_BROWSERS = threading.Lock()

_DOMAINS = {person.name: person.domain for person in PEOPLE}

#: Where the documentation has its pictures, and whether they are to be written.
PICTURES = Path(__file__).resolve().parents[2] / "doc" / "source" / "_static" / "dashboard"
pictures = False

#: What axe-core finds and Horizon's own pages have everywhere: its menus and crosses have no names,
#: and its theme's blue is too pale for links and buttons. It is not for us to mend.
_HORIZONS_OWN = re.compile(
    r"link-name .*(dropdown-toggle|class=\"close\")|color-contrast [^:]*: <(a |button |input )"
)

INSTANCES = "/project/instances/"
PANEL = "/project/vm_expirations/"
ADMIN_PANEL = "/admin/vm_expirations/"


class Visitor:
    """Somebody who is logged in.

    :ivar page: what they look at.
    """

    def __init__(self, cloud: Cloud, page: Page) -> None:
        self.page = page
        self._cloud = cloud

    def log_in(self, name: str) -> None:
        """Log in, and see whose name stands at the top of the page."""
        # As the user's own settings would have it: other scenarios have instances, too.
        url = self._cloud.sandbox.url("horizon", "/")
        self.page.context.add_cookies(
            [{"name": "API_RESULT_PAGE_SIZE", "value": "100", "url": url}]
        )
        self.page.goto(url)
        self.page.get_by_label("Domain").select_option(_DOMAINS.get(name, "Default"))
        self.page.get_by_label("User Name").fill(name)
        self.page.get_by_label("Password", exact=True).fill(PASSWORD)
        self.page.get_by_role("button", name="Sign In").click()
        expect(self.page.locator(".user-name")).to_have_text(name)

    def go(self, path: str) -> None:
        """Open a page of Horizon's."""
        answer = self.page.goto(self._cloud.sandbox.url("horizon", path))
        assert answer is not None
        assert answer.status == 200, f"{path}: HTTP {answer.status}"

    def row(self, vm: Vm) -> Locator:
        """Find the row of a VM in the table that is shown."""
        return self.page.locator(f"tr[data-object-id='{vm.id}']")

    def act(self, vm: Vm, action: str) -> None:
        """Choose an action in the row of a VM: its button, or in the menu beside that."""
        row = self.row(vm)
        chosen = row.get_by_text(action, exact=True)
        if not chosen.is_visible():
            row.locator(".dropdown-toggle").click()
        chosen.click()

    def dialog(self, title: str) -> Locator:
        """Find the dialog that has come up."""
        dialog = self.page.locator(".modal-dialog").filter(has_text=title)
        expect(dialog).to_be_visible()
        return dialog

    def submit(self, title: str, **fields: str) -> None:
        """Fill in the dialog of this title, and send it.

        :param fields: by the first word of their labels.
        """
        dialog = self.dialog(title)
        for label, value in fields.items():
            dialog.get_by_label(label).fill(value)
        dialog.get_by_role("button", name=title).click()

    def faults(self, part: str) -> list[str]:
        """List what is wrong for who sees little or nothing, in a part of the page that is ours.

        :param part: a CSS selector.
        """
        found = browser.serious_faults(self.page, part)
        return [fault for fault in found if not _HORIZONS_OWN.match(fault)]

    def choose_theme(self, name: str) -> None:
        """Choose one of Horizon's themes, for the next page."""
        url = self._cloud.sandbox.url("horizon", "/")
        self.page.context.add_cookies([{"name": "theme", "value": name, "url": url}])

    def save_picture(self, name: str, part: Locator | None = None) -> None:
        """Write what is shown for the documentation, if that is wanted.

        :param part: only that.
        """
        if pictures:
            browser.save_picture(part or self.page, PICTURES / f"{name}.png")

    def told(self, words: str, kind: str = "success") -> None:
        """See a message of a kind, with these words in it."""
        message = self.page.locator(f"#main_content .alert-{kind}, .messages .alert-{kind}")
        expect(message.filter(has_text=words)).to_be_visible()


@contextlib.contextmanager
def logged_in(cloud: Cloud, name: str) -> Iterator[Visitor]:
    """Start a browser, and log in with it."""
    with _BROWSERS, browser.chromium() as chromium:
        visitor = Visitor(cloud, browser.open_page(chromium))
        visitor.log_in(name)
        yield visitor
