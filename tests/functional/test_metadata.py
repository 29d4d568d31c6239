# SPDX-License-Identifier: Apache-2.0
"""The end of a VM's lease in its metadata: written for its owner to see, and to edit."""

from __future__ import annotations

import logging
import uuid
from datetime import timedelta
from typing import Any

import pytest

from blazar_vmexpire import labels
from blazar_vmexpire.intake.notifications import Endpoint
from blazar_vmexpire.labels import Labels
from tests.functional.intake import unversioned, versioned
from tests.functional.manage import Manage
from tests.functional.test_removal import withdraw
from tests.functional.world import DATE, World

pytestmark = [
    pytest.mark.options({"vmexpire_metadata": {"enabled": True}}),
    # Slow; what it asks of a database, others ask of each kind.
    pytest.mark.databases("sqlite"),
]

END, STATE = "expire_at", "expire_state"
#: Between two runs of the chore that writes them.
SHORTLY = timedelta(seconds=6)


def show(world: World, runs: int = 1) -> None:
    """Let what there is to show be written."""
    for _ in range(runs):
        world.clock.set(world.clock.now() + SHORTLY)
        world.harness.work()


def metadata(world: World, server_id: str) -> dict[str, str]:
    """What ``openstack server show`` tells as properties."""
    return world.cloud.compute.vms[server_id].metadata


def end_of(world: World, server_id: str) -> str:
    """The end of a VM's lease as metadata tell it."""
    return labels.text(world.lease(server_id).end_date)


def writes(world: World) -> list[Any]:
    """Requests so far that changed metadata."""
    found = world.cloud.requests("/metadata")
    assert all(request.method in ("POST", "DELETE") for request in found)
    return found


# Writing


def test_a_vm_tells_when_it_ends_and_keeps_what_else_it_tells(world: World) -> None:
    server_id = world.adopt(metadata={"purpose": "web"})
    show(world)
    assert metadata(world, server_id) == {
        "purpose": "web",
        END: end_of(world, server_id),
        STATE: "active",
    }
    assert len(metadata(world, server_id)[END]) == len("2026-05-01T10:00Z")


def test_it_follows_an_extension_and_a_notice_and_nothing_is_written_twice(world: World) -> None:
    server_id = world.adopt()
    show(world, runs=5)
    assert len(writes(world)) == 1
    world.live(world.clock.now() + timedelta(days=51))
    show(world)
    assert metadata(world, server_id)[STATE] == "noticed"
    # The end has not changed, so it was not written.
    assert writes(world)[-1].body == {"metadata": {STATE: "noticed"}}
    world.update(server_id, end_date=world.clock.now() + timedelta(days=29))
    world.settle()
    show(world)
    assert metadata(world, server_id) == {END: end_of(world, server_id), STATE: "active"}


@pytest.mark.options({"virtual:vm": {"quarantine": "5d"}})
def test_a_quarantined_vm_says_so_though_it_is_locked(world: World) -> None:
    server_id = world.adopt()
    world.live(world.clock.now() + timedelta(days=56))
    # While it is being stopped, Nova takes nothing.
    for _ in range(5):
        world.clock.advance(minutes=2)
        world.settle()
    assert world.cloud.compute.vms[server_id].locked
    assert metadata(world, server_id)[STATE] == "quarantined"


@pytest.mark.options(
    {"vmexpire_metadata": {"per_second": 1}, "virtual:vm": {"extension_duration": "90d"}}
)
def test_a_whole_cloud_is_shown_at_a_pace_and_what_has_changed_first(world: World) -> None:
    first = world.adopt("first")
    show(world)
    more = [world.adopt(f"vm{n}") for n in range(12)]
    world.update(first, end_date=world.clock.now() + timedelta(days=70))
    show(world)
    assert metadata(world, first)[END] == end_of(world, first)
    assert sum(END in metadata(world, server_id) for server_id in more) == 4
    show(world)
    assert sum(END in metadata(world, server_id) for server_id in more) == 9
    show(world)
    assert all(END in metadata(world, server_id) for server_id in more)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("state", ["rescued", "resized", "shelved_offloaded", "error"])
