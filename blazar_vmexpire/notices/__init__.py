# SPDX-License-Identifier: Apache-2.0
"""Notices: what is said about a VM's end, and how it is sent."""

from __future__ import annotations

from blazar_vmexpire.notices.addresses import BadAddress, parse_recipient, parse_sender
from blazar_vmexpire.notices.content import (
    KINDS,
    Alarm,
    Group,
    KeptVolume,
    Kind,
    Named,
    Notice,
)
from blazar_vmexpire.notices.mail import (
    Mailer,
    MailUnavailable,
    Undeliverable,
    build_message,
    message_id_for,
)
from blazar_vmexpire.notices.render import Rendered, Renderer, UnknownKind

__all__ = [
    "KINDS",
    "Alarm",
    "BadAddress",
    "Group",
    "KeptVolume",
    "Kind",
    "MailUnavailable",
    "Mailer",
    "Named",
    "Notice",
    "Rendered",
    "Renderer",
    "Undeliverable",
    "UnknownKind",
    "build_message",
    "message_id_for",
    "parse_recipient",
    "parse_sender",
]
