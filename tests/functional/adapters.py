# SPDX-License-Identifier: Apache-2.0
"""The adapters against a cloud of their own, over real sockets."""

from __future__ import annotations

import configparser
import pathlib
from collections.abc import Iterator
from typing import Protocol

import pytest
from oslo_config import cfg

from blazar_vmexpire import cloud
from blazar_vmexpire.conf import opts
from tests.fakes.cloud import FakeCloud


@pytest.fixture
def fake() -> Iterator[FakeCloud]:
    """A cloud of our own, with nothing in it but the service's account."""
    with FakeCloud() as running:
        yield running


class Configure(Protocol):
    """Makes a configuration as of a Blazar that works with the cloud, with changes by group."""

    def __call__(self, **changes: dict[str, str]) -> cfg.ConfigOpts: ...


@pytest.fixture
def configure(fake: FakeCloud, tmp_path: pathlib.Path) -> Configure:
    """Return a function that makes configurations, from a file as an operator writes it."""

    def make(**changes: dict[str, str]) -> cfg.ConfigOpts:
        file = configparser.ConfigParser(interpolation=None)
        file.read_dict({"vmexpire_cloud": {"request_timeout": "5s"}})
        file.read_dict(fake.conf_overrides())
        file.read_dict(changes)
        path = tmp_path / "blazar.conf"
        with path.open("w") as stream:
            file.write(stream)
        conf = cfg.ConfigOpts()
        opts.register_opts(conf)
        conf(["--config-file", str(path)])
        return conf

    return make


@pytest.fixture
def conf(configure: Configure) -> cfg.ConfigOpts:
    """A configuration as of a Blazar that works with this cloud."""
    return configure()


@pytest.fixture
def adapters(conf: cfg.ConfigOpts) -> cloud.Cloud:
    """What is tested."""
    return cloud.connect(conf)


def resized(fake: FakeCloud) -> str:
    """Add a server that waits for its resize to be confirmed."""
    server_id = fake.add_server()
    fake.compute.resize(server_id, "p")
    return server_id
