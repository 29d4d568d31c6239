# SPDX-License-Identifier: Apache-2.0
"""The rules files in etc/, as they stand."""

from __future__ import annotations

import configparser
import datetime
from pathlib import Path
from typing import Any

import pytest

from blazar_vmexpire import RESOURCE_TYPE, rules
from blazar_vmexpire.lifecycle import agenda
from blazar_vmexpire.notices import KINDS
from blazar_vmexpire.rules import Decision
from tests.unit.test_rules import DEFAULTS, server

ETC = Path(__file__).resolve().parents[2] / "etc"
EXAMPLES = sorted(path.name for path in ETC.glob("*.yaml"))
DAY = datetime.timedelta(days=1)


def decide(example: str, **facts: Any) -> Decision:
    """Say what an example means for a VM."""
    return rules.load(ETC / example).decide(server(**facts), DEFAULTS)


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_makes_sense_with_the_options_as_they_come(example: str) -> None:
    rules.load(ETC / example).check(DEFAULTS, {"notification"}, {"delete", "snapshot"}, KINDS)


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_says_how_it_is_put_to_use_and_is_installed(example: str) -> None:
    head = (ETC / example).read_text().split("\nrules:")[0]
    assert all(line.startswith("#") or not line for line in head.splitlines())
    assert f"[{RESOURCE_TYPE}]" in head
    assert "rules_file = " in head
    setup = configparser.ConfigParser()
    setup.read(ETC.parent / "setup.cfg")
    assert f"etc/{example}" in setup["files"]["data_files"].split()


def test_cern_lets_only_opted_in_personal_projects_expire() -> None:
    decision = decide("cern.yaml")
    assert (decision.expires, decision.rule) == (True, "personal projects")
    for facts in (
        {"project_enabled": False},
        {"project_enabled": None, "project_properties": {}},
        {"project_properties": {"expire": "off", "type": "personal"}},
        {"project_properties": {"expire": "on", "type": "shared"}},
        {"project_properties": {"expire": "on"}},
        {"project_properties": {}},
    ):
        decision = decide("cern.yaml", **facts)
        assert (decision.expires, decision.rule) == (False, "everything else"), facts


def test_cern_tells_owners_before_it_stops_and_before_it_deletes() -> None:
    terms = decide("cern.yaml").terms
    assert (terms.lease_duration, terms.extension_duration) == (180 * DAY, 180 * DAY)
    plan = agenda(datetime.datetime(2027, 1, 31), terms)
    assert plan.quarantine_at == datetime.datetime(2027, 1, 24)
    before = [(plan.quarantine_at - reminder.at) // DAY for reminder in plan.reminders]
    assert before == [30, 7, 1, -6]
    assert terms.on_end_action == "delete"


def test_os_vm_expire_lets_every_server_expire() -> None:
    decision = decide("os-vm-expire.yaml", project_enabled=None, project_properties={})
    terms = decision.terms
    assert decision.expires
    assert (terms.lease_duration, terms.extension_duration) == (60 * DAY, 30 * DAY)
    assert (terms.max_total_duration, terms.quarantine) == (365 * DAY, 0 * DAY)
    assert (terms.first_notice, terms.reminders) == (10 * DAY, (2 * DAY,))
    assert terms.on_end_action == "delete"


@pytest.mark.parametrize(
    "facts",
    [
        {"flavor": "gpu.large"},
        {"flavor": "g2.xlarge"},
        {"flavor": "m1.gpu"},
        {"flavor": "m1-gpu-2"},
        {"flavor_extra_specs": {"pci_passthrough:alias": "a100-gpu:2"}},
        {"flavor_extra_specs": {"resources:VGPU": "1"}},
    ],
)
def test_gpus_live_shorter(facts: dict[str, Any]) -> None:
    decision = decide("gpu.yaml", **{"flavor_extra_specs": {}, **facts})
    assert decision.expires
    assert decision.terms.lease_duration == 14 * DAY
    assert decision.terms.on_end_action == DEFAULTS.on_end_action


@pytest.mark.parametrize("flavor", ["gpu.large", "m1.small"])
def test_of_a_vm_whose_owner_has_left_its_projects_people_are_told(flavor: str) -> None:
    decision = decide("gpu.yaml", flavor=flavor, flavor_extra_specs={})
    told = [str(contact) for contact in decision.mailing.contacts]
    assert told == ["project property owner_email", "role manager"]


@pytest.mark.parametrize("flavor", ["m1.small", "general.large", "GPU.large", "g.small"])
def test_what_has_no_gpu_is_as_the_options_say(flavor: str) -> None:
    decision = decide("gpu.yaml", flavor=flavor, flavor_extra_specs={"hw:cpu_policy": "dedicated"})
    assert (decision.expires, decision.rule, decision.terms) == (True, None, DEFAULTS)
