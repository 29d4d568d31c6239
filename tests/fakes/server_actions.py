# SPDX-License-Identifier: Apache-2.0
"""What Nova does to its servers when it is asked to."""

from __future__ import annotations

import datetime
import json
import uuid
from typing import Any

from tests.fakes import wire
from tests.fakes.servers import Servers, Vm, error


class Actions(Servers):
    """What can be had done to a server; ``Compute.handle`` says by which name."""

    def _stop(self, vm: Vm, arguments: Any, token: Any) -> wire.Response:
        self._demand(vm, "stop", "active", "error")
        self._begin(vm, "powering-off", lambda: self._become(vm, "stopped"))
        return wire.Response(202)

    def _start(self, vm: Vm, arguments: Any, token: Any) -> wire.Response:
        self._demand(vm, "start", "stopped")
        self._begin(vm, "powering-on", lambda: self._become(vm, "active"))
        return wire.Response(202)

    def _unrescue(self, vm: Vm, arguments: Any, token: Any) -> wire.Response:
        self._demand(vm, "unrescue", "rescued")
        self._begin(vm, "unrescuing", lambda: self._become(vm, "active"))
        return wire.Response(202)

    def _lock(self, vm: Vm, arguments: Any, token: Any) -> wire.Response:
        vm.locked = True
        reason = (arguments or {}).get("locked_reason")
        vm.locked_reason = reason or vm.locked_reason
        return wire.Response(202)

    def _unlock(self, vm: Vm, arguments: Any, token: Any) -> wire.Response:
        vm.locked, vm.locked_reason = False, None
        return wire.Response(202)

    def _create_image(self, vm: Vm, arguments: Any, token: Any) -> wire.Response:
        self._demand(vm, "createImage", "active", "stopped", "paused", "suspended")
        project = token["project"]["id"]
        properties = {
            "image_type": "snapshot",
            "instance_uuid": vm.id,
            "user_id": token["user"]["id"],
            **arguments.get("metadata", {}),
        }
        if vm.image_id is None:
            mapping = []
            for number, volume_id in enumerate(vm.volumes):
                mapping.append({"snapshot_id": str(uuid.uuid4()), "boot_index": -number})
                self.cinder.disks[volume_id].snapshots.append(mapping[-1]["snapshot_id"])
            image_id = self.glance.add(
                name=arguments["name"],
                size=0,
                owner=project,
                bdm_v2="True",
                root_device_name="/dev/vda",
                block_device_mapping=json.dumps(mapping),
                **properties,
            )
        else:
            vm.task_state = "image_snapshot"
            image_id = self.glance.begin(
                arguments["name"],
                project,
                lambda: self._snapshot_done(vm),
                base_image_ref=vm.image_id,
                **properties,
            )
            vm.snapshot = image_id if vm.task_state else None
        return wire.Response(202, {"image_id": image_id})

    def _snapshot_done(self, vm: Vm) -> None:
        if vm.task_state == "image_snapshot":
            vm.task_state = None
        vm.snapshot = None

    def _live_migrate(self, vm: Vm, arguments: Any, token: Any) -> wire.Response:
        self._demand(vm, "os-migrateLive", "active", "paused")
        if arguments.keys() != {"host", "block_migration"}:
            return error(400, "Invalid input for field/attribute os-migrateLive.")
        host = arguments["host"]
        if host is not None and host not in self._all_hosts():
            return error(400, f"Compute host {host} could not be found.")
        migration = self._new_migration(vm, "live-migration", "accepted", token)
        self._begin(vm, "migrating", lambda: self._schedule(vm, migration, host, "completed"))
        return wire.Response(202)

    def _migrate(self, vm: Vm, arguments: Any, token: Any) -> wire.Response:
        self._demand(vm, "migrate", "active", "stopped")
        host = (arguments or {}).get("host")
        if host == vm.host:
            return error(400, "Cannot migrate to the host where the server exists.")
        if host is not None and host not in self._all_hosts():
            return error(400, f"Compute host {host} could not be found.")
        migration = self._new_migration(vm, "migration", "pre-migrating", token)
        self._begin(vm, "resize_prep", lambda: self._schedule(vm, migration, host, "finished"))
        return wire.Response(202)

    def _schedule(self, vm: Vm, migration: dict[str, Any], host: str | None, over: str) -> None:
        """Move a server at once, or give it up where no host takes it."""
        vm.task_state = None
        fit = self._all_hosts() - self.down_hosts - self.disabled_hosts - self.full_hosts
        fit = (fit - {vm.host}) & ({host} if host else fit)
        if not fit:
            migration["status"] = "error"
            return
        (target, *_) = sorted(fit)
        migration.update(status=over, dest_compute=target, dest_node=target)
        vm.host = target
        if over == "finished":
            vm.running, vm.vm_state = vm.vm_state == "active", "resized"

    def _confirm_resize(self, vm: Vm, arguments: Any, token: Any) -> wire.Response:
        self._demand(vm, "confirmResize", "resized")
        last = next((m for m in self.migrations[::-1] if m["instance_uuid"] == vm.id), None)
        if last is None or last["status"] != "finished":
            return error(400, "Instance has not been resized.")
        if last["source_compute"] in self.down_hosts:
            return error(409, "Service is unavailable at this time.")
        last["status"] = "confirming"

        def confirmed() -> None:
            last["status"] = "confirmed"
            self._become(vm, "active" if vm.running else "stopped")

        # Nothing tells of it but the migration.
        self._begin(vm, None, confirmed)
        return wire.Response(204)

    def _new_migration(self, vm: Vm, kind: str, status: str, token: Any) -> dict[str, Any]:
        now = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H:%M:%S.%f}"
        migration = {
            "id": len(self.migrations) + 1,
            "uuid": str(uuid.uuid4()),
            "instance_uuid": vm.id,
            "migration_type": kind,
            "status": status,
            "source_compute": vm.host,
            "source_node": vm.host,
            "dest_compute": None,
            "dest_node": None,
            "dest_host": None,
            "old_instance_type_id": 1,
            "new_instance_type_id": 1,
            "user_id": token["user"]["id"],
            "project_id": token["project"]["id"],
            "created_at": now,
            "updated_at": None,
        }
        self.migrations.append(migration)
        return migration

    def resize(self, server_id: str, project_id: str) -> dict[str, Any]:
        """Bring a server to VERIFY_RESIZE, as somebody of a project has resized it."""
        vm = self.vms[server_id]
        token = {"user": {"id": vm.user_id}, "project": {"id": project_id}}
        migration = self._new_migration(vm, "resize", "finished", token)
        migration.update(dest_compute=vm.host, dest_node=vm.host)
        vm.running, vm.vm_state = vm.vm_state == "active", "resized"
        return migration

    def _shelve(self, vm: Vm, arguments: Any, token: Any) -> wire.Response:
        self._demand(vm, "shelve", "active", "stopped", "paused", "suspended")
        if vm.image_id is None:
            # Its volume is all there is: it is off its host at once, whatever the configuration.
            self._begin(vm, "shelving", lambda: self._off_its_host(vm))
            return wire.Response(202)
        vm.task_state = "shelving"
        image_id = self.glance.begin(
            f"{vm.name}-shelved",
            token["project"]["id"],
            lambda: self._shelving_done(vm),
            base_image_ref=vm.image_id,
            image_type="snapshot",
            instance_uuid=vm.id,
            user_id=token["user"]["id"],
        )
        if vm.task_state:
            vm.task_state = "shelving_image_uploading"
            vm.snapshot = vm.shelved_image = image_id
        else:
            vm.shelved_image = image_id
        return wire.Response(202)

    def _shelving_done(self, vm: Vm) -> None:
        lost = vm.snapshot is not None and vm.snapshot not in self.glance.images
        vm.snapshot = None
        if lost:
            self.give_up_shelving(vm.id)
            return
        self._become(vm, "shelved")
        if self.shelved_offload_time == 0:
            self._begin(vm, "shelving_offloading", lambda: self._off_its_host(vm))

    def give_up_shelving(self, server_id: str) -> None:
        """Fail to make the image: the server was shut down for it; what there is of it stays."""
        vm = self.vms.get(server_id)
        if vm is None:
            return
        if vm.shelved_image is not None:
            self.glance.abandon(vm.shelved_image)
        vm.snapshot = vm.shelved_image = vm.then = None
        self._become(vm, "stopped" if vm.vm_state == "active" else vm.vm_state)

    def _off_its_host(self, vm: Vm) -> None:
        self._become(vm, "shelved_offloaded")
        vm.host = None

    def _shelve_offload(self, vm: Vm, arguments: Any, token: Any) -> wire.Response:
        self._demand(vm, "shelveOffload", "shelved")
        self._begin(vm, "shelving_offloading", lambda: self._off_its_host(vm))
        return wire.Response(202)

    def _unshelve(self, vm: Vm, arguments: Any, token: Any) -> wire.Response:
        self._demand(vm, "unshelve", "shelved", "shelved_offloaded")
        self._begin(vm, "unshelving", lambda: self._unshelved(vm, token))
        return wire.Response(202)

    def _unshelved(self, vm: Vm, token: Any) -> None:
        offloaded = vm.vm_state == "shelved_offloaded"
        if offloaded and vm.image_id and vm.shelved_image not in self.glance.images:
            self._become(vm, "error")
        elif offloaded and self.full:
            vm.task_state = None
        else:
            vm.host = vm.host or "compute1"
            self._become(vm, "active")
            self._delete_shelved_image(vm, token)

    def _delete_shelved_image(self, vm: Vm, token: Any) -> None:
        """Delete it as whoever asked; where they may not, it is left behind."""
        image, vm.shelved_image = self.glance.images.get(vm.shelved_image or ""), None
        admin = "admin" in [role["name"] for role in token["roles"]]
        may = image is not None and (admin or image["owner"] == token["project"]["id"])
        if image is not None and may and not image["protected"]:
            del self.glance.images[image["id"]]

    def _delete(self, vm: Vm, token: Any) -> wire.Response:
        self._delete_shelved_image(vm, token)
        if vm.snapshot is not None:
            # Nova cuts a snapshot off that is not being uploaded yet.
            lost = self.glance.images.get(vm.snapshot, {}).get("status") == "queued"
            (self.glance.fail if lost else self.glance.finish)(vm.snapshot)
        if self.soft_delete and vm.vm_state != "soft-delete":
            self._begin(vm, "soft-deleting", lambda: self._become(vm, "soft-delete"))
        else:
            self._begin(vm, "deleting", lambda: self.vanish(vm.id))
        return wire.Response(204)
