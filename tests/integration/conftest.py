# SPDX-License-Identifier: Apache-2.0
"""Three sandboxes: a calm one, a rough one for what kills, stops or reconfigures, and a real one.

A test takes the fixture ``calm``, ``rough`` or ``real``, and no other, and runs side by side with
all others on that sandbox: see ``stage.py``. The real one, which has real guests, starts when the
first test that takes it comes: not together with the others.
"""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration import dashboard, rules
from tests.integration import stage as stages_module
from tests.integration.cloudlib import Cloud
from tests.integration.stage import Scenario, Stage
from tools.sandbox import Sandbox

#: Terms of minutes, where a cloud has days.
_TERMS = [
    "virtual:vm.extension_duration=10m",
    "virtual:vm.hours_before_end_lease=0.025",
    "virtual:vm.minimum_notice=1m",
    "virtual:vm.adoption_spread=0",
    "virtual:vm.on_end_action=snapshot",
    "vmexpire_worker.audit_interval=5s",
    "vmexpire_worker.blazar_grace=10s",
    "vmexpire_worker.busy_postponement=1m",
    "vmexpire_worker.claim_duration=10s",
    "vmexpire_worker.retry_interval=1s",
    "vmexpire_worker.retry_max_interval=4s",
    "vmexpire_mail.max_refusals=2",
    "vmexpire_mail.timeout=3s",
]
CALM = [
    *_TERMS,
    "virtual:vm.lease_duration=3m",
    "virtual:vm.allowed_actions=delete",
    "vmexpire_intake.reconcile_interval=20s",
]
ROUGH = [*_TERMS, "virtual:vm.lease_duration=2m", "vmexpire_intake.reconcile_interval=15s"]

REAL = CALM

SETTINGS = {"calm": CALM, "rough": ROUGH, "real": REAL}

_PREFIX = "vmexpire-it-"
_STAGES = pytest.StashKey[dict[str, Stage]]()


def pytest_configure(config: pytest.Config) -> None:
    """Tell pytest of our mark."""
    dashboard.pictures = bool(config.getoption("--pictures"))
    config.addinivalue_line("markers", "horizon: the sandbox of this test is to have Horizon, too")


@pytest.fixture(scope="session")
def home(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A directory for sandboxes; it stays when a test failed."""
    _remove_leftovers()
    directory = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
    yield directory
    if not request.session.testsfailed:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def _stages(request: pytest.FixtureRequest, home: Path) -> Iterator[dict[str, Stage]]:
    """The stages that this session has tests for; closed at its end."""
    stages: dict[str, Stage] = {}
    request.config.stash[_STAGES] = stages
    before: Stage | None = None
    try:
        for name, settings in SETTINGS.items():
            items = [item for item in request.session.items if _stage_of(item) == name]
            if items:
                scenarios = [_scenario(item, name) for item in items]
                hypervisor = "libvirt" if name == "real" else "fake"
                if settings is CALM:
                    rules.write(home / "rules.yaml")
                    settings = [*settings, f"virtual:vm.rules_file={home / 'rules.yaml'}"]
                stages[name] = Stage(
                    name,
                    home / name,
                    settings,
                    scenarios,
                    hypervisor=hypervisor,
                    extras=["horizon"] if any(map(_needs_horizon, items)) else [],
                )
                if name != "real":
                    stages[name].open(after=before)
                    before = stages[name]
        yield stages
    finally:
        failed = request.session.testsfailed > 0
        for stage in stages.values():
            stage.close(keep=failed)


@pytest.fixture(scope="session")
def calm(_stages: dict[str, Stage]) -> Cloud:
    """A cloud in which nothing breaks."""
    return _stages["calm"].cloud.result()


@pytest.fixture(scope="session")
def rough(_stages: dict[str, Stage]) -> Cloud:
    """A cloud in which services are stopped, killed and reconfigured."""
    return _stages["rough"].cloud.result()


@pytest.fixture(scope="session")
def real(_stages: dict[str, Stage]) -> Cloud:
    """A cloud whose VMs are real guests, with disks that they write to."""
    _stages["real"].open()
    return _stages["real"].cloud.result()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Wait for the scenario, which runs already, instead of running it."""
    name = _stage_of(pyfuncitem)
    if name is None:
        return None
    scenario = pyfuncitem.config.stash[_STAGES][name].scenarios[pyfuncitem.name]
    try:
        scenario.outcome.result()
    finally:
        if scenario.evidence:
            pyfuncitem.add_report_section("call", "evidence", scenario.evidence)
    return True


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say how long each scenario took by itself, and where the logs of failures are."""
    stages = config.stash.get(_STAGES, {})
    if stages:
        terminalreporter.section("scenarios")
        for line in stages_module.describe(stages):
            terminalreporter.line(line)
        for stage in stages.values():
            if stage.directory.exists():
                terminalreporter.line(f"logs of the {stage.name} sandbox: {stage.directory}/log")


def _stage_of(item: pytest.Item) -> str | None:
    if Path(__file__).parent not in item.path.parents:
        return None
    names = [name for name in SETTINGS if name in getattr(item, "fixturenames", ())]
    return names[0] if names else None


def _needs_horizon(item: pytest.Item) -> bool:
    return item.get_closest_marker("horizon") is not None


def _scenario(item: pytest.Item, fixture: str) -> Scenario:
    assert isinstance(item, pytest.Function)
    values = dict(item.callspec.params) if hasattr(item, "callspec") else {}
    function = functools.partial(item.obj, **values)
    return Scenario(item.name, lambda cloud: function(**{fixture: cloud}))


def _remove_leftovers() -> None:
    """End the sandboxes of sessions that were killed."""
    for home in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        pid = home.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdigit() and not Path("/proc", pid).exists():
            for directory in home.iterdir():
                if (directory / "sandbox.json").exists():
                    Sandbox(directory, report=lambda line: None).down()
            shutil.rmtree(home, ignore_errors=True)