def test_a_state_that_takes_no_metadata_is_waited_for_without_a_word(
    world: World, state: str, caplog: pytest.LogCaptureFixture
) -> None:
    server_id = world.adopt()
    vm = world.cloud.compute.vms[server_id]
    vm.vm_state = state
    before = world.row(server_id)
    for _ in range(60):
        world.clock.advance(minutes=1)
        world.harness.work()
    assert metadata(world, server_id) == {}
    after = world.row(server_id)
    assert (after.state, after.next_at, after.attempts, after.last_error) == (
        before.state,
        before.next_at,
        before.attempts,
        before.last_error,
    )
    assert len(writes(world)) < 12
    warned = [r for r in caplog.records if "do not tell" in r.message]
    assert [r.levelno for r in warned].count(logging.WARNING) == 1
    vm.vm_state = "active"
    world.clock.advance(hours=1)
    show(world)
    assert metadata(world, server_id)[END] == end_of(world, server_id)


def test_a_full_quota_neither_fails_nor_delays_the_end(world: World) -> None:
    server_id = world.adopt(metadata={"a": "1", "b": "2"})
    world.cloud.compute.metadata_items = 2
    end = world.lease(server_id).end_date
    world.live(end + timedelta(minutes=1))
    assert server_id not in world.cloud.compute.vms
    assert world.events(server_id).count("moved") == 0
    assert "ended" in [notice.kind for notice in world.notices(server_id)]


def test_a_nova_that_does_not_answer_is_asked_three_times_and_then_left_alone(
    world: World,
) -> None:
    for n in range(10):
        world.adopt(f"vm{n}")
    fault = world.cloud.fault("/metadata$", status=503)
    show(world)
    assert len(writes(world)) == 3
    fault.remove()
    world.clock.advance(minutes=2)
    show(world)
    assert all(END in vm.metadata for vm in world.cloud.compute.vms.values())


def test_a_write_whose_answer_was_lost_is_made_again(world: World) -> None:
    server_id = world.adopt()
    world.cloud.fault("/metadata$", times=1, close=True, after=True)
    show(world)
    assert world.row(server_id).shown_end is None
    world.clock.advance(minutes=2)
    show(world)
    assert len(writes(world)) == 2
    assert world.row(server_id).show_after is None


# Switched off, and taken away


@pytest.mark.options({"vmexpire_metadata": {"enabled": False}})
def test_switched_off_nothing_is_written(world: World) -> None:
    server_id = world.adopt()
    show(world)
    assert metadata(world, server_id) == {}


@pytest.mark.options({"virtual:vm": {"dry_run": True}})
def test_a_dry_run_writes_nothing(world: World) -> None:
    server_id = world.adopt()
    show(world)
    assert writes(world) == []
    assert world.row(server_id).show_after is None


def test_switched_off_later_what_was_written_is_removed(world: World) -> None:
    server_id = world.adopt(metadata={"purpose": "web"})
    show(world)
    world.harness.conf.set_override("enabled", False, group="vmexpire_metadata")
    show(world, runs=2)
    assert metadata(world, server_id) == {"purpose": "web"}
    assert len(writes(world)) == 3


@pytest.mark.options({"vmexpire_metadata": {"end_key": "ends: at", "state_key": "it is"}})
def test_keys_can_have_other_names(world: World) -> None:
    server_id = world.adopt()
    show(world)
    assert metadata(world, server_id) == {"ends: at": end_of(world, server_id), "it is": "active"}
    world.harness.conf.set_override("enabled", False, group="vmexpire_metadata")
    show(world)
    assert metadata(world, server_id) == {}


def test_a_vm_that_is_let_go_tells_nothing_any_more(world: World) -> None:
    server_id = world.adopt(metadata={"purpose": "web"})
    show(world)
    world.harness.conf.set_override("excluded_projects", [world.alpha], group="virtual:vm")
    world.clock.advance(minutes=15)
    world.settle()
    assert world.state(server_id) == "exempt"
    show(world)
    assert metadata(world, server_id) == {"purpose": "web"}
    assert world.row(server_id).shown_end is None


def test_withdraw_removes_it(world: World, manage: Manage, database_url: str) -> None:
    told = world.adopt(metadata={"purpose": "web"})
    refused = world.adopt("refused")
    show(world)
    world.cloud.compute.vms[refused].vm_state = "rescued"
    world.harness.stop()
    preview = withdraw(world, manage, database_url)
    assert "tell their end, which is removed: 2" in preview.stdout
    done = withdraw(world, manage, database_url, "--yes")
    assert metadata(world, told) == {"purpose": "web"}
    assert done.returncode == 1
    assert "the metadata of 1 VMs could not be removed yet" in done.stderr
    done = withdraw(world, manage, database_url, "--yes", "--keep-metadata")
    assert done.returncode == 0, done.stderr
    assert END in metadata(world, refused)
    assert world.all_leases() == []


