# SPDX-License-Identifier: Apache-2.0
"""What the OpenStack client asks of a plug-in: its name, its versions, its client."""

from __future__ import annotations

import argparse
from typing import Any

from osc_lib import utils

from blazar_vmexpire.client import Client

API_NAME = "vm_expiration"
API_VERSION_OPTION = "os_vm_expiration_api_version"
API_VERSIONS = {"1": "blazar_vmexpire.client.Client"}
DEFAULT_API_VERSION = "1"

_SERVICE_TYPE = "reservation"


def make_client(instance: Any) -> Client:
    """Make the client that commands find as ``client_manager.vm_expiration``.

    :param instance: the OpenStack client's ``ClientManager``.
    """
    where = {"region_name": instance.region_name, "interface": instance.interface}
    return Client(
        instance.session,
        **where,
        # Of clouds.yaml (reservation_endpoint_override), or the catalogue's.
        endpoint_override=instance.get_endpoint_for_service_type(_SERVICE_TYPE, **where),
    )


def build_option_parser(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add our global option."""
    parser.add_argument(
        "--os-vm-expiration-api-version",
        metavar="<vm-expiration-api-version>",
        default=utils.env("OS_VM_EXPIRATION_API_VERSION", default=DEFAULT_API_VERSION),
        help=f"VM expiration API version, default={DEFAULT_API_VERSION}"
        " (Env: OS_VM_EXPIRATION_API_VERSION)",
    )
    return parser
