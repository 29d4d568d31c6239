# SPDX-License-Identifier: Apache-2.0
"""Notices: what is said about a VM's end, and how it is sent."""

from __future__ import annotations

from blazar_vmexpire.notices.addresses import BadAddress, parse_recipient, parse_sender
from blazar_vmexpire.notices.content import (
    DIGESTED,
    KINDS,
    Alarm,
    Failure,
    Failures,
    Group,
    KeptVolume,
    Kind,
    Named,
    Notice,
    Saying,
)
from blazar_vmexpire.notices.mail import build_message, message_id_for
from blazar_vmexpire.notices.mailer import Mailer, MailUnavailable, Undeliverable
from blazar_vmexpire.notices.render import (
    ALARM,
    DIGEST,
    DRY_RUN,
    FAILED,
    TEST,
    Preface,
    Rendered,
    Renderer,
    UnknownKind,
)
from blazar_vmexpire.notices.templates import TemplateError

__all__ = [
    "ALARM",
    "DIGEST",
    "DIGESTED",
    "DRY_RUN",
    "FAILED",
    "KINDS",
    "TEST",
    "Alarm",
    "BadAddress",
    "Failure",
    "Failures",
    "Group",
    "KeptVolume",
    "Kind",
    "MailUnavailable",
    "Mailer",
    "Named",
    "Notice",
    "Preface",
    "Rendered",
    "Renderer",
    "Saying",
    "TemplateError",
    "Undeliverable",
    "UnknownKind",
    "build_message",
    "message_id_for",
    "parse_recipient",
    "parse_sender",
]
