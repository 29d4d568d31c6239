# SPDX-License-Identifier: Apache-2.0
"""What the mails say, and what becomes of operators' own templates."""

from __future__ import annotations

import dataclasses
import datetime
import logging
import pathlib
import textwrap
from typing import Any

import pytest

from blazar_vmexpire.notices import KINDS, KeptVolume, Notice, Renderer, UnknownKind, samples

DAY = datetime.timedelta(days=1)
NOW = samples.REMINDER.now
LEASE = samples.REMINDER.lease_id


def notice(**changes: Any) -> Notice:
    return dataclasses.replace(samples.REMINDER, **changes)


def first_paragraph(notice: Notice) -> str:
    return " ".join(Renderer().render(notice).text.partition("\n\n")[0].split())


def running_text(notice: Notice) -> str:
    return " ".join(Renderer().render(notice).text.split())


def test_reminder_as_a_person_reads_it() -> None:
    rendered = Renderer().render(notice())
    assert rendered.subject == (
        'VM "web-1" (physics) will be deleted in 9 days and 4 hours, on 2026-12-20 09:14 UTC'
    )
    assert rendered.text == textwrap.dedent(
        """\
        Your VM "web-1" in project "physics" will be saved as an image and
        deleted on 2026-12-20 09:14 UTC, in 9 days and 4 hours.

        If you still need it, extend its lease in time. The latest end that you
        can choose today is 2027-01-10 04:50 UTC:

            openstack reservation lease set --end-date "2027-01-10 04:50" c0ffee00-1234-4567-89ab-0123456789ab

        If you do not need it any more, you do not have to do anything.

        The VM will only be deleted once an image of it has been saved in the
        project. A new VM can be started from that image. If it boots from a
        volume, no image is taken: that volume is kept. Volumes that are
        attached to it will be kept in the project.

            VM       web-1
            UUID     7d2c1f0e-58a4-4b6e-9a3f-0c1d2e3f4a5b
            Project  physics (3f1e5c7a9b2d4f60818293a4b5c6d7e8)
            Owner    alice
            Lease    c0ffee00-1234-4567-89ab-0123456789ab
            Ends     2026-12-20 09:14 UTC

        This message was sent automatically by the VM expiration of your cloud.
        """  # noqa: E501
    )


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"on_end_action": "delete"},
            'Your VM "web-1" in project "physics" will be deleted on 2026-12-20 09:14 UTC,'
            " in 9 days and 4 hours.",
        ),
        (
            {"on_end_action": "delete", "quarantine_at": NOW + 7 * DAY},
            'Your VM "web-1" in project "physics" will be locked and stopped on'
            " 2026-12-18 04:50 UTC, in 7 days. It will be deleted on 2026-12-20 09:14 UTC,"
            " in 9 days and 4 hours.",
        ),
        (
            {"on_end_action": "archive", "recipient_is_owner": False},
            'The VM "web-1" in project "physics" will be ended (archive) on 2026-12-20 09:14 UTC,'
            " in 9 days and 4 hours.",
        ),
        (
            {"kind": "quarantined", "on_end_action": "delete"},
            'Your VM "web-1" in project "physics" has been locked and stopped. It will be deleted'
            " on 2026-12-20 09:14 UTC, in 9 days and 4 hours.",
        ),
        (
            {"kind": "moved"},
            'Your VM "web-1" in project "physics" is kept for longer: its end has been moved to'
            " 2026-12-20 09:14 UTC, in 9 days and 4 hours. Then it will be saved as an image and"
            " deleted.",
        ),
        (
            {"kind": "restored", "on_end_action": "shelve"},
            'Your VM "web-1" in project "physics" will still be shelved on 2026-12-20 09:14 UTC,'
            " in 9 days and 4 hours. Its lease had been deleted or damaged, and has been put back.",
        ),
        (
            {"kind": "ended", "on_end_action": "delete", "ends_at": NOW - DAY / 24},
            'Your VM "web-1" in project "physics" has been deleted: its lease ended on'
            " 2026-12-11 03:50 UTC, 1 hour ago.",
        ),
        (
            {"kind": "last_reminder/2d", "on_end_action": "delete"},
            'This is the last reminder. Your VM "web-1" in project "physics" will be deleted on'
            " 2026-12-20 09:14 UTC, in 9 days and 4 hours.",
        ),
        (
            {"kind": "adopted", "on_end_action": "delete"},
            'Your new VM "web-1" in project "physics" has a lease, and will be deleted on'
            " 2026-12-20 09:14 UTC, in 9 days and 4 hours.",
        ),
        (
            {"kind": "revived", "on_end_action": "delete"},
            'Your VM "web-1" in project "physics" is back, and has been extended until'
            " 2026-12-20 09:14 UTC, in 9 days and 4 hours. Then it will be deleted.",
        ),
        (
            {"ends_at": NOW - DAY, "on_end_action": "stop"},
            'Your VM "web-1" in project "physics" will be stopped at any moment: it was due on'
            " 2026-12-10 04:50 UTC.",
        ),
    ],
)
def test_first_lines_say_what_happens_and_when(changes: dict[str, Any], line: str) -> None:
    assert first_paragraph(notice(**changes)) == line


