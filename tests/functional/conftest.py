# SPDX-License-Identifier: Apache-2.0
"""Fixtures for functional tests: a cloud, and a real Blazar in this process."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import pytest
from oslo_config import cfg
from oslo_log import log as oslo_log

from blazar_vmexpire.cmd.manage import main
from tests import blazar_harness
from tests.blazar_harness import Harness, Options
from tests.fakes.cloud import FakeCloud
from tests.functional.borders import Borders, Ways, borders_of
from tests.functional.manage import Done, Manage, settings
from tests.functional.world import World
from tests.mail_servers import MailServer, running


def pytest_configure(config: pytest.Config) -> None:
    """Say what our markers mean."""
    config.addinivalue_line(
        "markers",
        "options(by_group): options of the harness's Blazar, as {group: {option: value}};"
        " those nearest to the test win",
    )
    config.addinivalue_line(
        "markers", "plugins(*names): entry points that the harness's manager loads"
    )


@pytest.fixture
def cloud() -> Iterator[FakeCloud]:
    """A cloud with nothing in it but Blazar's account."""
    with FakeCloud() as running:
        yield running


@pytest.fixture(scope="session")
def _mail_server() -> Iterator[MailServer]:
    """A mail server for the whole session."""
    with running(MailServer()) as server:
        yield server


@pytest.fixture
def mail(_mail_server: MailServer) -> MailServer:
    """The mail server that the harness's Blazar sends to, as new."""
    _mail_server.forget()
    return _mail_server


@pytest.fixture
def ways(mail: MailServer) -> Ways:
    """The ways that lead straight there."""
    return Ways({"vmexpire_mail": {"host": "127.0.0.1", "port": mail.port}})


@pytest.fixture
def harness(
    request: pytest.FixtureRequest, database_url: str, cloud: FakeCloud, ways: Ways
) -> Iterator[Harness]:
    """A real Blazar with our plug-in, on a fresh database, a fresh cloud and a mail server."""
    options: dict[str, dict[str, Any]] = {
        group: dict(values) for group, values in ways.options.items()
    }
    for marker in reversed(list(request.node.iter_markers("options"))):
        for group, values in marker.args[0].items():
            options.setdefault(group, {}).update(values)
    plugins = request.node.get_closest_marker("plugins")
    running = Harness(
        database_url,
        cloud,
        options,
        plugins.args if plugins else (blazar_harness.OUR_PLUGIN,),
        ways.database_url,
    )
    try:
        yield running
    finally:
        running.close()


@pytest.fixture
def manage(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> Manage:
    """Run ``blazar-vmexpire-manage`` in this process."""

    def run(url: str | None, *arguments: str, options: Options | None = None) -> Done:
        conf = cfg.ConfigOpts()
        oslo_log.register_options(conf)
        capsys.readouterr()
        try:
            returncode = main([*settings(tmp_path, url, options), *arguments], conf)
        except SystemExit as end:
            returncode = int(end.code or 0)
        return Done(returncode, *capsys.readouterr())

    return run


@pytest.fixture
def world(harness: Harness, mail: MailServer) -> World:
    """A cloud with Alice and Bob in it, its Blazar with our plug-in, and its mail."""
    return World(harness, mail)


@pytest.fixture
def borders(cloud: FakeCloud, mail: MailServer, database_url: str) -> Iterator[Borders]:
    """Proxies before all that our plug-in needs; it goes through them where ``ways`` says so."""
    with borders_of(cloud, mail, database_url) as proxies:
        yield proxies
