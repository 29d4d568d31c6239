# SPDX-License-Identifier: Apache-2.0
"""What people do to leases through Blazar's own APIs and command, and what comes of it."""

from __future__ import annotations

import datetime
import re
from typing import Any

import pytest

from tests.integration.cloudlib import (
    MINUTE,
    Account,
    Answer,
    Cloud,
    Vm,
    dates_written,
    images_of,
    in_minutes,
)
from tests.integration.waiting import utcnow, wait_for

EXTENSION = 10 * MINUTE


def too_far(answer: Answer) -> datetime.datetime:
    """See that a date was refused as too late, and return the latest allowed one it names."""
    assert answer.status == 400, answer
    found = re.search(r"past the latest allowed, (\S+ \S+) UTC", answer.message)
    assert found, answer.message
    return datetime.datetime.fromisoformat(found[1])


def test_an_owner_extends_up_to_the_latest_allowed_date(calm: Cloud) -> None:
    vm = calm.boot("extension")
    before = vm.ends_at
    asked_at = utcnow()
    latest = too_far(vm.put_lease(end_date=asked_at + datetime.timedelta(days=365)))
    assert asked_at + EXTENSION - MINUTE <= latest <= utcnow() + EXTENSION
    assert vm.lease()["status"] == "ACTIVE"
    assert vm.ends_at == before

    vm.move_end(latest)
    assert vm.lease()["status"] == "ACTIVE"
    assert vm.lease()["end_date"] == f"{latest:%Y-%m-%dT%H:%M}:00.000000"
    (extended,) = [details for event, details in vm.history() if event == "extended"]
    assert extended["new_end"] == latest.isoformat()
    too_far(vm.put_lease(end_date=latest + 2 * MINUTE))
    # What the mail says can be pasted, and an end that is asked for again is no extension.
    again = calm.alice.run(
        *("openstack", "reservation", "lease", "set"),
        *("--end-date", f"{latest:%Y-%m-%d %H:%M}", str(vm.row().lease_id)),
    )
    assert again.returncode == 0, again.stderr
    assert vm.events().count("extended") == 1

    # Shortened by its owner: they need no notice of that, but are reminded of the new end.
    early = vm.put_lease(end_date=utcnow())
    assert (early.status, vm.ends_at) == (400, latest), early
    new_end = in_minutes(2)
    vm.move_end(new_end)
    reminder = vm.wait_for_mail("reminder", 20, after=new_end - 2 * MINUTE)
    assert f"{new_end:%Y-%m-%d %H:%M} UTC" in reminder.text
    vm.wait_for_end()
    assert utcnow() >= new_end
    assert "moved" not in vm.events()


def test_an_owner_extends_with_blazars_own_command(calm: Cloud) -> None:
    vm = calm.boot("command")
    before, lease_id = vm.ends_at, str(vm.row().lease_id)
    command = ("openstack", "reservation", "lease", "set", lease_id, "--prolong-for")
    refused = calm.alice.run(*command, "2d")
    assert refused.returncode != 0
    assert "past the latest allowed" in refused.stdout + refused.stderr
    assert vm.ends_at == before
    taken = calm.alice.run(*command, "2m")
    assert taken.returncode == 0, taken.stderr
    assert vm.ends_at == before + 2 * MINUTE
    foreign = calm.bob.run(*command, "2m")
    assert foreign.returncode != 0
    assert vm.ends_at == before + 2 * MINUTE
    vm.delete()


def test_a_stranger_is_refused_and_an_administrator_is_not_capped(calm: Cloud) -> None:
    vm = calm.boot("others")
    before = vm.ends_at
    assert vm.put_lease(calm.bob, end_date=before + MINUTE).status == 403
    assert vm.ends_at == before
    far = in_minutes(60 * 24 * 30)
    vm.move_end(far, calm.admin)
    # What they have is not taken from them, and is as far as they can go themselves.
    assert too_far(vm.put_lease(end_date=far + MINUTE)) == far
    assert vm.lease()["status"] == "ACTIVE"
    vm.delete()