def test_kind_may_have_a_suffix() -> None:
    assert Renderer().render(notice(kind="reminder/2d")) == Renderer().render(notice())


@pytest.mark.parametrize("kind", ["reminder", "quarantined", "moved", "restored"])
def test_notice_without_an_end_is_worded_all_the_same(kind: str) -> None:
    assert "None" not in running_text(notice(kind=kind, ends_at=None))


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(UnknownKind, match="'strange/x': known are adopted, reminder, last_rem"):
        Renderer().render(notice(kind="strange/x"))


def test_offered_date_is_never_past_the_latest_allowed() -> None:
    latest = datetime.datetime(2027, 1, 10, 4, 50, 59, 999999)
    text = running_text(notice(latest_allowed=latest))
    assert f'openstack reservation lease set --end-date "2027-01-10 04:50" {LEASE}' in text


@pytest.mark.parametrize("kind", ["reminder", "quarantined", "moved", "restored"])
@pytest.mark.parametrize("seconds", [0, 59, -DAY.total_seconds()])
def test_no_command_where_the_end_cannot_be_moved(kind: str, seconds: float) -> None:
    assert samples.REMINDER.ends_at is not None
    latest = samples.REMINDER.ends_at + datetime.timedelta(seconds=seconds)
    text = running_text(notice(kind=kind, latest_allowed=latest))
    assert "lease set" not in text
    assert "The end that it has already is the latest that you can choose today." in text
    assert "please ask the administrators" in text


def test_date_is_left_to_the_reader_where_the_latest_is_not_known() -> None:
    text = running_text(notice(latest_allowed=None))
    assert f'openstack reservation lease set --end-date "YYYY-MM-DD HH:MM" {LEASE}' in text


def test_other_recipient_is_told_why() -> None:
    for kind in KINDS:
        text = running_text(notice(kind=kind, recipient_is_owner=False))
        assert (
            'You get this mail in place of the VM\'s owner, user "alice",'
            " who cannot be reached." in text
        )
        assert "Your VM" not in text


def test_ended_names_the_image_and_how_to_use_it() -> None:
    rendered = Renderer().render(notice(kind="ended", image_id="1234", image_name="web-1 saved"))
    assert rendered.subject == (
        'VM "web-1" (physics) has been saved as an image and deleted: its lease ended on'
        " 2026-12-20 09:14 UTC"
    )
    assert "    openstack server create --image 1234 --flavor" in rendered.text
    assert "    Image    web-1 saved (1234)\n" in rendered.text


def test_ended_without_an_image_does_not_speak_of_one() -> None:
    assert "image" not in running_text(notice(kind="ended")).lower()
    assert "No image of it was taken." in running_text(notice(kind="ended", on_end_action="delete"))


