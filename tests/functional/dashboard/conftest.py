# SPDX-License-Identifier: Apache-2.0
"""Fixtures for tests of Horizon's pages."""

from __future__ import annotations

import datetime
import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.functional.dashboard.settings")
django.setup()

from collections.abc import Iterator  # noqa: E402
from typing import Any  # noqa: E402

import pytest  # noqa: E402
from django.conf import settings as django_settings  # noqa: E402
from django.test import override_settings  # noqa: E402

from tests.fault_proxy import HOST, FaultProxy  # noqa: E402
from tests.functional.dashboard.pages import Pages  # noqa: E402
from tests.functional.openstack import served  # noqa: E402
from tests.functional.world import World  # noqa: E402


@pytest.fixture
def settings() -> Iterator[dict[str, Any]]:
    """Our settings: what is put in counts."""
    found = dict(django_settings.VMEXPIRE_DASHBOARD)
    with override_settings(VMEXPIRE_DASHBOARD=found):
        yield found


@pytest.fixture
def border(world: World) -> Iterator[FaultProxy]:
    """Our API, served, and in the catalogue behind a proxy that can break; in the present."""
    world.clock.set(
        datetime.datetime.now(datetime.UTC).replace(tzinfo=None, second=0, microsecond=0)
    )
    with served(world.harness) as address, FaultProxy((HOST, int(address.rpartition(":")[2]))) as p:
        world.cloud.identity.reservation_url = f"http://{HOST}:{p.port}/v1"
        yield p


@pytest.fixture
def pages(world: World, border: FaultProxy) -> Iterator[Pages]:
    """Horizon's pages as Alice sees them."""
    with Pages.of(world) as shown:
        yield shown
