# SPDX-License-Identifier: Apache-2.0
"""A real OpenStack on one machine, for the demonstration, the integration tests and CI.

from tools.sandbox import Sandbox

cloud = Sandbox("/some/dir")
cloud.up(port_offset=21000, settings=["virtual:vm.lease_duration=5m"])
cloud.restart("blazar-manager")
subprocess.run(["openstack", "server", "list"], env=cloud.env("alice"))
cloud.down(wipe=True)
"""

from __future__ import annotations

from tools.sandbox.control import Sandbox, ServiceStatus
from tools.sandbox.errors import SandboxError

__all__ = ["Sandbox", "SandboxError", "ServiceStatus"]