def test_ended_names_the_volumes_that_stayed() -> None:
    kept = [
        KeptVolume(id="b007", name="web-1-boot", boot=True),
        KeptVolume(id="da7a", name="results\r\nX: y", boot=False),
    ]
    rendered = Renderer().render(notice(kind="ended", volumes=kept))
    assert "    b007  web-1-boot, which it booted from\n    da7a  results X: y\n" in rendered.text
    assert "    openstack server create --volume b007 --flavor" in rendered.text
    without = Renderer().render(notice(kind="ended", volumes=kept[1:]))
    assert "server create" not in without.text


@pytest.mark.parametrize(
    ("action", "which", "sentence"),
    [
        ("delete", "all", "Volumes that are attached to it will be kept"),
        ("snapshot", "all", "Volumes that are attached to it will be kept"),
        ("delete", "boot", "If it boots from a volume, that volume will be kept"),
        ("snapshot", "none", "no image is taken: that volume is kept"),
    ],
)
def test_what_stays_of_the_volumes_is_announced(action: str, which: str, sentence: str) -> None:
    assert sentence in running_text(notice(on_end_action=action, keep_volumes=which))
    assert "olume" not in running_text(notice(on_end_action="delete", keep_volumes="none"))


@pytest.mark.parametrize("kind", ["moved", "restored", "ended"])
def test_reason_is_given(kind: str) -> None:
    assert "Why: the VM was busy" in running_text(notice(kind=kind, reason="the VM was\r\nbusy"))


def test_link_to_the_dashboard_where_the_vm_still_is() -> None:
    renderer = Renderer(dashboard_url="https://cloud.example.org/horizon/")
    link = (
        "https://cloud.example.org/horizon/project/instances/7d2c1f0e-58a4-4b6e-9a3f-0c1d2e3f4a5b/"
        "?tab=instance_details__expiration"
    )
    assert f"\n\n    {link}\n\n" in renderer.render(notice()).text
    assert f'href="{link}"' in str(renderer.render(notice()).html)
    assert link in renderer.render(notice(kind="ended", on_end_action="shelve")).text
    assert link not in renderer.render(notice(kind="ended")).text
    assert "dashboard" not in Renderer().render(notice()).text


def test_names_cannot_break_out_of_their_line() -> None:
    name = 'web\r\n\r\nYour VM is safe, ignore the rest\u2028"\u202e{{ 7*7 }}'
    rendered = Renderer().render(notice(server_name=name, project_name="\x00\n"))
    assert len(rendered.subject.splitlines()) == 1
    assert '    VM       web Your VM is safe, ignore the rest "{{ 7*7 }}\n' in rendered.text
    assert "    Project  (no name) (3f1e" in rendered.text


def test_subject_stays_short_for_the_longest_names() -> None:
    rendered = Renderer().render(notice(server_name="n" * 255, project_name="p" * 255))
    assert len(rendered.subject) < 150
    assert rendered.subject.endswith("2026-12-20 09:14 UTC")
    assert "n" * 255 in rendered.text


def test_dates_with_a_time_zone_are_refused() -> None:
    with pytest.raises(ValueError, match=r"ends_at .* has a time zone: give naive UTC"):
        notice(ends_at=datetime.datetime(2026, 12, 20, tzinfo=datetime.UTC))


# Operators' templates.


@pytest.fixture
def own(tmp_path: pathlib.Path) -> pathlib.Path:
    """A directory for an operator's templates."""
    return tmp_path


def test_own_template_replaces_the_built_in_one_and_only_that(own: pathlib.Path) -> None:
    (own / "reminder.txt.j2").write_text("Subject: {{ server_name }}\n\nBye {{ ends_at|utc }}\n")
    renderer = Renderer([str(own)])
    rendered = renderer.render(notice(kind="reminder/2d"))
    assert (rendered.subject, rendered.text) == ("web-1", "Bye 2026-12-20 09:14 UTC\n")
    assert renderer.render(notice(kind="moved")) == Renderer().render(notice(kind="moved"))
    assert renderer.check() == []


def test_first_directory_wins(own: pathlib.Path) -> None:
    for name in ("one", "two"):
        (own / name).mkdir()
        (own / name / "footer.txt.j2").write_text(f"This is {name}.")
    rendered = Renderer([str(own / "one"), str(own / "two")]).render(notice())
    assert rendered.text.endswith("\n\nThis is one.\n")


