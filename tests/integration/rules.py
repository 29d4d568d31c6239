# SPDX-License-Identifier: Apache-2.0
"""The rules file of the calm sandbox.

It has copies of the ready-made files, with minutes for days, and the rules of single scenarios,
from ``rules.yaml``. Each of the copies is about flavors or projects of its own, so that no other
scenario is touched: those are in project alpha or beta, which are left on the terms of the options.
"""

from __future__ import annotations

from pathlib import Path

import yaml

ETC = Path(__file__).resolve().parents[2] / "etc"

#: Projects of other scenarios.
OTHERS = ["alpha", "beta"]
#: Project of the scenario on os-vm-expire's terms.
GENOUEST = "genouest"

#: What stands in etc/cern.yaml, and what stands for it here.
CERN = {
    "180d": "5m",
    "888": "0.065",
    "[14d, 8d, 1d]": "[3m, 150s, 1m]",
    "7d": "90s",
}
#: The same of etc/os-vm-expire.yaml.
OS_VM_EXPIRE = {
    "60d": "4m",
    "30d": "3m",
    "365d": "6m",
    "240": "0.055",
    "[2d]": "[2m]",
}
#: The same of etc/gpu.yaml.
GPU = {
    "14d": "4m",
    "7d": "3m",
    "90d": "6m",
    "96": "0.06",
    "[2d, 1d]": "[2m, 1m]",
}


def copy(name: str, instead: dict[str, str]) -> list[dict[str, object]]:
    """Read a ready-made file with other values in it; each that is replaced has to be there."""
    text = (ETC / name).read_text()
    for value, other in instead.items():
        assert f": {value}\n" in text, f"{name} has no {value}"
        text = text.replace(f": {value}\n", f": {other}\n")
    rules: list[dict[str, object]] = yaml.safe_load(text)["rules"]
    return rules


def write(path: Path) -> None:
    """Write the rules of the calm sandbox."""
    others = {"name": "other scenarios", "match": {"project_name": OTHERS}}
    genouest = [
        {**rule, "name": f"os-vm-expire {rule['name']}", "match": {"project_name": GENOUEST}}
        for rule in copy("os-vm-expire.yaml", OS_VM_EXPIRE)
    ]
    single = yaml.safe_load(Path(__file__).with_name("rules.yaml").read_text())["rules"]
    # Before all that is said of projects: it is about flavors, which nobody else uses.
    rules = [*copy("gpu.yaml", GPU), *single, others, *genouest, *copy("cern.yaml", CERN)]
    path.write_text(yaml.safe_dump({"rules": rules}, sort_keys=False))