def test_the_second_version_of_blazars_api_has_the_same_cap(calm: Cloud) -> None:
    """Its answers about any lease are errors of its own (a reservation's flags are no text)."""
    vm = calm.boot("v2")
    before = vm.ends_at
    far = utcnow() + datetime.timedelta(days=1)

    def put(account: Account, moment: datetime.datetime) -> Answer:
        url = calm.sandbox.url("blazar-api", f"/v2/leases/{vm.row().lease_id}")
        return account.request(url, "PUT", "", dates_written({"end_date": moment}))

    too_far(put(calm.alice, far))
    assert put(calm.bob, before + MINUTE).status == 403
    assert (vm.ends_at, vm.lease()["status"]) == (before, "ACTIVE")
    put(calm.alice, before + 2 * MINUTE)
    assert vm.ends_at == before + 2 * MINUTE
    assert vm.lease()["end_date"] == f"{before + 2 * MINUTE:%Y-%m-%dT%H:%M}:00.000000"
    vm.delete()


#: What an owner writes into their lease, one after the other; see BLAZAR's API version 1.
ATTACKS: dict[str, list[dict[str, Any]]] = {
    "ownership": [
        {"project_id": "0" * 32},
        {"user_id": "0" * 32},
        {"trust_id": "a trust that is none"},
    ],
    "dates": [
        {"start_date": "2020-01-01 00:00"},
        {"start_date": "2999-01-01 00:00"},
        {"before_end_date": "2999-01-01 00:00"},
        {"before_end_date": "2020-01-01 00:00"},
        {"end_date": "2020-01-01 00:00"},
        {"end_date": "soon"},
        {"created_at": "2020-01-01 00:00"},
    ],
    "status": [{"degraded": True}, {"status": "TERMINATED"}, {"status": "PENDING"}],
    "no end": [{"end_date": None}],
    "no events": [{"events": []}],
    "no reservations": [{"reservations": []}, {"reservations": None}],
    "another id": [{"id": "11111111-2222-3333-4444-555555555555"}],
}


def essence(lease: dict[str, Any]) -> dict[str, Any]:
    """Leave of a lease what matters: whose, from when to when, of what, and that it will end."""
    kept = ("id", "project_id", "user_id", "trust_id", "start_date", "end_date", "status")
    return {
        **{key: lease[key] for key in (*kept, "degraded")},
        "reservations": [
            (r["resource_id"], r["resource_type"], r["status"]) for r in lease["reservations"]
        ],
        "events": sorted(
            # The event before the end comes and goes while this is being looked at.
            (e["event_type"], e["status"] if e["event_type"] != "before_end_lease" else "")
            for e in lease["events"]
        ),
    }


@pytest.mark.parametrize("kind", ATTACKS)
def test_what_an_owner_writes_into_their_lease_changes_nothing(calm: Cloud, kind: str) -> None:
    vm = calm.boot(f"attacked: {kind}")
    lease = essence(vm.lease())
    ends_at = vm.ends_at
    for values in ATTACKS[kind]:
        answer = vm.put_lease(**values)

        def as_it_was() -> bool:
            return essence(vm.lease()) == lease

        wait_for(
            f"the lease of {vm} as it was before {values}",
            as_it_was,
            60 / 3,
            every=1,
            shown=lambda answer=answer: f"{answer}: {vm.lease()}",  # type: ignore[misc]
        )
        assert vm.ends_at == ends_at
    vm.wait_for_end()
    assert utcnow() >= ends_at
    assert "moved" not in vm.events()
    assert len(vm.mails("restored")) <= 1


def test_a_deleted_lease_is_put_back_and_its_owner_told_once(calm: Cloud) -> None:
    vm = calm.boot("lease deleted")
    ends_at = vm.ends_at
    deleted = set()
    for _ in range(2):
        lease_id = str(vm.row().lease_id)
        deleted.add(lease_id)
        answer = calm.alice.request("reservation", "DELETE", f"/leases/{lease_id}")
        assert answer.status in (200, 204), answer

        def put_back() -> dict[str, Any] | None:
            lease = vm.lease_in_list()
            return lease if lease and lease["id"] not in deleted else None

        lease = wait_for(f"a new lease of {vm}", put_back, 20, every=1)
        assert lease["status"] == "ACTIVE"
        assert lease["end_date"] == f"{ends_at:%Y-%m-%dT%H:%M}:00.000000"
    vm.wait_for_mail("restored", 20)
    assert vm.status == "ACTIVE"
    vm.wait_for_end()
    assert len(vm.mails("restored")) == 1
    assert vm.events().count("lease_put_back") == 2


def owner_of(vm: Vm) -> tuple[str, str]:
    """Say whose lease it is."""
    lease = vm.lease()
    return lease["project_id"], lease["user_id"]


