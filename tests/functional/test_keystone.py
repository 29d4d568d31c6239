# SPDX-License-Identifier: Apache-2.0
"""Users and projects in Keystone, and how long they are remembered."""

from __future__ import annotations

import uuid

import pytest
from oslo_config import cfg

from blazar_vmexpire import cloud
from blazar_vmexpire.cloud import errors, session
from blazar_vmexpire.cloud.keystone import Keystone
from tests.fakes.cloud import FakeCloud
from tests.functional.adapters import adapters, conf, configure, fake

__all__ = ["adapters", "conf", "configure", "fake"]


def test_a_user_and_a_project(fake: FakeCloud, adapters: cloud.Cloud) -> None:
    user = adapters.keystone.get_user(
        fake.add_user("alice", email="alice@example.org", domain_id="d1")
    )
    assert (user.name, user.email, user.domain_id, user.enabled) == (
        "alice",
        "alice@example.org",
        "d1",
        True,
    )
    assert adapters.keystone.get_user(fake.add_user("bob", email=" ")).email is None
    project = adapters.keystone.get_project(
        fake.add_project("web", enabled=False, tags=["x"], expire="on", type="personal")
    )
    assert project.properties == {"expire": "on", "type": "personal"}
    assert (project.name, project.enabled, project.tags) == ("web", False, ("x",))


@pytest.mark.parametrize("kind", ["user", "project"])
def test_keystones_404(fake: FakeCloud, adapters: cloud.Cloud, kind: str) -> None:
    get = getattr(adapters.keystone, f"get_{kind}")
    with pytest.raises(errors.NotFound, match=f"404 Could not find {kind}"):
        get(uuid.uuid4().hex)
    fake.fault(f"/{kind}s/", status=404, message=f"Could not find {kind}: jdoe.")
    with pytest.raises(errors.NotFound):
        get(uuid.uuid4().hex)
    fake.fault(f"/{kind}s/", status=404, message="The requested URL was not found.")
    with pytest.raises(errors.Unavailable):
        get(uuid.uuid4().hex)


def test_users_and_projects_are_remembered_for_a_minute(
    fake: FakeCloud, conf: cfg.ConfigOpts
) -> None:
    now = 0.0
    keystone = Keystone(session.make_session(conf), session.endpoints(conf), clock=lambda: now)
    user_id = fake.add_user("alice", email="old@example.org")
    project_id = fake.add_project("web")
    for _ in range(5):
        assert keystone.get_user(user_id).email == "old@example.org"
        keystone.get_project(project_id)
    assert len(fake.requests("/users/|/projects/")) == 2
    fake.identity.users[user_id]["email"] = "new@example.org"
    now = 59.0
    assert keystone.get_user(user_id).email == "old@example.org"
    now = 61.0
    assert keystone.get_user(user_id).email == "new@example.org"


def test_what_was_not_found_is_not_remembered(fake: FakeCloud, adapters: cloud.Cloud) -> None:
    user_id = fake.add_user("alice")
    user = fake.identity.users.pop(user_id)
    with pytest.raises(errors.NotFound):
        adapters.keystone.get_user(user_id)
    fake.identity.users[user_id] = user
    assert adapters.keystone.get_user(user_id).name == "alice"
