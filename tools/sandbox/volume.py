# SPDX-License-Identifier: Apache-2.0
"""cinder-volume with volumes that are files (run by the venv's python with its arguments).

A volume holds what its image or snapshot brought, and grows no further: it is there to be made,
named, attached, copied and deleted. `.control.json` among the files, read at every snapshot, makes
the driver misbehave:

    {"snapshot_seconds": 20,      how long a snapshot takes
     "snapshots_fail": true}      and then it ends in `error`
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

import cinder.cmd.volume  # isort: skip - first, it decides between threads and eventlet
from cinder import exception, interface
from cinder.volume import configuration, driver
from oslo_config import cfg

OPTS = [cfg.StrOpt("sandbox_directory", help="Where the volumes and snapshots are.")]
cfg.CONF.register_opts(OPTS, group=configuration.SHARED_CONF_GROUP)

# What the scheduler hears of: more than any test fills, of which nothing is taken on the disk.
CAPACITY_GB = 10_000


@interface.volumedriver
class FileDriver(driver.VolumeDriver):
    """Volumes and snapshots as files of their names in one directory."""

    VERSION = "1.0"
    CI_WIKI_NAME = "none"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.configuration.append_config_values(OPTS)
        self.directory = Path(self.configuration.sandbox_directory)

    def check_for_setup_error(self):
        self.directory.mkdir(exist_ok=True)

    def _update_volume_stats(self):
        self._stats = {
            "volume_backend_name": self.configuration.safe_get("volume_backend_name"),
            "vendor_name": "sandbox",
            "driver_version": self.VERSION,
            "storage_protocol": "file",
            "total_capacity_gb": CAPACITY_GB,
            "free_capacity_gb": CAPACITY_GB,
            "reserved_percentage": 0,
            "multiattach": True,
        }

    # --- volumes ---

    def create_volume(self, volume):
        self._file(volume.name).touch()

    def clone_image(self, context, volume, image_location, image_meta, image_service):
        """Fill a volume with an image, as it is: Cinder itself would want qemu-img and a device."""
        with self._file(volume.name).open("wb") as file:
            image_service.download(context, image_meta["id"], file)
        return {}, True

    def create_volume_from_snapshot(self, volume, snapshot):
        shutil.copyfile(self._file(snapshot.name), self._file(volume.name))

    def create_cloned_volume(self, volume, src_vref):
        shutil.copyfile(self._file(src_vref.name), self._file(volume.name))

    def copy_volume_to_image(self, context, volume, image_service, image_meta):
        with self._file(volume.name).open("rb") as file:
            image_service.update(context, image_meta["id"], {}, file)

    def extend_volume(self, volume, new_size):
        """Nothing: a volume's size is in Cinder's records only."""

    def delete_volume(self, volume):
        self._file(volume.name).unlink(missing_ok=True)

    # --- snapshots ---

    def create_snapshot(self, snapshot):
        control = self._control()
        time.sleep(control.get("snapshot_seconds", 0))
        if control.get("snapshots_fail"):
            raise exception.VolumeBackendAPIException(data="told to fail")
        shutil.copyfile(self._file(snapshot.volume_name), self._file(snapshot.name))

    def delete_snapshot(self, snapshot):
        self._file(snapshot.name).unlink(missing_ok=True)

    # --- attaching: the fake hypervisor takes note of what it is told, and opens nothing ---

    def initialize_connection(self, volume, connector, **kwargs):
        path = str(self._file(volume.name))
        return {"driver_volume_type": "local", "data": {"device_path": path, "access_mode": "rw"}}

    def terminate_connection(self, volume, connector, **kwargs):
        """Nothing."""

    def ensure_export(self, context, volume):
        """Nothing."""

    def create_export(self, context, volume, connector):
        """Nothing."""

    def remove_export(self, context, volume):
        """Nothing."""

    # --- small things ---

    def _file(self, name):
        return self.directory / name

    def _control(self):
        try:
            control = json.loads(self._file(".control.json").read_text())
        except (OSError, ValueError):
            # Not there, or being written at this moment.
            return {}
        return control if isinstance(control, dict) else {}


if __name__ == "__main__":
    sys.argv[0] = "cinder-volume"
    sys.exit(cinder.cmd.volume.main())
