# SPDX-License-Identifier: Apache-2.0
"""``openstack vm expiration`` and ``blazar_vmexpire.client`` as people and programs use them.

The commands run in a process of their own, with nothing but what an openrc file says; they ask
Keystone for a token and blazar-api over HTTP, which asks blazar-manager over RabbitMQ.
"""

from __future__ import annotations

import datetime
import json
import subprocess
import uuid
from collections.abc import Sequence
from typing import Any

import pytest

from blazar_vmexpire.client import Client, GenerationMoved
from tests.integration.cloudlib import MINUTE, Account, Cloud, Vm, in_minutes
from tests.integration.waiting import utcnow, wait_for

COMMAND = ("openstack", "vm", "expiration")


def ask(account: Account, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run one of our commands."""
    return account.run(*COMMAND, *arguments)


def told(account: Account, *arguments: str) -> Any:
    """Run one of our commands, which has to do it, and return what it tells programs."""
    done = ask(account, *arguments, "-f", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def do(account: Account, *arguments: str) -> None:
    """Run one of our commands that tells nothing, and has to do it."""
    done = ask(account, *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def date(text: str) -> datetime.datetime:
    """Read a date as the API writes it."""
    return datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ")


def names(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The VMs that a list has."""
    return [row["Name"] for row in rows]


def test_an_owner_lists_extends_and_reads_back(calm: Cloud) -> None:
    alice, bob = calm.alice, calm.bob
    one, two = calm.boot("by command one"), calm.boot("by command two")

    shown = told(alice, "show", one.name)
    assert (shown["server_id"], date(shown["ends_at"])) == (one.id, one.ends_at)
    (listed,) = told(alice, "list", "--name", one.name, "--long")
    assert (listed["ID"], listed["Lease ID"]) == (one.id, one.row().lease_id)

    # Both at once, one by its name; then each to the minute, as the one that asks.
    asked_at = utcnow()
    extended = told(alice, "extend", one.name, two.id)
    assert names(extended) == [one.name, two.name]
    for vm, row in zip((one, two), extended, strict=True):
        assert date(row["Ends At"]) == vm.ends_at
        assert vm.ends_at >= asked_at + 9 * MINUTE
        assert date(vm.lease()["end_date"].replace(".000000", "Z")) == vm.ends_at
    end = in_minutes(8)
    (moved,) = told(alice, "extend", one.name, "--until", f"{end:%Y-%m-%d %H:%M}")
    assert date(moved["Ends At"]) == one.ends_at == end

    refused = ask(alice, "extend", one.name, two.name, "--until", "2099-01-01T00:00Z")
    assert refused.returncode == 1
    assert refused.stderr.count("is past the latest allowed") == 2
    assert one.ends_at == end

    # To a stranger there is no such VM, whatever they ask.
    for arguments in (("show", one.id), ("history", one.id), ("extend", one.id)):
        done = ask(bob, *arguments)
        assert done.returncode == 1
        assert "No VM" in done.stderr or "404" in done.stderr, done.stderr
        assert one.name not in done.stdout + done.stderr
    assert told(bob, "list", "--name", one.name) == []
    for arguments in (("summary", "--all-projects"), ("brake", "show"), ("exclusion", "list")):
        assert "HTTP 403" in ask(bob, *arguments).stderr

    history = told(alice, "history", one.name, "--long")
    # On a slow machine it is told of its end in between.
    steered = [e for e in history if e["Event"] in ("adopted", "extended", "shortened")]
    assert [entry["Event"] for entry in steered] == ["adopted", "extended", "shortened"]
    assert steered[1]["By"] == alice.user_id
    assert steered[1]["Request ID"].startswith("req-")
    assert any(group["VMs"] >= 2 for group in told(alice, "summary"))
    one.delete()
    two.delete()
    wait_for("its end in the list", lambda: not told(alice, "list", "--name", one.name), 20)
    # Its history stays.
    assert told(alice, "history", one.id)[-1]["Event"] == "deleted"


def test_an_administrator_steers(calm: Cloud) -> None:
    admin = calm.admin
    held, left_out = calm.boot("steered and held"), calm.boot("steered and left out")
    sooner = calm.boot("steered to its end")

    until = in_minutes(20)
    why = ("--reason", "an audit")
    hold = ("--hold-until", f"{until:%Y-%m-%dT%H:%MZ}", "--ticket", "OPS-7")
    do(admin, "set", held.id, *hold, *why)
    shown = told(admin, "show", held.id)
    assert shown["hold"]["ticket"] == "OPS-7"
    assert date(shown["ends_at"]) == held.ends_at > until
    do(admin, "unset", held.name, "--all-projects", "--hold", *why)
    assert told(admin, "show", held.id)["hold"] is None
    held.delete()

    created = told(admin, "exclusion", "create", "--server", left_out.id, *why)
    wait_for(f"{left_out} out", lambda: left_out.row().state == "exempt", 20)
    assert left_out.lease_in_list() is None
    (listed,) = [row for row in told(admin, "exclusion", "list") if row["Value"] == left_out.id]
    assert listed["ID"] == created["id"]
    do(admin, "exclusion", "delete", str(created["id"]), *why)
    wait_for(f"{left_out} in again", lambda: left_out.row().state == "active", 20)
    wait_for(f"the lease of {left_out}", left_out.lease_in_list, 20)
    left_out.delete()

    # The notice that the cloud promises comes all the same.
    end = in_minutes(9)
    do(admin, "set", sooner.id, "--ends-at", f"{end:%Y-%m-%dT%H:%MZ}", *why)
    assert sooner.ends_at == end
    (expiring,) = told(admin, "expire", sooner.id, *why)
    assert date(expiring["Ends At"]) <= in_minutes(3)
    sooner.wait_for_end(within=120)
    assert sooner.when("deleted") - sooner.when("notice_accepted") >= MINUTE
    assert told(admin, "brake", "show")["tripped_at"] is None


def test_a_program_pages_and_notices_that_it_is_late(calm: Cloud) -> None:
    vms = [calm.boot("by program") for _ in range(3)]
    api = Client(session=calm.alice.session).vm_expirations
    pages = list(api.list(name="by program", limit=None))
    assert {vm["server_id"] for vm in pages} == {vm.id for vm in vms}
    path: str | None = "/v1/vm-expirations?name=by+program&limit=1"
    seen: list[str] = []
    while path is not None:
        body = calm.alice.get("reservation", path.removeprefix("/v1"))
        seen += [vm["server_id"] for vm in body["vm_expirations"]]
        links = body.get("vm_expirations_links", [])
        path = next((f"/v1{link['href'].split('/v1')[1]}" for link in links), None)
    assert seen == [vm["server_id"] for vm in pages]

    generation = api.get(vms[0].id)["generation"]
    assert api.extend(vms[0].id, if_match=generation)["generation"] > generation
    with pytest.raises(GenerationMoved):
        api.extend(vms[0].id, if_match=generation)
    nobodys = str(uuid.uuid4())
    results = {r["server_id"]: r["status"] for r in api.extend_all([vms[1].id, nobodys])}
    assert results == {vms[1].id: 200, nobodys: 404}
    _delete(vms)


# Its turn is one more that the others of make test would have to wait for.
@pytest.mark.long
def test_an_operator_trips_the_brake_and_releases_it(rough: Cloud) -> None:
    why = ("--reason", "something looks wrong")
    with rough.turns:
        assert told(rough.admin, "brake", "trip", *why)["reason"] == why[1]
        # An owner's extension works all the same.
        vm = rough.boot("braked", patience=60)
        assert told(rough.alice, "extend", vm.name)[0]["State"] == "active"
        released = told(rough.admin, "brake", "release", *why)
    assert released["tripped_at"] is None
    assert released["released_at"] is not None
    vm.delete()


def _delete(vms: Sequence[Vm]) -> None:
    for vm in vms:
        vm.delete()
