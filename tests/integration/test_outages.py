# SPDX-License-Identifier: Apache-2.0
"""What happens to VMs and their leases while services are stopped, killed and reconfigured.

All of it on one sandbox, side by side. A scenario that needs everything in order, or breaks what
others rely on, takes turns with them (``rough.turns``); what has to break at the very end of a VM's
lease chooses that end. The mail server is not among what others rely on: owners who shortened a
lease themselves need no mail.
"""

from __future__ import annotations

import datetime

import pytest

from tests.integration.cloudlib import MINUTE, Cloud, Vm, images_of, in_minutes
from tests.integration.conftest import ROUGH
from tests.integration.ends import choose_end, ended_once, turn_at_the_end
from tests.integration.waiting import utcnow, wait_for, wait_until
from tools.sandbox import SandboxError

MANAGER = "blazar-manager"

#: Options that no manager starts with, and what its log says of them.
WRONG = {
    "virtual:vm.lease_duration=5x": ["lease_duration", "5x", "60d"],
    "virtual:vm.before_end_action=foo": ["before_end_action", "foo", "notification"],
    "virtual:vm.undeliverable_contact=": ["undeliverable_contact", "mail address"],
}


def test_a_mail_server_that_hangs_and_then_is_down_when_a_notice_is_due(rough: Cloud) -> None:
    """No notice, no end, though an administrator wants it: the lease is moved, visibly.

    The end comes a minimum_notice after the mail was taken.
    """
    with rough.turns:
        rough.mail_server(hang=True)
        vm = rough.boot("no mail")
        early = in_minutes(1.5)
        vm.move_end(early, rough.admin)

    def failed(words: str) -> bool:
        return any(words in str(n.last_error) for n in vm.notices())

    wait_for("a mail that takes too long", lambda: failed("timed out"), 30, shown=vm.notices)
    rough.stop("smtp")
    try:
        wait_for("a mail that cannot be sent", lambda: failed("refused"), 30, shown=vm.notices)
        moved = vm.wait_for_event("moved", 20, after=early - MINUTE)
        assert "no notice of its end was accepted" in moved["reason"]
        assert vm.ends_at > early
        # By no service: others may have stopped it.
        lease = vm.stored_lease()
        assert lease is not None
        assert (lease.status, lease.end_date) == ("ACTIVE", vm.ends_at)
        assert "end_begun" not in vm.events()
    finally:
        # The others' mails go there, too, whatever becomes of this.
        rough.mail_server()
        rough.start("smtp")
    reminder = vm.wait_for_mail("reminder", 20)
    assert f"{vm.ends_at:%Y-%m-%d %H:%M} UTC" in reminder.text
    vm.wait_for_event("deleted", 60, after=vm.ends_at)
    with rough.turns:
        ended_once(rough, vm)
    assert vm.when("end_begun") >= reminder.arrived_at + MINUTE
    assert len(vm.mails("reminder")) == 1


def test_a_manager_killed_in_the_middle_of_the_end(rough: Cloud) -> None:
    """Of three VMs, each in a step of its own; a fourth one is booted while nobody listens."""
    with rough.turns:
        vms = [rough.boot(f"killed over {number}") for number in range(3)]
        # When those have had their turns who need no certain moment.
        choose_end(vms, in_minutes(3))
    with turn_at_the_end(rough, vms):

        def in_the_middle() -> bool:
            return any("image_asked" in vm.events() for vm in vms)

        wait_for("the image of a VM", in_the_middle, 30, after=vms[0].ends_at, every=0.05)
        rough.kill(MANAGER)
        unfinished = [vm for vm in vms if "deleted" not in vm.events()]
        assert unfinished
        late = rough.ask_for_vm("booted unheard", rough.alice)
        late.wait_for_status("ACTIVE")
        rough.start(MANAGER)
        # Glance, which others stop in their turn, tells of the images.
        for vm in vms:
            ended_once(rough, vm)
        assert late.wait_for_event("adopted", 30)
        late.delete()


