# SPDX-License-Identifier: Apache-2.0
"""Notices: what is said about a VM's end, and how it is sent."""

from __future__ import annotations

from blazar_vmexpire.addresses import BadAddress, parse_recipient, parse_sender
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
    kinds_of,
)
from blazar_vmexpire.notices.mail import build_message, message_id_for
from blazar_vmexpire.notices.mailer import Mailer, MailUnavailable, Sent, Undeliverable
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
from blazar_vmexpire.notices.user_address import UserAddress

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
    "Sent",
    "TemplateError",
    "Undeliverable",
    "UnknownKind",
    "UserAddress",
    "build_message",
    "kinds_of",
    "message_id_for",
    "parse_recipient",
    "parse_sender",
]
