# SPDX-License-Identifier: Apache-2.0
"""Rules that decide which VMs expire, and on what terms, in a real Blazar."""

from __future__ import annotations

import logging
import pathlib
from collections.abc import Callable
from datetime import timedelta

import pytest

from blazar_vmexpire import RESOURCE_TYPE
from blazar_vmexpire.db.models import expirations, projects
from blazar_vmexpire.exceptions import ConfigError
from blazar_vmexpire.lifecycle import State
from tests.functional.world import World

#: Slow; what it asks of a database, others ask of each kind.
pytestmark = pytest.mark.databases("sqlite")

Use = Callable[[str], None]

OPTED_IN = """
rules:
  - name: personal
    match: {project_enabled: true, project_properties: {expire: "on", type: personal}}
    set: {lease_duration: 30d, extension_duration: 20d, quarantine: 5d}
  - name: everything else
    set: {expire: false}
"""

BY_FLAVOR = """
rules:
  - name: gpu
    match: {flavor: "gpu.*"}
    set: {lease_duration: 14d, on_end_action: snapshot}
"""


@pytest.fixture
def use(world: World, tmp_path: pathlib.Path) -> Use:
    """Put a rules file in place, and send SIGHUP."""
    path = tmp_path / "rules.yaml"
    plugin = world.harness.plugin
    plugin.tools.conf.set_override("rules_file", str(path), RESOURCE_TYPE)

    def put(text: str) -> None:
        path.write_text(text)
        plugin.service.reload(plugin.tools.conf, {})
        world.harness.work()

    return put


def term(world: World, server_id: str) -> timedelta:
    """Say how long after its adoption a VM's lease ends, according to us and to Blazar."""
    row = world.row(server_id)
    assert row.ends_at is not None
    assert row.adopted_at is not None
    assert world.lease(server_id).end_date == row.ends_at
    return row.ends_at - row.adopted_at


def reconcile(world: World) -> None:
    """Let the time of the next reconciliation come."""
    world.clock.advance(minutes=16)
    world.harness.work()


def test_a_vm_has_the_terms_of_the_first_rule_that_matches(world: World, use: Use) -> None:
    use(BY_FLAVOR)
    gpu = world.adopt("gpu1", flavor="gpu.large")
    web = world.adopt("web1")
    assert term(world, gpu) == timedelta(days=14)
    assert term(world, web) == timedelta(days=60)
    row = world.row(gpu)
    assert (row.rule, row.on_end_action) == ("gpu", "snapshot")
    assert world.row(web).rule is None
    assert world.history(gpu)[0][1]["rule"] == "gpu"


def test_reconciliation_gives_the_same_terms(world: World, use: Use) -> None:
    use(BY_FLAVOR)
    gpu = world.boot("gpu1", flavor="gpu.large")
    reconcile(world)
    assert term(world, gpu) >= timedelta(days=14)
    assert term(world, gpu) < timedelta(days=60)
    assert world.row(gpu).rule == "gpu"


def test_the_end_comes_as_the_rule_says(world: World, use: Use) -> None:
    use(BY_FLAVOR)
    gpu = world.adopt("gpu1", flavor="gpu.large")
    web = world.adopt("web1")
    world.live(world.clock.now() + timedelta(days=15))
    assert gpu not in world.cloud.compute.vms
    assert web in world.cloud.compute.vms
    (image,) = world.cloud.image.images.values()
    assert image["vmexpire_server_id"] == gpu


def test_only_projects_that_opted_in_expire(world: World, use: Use) -> None:
    personal = world.cloud.add_project("personal alice", expire="on", type="personal")
    use(OPTED_IN)
    inside = world.adopt("mine", project_id=personal)
    outside = world.adopt("ours")
    assert term(world, inside) == timedelta(days=30)
    assert world.row_or_none(outside) is None
    reconcile(world)
    assert world.row_or_none(outside) is None
    assert len(world.all_leases()) == 1


def test_a_project_that_opts_in_or_out_later_is_followed(world: World, use: Use) -> None:
    use(OPTED_IN)
    server_id = world.adopt()
    assert world.row_or_none(server_id) is None
    world.cloud.identity.projects[world.alpha] |= {"expire": "on", "type": "personal"}
    reconcile(world)
    assert world.state(server_id) == "active"
    del world.cloud.identity.projects[world.alpha]["expire"]
    reconcile(world)
    assert world.state(server_id) == "exempt"
    assert world.all_leases() == []
    assert world.history(server_id)[-1][1]["reason"] == "rule 'everything else' says so"
    world.cloud.identity.projects[world.alpha]["expire"] = "on"
    back_at = world.clock.now()
    reconcile(world)
    assert world.state(server_id) == "active"
    assert world.row(server_id).ends_at >= back_at + timedelta(days=30)


