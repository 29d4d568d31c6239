# SPDX-License-Identifier: Apache-2.0
"""python -m tools.demo [--keep] [--hypervisor H] [--with EXTRA]: bring a cloud up, tell the story,
take it down.

Exit codes: 0 everything held, 1 something did not, 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from keystoneauth1.exceptions import ClientException

from tools.bootstrap import BootstrapError
from tools.demo import terms
from tools.demo.checks import NotSo
from tools.demo.narrator import Narrator
from tools.demo.real import RealStory
from tools.demo.story import Story
from tools.demo.timing import Timings, spoken
from tools.sandbox import Sandbox, SandboxError, horizon
from tools.sandbox.control import EXTRAS
from tools.sandbox.hypervisor import FAKE, HYPERVISORS, LIBVIRT
from tools.sandbox.processes import undisturbed

PROJECT = Path(__file__).resolve().parents[2]
DIRECTORY = PROJECT / ".sandbox" / "demo"

OPENING = """
    This is the life of one VM on a real OpenStack: Keystone, Glance, Placement, Neutron, Nova and
    Blazar with this plug-in, all on this machine's loopback. {hypervisor} A cloud counts a VM's
    time in months; here it is minutes, and the whole takes about {minutes}.
"""
OPENINGS = {
    FAKE.name: OPENING.format(
        hypervisor="Only the hypervisor is not real: it is Nova's own fake driver.",
        minutes="five",
    ),
    LIBVIRT.name: OPENING.format(
        hypervisor="The hypervisor is real, too: QEMU under libvirt, emulating its processor.",
        minutes="six",
    ),
}
STORIES: dict[str, type[Story]] = {FAKE.name: Story, LIBVIRT.name: RealStory}
LOG_LINES = 20

#: What can go wrong in a cloud; anything else is a defect of this program.
EXPECTED = (
    NotSo,
    SandboxError,
    BootstrapError,
    ClientException,
    subprocess.TimeoutExpired,
    OSError,
)


def parser() -> argparse.ArgumentParser:
    """The grammar of the command line."""
    top = argparse.ArgumentParser(prog="python -m tools.demo", description=__doc__)
    top.add_argument(
        "--keep", action="store_true", help="leave the cloud up, to go on with it by hand"
    )
    top.add_argument(
        "--hypervisor",
        choices=HYPERVISORS,
        default=FAKE.name,
        help="libvirt: the VM is a real guest, on QEMU; as root only (default %(default)s)",
    )
    top.add_argument(
        "--with",
        dest="extras",
        action="append",
        choices=EXTRAS,
        default=[],
        help="horizon: the dashboard too, to be looked at afterwards, with --keep",
    )
    return top


class Demo:
    """One demonstration, from an empty directory to an empty directory.

    story: what is told once the cloud is up
    hypervisor: what the cloud has, one of the sandbox's
    extras: what else it has, of the sandbox's `--with`
    """

    def __init__(
        self,
        narrator: Narrator,
        cloud: Sandbox,
        keep: bool,
        story: type[Story] = Story,
        hypervisor: str = FAKE.name,
        extras: Sequence[str] = (),
    ) -> None:
        self._narrator = narrator
        self._cloud = cloud
        self._keep = keep
        self._story = story
        self._hypervisor = hypervisor
        self._extras = extras
        self._directory = cloud.files.directory
        self._timings = Timings()
        cloud.report = self._progress
        # Whether the cloud is ours to take down, and whether there is one to leave up.
        self._ours = self._up = False

    def run(self) -> int:
        """Do it all; returns the exit code."""
        self._narrator.say(OPENINGS[self._hypervisor])
        code = 130
        try:
            code = self._live()
        finally:
            # Whatever happened, a defect of this program included.
            kept = self._keep and self._up and code != 130
            if self._ours and not kept:
                code = self._take_down() or code
        if self._timings.steps:
            self._narrator.summary(self._timings)
        if kept:
            self._explain()
        elif code == 1 and self._up:
            self._narrator.say("To look into it: make demo KEEP=1 leaves the cloud up.")
        return code

    def _live(self) -> int:
        try:
            self._bring_up()
            self._tell()
        except KeyboardInterrupt:
            self._narrator.failed("interrupted")
            return 130
        except EXPECTED as error:
            self._narrator.failed(str(error))
            return 1
        return 0

    def _progress(self, line: str) -> None:
        self._narrator.detail(f"{spoken(self._timings.total):>12}  {line}")

    def _bring_up(self) -> None:
        self._narrator.heading("1  A cloud comes up")
        with self._timings.step(" 1  A cloud comes up"):
            self._clear()
            self._ours = True
            offset = terms.free_offset()
            self._narrator.detail(f"in {self._directory}, on port offset {offset}, with")
            for setting in terms.settings():
                self._narrator.detail(f"  {setting}")
            self._cloud.up(
                offset, terms.settings(), hypervisor=self._hypervisor, extras=self._extras
            )
            self._up = True

    def _clear(self) -> None:
        """Remove what an earlier run left, unless it is in use."""
        if not self._directory.exists():
            return
        state = self._cloud.files.remembered()
        if state and state.phase == "up" and self._cloud.supervisor.find():
            raise SandboxError(
                "the cloud of an earlier demonstration is up still, or another demonstration is "
                f"under way; take it down:\n{self._down_command()}"
            )
        self._cloud.down(wipe=True)

    def _tell(self) -> None:
        story = self._story(self._cloud, self._narrator, self._timings)
        try:
            story.tell()
        except EXPECTED:
            self._show_log(story.scene.server_id)
            raise

    def _show_log(self, server_id: str) -> None:
        """The end of what the plug-in said about the VM: the directory may be gone soon."""
        lines = self._cloud.log("blazar-manager").read_text(errors="replace").splitlines()
        about = [line for line in lines if server_id and server_id in line]
        self._narrator.heading("The end of blazar-manager's log about the VM")
        for line in about[-LOG_LINES:]:
            self._narrator.detail(line)

    def _take_down(self) -> int:
        """Leave nothing behind. A second Ctrl-C does not prevent it."""
        number = len(self._timings.steps) + 1
        try:
            with undisturbed(), self._timings.step(f"{number:>2}  The cloud is taken down"):
                self._narrator.heading(f"{number}  The cloud is taken down")
                self._cloud.down(wipe=True)
                with contextlib.suppress(OSError):
                    self._directory.parent.rmdir()
                left = self._cloud.supervisor.find()
                if left or self._directory.exists():
                    raise SandboxError(f"left behind: {self._directory}, processes {left}")
                self._narrator.held("no process is left, and the directory is removed")
        except SandboxError as error:
            self._narrator.failed(str(error))
            return 1
        return 0

    def _down_command(self) -> str:
        return f"{PROJECT / 'tools' / 'sandbox' / 'sandbox'} down --dir {self._directory} --wipe"

    def _explain(self) -> None:
        """How to go on with a cloud that was left up."""
        self._narrator.heading("The cloud is up still")
        self._narrator.say(
            "Be alice (or bob, or admin) and boot VMs; here each lives for two to three minutes, "
            f"or up to {terms.minutes(terms.EXTENSION)} from each extension:"
        )
        self._narrator.output(
            f". {self._directory}/openrc-alice\n"
            "openstack server create --flavor m1.tiny --image cirros --nic none --wait mine\n"
            "openstack reservation lease list\n"
            "blazar-vmexpire-manage list"
        )
        if horizon.NAME in self._extras:
            self._narrator.say("The same in a browser:")
            self._narrator.output(f"{self._cloud.url(horizon.NAME, '/')}\n{horizon.accounts()}")
        self._narrator.say("Their mails, and what the plug-in does:")
        self._narrator.output(
            f"ls {self._directory}/mail\ntail -f {self._cloud.log('blazar-manager')}"
        )
        self._narrator.say("Take it all down in the end:")
        self._narrator.output(self._down_command())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demonstration; returns the exit code."""
    arguments = parser().parse_args(argv)
    # Names and mails may hold what the terminal cannot show.
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    # A terminal that closes, or a CI job that is cancelled, is an interruption like Ctrl-C.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    story, hypervisor = STORIES[arguments.hypervisor], arguments.hypervisor
    cloud = Sandbox(DIRECTORY)
    narrator, extras = Narrator(sys.stdout), arguments.extras
    return Demo(narrator, cloud, arguments.keep, story, hypervisor, extras).run()


if __name__ == "__main__":
    sys.exit(main())
