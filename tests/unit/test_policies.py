# SPDX-License-Identifier: Apache-2.0
"""The rules of the policy: registered with Blazar's own, and each of them makes sense there."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Any

import pytest
from blazar import context
from blazar import policy as blazar_policy
from oslo_config import cfg

from blazar_vmexpire.api import policies

RULES = [rule.name for rule in policies.list_rules()]


@pytest.fixture(autouse=True)
def enforcer() -> Iterator[Any]:
    """Blazar's own enforcer, with our rules in it."""
    cfg.CONF([], project="blazar", default_config_files=[], default_config_dirs=[])
    policies.register()
    policies.register()  # as when the manager is restarted in one process
    yield blazar_policy._ENFORCER
    blazar_policy.reset()
    cfg.CONF.reset()


def test_every_rule_resolves(enforcer: Any) -> None:
    enforcer.load_rules()
    assert enforcer.check_rules(raise_on_violation=True)
    assert set(RULES) <= set(enforcer.rules)


def test_the_sample_generator_finds_them() -> None:
    (found,) = entry_points(group="oslo.policy.policies", name="blazar_vmexpire")
    assert [rule.name for rule in found.load()()] == RULES


@pytest.mark.parametrize("rule", policies.list_rules(), ids=lambda rule: rule.name)
def test_every_rule_says_what_it_is_about(rule: Any) -> None:
    assert rule.name.startswith("blazar:vm_expiration")
    assert rule.description
    assert rule.scope_types == ["project"]
    for operation in rule.operations:
        assert operation["path"].startswith("/v1/vm-expiration")


@pytest.mark.parametrize(
    ("who", "may"),
    [
        ({"project_id": "alpha", "roles": ["member", "reader"]}, True),
        ({"project_id": "alpha", "roles": ["reader"]}, False),
        ({"project_id": "alpha", "roles": []}, False),
        ({"project_id": "beta", "roles": ["member", "reader"]}, False),
        ({"project_id": "beta", "roles": ["admin"]}, True),
        ({"project_id": None, "roles": ["member"]}, False),
        ({"project_id": None, "system_scope": "all", "roles": ["admin"]}, False),
    ],
    ids=str,
)
def test_who_may_extend(who: dict[str, Any], may: bool) -> None:
    caller = context.BlazarContext(**who)
    target = {"project_id": "alpha", "user_id": "alice"}
    assert bool(blazar_policy.enforce(caller, policies.EXTEND, target, do_raise=False)) is may