def test_our_own_write_changes_no_terms(world: World) -> None:
    server_id = world.adopt()
    before = world.row(server_id)
    show(world)
    world.clock.advance(minutes=15)
    world.settle()
    world.see(server_id)
    after = world.row(server_id)
    assert (after.facts_digest, after.terms_digest, after.generation) == (
        before.facts_digest,
        before.terms_digest,
        before.generation,
    )


def test_the_two_keys_have_to_differ(world: World) -> None:
    world.harness.conf.set_override("state_key", END, group="vmexpire_metadata")
    with pytest.raises(Exception, match="end_key and state_key are both 'expire_at'"):
        labels.check(world.harness.conf)


# Edits


@pytest.fixture
def edited(world: World) -> str:
    """A VM of Alice's that has told its end for ten days."""
    server_id = world.adopt()
    show(world)
    world.live(world.clock.now() + timedelta(days=10))
    return server_id


def edit(world: World, server_id: str, value: str | None, key: str = END) -> None:
    """Have Alice edit a VM's metadata, or remove one, and Nova listed afterwards."""
    if value is None:
        del metadata(world, server_id)[key]
    else:
        metadata(world, server_id)[key] = value
    world.clock.advance(minutes=15)
    world.settle()
    show(world)


def test_an_edit_within_the_cap_moves_the_end_both_ways(world: World, edited: str) -> None:
    for days in (29, 20, 25):
        end = (world.clock.now() + timedelta(days=days)).replace(second=0)
        edit(world, edited, f"{end:{DATE}}")
        assert world.lease(edited).end_date == end
        assert world.row(edited).ends_at == end
        assert metadata(world, edited)[END] == labels.text(end)
    moves = [details for event, details in world.history(edited) if "old_end" in details]
    assert [details["by_admin"] for details in moves] == [False] * 3
    assert "metadata_put_back" not in world.events(edited)


def test_an_edit_right_after_another_counts_too(world: World, edited: str) -> None:
    """Nothing waits for the first to be written anew: that would overwrite the second."""
    end = (world.clock.now() + timedelta(days=29)).replace(second=0, microsecond=0)
    metadata(world, edited)[END] = labels.text(end)
    world.see(edited)
    assert world.row(edited).ends_at == end
    metadata(world, edited)[END] = "2027-01-10T04:50Z"
    world.see(edited)
    assert "metadata_put_back" in world.events(edited)
    show(world)
    assert metadata(world, edited) == {END: labels.text(end), STATE: "active"}


REFUSED = {
    "beyond the cap": "2027-01-10T04:50Z",
    "malformed": "never",
    "past": "2026-03-01T10:00Z",
    "too early": "2026-03-13T10:00Z",
    "no time": "2026-04-02",
    "empty": "",
    "huge": "9" * 255,
}


@pytest.mark.parametrize("value", [*REFUSED.values(), None], ids=[*REFUSED, "removed"])
def test_any_other_edit_is_put_back_and_the_owner_told_once(
    world: World, edited: str, value: str | None
) -> None:
    end, mails = world.lease(edited).end_date, len(world.mails)
    for _ in range(3):
        edit(world, edited, value)
        assert world.lease(edited).end_date == world.row(edited).ends_at == end
        assert metadata(world, edited) == {END: labels.text(end), STATE: "active"}
    assert [notice.kind for notice in world.notices(edited)] == ["put_back"]
    assert world.events(edited).count("metadata_put_back") == 1
    assert len(world.mails) == mails + 1
    assert "Why: " in world.mails[-1].get_body(("plain",)).get_content()  # type: ignore[union-attr]


def test_a_later_episode_is_told_again(world: World, edited: str) -> None:
    edit(world, edited, "never")
    end = world.clock.now() + timedelta(days=25)
    assert world.update(edited, end_date=end).status_code == 200
    world.settle()
    show(world)
    edit(world, edited, "never")
    assert [notice.kind for notice in world.notices(edited)].count("put_back") == 2


def test_the_state_is_put_back_without_a_word(world: World, edited: str) -> None:
    for value in ("immortal", None):
        edit(world, edited, value, key=STATE)
        assert metadata(world, edited)[STATE] == "active"
    assert world.notices(edited) == []


def test_the_same_end_in_other_words_is_no_extension(world: World, edited: str) -> None:
    before = world.row(edited)
    edit(world, edited, f"{before.ends_at:%Y-%m-%d %H:%M:%S}")
    after = world.row(edited)
    assert (after.generation, after.extensions) == (before.generation, before.extensions)
    assert metadata(world, edited)[END] == end_of(world, edited)
    assert world.notices(edited) == []


