# SPDX-License-Identifier: Apache-2.0
"""Telling the operators something by mail."""

from __future__ import annotations

from oslo_log import log as logging

from blazar_vmexpire import words
from blazar_vmexpire.notices import (
    Alarm,
    Failures,
    MailUnavailable,
    Undeliverable,
    build_message,
)
from blazar_vmexpire.worker.tools import Tools

LOG = logging.getLogger(__name__)


def tell(
    tools: Tools, contact: str, alarm: Alarm | Failures, *, what: str, message_id: str
) -> bool:
    """Send a mail to the operators.

    :param contact: their address.
    :param what: it tells, in the words of the log: "That ...".
    :param message_id: the mail's: the same for the same thing to be told, so that mail readers fold
        what a crash repeats.
    :returns: whether the mail server took it; if not, that is logged.
    """
    message = build_message(
        tools.renderer.render_alarm(alarm),
        recipient=contact,
        from_address=tools.conf.vmexpire_mail.from_address,
        message_id=message_id,
        date=tools.clock(),
    )
    try:
        answer = tools.mailer.send(message, contact)
    except (MailUnavailable, Undeliverable) as error:
        why = words.without_addresses(str(error))
        LOG.error("%s could not be told to the operators' contact: %s", what, why)
        return False
    LOG.info("%s was told to the operators' contact", what)
    LOG.debug("%s was told to %s: %s", what, contact, answer)
    return True