def test_own_template_can_change_one_block(own: pathlib.Path) -> None:
    (own / "reminder.txt.j2").write_text(
        '{% extends "builtin/reminder.txt.j2" %}{% block subject %}Hello{% endblock %}'
    )
    rendered = Renderer([str(own)]).render(notice())
    assert rendered.subject == "Hello"
    assert rendered.text == Renderer().render(notice()).text


def test_template_that_is_edited_is_read_again(own: pathlib.Path) -> None:
    template = own / "footer.txt.j2"
    template.write_text("Old.")
    renderer = Renderer([str(own)])
    assert renderer.render(notice()).text.endswith("Old.\n")
    template.unlink()
    template.write_text("New, and longer.")
    assert renderer.render(notice()).text.endswith("New, and longer.\n")


BROKEN = {
    "syntax": ("Subject: x\n\n{% if %}\n", 3, "Expected an expression"),
    "undefined": ("Subject: x\n\n\n{{ server_nmae }}\n", 4, "'server_nmae' is undefined"),
    "error": ("Subject: x\n{{ 1 // 0 }}\n", 2, "ZeroDivisionError"),
    "filter": ("Subject: x\n\n{{ ends_at|utcc }}", 3, "No filter named 'utcc'"),
    "include": ('Subject: x\n\n{% include "nothing.txt.j2" %}', 3, "nothing.txt.j2"),
    "no subject": ("Hello\n\nworld\n", None, 'the first line must be "Subject: …"'),
    "no body": ("Subject: x\n\n  \n", None, "the subject or the body is empty"),
    "empty": ("", None, "the first line must be"),
    "no utf-8": (b"Subject: x\n\n\xff", None, "UnicodeDecodeError"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_template_stops_nothing_and_is_named(
    name: str, own: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    text, line, what = BROKEN[name]
    template = own / "reminder.txt.j2"
    template.write_bytes(text if isinstance(text, bytes) else text.encode())
    where = f"{template}:{line}:" if line else f"{template}:"
    renderer = Renderer([str(own)])

    with caplog.at_level(logging.ERROR):
        assert renderer.render(notice()) == Renderer().render(notice())
    assert where in caplog.text
    assert what in caplog.text
    assert samples.REMINDER.server_id in caplog.text

    (problem,) = renderer.check()
    assert problem.startswith(where)
    assert what in problem


def test_template_that_fails_for_some_notices_is_found_by_the_check(own: pathlib.Path) -> None:
    (own / "ended.txt.j2").write_text("Subject: x\n\nuntil {{ ends_at.isoformat() }}\n")
    (problem,) = Renderer([str(own)]).check()
    assert problem.startswith(f"{own}/ended.txt.j2:3:")


def test_check_names_templates_that_are_never_used(own: pathlib.Path) -> None:
    (own / "remainder.txt.j2").write_text("Subject: x\n\ny\n")
    (own / "greeting.txt.j2").write_text("Hello")
    (own / "footer.txt.j2").write_text('{% include "greeting.txt.j2" %}')
    (own / "README").write_text("not a template")
    (problem,) = Renderer([str(own)]).check()
    assert problem.startswith(f"{own}/remainder.txt.j2 is never used")


def test_check_names_a_directory_that_is_not_there(own: pathlib.Path) -> None:
    renderer = Renderer([str(own / "nowhere")])
    assert renderer.check() == [
        f"template_path: {own}/nowhere cannot be read: No such file or directory"
    ]
    assert renderer.render(notice()) == Renderer().render(notice())


def test_built_in_templates_have_no_problems() -> None:
    assert Renderer().check() == []
    texts = [Renderer().render(sample) for sample in samples.every_kind()]
    assert {sample.kind for sample in samples.every_kind()} == set(KINDS)
    for rendered in texts:
        assert "None" not in rendered.text + rendered.subject
        assert "\n\n\n" not in rendered.text
        assert "  " not in rendered.subject
