# SPDX-License-Identifier: Apache-2.0
"""Horizon's pages, as somebody of the fake cloud sees them who is logged in."""

from __future__ import annotations

import contextlib
import urllib.parse
from collections.abc import Iterator, Sequence
from typing import Any

import lxml.html
from django.conf import settings
from django.contrib.messages import get_messages
from django.http import HttpRequest
from django.utils import timezone, translation
from keystoneauth1.identity import v3
from keystoneauth1.session import Session
from openstack_auth import user, utils
from openstack_dashboard import context_processors
from openstack_dashboard.test import helpers
from requests.packages.urllib3.connection import HTTPConnection

from tests.fakes.cloud import FakeCloud
from tests.fakes.identity import REGION
from tests.functional.world import World

PANEL = "/project/vm_expirations/"
INSTANCES = "/project/instances/"
ADMIN_INSTANCES = "/admin/instances/"
ADMIN_PANEL = "/admin/vm_expirations/"


def extend_url(server_id: str, back: str) -> str:
    """Say where an instance is extended, and where that leads back to."""
    return f"{PANEL}{server_id}/extend?{urllib.parse.urlencode({'next': back})}"


_CONNECT = HTTPConnection.connect


class Page:
    """An answer of Horizon's."""

    def __init__(self, response: Any) -> None:
        self.response = response
        self.status = response.status_code
        self.tree = lxml.html.document_fromstring(response.content.decode() or "<p></p>")

    @property
    def told(self) -> list[str]:
        """What Horizon tells its user above the page."""
        request = getattr(self.response, "wsgi_request", None)
        return [str(message) for message in get_messages(request)] if request else []

    def find(self, path: str) -> list[Any]:
        """Find elements by XPath."""
        return self.tree.xpath(path)  # type: ignore[no-any-return]

    def text(self, path: str) -> list[str]:
        """Return the text of elements, as it is read."""
        return [" ".join(found.text_content().split()) for found in self.find(path)]

    def rows(self, table: str = "vm_expirations") -> dict[str, list[str]]:
        """Return the cells of a table's rows, by the name that is in the first of them."""
        found = {}
        for row in self.find(f'//table[@id="{table}"]/tbody/tr[@data-object-id]'):
            cells = [
                " ".join(cell.text_content().split())
                for cell in row.xpath("./td[not(contains(@class, 'multi_select'))]")
            ]
            found[cells[0]] = cells
        return found

    def row_actions(self, server_id: str) -> dict[str, str]:
        """Return the links of a row's actions, by their words."""
        return {
            " ".join(link.text_content().split()): link.get("href")
            for link in self.find(
                f'//tr[@data-object-id="{server_id}"]//a[contains(@id, "__action_")]'
            )
        }


class _Case(helpers.TestCase):
    """Horizon's own setting for a test, with users and tokens of the fake cloud."""

    databases: set[str] = set()

    def __init__(self, cloud: FakeCloud, credentials: dict[str, str]) -> None:
        super().__init__("run")
        self._credentials = {**credentials, "auth_url": f"{cloud.url}/identity/v3"}

    def _setup_test_data(self) -> None:
        # Horizon's own is not needed, and to make it changes the exceptions of keystoneauth.
        catalog = context_processors.get_js_catalog(settings)
        self.context = {"authorized_tenants": [], "JS_CATALOG": catalog}

    def _setup_user(self, **kwargs: Any) -> None:
        # Horizon's helpers let no request out of the process. Ours go to the API.
        HTTPConnection.connect = _CONNECT
        self._real_get_user = utils.get_user
        auth = v3.Password(**self._credentials)
        token = user.Token(auth.get_access(Session()))
        request = HttpRequest()
        request.session = {"unscoped_token": None}
        found = user.create_user_from_token(request, token, self._credentials["auth_url"], REGION)
        utils.get_user = lambda request: found
        self.user, self.token = found, token


class Pages:
    """A browser, as it were."""

    def __init__(self, case: Any) -> None:
        self.case = case

    @classmethod
    @contextlib.contextmanager
    def of(
        cls, world: World, name: str = "alice", roles: Sequence[str] = ("member", "reader")
    ) -> Iterator[Pages]:
        """Log somebody in."""
        identity = world.cloud.identity
        who = {
            "alice": (world.alice, world.alpha),
            "bob": (world.bob, world.beta),
            "admin": (identity.service_user, identity.service_project),
        }[name]
        identity.roles[who] = ["admin", "member", "reader"] if name == "admin" else list(roles)
        credentials = {
            "username": identity.users[who[0]]["name"],
            "password": identity.passwords[who[0]],
            "project_name": identity.projects[who[1]]["name"],
            "user_domain_name": "Default",
            "project_domain_name": "Default",
        }
        case = _Case(world.cloud, credentials)
        _Case.setUpClass()
        case._pre_setup()
        case.setUp()
        try:
            yield cls(case)
        finally:
            # The last request's, which the next one would set anew.
            translation.deactivate()
            timezone.deactivate()
            case.tearDown()
            case._post_teardown()
            _Case.tearDownClass()

    def get(self, path: str, **more: Any) -> Page:
        """Look at a page."""
        return Page(self.case.client.get(path, **more))

    def post(self, path: str, data: dict[str, Any], **more: Any) -> Page:
        """Send a form."""
        return Page(self.case.client.post(path, data, **more))
