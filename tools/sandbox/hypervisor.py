# SPDX-License-Identifier: Apache-2.0
"""The two hypervisors: Nova's own fake driver, or libvirt with QEMU and a guest that is real."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

from tools.sandbox.errors import SandboxError
from tools.sandbox.layout import HERE, Layout

# The longest path of a Unix socket, and the longest name that libvirtd gives one.
_SOCKET_PATH = 107
_SOCKET_NAME = "libvirt-admin-sock"

# As Nova's fake driver needs it: no guest ever boots from it, but a download must have a size.
_ZEROS = b"\0" * 65536

# Room for the guest's boot sector, its record and its noise.
_DISK = 4 << 20


@dataclasses.dataclass(frozen=True)
class Hypervisor:
    """What a sandbox with it differs in.

    computes: how many compute hosts it has
    profiles: of tools/bootstrap.py, which it needs to have installed
    template: of its part of a compute host's configuration
    """

    name: str
    computes: int
    profiles: tuple[str, ...]
    template: str


FAKE = Hypervisor("fake", 2, (), "nova-fake.conf")
LIBVIRT = Hypervisor("libvirt", 1, ("libvirt",), "nova-libvirt.conf")
HYPERVISORS = {hypervisor.name: hypervisor for hypervisor in (FAKE, LIBVIRT)}


def choose_hypervisor(name: str, files: Layout) -> Hypervisor:
    """The hypervisor of this name, if a sandbox in this directory can have it."""
    if name not in HYPERVISORS:
        raise SandboxError(f"no hypervisor {name!r}, but: {', '.join(HYPERVISORS)}")
    if name == LIBVIRT.name:
        if os.geteuid() != 0:
            raise SandboxError(
                "--hypervisor libvirt takes root, for the mounts of its own libvirtd; as root, "
                "`up` also installs what it needs (bindep.txt, profile libvirt)"
            )
        if len(os.fsencode(files.run / _SOCKET_NAME)) > _SOCKET_PATH:
            raise SandboxError(
                f"{files.directory}: too long for libvirt's sockets; choose a shorter directory"
            )
    return HYPERVISORS[name]


def guest_disk(name: str, run: Callable[..., bytes], workshop: Path) -> bytes:
    """The disk of the image from which servers are made, in format raw.

    run: runs a command: (name for the log, argv)
    workshop: a directory for what comes about on the way
    """
    if name != LIBVIRT.name:
        return _ZEROS
    compiled, sector = workshop / "guest.o", workshop / "guest.bin"
    run("guest", ["as", "--32", "-o", str(compiled), str(HERE / "guest.S")])
    run(
        "guest",
        [
            *("ld", "-m", "elf_i386", "-Ttext", "0x7c00", "--oformat", "binary"),
            *("-o", str(sector), str(compiled)),
        ],
    )
    return sector.read_bytes().ljust(_DISK, b"\0")
