# SPDX-License-Identifier: Apache-2.0
"""Every status that a VM can be in when its time comes: what happens is what the docs' table says.

The table in ``doc/source/admin/states.rst`` *is* the list of cases. What is found here to happen is
put in the table's own words, and compared with it cell by cell.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path

import docutils.core
import docutils.nodes
import pytest
from docutils.parsers.rst import Directive, directives

from blazar_vmexpire import RESOURCE_TYPE
from blazar_vmexpire.actions import base as actions
from blazar_vmexpire.db import api as db_api
from tests.fakes.servers import Vm
from tests.functional.world import World

PAGE = Path(__file__).resolve().parents[2] / "doc" / "source" / "admin" / "states.rst"

pytestmark = [
    pytest.mark.databases("sqlite"),
    # All of them end at once, and one notice is enough.
    pytest.mark.options({RESOURCE_TYPE: {"adoption_spread": "0", "reminders": ""}}),
]

#: What Nova and Glance are asked for, in the table's words.
WORDS = {
    "lock": "locked",
    "os-stop": "stopped",
    "unrescue": "unrescued",
    "confirmResize": "confirmed",
    "createImage": "saved",
    "DELETE": "deleted",
    "shelve": "shelved",
    "shelveOffload": "taken off its host",
    "unlock": "unlocked",
}

#: How a VM that runs comes to each status.
BRING: dict[str, Callable[[World, Vm], object]] = {
    "ACTIVE": lambda world, vm: None,
    "SHUTOFF": lambda world, vm: become(vm, "stopped"),
    "PAUSED": lambda world, vm: become(vm, "paused"),
    "SUSPENDED": lambda world, vm: become(vm, "suspended"),
    "RESCUE": lambda world, vm: become(vm, "rescued"),
    "VERIFY_RESIZE": lambda world, vm: world.cloud.compute.resize(vm.id, world.alpha),
    "SHELVED": lambda world, vm: shelved(world, vm, "shelved"),
    "SHELVED_OFFLOADED": lambda world, vm: shelved(world, vm, "shelved_offloaded"),
    "locked": lambda world, vm: setattr(vm, "locked", True),
    "SOFT_DELETED": lambda world, vm: become(vm, "soft-delete"),
    "DELETED": lambda world, vm: world.cloud.compute.vanish(vm.id),
    "ERROR": lambda world, vm: become(vm, "error"),
    "BUILD": lambda world, vm: become(vm, "building"),
    "task": lambda world, vm: setattr(vm, "task_state", "rebooting"),
    "UNKNOWN": lambda world, vm: setattr(vm, "cell", "lost"),
}


def become(vm: Vm, vm_state: str) -> None:
    """Bring a VM to a state."""
    vm.vm_state = vm_state


def shelved(world: World, vm: Vm, vm_state: str) -> None:
    """Have a VM shelved by its owner."""
    become(vm, vm_state)
    vm.shelved_image = world.cloud.add_image(
        name=f"{vm.name}-shelved", owner=world.alpha, instance_uuid=vm.id
    )


class _Nothing(Directive):
    """A directive of the docs' own, which draws what is no table."""

    def run(self) -> list[docutils.nodes.Node]:
        """Draw nothing."""
        return []


def documented() -> dict[str, dict[str, str]]:
    """Read the page's first table: for each column what is done in each status."""
    for name in ("lifecycle-states", "lifecycle-chart"):
        directives.register_directive(name, _Nothing)
    document = docutils.core.publish_doctree(
        PAGE.read_text().replace(":doc:", ""), settings_overrides={"report_level": 5}
    )
    table = next(iter(document.findall(docutils.nodes.table)))
    _status, *columns = [e.astext() for e in next(iter(table.findall(docutils.nodes.row)))]
    found: dict[str, dict[str, str]] = {column: {} for column in columns}
    (body,) = table.findall(docutils.nodes.tbody)
    for row in body.children:
        statuses, *cells = [entry.astext() for entry in row.children]
        for status in re.findall(r"[A-Z][A-Z_]{3,}|locked|task", statuses):
            for column, cell in zip(columns, cells, strict=True):
                # Behind a semicolon stands what follows for the VM.
                found[column][status] = cell.partition(";")[0]
    return found


TABLE = documented()


