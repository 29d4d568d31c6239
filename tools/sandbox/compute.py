# SPDX-License-Identifier: Apache-2.0
"""nova-compute on Nova's own fake driver, made fit to be restarted and to take snapshots.

Run by the venv's python with nova-compute's arguments. Nova loads drivers from its own `nova.virt`
package only, so the driver below is put there, as `fake.SandboxDriver`, before Nova looks for it.
"""

from __future__ import annotations

import io
import sys

import nova.cmd.compute  # isort: skip - first, it decides between threads and eventlet
from nova import context as nova_context
from nova import objects
from nova.compute import power_state, task_states, vm_states
from nova.image import glance
from nova.virt import fake, node

# Servers that exist for Nova but have no guest on their host.
WITHOUT_GUEST = {vm_states.BUILDING, vm_states.DELETED, vm_states.SHELVED_OFFLOADED}

POWER_STATES = {
    vm_states.STOPPED: power_state.SHUTDOWN,
    vm_states.SHELVED: power_state.SHUTDOWN,
    vm_states.SOFT_DELETED: power_state.SHUTDOWN,
}


class SandboxDriver(fake.FakeDriver):
    """FakeDriver with an identity that lasts, guests that last, and snapshots with content."""

    def init_host(self, host):
        """Take the guests back from Nova's records: the fake ones live in this process only."""
        super().init_host(host)
        for instance in objects.InstanceList.get_by_host(nova_context.get_admin_context(), host):
            if instance.vm_state in WITHOUT_GUEST or instance.launched_at is None:
                continue
            self.spawn(None, instance, None, None, None, None)
            recorded = instance.power_state or power_state.RUNNING
            self.instances[instance.uuid].state = POWER_STATES.get(instance.vm_state, recorded)

    def get_nodenames_by_uuid(self, refresh=False):
        """The node's UUID from the file Nova keeps; FakeDriver's changes at every start."""
        return {node.get_local_node_uuid(): self.get_available_nodes()[0]}

    def get_available_resource(self, nodename):
        return super().get_available_resource(nodename) | {"uuid": node.get_local_node_uuid()}

    def snapshot(self, context, instance, image_id, update_task_state):
        """Upload some bytes through the states a real driver goes through.

        FakeDriver uploads nothing, and its images stay `queued` for ever.
        """
        update_task_state(task_state=task_states.IMAGE_PENDING_UPLOAD)
        if instance.uuid not in self.instances:
            super().snapshot(context, instance, image_id, update_task_state)  # raises
        update_task_state(
            task_state=task_states.IMAGE_UPLOADING,
            expected_state=task_states.IMAGE_PENDING_UPLOAD,
        )
        images = glance.API()
        image = images.get(context, image_id)
        metadata = {
            "name": image["name"],
            "status": "active",
            "disk_format": image.get("disk_format") or "raw",
            "container_format": image.get("container_format") or "bare",
            "properties": {},
        }
        disk = f"What the disk of server {instance.uuid} would hold.\n".encode() * 64
        images.update(context, image_id, metadata, io.BytesIO(disk), purge_props=False)


if __name__ == "__main__":
    fake.SandboxDriver = SandboxDriver
    sys.argv[0] = "nova-compute"
    sys.exit(nova.cmd.compute.main())
