# SPDX-License-Identifier: Apache-2.0
"""That the harness is a real Blazar: what other tests rely on when they say it answered."""

from __future__ import annotations

import datetime
import time
from typing import Any

import pytest
from blazar import policy
from blazar.db.sqlalchemy import facade_wrapper
from blazar.notification import notifier
from oslo_config import cfg
from oslo_utils import timeutils

from tests import blazar_harness, databases
from tests.blazar_harness import Api, Harness
from tests.fakes.cloud import FakeCloud


class Owner:
    """A user with one project and one VM in it, which has its lease."""

    def __init__(self, harness: Harness) -> None:
        self.user = harness.cloud.add_user("alice", email="alice@example.org")
        self.project = harness.cloud.add_project("alpha")
        self.server = harness.cloud.add_server(project_id=self.project, user_id=self.user)
        harness.work()
        self.api: Api = harness.api.as_user(self.user, self.project)

    @property
    def lease(self) -> dict[str, Any]:
        """The lease as the API shows it."""
        (lease,) = self.api.get("/v1/leases").json["leases"]
        return lease

    def extend(self, end_date: str) -> Any:
        """PUT a new end."""
        return self.api.put(f"/v1/leases/{self.lease['id']}", json={"end_date": end_date})


@pytest.fixture
def owner(harness: Harness) -> Owner:
    """A user whose VM has its lease."""
    return Owner(harness)


class TestApi:
    """Requests go through keystonemiddleware, Blazar's API, RPC, and the manager."""

    def test_an_owner_moves_the_end_of_their_lease(self, owner: Owner) -> None:
        answer = owner.extend("2026-04-01 12:00")

        assert answer.status_code == 200
        assert owner.lease["end_date"] == "2026-04-01T12:00:00.000000"
        assert owner.lease["status"] == "ACTIVE"

    def test_a_refusal_reaches_the_caller_in_its_own_words(self, owner: Owner) -> None:
        answer = owner.extend("2027-04-01 12:00")

        assert answer.status_code == 400
        assert "is past the latest allowed" in answer.json["error_message"]
        assert owner.lease["status"] == "ACTIVE"

    def test_a_request_without_a_valid_token_is_refused(self, harness: Harness) -> None:
        answer = harness.api.get("/v1/leases", headers={"X-Auth-Token": "made-up"})

        assert answer.status_code == 401

    def test_a_stranger_is_refused(self, harness: Harness, owner: Owner) -> None:
        stranger = harness.api.as_user(
            harness.cloud.add_user("bob"), harness.cloud.add_project("beta")
        )

        answer = stranger.get(f"/v1/leases/{owner.lease['id']}")

        assert answer.status_code == 403
        assert stranger.get("/v1/leases").json["leases"] == []

    def test_an_administrator_sees_all_leases(self, harness: Harness, owner: Owner) -> None:
        assert len(harness.api.as_admin().get("/v1/leases").json["leases"]) == 1

    @pytest.mark.databases("sqlite")
    def test_creating_a_lease_makes_a_trust(self, harness: Harness, owner: Owner) -> None:
        """What Blazar does with Keystone before the manager hears of the lease."""
        reservation = {"resource_type": "virtual:vm"}
        answer = owner.api.post(
            "/v1/leases",
            json={
                "name": "mine",
                "start_date": "now",
                "end_date": "2026-04-01 12:00",
                "reservations": [reservation],
            },
        )

        assert answer.status_code == 400
        assert "server_id" in answer.json["error_message"]
        (trust,) = harness.cloud.identity.trusts.values()
        assert trust["trustor_user_id"] == owner.user
        assert trust["project_id"] == owner.project

    @pytest.mark.databases("sqlite")
    @pytest.mark.options({"DEFAULT": {"rpc_response_timeout": 1}})
    def test_nobody_answers_while_the_manager_is_down(self, harness: Harness, owner: Owner) -> None:
        harness.stop()
        assert owner.api.get("/v1/leases").status_code == 500

        harness.start()
        assert owner.api.get("/v1/leases").status_code == 200


class TestTime:
    """One clock for Blazar and for us."""

    def test_stands_still(self, harness: Harness) -> None:
        assert harness.clock.now() == blazar_harness.START
        assert timeutils.utcnow() == blazar_harness.START
        assert harness.plugin.tools.clock() == blazar_harness.START

    def test_moves_both(self, harness: Harness) -> None:
        now = harness.clock.advance(days=3, hours=1)

        assert now == blazar_harness.START + datetime.timedelta(days=3, hours=1)
        assert timeutils.utcnow() == harness.plugin.tools.clock() == now

    def test_rings_the_bell(self, harness: Harness, owner: Owner) -> None:
        """Blazar's engine ends what is due, calls our hook, and publishes it."""
        end = datetime.datetime.fromisoformat(owner.lease["end_date"])
        harness.tick()
        assert owner.lease["status"] == "ACTIVE"

        harness.clock.set(end)
        harness.tick()

        assert owner.lease["status"] == "TERMINATED"
        assert "lease.event.end_lease" in [kind for kind, _ in harness.notifications]


class TestThreads:
    """Our own threads, as they run in blazar-manager."""

    pytestmark = pytest.mark.options({"vmexpire_intake": {"reconciliation": False}})

    def test_a_notification_of_novas_brings_a_lease(
        self, harness: Harness, cloud: FakeCloud
    ) -> None:
        user, project = cloud.add_user("alice", email="a@example.org"), cloud.add_project("alpha")
        api = harness.api.as_user(user, project)
        harness.poll()
        server = cloud.add_server(user_id=user, project_id=project)

        harness.notify("compute.instance.create.end", {"instance_id": server})

        deadline = time.monotonic() + 20
        while not (leases := api.get("/v1/leases").json["leases"]):
            assert time.monotonic() < deadline, "no lease"
        assert leases[0]["reservations"][0]["resource_id"] == server


class TestIsolation:
    """Nothing of one test is left for the next."""

    pytestmark = pytest.mark.databases("sqlite")

    def test_close_clears_blazars_globals(self, database_url: str, cloud: FakeCloud) -> None:
        harness = Harness(
            database_url, cloud, {"virtual:vm": {"extension_duration": "5m"}}, plugins=()
        )
        harness.close()

        assert facade_wrapper._engine_facade is None
        assert notifier.NOTIFIER is None
        assert policy._ENFORCER is None
        assert abs(timeutils.utcnow() - blazar_harness.START) > datetime.timedelta(days=1)
        assert cfg.CONF.manager.plugins == ["dummy.vm.plugin"]
        assert cfg.CONF["virtual:vm"].extension_duration == datetime.timedelta(days=30)

    def test_each_has_its_own_database(self, backend: databases.Backend, cloud: FakeCloud) -> None:
        for _ in range(2):
            harness = Harness(backend.create(), cloud)
            try:
                owner = Owner(harness)
                assert owner.lease["project_id"] == owner.project
                cloud.compute.vms.clear()
            finally:
                harness.close()

    def test_a_plugin_that_cannot_start_fails_the_test(
        self, database_url: str, cloud: FakeCloud
    ) -> None:
        with pytest.raises(Exception, match="undeliverable_contact"):
            Harness(database_url, cloud, {"virtual:vm": {"undeliverable_contact": None}})

        assert facade_wrapper._engine_facade is None