def test_an_earlier_end_by_metadata_is_told_before_anything_happens(
    world: World, edited: str
) -> None:
    """Nova does not say who wrote it: nobody is taken to know it."""
    mails = len(world.mails)
    end = (world.clock.now() + timedelta(days=3)).replace(second=0)
    edit(world, edited, f"{end:{DATE}}")
    assert world.lease(edited).end_date == end
    assert len(world.mails) == mails + 1
    assert world.state(edited) == "noticed"


@pytest.mark.parametrize("make", [unversioned, versioned])
def test_a_notification_of_it_is_enough_and_one_of_our_own_write_means_nothing(
    world: World, edited: str, make: Any
) -> None:
    listener = Endpoint(
        world.harness.database, world.clock.now, lambda: None, Labels.of(world.harness.conf)
    )
    event = "compute.instance.update" if make is unversioned else "instance.update"

    def notify(server_id: str) -> None:
        listener.info({}, "nova", event, make(server_id, metadata=metadata(world, edited)), {})

    before = world.row(edited)
    notify(edited)
    assert world.row(edited) == before
    stranger = str(uuid.uuid4())
    notify(stranger)
    assert world.row_or_none(stranger) is None
    listener.info({}, "nova", event, make(edited), {})
    assert world.row(edited) == before
    end = world.clock.now().replace(second=0) + timedelta(days=25)
    metadata(world, edited)[END] = f"{end:{DATE}}"
    notify(edited)
    world.harness.work()
    assert world.lease(edited).end_date == end


def test_a_forged_notification_moves_nothing(world: World, edited: str) -> None:
    listener = Endpoint(
        world.harness.database, world.clock.now, lambda: None, Labels.of(world.harness.conf)
    )
    end = world.lease(edited).end_date
    payload = versioned(edited, metadata={END: "2026-04-01T10:00Z", STATE: "active"})
    listener.info({}, "nova", "instance.update", payload, {})
    world.harness.work()
    assert world.lease(edited).end_date == end
    assert world.notices(edited) == []


def test_of_a_real_extension_and_an_older_edit_the_later_wins(world: World, edited: str) -> None:
    metadata(world, edited)[END] = f"{world.clock.now() + timedelta(days=20):{DATE}}"
    end = world.clock.now().replace(second=0) + timedelta(days=29)
    assert world.update(edited, end_date=end).status_code == 200
    world.settle()
    show(world)
    world.clock.advance(minutes=15)
    world.settle()
    assert world.lease(edited).end_date == end
    assert metadata(world, edited)[END] == labels.text(end)


def test_an_edit_is_taken_once_even_while_it_cannot_be_rewritten(world: World, edited: str) -> None:
    """Else it would move the end back each time that somebody else moves it."""
    metadata(world, edited)[END] = f"{world.clock.now() + timedelta(days=20):{DATE}}"
    world.cloud.fault("/metadata$", status=503)
    world.see(edited)
    end = world.clock.now().replace(second=0) + timedelta(days=29)
    assert world.update(edited, end_date=end).status_code == 200
    world.settle()
    world.see(edited)
    assert world.lease(edited).end_date == end


def test_an_edit_just_before_the_state_changes_is_not_overwritten(
    world: World, edited: str
) -> None:
    """Only the state is written then, and Nova's answer shows the edit."""
    world.live(world.lease(edited).end_date - timedelta(days=10))
    assert world.state(edited) == "noticed"
    end = world.clock.now().replace(second=0) + timedelta(days=29)
    metadata(world, edited)[END] = f"{end:{DATE}}"
    show(world, runs=2)
    assert world.lease(edited).end_date == end


def test_a_cell_that_is_down_is_no_edit(world: World, edited: str) -> None:
    world.cloud.compute.down_cells.add("cell1")
    world.clock.advance(minutes=15)
    world.settle()
    world.cloud.compute.down_cells.clear()
    world.clock.advance(minutes=15)
    world.settle()
    assert world.notices(edited) == []
    assert "metadata_put_back" not in world.events(edited)


@pytest.mark.options({"vmexpire_metadata": {"enabled": False}})
def test_switched_off_an_edit_means_nothing(world: World) -> None:
    server_id = world.adopt()
    end = world.lease(server_id).end_date
    metadata(world, server_id)[END] = f"{world.clock.now() + timedelta(days=20):{DATE}}"
    world.clock.advance(minutes=15)
    world.settle()
    world.see(server_id)
    assert world.lease(server_id).end_date == end
