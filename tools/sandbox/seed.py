# SPDX-License-Identifier: Apache-2.0
"""What a member needs to make a server: compute hosts that are up, a flavor, an image."""

from __future__ import annotations

import time
from collections.abc import Callable

from tools.sandbox import layout
from tools.sandbox.errors import SandboxError
from tools.sandbox.layout import State
from tools.sandbox.rest import Session

FLAVOR = {"name": "m1.tiny", "ram": 256, "vcpus": 1, "disk": 1}
IMAGE = {
    "name": "cirros",
    "disk_format": "raw",
    "container_format": "bare",
    "visibility": "public",
}

MICROVERSION = {"OpenStack_API_Version": "compute 2.96"}


def fill(session: Session, state: State, disk: Callable[[], bytes], patience: float) -> None:
    """Make flavor and image where missing, and wait for the hypervisors.

    disk: makes the content of the image
    """
    compute = layout.url(state, "nova-api", "/v2.1")
    glance = layout.url(state, "glance", "/v2")
    flavors = session.get(f"{compute}/flavors")["flavors"]
    if FLAVOR["name"] not in {flavor["name"] for flavor in flavors}:
        session.post(f"{compute}/flavors", {"flavor": FLAVOR})
    images = session.get(f"{glance}/images?name={IMAGE['name']}&status=active")["images"]
    if not images:
        image = session.post(f"{glance}/images", IMAGE)["id"]
        session.put(f"{glance}/images/{image}/file", disk())
    _wait_for_hypervisors(session, compute, set(layout.compute_hosts(state)), patience)


def _wait_for_hypervisors(session: Session, compute: str, hosts: set[str], patience: float) -> None:
    """A host takes servers only after Nova's scheduler has found it and put it into the cell."""
    end = time.monotonic() + patience
    while True:
        answer = session.get(f"{compute}/os-hypervisors/detail", **MICROVERSION)
        up = {h["service"]["host"] for h in answer["hypervisors"] if h["state"] == "up"}
        if hosts <= up:
            return
        if time.monotonic() > end:
            raise SandboxError(f"compute hosts that did not come up: {', '.join(hosts - up)}")
        time.sleep(0.3)