def test_a_lease_given_away_comes_back(calm: Cloud) -> None:
    """Bob, whom Alice gives her lease to, can do no more with it than Alice."""
    vm = calm.boot("given away")
    ends_at, mine = vm.ends_at, owner_of(vm)
    theirs = {"project_id": calm.bob.project_id, "user_id": calm.bob.user_id}
    assert vm.put_lease(**theirs).status == 200
    answer = vm.put_lease(calm.bob, end_date=utcnow() + datetime.timedelta(days=1))
    assert answer.status in (400, 403), answer
    wait_for("the lease of its owner", lambda: owner_of(vm) == mine, 20, every=1)
    assert vm.ends_at == ends_at
    assert vm.put_lease(calm.bob, end_date=ends_at + MINUTE).status == 403
    vm.delete()


def ask_for_lease(vm: Vm, account: Account | None = None, **values: Any) -> Answer:
    """POST a lease for a VM, as its owner unless said otherwise."""
    dates = {"end_date": values.pop("end_date")}
    body = {
        "name": f"of {vm.name}",
        "start_date": "now",
        "events": [],
        "reservations": [{"resource_type": "virtual:vm", "server_id": vm.id, **values}],
        **dates_written(dates),
    }
    return (account or vm.owner).request("reservation", "POST", "/leases", body)


def leases_of(vm: Vm) -> list[dict[str, Any]]:
    """List a VM's leases, as an administrator sees them."""
    return [
        lease
        for lease in vm.cloud.admin.get("reservation", "/leases")["leases"]
        if vm.id in [r["resource_id"] for r in lease["reservations"]]
    ]


def wait_for_lease(vm: Vm, lease_id: str) -> dict[str, Any]:
    """Wait until a VM has this lease, and return it."""
    wait_for(f"lease {lease_id} of {vm}", lambda: vm.row().lease_id == lease_id, 40, every=1)
    lease = vm.lease()
    assert (lease["status"], lease["trust_id"]) == ("ACTIVE", None)
    return lease


@pytest.mark.long
def test_an_owner_makes_a_lease_of_their_own(calm: Cloud) -> None:
    vm = calm.boot("explicit")
    implicit, mine = str(vm.row().lease_id), owner_of(vm)
    new_end = in_minutes(6)
    too_far(ask_for_lease(vm, end_date=utcnow() + datetime.timedelta(days=365)))
    stranger = ask_for_lease(vm, calm.bob, end_date=new_end)
    assert (stranger.status, "not one of your project's" in stranger.message) == (400, True)
    wrong = ask_for_lease(vm, end_date=new_end, on_end_action="notification")
    assert (wrong.status, "it can be snapshot or delete" in wrong.message) == (400, True), wrong
    assert [lease["id"] for lease in leases_of(vm)] == [implicit]

    made = ask_for_lease(vm, end_date=new_end).body["lease"]
    lease = wait_for_lease(vm, made["id"])
    assert owner_of(vm) == mine
    assert [r["id"] for r in lease["reservations"]] == [r["id"] for r in made["reservations"]]
    assert vm.ends_at == new_end
    assert calm.admin.request("reservation", "GET", f"/leases/{implicit}").status == 404
    second = ask_for_lease(vm, end_date=new_end)
    assert (second.status, "already has lease" in second.message) == (409, True), second
    # It is extended like any other.
    vm.move_end(new_end + MINUTE)

    answer = calm.alice.request("reservation", "DELETE", f"/leases/{made['id']}")
    assert answer.status in (200, 204), answer
    wait_for(f"an implicit lease of {vm}", lambda: vm.row().lease_id != made["id"], 20, every=1)
    assert vm.lease()["name"].endswith(vm.id)
    assert vm.ends_at == new_end + MINUTE
    vm.wait_for_mail("restored", 20)
    vm.delete()


@pytest.mark.long
def test_a_vm_ends_as_its_owner_chose(calm: Cloud) -> None:
    vm = calm.boot("explicit end")
    ends_at = in_minutes(4)
    made = ask_for_lease(vm, end_date=ends_at, on_end_action="delete").body["lease"]
    wait_for_lease(vm, made["id"])
    (reservation,) = made["reservations"]
    # By the reservation's id what was chosen can be changed, and nothing else.
    for values, status in (
        ({"resource_id": calm.alice.user_id}, 400),
        ({"on_end_action": "snapshot"}, 200),
        ({"on_end_action": "delete"}, 200),
    ):
        answer = vm.put_lease(reservations=[{"id": reservation["id"], **values}])
        assert answer.status == status, answer
    assert vm.lease()["status"] == "ACTIVE"
    vm.wait_for_end()
    assert utcnow() >= ends_at
    assert images_of(calm, vm) == []