def test_nova_and_glance_down_at_the_end(rough: Cloud) -> None:
    """Without Nova nothing happens, without Glance nothing more than the VM's being stopped."""
    with rough.turns:
        vm, other = rough.boot("no Nova, no Glance"), rough.boot("no Glance, extended")
        # After the end above.
        choose_end([vm, other], in_minutes(5))
        lease_id = other.row().lease_id
    with turn_at_the_end(rough, [vm, other]):
        rough.stop("nova-api")
        rough.stop("glance")
        back_at = vm.ends_at + datetime.timedelta(seconds=20)
        wait_for(
            "a try to end the VM", lambda: vm.row().attempts >= 2, 30, after=vm.ends_at, every=1
        )
        wait_until(back_at)
        assert "end_begun" not in vm.events()
        assert vm.row().state == "noticed"

        rough.start("nova-api")
        for stopped in (vm, other):
            stopped.wait_for_event("stop_asked", 30)
            stopped.wait_for_status("SHUTOFF")
        # More often than what is refused for good would be tried.
        wait_for("tries to make an image", lambda: vm.row().attempts >= 6, 40, every=1)
        assert vm.status == "SHUTOFF"
        assert vm.row().state == "ending"
        assert "delete_asked" not in vm.events()
        given_back_after_its_end(rough, other)

        rough.start("glance")
        ended_once(rough, vm)
        wait_for("a live lease of the one given back", lambda: other.row().state == "active", 30)
        lease = other.lease()
        assert (lease["id"], lease["status"]) == (lease_id, "ACTIVE")
        assert images_of(rough, other) == []
        other.delete()


def given_back_after_its_end(cloud: Cloud, vm: Vm) -> None:
    """See that a VM that is stopped and locked for its end is its owner's again by one call."""
    assert (vm.row().state, vm.status) == ("ending", "SHUTOFF")
    path = f"/vm-expirations/{vm.id}/extend"
    assert cloud.bob.request("reservation", "POST", path).status == 404
    answer = cloud.alice.request("reservation", "POST", path)
    assert answer.status == 200, answer
    shown = answer.body["vm_expiration"]
    assert (shown["state"], shown["lease_id"]) == ("reviving", vm.row().lease_id)
    assert shown["ends_at"] == f"{vm.ends_at:%Y-%m-%dT%H:%M:%SZ}"
    assert vm.ends_at > utcnow()
    vm.wait_for_status("ACTIVE")
    server = vm.server()
    assert server is not None
    assert server["locked"] is False


def test_without_notifications_and_with_wrong_options(rough: Cloud) -> None:
    with rough.turns:
        rough.stop(MANAGER)
        try:
            # Terms stay what they are: other terms would move the ends that others wait for.
            rough.configure([*ROUGH, "vmexpire_intake.notifications=false"])
            rough.start(MANAGER)
            reconciliation_alone(rough)
            rough.stop(MANAGER)
            for wrong, words in WRONG.items():
                rough.configure([*ROUGH, wrong])
                refuses_to_start(rough, words)
        finally:
            rough.stop(MANAGER)
            rough.configure(ROUGH)
            rough.start(MANAGER)


def reconciliation_alone(rough: Cloud) -> None:
    """See a VM taken in, and its deletion noticed, though nobody said so."""
    vm = rough.boot("without notifications", patience=40)
    vm.delete()
    wait_for(f"the lease of {vm} gone", lambda: vm.lease_rows() == 0, 40)
    # Taken in late in a minute, it was due its reminder before it was gone.
    assert [e for e in vm.events() if e != "before_end"] == ["adopted", "vanished", "deleted"]


def refuses_to_start(rough: Cloud, words: list[str]) -> None:
    """See the manager end at once, with a sentence that has these words."""
    with pytest.raises(SandboxError, match="blazar-manager ended"):
        rough.start(MANAGER)
    log = rough.sandbox.log(MANAGER).read_text(errors="replace")
    sentence = [line for line in log.splitlines() if "cannot start: " in line][-1]
    for word in words:
        assert word in sentence


def test_a_vm_that_is_building_is_left_alone_until_it_is_built(rough: Cloud) -> None:
    with rough.turns:
        computes = ["nova-compute1", "nova-compute2"]
        for compute in computes:
            rough.stop(compute)
        try:
            vm = rough.ask_for_vm("building", rough.alice)
            rough.wait_for_reconciliation(40)
            assert vm.status == "BUILD"
            assert vm.events() == []
        finally:
            for compute in computes:
                rough.start(compute)
        vm.wait_for_event("adopted", 60)
        vm.delete()


def test_a_message_broker_that_was_away(rough: Cloud) -> None:
    """Afterwards leases appear by notification, as before."""
    with rough.turns:
        rough.stop("rabbitmq")
        rough.start("rabbitmq")
        rough.sandbox.wait_for_workers()
        for number in range(3):
            begun_at = utcnow()
            vm = rough.boot(f"after the broker {number}", patience=60)
            vm.delete()
            _, listed_at = rough.reconciliations()
            if listed_at is None or listed_at < begun_at:
                return
        raise AssertionError("a reconciliation came between each time")
