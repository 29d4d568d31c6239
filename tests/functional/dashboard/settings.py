# SPDX-License-Identifier: Apache-2.0
"""Horizon's settings for tests, with our ``enabled`` files in place."""

# ruff: noqa: E402, F403, F405

from __future__ import annotations

import socket

_TIMEOUT = socket.getdefaulttimeout()

from horizon.test.settings import *
from openstack_dashboard.test.settings import *

# Horizon's settings change the process; its other tests want that as it was.
socket.setdefaulttimeout(_TIMEOUT)
TIME_ZONE = "UTC"

import openstack_dashboard.enabled
from openstack_dashboard.utils import settings as settings_utils

import blazar_vmexpire.dashboard.enabled

settings_utils.update_dashboards(
    [openstack_dashboard.enabled, blazar_vmexpire.dashboard.enabled], HORIZON_CONFIG, INSTALLED_APPS
)
# Horizon's own were there already.
INSTALLED_APPS = list(dict.fromkeys(INSTALLED_APPS))
# Styles are none of ours.
COMPRESS_ENABLED = False
LANGUAGES = (("en", "English"), ("de", "German"), ("fr", "French"))
# As Django's test runner has it.
ALLOWED_HOSTS = ["testserver"]
# A busy machine can be slow.
VMEXPIRE_DASHBOARD = {"instances_timeout": 30}