def test_a_project_that_is_disabled_is_left_out(world: World, use: Use) -> None:
    personal = world.cloud.add_project("personal alice", expire="on", type="personal")
    use(OPTED_IN)
    server_id = world.adopt(project_id=personal)
    world.cloud.identity.projects[personal]["enabled"] = False
    reconcile(world)
    assert world.state(server_id) == "exempt"


@pytest.mark.parametrize("fault", [{"status": 503}, {"close": True}, {"truncate": True}])
def test_while_keystone_does_not_say_nobody_is_let_go(
    world: World, use: Use, fault: dict[str, object]
) -> None:
    personal = world.cloud.add_project("personal alice", expire="on", type="personal")
    use(OPTED_IN)
    server_id = world.adopt(project_id=personal)
    broken = world.cloud.fault("/identity/v3/projects", method="GET", **fault)
    for _ in range(3):
        reconcile(world)
    assert world.state(server_id) == "active"
    broken.remove()
    reconcile(world)
    assert world.state(server_id) == "active"
    assert term(world, server_id) == timedelta(days=30)


def test_a_list_of_projects_that_is_cut_short_says_nothing(world: World, use: Use) -> None:
    personal = world.cloud.add_project("personal alice", expire="on", type="personal")
    use(OPTED_IN)
    server_id = world.adopt(project_id=personal)
    world.cloud.identity.list_limit = 1
    reconcile(world)
    assert world.state(server_id) == "active"
    # It was asked for by itself.
    assert world.cloud.requests(f"/v3/projects/{personal}$")


def test_a_longer_first_term_applies_at_once(world: World, use: Use) -> None:
    server_id = world.adopt()
    lease_id = world.row(server_id).lease_id
    use("rules: [{name: long, set: {lease_duration: 90d}}]")
    assert term(world, server_id) == timedelta(days=90)
    assert world.row(server_id).lease_id == lease_id
    assert world.mails == []
    assert "long" in world.history(server_id)[-1][1]["reason"]


def test_a_longer_first_term_gives_a_quarantined_vm_back(world: World, use: Use) -> None:
    use("rules: [{name: strict, set: {lease_duration: 30d, quarantine: 7d}}]")
    server_id = world.adopt()
    world.live(world.clock.now() + timedelta(days=24))
    assert world.state(server_id) == "quarantined"
    assert world.cloud.compute.vms[server_id].vm_state == "stopped"
    use("rules: [{name: strict, set: {lease_duration: 60d, quarantine: 7d}}]")
    world.settle()
    assert world.state(server_id) == "active"
    vm = world.cloud.compute.vms[server_id]
    assert (vm.vm_state, vm.locked) == ("active", False)
    assert term(world, server_id) == timedelta(days=60)


def test_a_shorter_first_term_applies_and_its_owner_is_told(world: World, use: Use) -> None:
    server_id = world.adopt()
    use("rules: [{name: short, set: {lease_duration: 30d}}]")
    world.settle()
    assert term(world, server_id) == timedelta(days=30)
    (mail,) = world.mails
    assert mail["To"] == "alice@example.org"
    assert "earlier than planned" in mail["Subject"]
    assert "a first term is 30d now (rule 'short')" in " ".join(mail.get_content().split())


def test_a_shorter_term_never_cuts_below_minimum_notice(world: World, use: Use) -> None:
    server_id = world.adopt()
    world.live(world.clock.now() + timedelta(days=45))
    use("rules: [{name: short, set: {lease_duration: 30d}}]")
    changed_at = world.clock.now()
    world.settle()
    ends_at = world.row(server_id).ends_at
    assert ends_at is not None
    assert changed_at + timedelta(days=2) <= ends_at <= changed_at + timedelta(days=2, hours=3)
    world.live(ends_at - timedelta(minutes=5))
    assert server_id in world.cloud.compute.vms
    world.live(ends_at + timedelta(minutes=5))
    assert server_id not in world.cloud.compute.vms
    told = min(n.accepted_at for n in world.notices(server_id) if n.accepted_at)
    assert ends_at - told >= timedelta(days=2)


def test_an_end_that_somebody_moved_stays(world: World, use: Use) -> None:
    server_id = world.adopt()
    chosen = world.clock.now() + timedelta(days=65)
    world.clock.advance(days=40)
    assert world.update(server_id, end_date=chosen).status_code == 200
    world.settle()
    use("rules: [{name: short, set: {lease_duration: 10d}}]")
    world.settle()
    assert world.row(server_id).ends_at == chosen
    assert world.row(server_id).rule == "short"


def test_the_cap_is_the_rules(world: World, use: Use) -> None:
    use("rules: [{name: short, match: {flavor: 'gpu*'}, set: {extension_duration: 5d}}]")
    server_id = world.adopt(flavor="gpu1")
    world.clock.advance(days=57)
    answer = world.update(server_id, end_date=world.clock.now() + timedelta(days=6))
    assert answer.status_code == 400
    assert "extension_duration 5d" in answer.json["error_message"]
    answer = world.update(server_id, end_date=world.clock.now() + timedelta(days=5))
    assert answer.status_code == 200


