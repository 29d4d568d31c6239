# SPDX-License-Identifier: Apache-2.0
"""Expiration on os-vm-expire's terms: a copy of its rules, with minutes for days."""

from __future__ import annotations

import datetime

import pytest

from tests.integration import rules
from tests.integration.cloudlib import MINUTE, Cloud, in_minutes
from tests.integration.waiting import utcnow, wait_for

#: Until make test has room for it: its scenarios are run by make test-full.
pytestmark = pytest.mark.long


def test_vms_expire_on_the_terms_of_os_vm_expire(calm: Cloud) -> None:
    """Two mails, an extension with its cap, a cap on the whole life, deletion, a last mail."""
    project = calm.add_project(rules.GENOUEST)
    dave = calm.add_member("dave", "dave@example.org", project)
    forgotten, wanted = calm.boot("forgotten too", dave), calm.boot("wanted too", dave)
    row = wanted.row()
    assert row.rule == "os-vm-expire all"
    assert row.adopted_at is not None
    assert row.server_created_at is not None
    assert 4 * MINUTE <= wanted.ends_at - row.adopted_at <= 5 * MINUTE

    # The second mail has come: it may be extended by three minutes from now, not more.
    ends_at = wanted.ends_at
    wanted.wait_for_mail("reminder/2m", 20, after=ends_at - 2 * MINUTE)
    refused = wanted.put_lease(end_date=in_minutes(5))
    assert refused.status == 400, refused
    assert "is past the latest allowed" in refused.message
    # Its whole life is capped, counted from its creation; from here on that is the nearer cap.
    latest = (row.server_created_at + 6 * MINUTE).replace(second=0, microsecond=0)
    turn = row.server_created_at + 3 * MINUTE
    wait_for("three minutes of its life", lambda: utcnow() > turn, 5, after=turn)
    if latest > ends_at:
        assert wanted.put_lease(end_date=latest).status == 200
        assert wanted.ends_at == latest
    refused = wanted.put_lease(end_date=latest + MINUTE)
    assert refused.status == 400, refused
    assert "max_total_duration 6m" in refused.message

    forgotten.wait_for_end()
    assert [mail.recipients for mail in forgotten.mails("reminder/")] == ["dave@example.org"] * 2
    assert forgotten.done_in_nova() == ["create", "delete"]
    assert forgotten.when("deleted") - forgotten.when("notice_accepted") >= datetime.timedelta(
        minutes=1
    )
    wanted.wait_for_end()
    assert wanted.mails("ended")
