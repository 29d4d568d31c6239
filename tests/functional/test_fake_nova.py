# SPDX-License-Identifier: Apache-2.0
"""The fake Nova speaks as the real one does: its answers fit Nova's own schemas."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import requests

from blazar_vmexpire import cloud
from tests.fakes.cloud import FakeCloud
from tests.functional.adapters import adapters, conf, configure, fake, resized

__all__ = ["adapters", "conf", "configure", "fake"]

VALIDATE = """
import json, sys
from importlib import import_module
from nova.api.validation import validators
for name, values in json.load(sys.stdin).items():
    module, schema = name.split(".")
    module = import_module("nova.api.openstack.compute.schemas." + module)
    is_body = "index_query" not in schema
    for value in values:
        validators._SchemaValidator(getattr(module, schema), is_body=is_body).validate(value)
"""


def test_the_fake_speaks_as_nova_does(fake: FakeCloud, adapters: cloud.Cloud) -> None:
    for vm_state in ("active", "stopped", "error", "building"):
        fake.add_server(vm_state=vm_state, tags=["a"], metadata={"b": "c"})
    fake.attach(fake.add_server(image_id=None))
    down = fake.add_server(cell="cell2")
    token = {"X-Auth-Token": adapters.nova._rest._adapter.get_token()}
    headers = {**token, "OpenStack-API-Version": "compute 2.90"}

    def ask(path: str) -> Any:
        answer = requests.get(fake.identity.compute_url + path, headers=headers, timeout=5)
        assert answer.status_code == 200
        return answer.json()

    details = [ask("/servers/detail?all_tenants=1&limit=4")]
    shows = [ask(f"/servers/{vm}") for vm in fake.compute.vms]
    fake.compute.down_cells = {"cell2"}
    details.append(ask("/servers/detail?all_tenants=1"))
    shows.append(ask(f"/servers/{down}"))
    fake.compute.down_cells = set()
    fake.compute.vanish(down)
    details.append(ask(f"/servers/detail?all_tenants=1&deleted=true&uuid={down}"))
    assert [server["status"] for server in details[-1]["servers"]] == ["DELETED"]
    fake.compute.aggregates = {"old": ["compute1"]}
    fake.compute.down_hosts = {"compute2"}
    resized(fake)
    # And that Nova takes what we ask it.
    list(adapters.nova.pages(3))
    adapters.nova.was_deleted(down)
    server_id = fake.add_server()
    for host in (None, "compute2"):
        adapters.nova.live_migrate(server_id, host)
        fake.compute.settle(server_id)
        adapters.nova.migrate(server_id, host)
        fake.compute.settle(server_id)
        fake.compute.vms[server_id].vm_state = "active"
        fake.compute.vms[server_id].host = "compute1"
    bodies = [request.body for request in fake.requests(f"/servers/{server_id}/action")]
    answers = {
        "aggregates.index_response_v241": [ask("/os-aggregates")],
        "migrations.index_response_v280": [ask("/os-migrations")],
        "services.index_response_v269": [ask("/os-services")],
        "migrate_server.migrate_live_v2_68": [b for b in bodies if "os-migrateLive" in b],
        "migrate_server.migrate": [b for b in bodies if "migrate" in b],
        "servers.detail_response_v290": details,
        "servers.show_response_v290": shows,
        "servers.index_query_v275": [
            request.query
            for request in fake.requests("/servers/detail")
            if request.headers["user-agent"].startswith("blazar-vmexpire/")
        ],
    }
    assert len(answers["servers.index_query_v275"]) >= 3
    assert len(bodies) == 4
    # In a process of its own: Nova and Blazar both claim the option "host".
    done = subprocess.run(
        [sys.executable, "-c", VALIDATE],
        input=json.dumps(answers),
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
