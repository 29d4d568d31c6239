# SPDX-License-Identifier: Apache-2.0
"""Owners who cannot be reached: somebody is told in their place, and their VMs end."""

from __future__ import annotations

from tests.integration.cloudlib import Cloud, Vm

CONTACT = "operators@example.org"
REFUSED = "refused@example.org"


def ends_and_the_contact_is_told(vm: Vm) -> list[str]:
    """See a VM through to its end, and return its history's names."""
    vm.wait_for_end()
    assert [mail.recipients for mail in vm.mails("reminder")] == [CONTACT]
    assert [mail.recipients for mail in vm.mails("ended")] == [CONTACT]
    assert vm.name in vm.mails("reminder")[0].text
    return vm.events()


def test_an_owner_without_a_mail_address(calm: Cloud) -> None:
    carol = calm.add_user("carol", mail=None)
    events = ends_and_the_contact_is_told(calm.boot("no address", carol))
    assert "moved" not in events


def test_an_owner_with_two_addresses_in_one(calm: Cloud) -> None:
    dave = calm.add_user("dave", mail="dave@example.org, everybody@example.org")
    ends_and_the_contact_is_told(calm.boot("two addresses", dave))


def test_an_owner_who_is_no_more(calm: Cloud) -> None:
    erin = calm.add_user("erin", mail="erin@example.org")
    vm = calm.boot("owner deleted", erin)
    calm.delete_user(erin)
    ends_and_the_contact_is_told(vm)


def test_an_owner_whose_address_is_refused(calm: Cloud) -> None:
    """For the mail server's first two refusals there may be better days."""
    calm.mail_server(refuse_recipients=[REFUSED])
    frank = calm.add_user("frank", mail=REFUSED)
    events = ends_and_the_contact_is_told(calm.boot("refused", frank))
    assert events.count("notice_refused") == 4
    assert "moved" not in events