def test_the_table_has_every_status_and_every_action() -> None:
    ends = {f"End, {name}" for name, action in actions.load().items() if action.on_end}
    assert TABLE.keys() == {"When it is found", "Quarantine", *ends}
    for column in TABLE.values():
        assert column.keys() == BRING.keys()


def test_when_it_is_found(world: World) -> None:
    vms = {status: world.boot() for status in BRING}
    for status, server_id in vms.items():
        BRING[status](world, world.cloud.compute.vms[server_id])
    world.cloud.compute.down_cells = {"lost"}
    see(world, vms.values())

    def happened(status: str) -> str:
        row = world.row_or_none(vms[status])
        if row is None:
            return "nothing"
        if row.state == "seen":
            return "no answer: asked again later" if row.last_error else "left alone"
        assert row.state == "active"
        return "gets a lease"

    assert {status: happened(status) for status in BRING} == TABLE["When it is found"]


@pytest.mark.options({RESOURCE_TYPE: {"quarantine": "3d"}})
def test_quarantine(world: World) -> None:
    vms = come(world, timedelta(days=3))

    def happened(status: str) -> str:
        words = done(world, vms[status])
        if not words and world.state(vms[status]) == "quarantined":
            assert world.events(vms[status])[-1] == "quarantine_left"
            return "left as it is"
        return words or rested(world, vms[status])

    assert {status: happened(status) for status in BRING} == TABLE["Quarantine"]


@pytest.mark.parametrize("action", sorted(column[5:] for column in TABLE if column[:5] == "End, "))
def test_end(world: World, action: str) -> None:
    world.harness.conf.set_override("on_end_action", action, group=RESOURCE_TYPE)
    vms = come(world, timedelta(0))

    def happened(status: str) -> str:
        words = done(world, vms[status])
        if words.endswith("deleted"):
            assert world.state(vms[status]) == "deleted"
        images = [
            image
            for image in world.cloud.image.images.values()
            if vms[status] in (image.get("vmexpire_server_id"), image["instance_uuid"])
        ]
        if "deleted" in words and images:
            (image,) = images
            assert image["status"] == "active"
            assert (image["owner"], image["protected"]) == (world.alpha, False)
            assert image["id"] in world.history(vms[status])[-2][1].values()
            if "saved" not in words:
                words = words.replace("deleted", "kept its image, deleted")
        return words or rested(world, vms[status])

    assert {status: happened(status) for status in BRING} == TABLE[f"End, {action}"]


def see(world: World, server_ids: Iterable[str]) -> None:
    """Have VMs looked at, as by notifications that come together."""
    with world.harness.database.begin() as connection:
        for server_id in server_ids:
            db_api.see(connection, server_id, world.clock.now())
    world.harness.work()


def come(world: World, before: datetime.timedelta) -> dict[str, str]:
    """Have a VM in each status when their time comes, and let it pass.

    :param before: how long before the end that is.
    """
    vms = {status: world.boot() for status in BRING}
    see(world, vms.values())
    end = max(row.ends_at for row in world.rows() if row.ends_at)
    world.live(end - before - timedelta(hours=1))
    for status, server_id in vms.items():
        BRING[status](world, world.cloud.compute.vms[server_id])
    world.cloud.compute.down_cells = {"lost"}
    world.live(end - before)
    world.live(end - before + timedelta(minutes=5))
    return vms


def done(world: World, server_id: str) -> str:
    """Say what Nova was asked to do to a VM, in order, in the table's words."""
    asked = [
        "DELETE" if request.method == "DELETE" else next(iter(request.body))
        for request in world.cloud.requests(f"/compute/v2.1/servers/{server_id}")
        if request.method != "GET"
    ]
    if "unlock" in asked:
        # It was locked for as long as that took.
        asked = [what for what in asked if what not in ("lock", "unlock")]
    if "shelve" in asked:
        asked = [what for what in asked if what != "shelveOffload"]
    return ", ".join(WORDS[what] for what in asked)


def rested(world: World, server_id: str) -> str:
    """Say what has become of a VM that nothing was done to."""
    row = world.row(server_id)
    if row.state == "failed":
        return "failed"
    if row.state == "deleted":
        assert world.all_leases().count(str(row.lease_id)) == 0
        return "its lease is removed"
    if row.last_error is not None:
        return "asked again later"
    if "moved" in world.events(server_id):
        return "the end moves"
    return "kept" if row.state == "ended" else row.state