def test_who_was_told_of_another_action_is_told_anew(world: World, use: Use) -> None:
    """Nobody whose VM was to be saved finds it deleted without having been told so."""
    use("rules: [{name: kind, set: {on_end_action: snapshot}}]")
    server_id = world.adopt()
    ends_at = world.row(server_id).ends_at
    assert ends_at is not None
    world.live(ends_at - timedelta(hours=30))
    assert world.state(server_id) == "noticed"
    world.mail.forget()
    use("rules: [{name: kind, set: {on_end_action: delete}}]")
    changed_at = world.clock.now()
    world.settle()
    (mail,) = world.mails
    assert "No image of the VM will be taken" in " ".join(mail.get_content().split())
    world.live(changed_at + timedelta(hours=47))
    assert server_id in world.cloud.compute.vms
    world.live(changed_at + timedelta(days=3))
    assert server_id not in world.cloud.compute.vms
    assert world.cloud.image.images == {}


def test_a_broken_file_leaves_the_rules_as_they_were(
    world: World, use: Use, caplog: pytest.LogCaptureFixture
) -> None:
    use(BY_FLAVOR)
    with caplog.at_level(logging.ERROR):
        use("rules:\n  - name: gpu\n    set: {lease_duration: soon}\n")
    (line,) = [r.getMessage() for r in caplog.records if "rules" in r.getMessage().lower()]
    assert "rules.yaml, line 3, rule 'gpu'" in line
    assert "'soon'" in line
    assert term(world, world.adopt(flavor="gpu.large")) == timedelta(days=14)


def test_a_broken_file_stops_the_start(world: World, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text("rules: [{name: gpu, set: {quarantine: 100d}}]")
    world.harness.plugin.tools.conf.set_override("rules_file", str(path), RESOURCE_TYPE)
    with pytest.raises(ConfigError, match=r"rules\.yaml, line 1, rule 'gpu': .*quarantine"):
        world.harness.restart()
    path.unlink()
    with pytest.raises(ConfigError, match=r"rules\.yaml: it cannot be read"):
        world.harness.restart()


def test_an_owner_can_only_tighten(world: World, use: Use) -> None:
    use(
        "rules:\n"
        "  - {name: less, match: {server_metadata: {life: short}}, set: {lease_duration: 10d}}\n"
        "  - {name: more, match: {server_metadata: {life: long}}, set: {lease_duration: 900d}}\n"
    )
    assert term(world, world.adopt(metadata={"life": "short"})) == timedelta(days=10)
    assert term(world, world.adopt(metadata={"life": "long"})) == timedelta(days=60)


def test_what_an_owner_edits_later_counts_from_the_next_reconciliation(
    world: World, use: Use
) -> None:
    use("rules: [{name: s, match: {server_tags: [tmp]}, set: {lease_duration: 10d}}]")
    server_id = world.adopt()
    assert term(world, server_id) == timedelta(days=60)
    world.cloud.compute.vms[server_id].tags.append("tmp")
    reconcile(world)
    assert term(world, server_id) == timedelta(days=10)


def test_each_vm_ends_as_its_own_rule_says(world: World, use: Use) -> None:
    use(
        "rules:\n"
        "  - {name: saved, match: {flavor: gpu}, set: {on_end_action: snapshot}}\n"
        "  - {name: gone, set: {on_end_action: delete}}\n"
    )
    flavors = ["gpu", "m1"]
    ids = [world.boot(f"vm{n}", flavor=flavors[n % 2]) for n in range(6)]
    for server_id in ids:
        world.see(server_id)
    world.live(world.clock.now() + timedelta(days=61))
    assert world.cloud.compute.vms == {}
    saved = {image["vmexpire_server_id"] for image in world.cloud.image.images.values()}
    assert saved == set(ids[::2])


@pytest.mark.options({RESOURCE_TYPE: {"adoption_spread": "0"}})
def test_rows_from_before_an_upgrade_are_looked_at_before_rules_are_asked(
    world: World, use: Use
) -> None:
    server_id = world.adopt(flavor="gpu")
    world.wreck(
        expirations,
        expirations.c.server_id == server_id,
        facts=None,
        facts_digest=None,
        rule=None,
        terms_digest=None,
        on_end_action=None,
        term_seconds=None,
    )
    with world.harness.database.begin() as connection:
        connection.execute(projects.delete())
    use(
        "rules:\n"
        "  - {name: gpus, match: {flavor: gpu}, set: {lease_duration: 61d}}\n"
        "  - {name: rest, set: {expire: false}}\n"
    )
    assert world.state(server_id) == State.ACTIVE
    reconcile(world)
    assert world.state(server_id) == State.ACTIVE
    assert world.row(server_id).rule == "gpus"
    # Nobody knows what its end follows from: it stays.
    assert term(world, server_id) == timedelta(days=60)
