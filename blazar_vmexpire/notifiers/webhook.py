# SPDX-License-Identifier: Apache-2.0
"""Notifications by HTTP: one POST each, signed, in a form that chat programs show as it is."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
import urllib.parse
from collections.abc import Callable

import requests
from oslo_config import cfg

from blazar_vmexpire import words
from blazar_vmexpire.exceptions import ConfigError
from blazar_vmexpire.notifiers.base import NotDelivered, Notification, Notifier, Rejected

#: Answers that say that this very body is wrong, whenever it is sent.
_WRONG_BODY = frozenset({400, 413, 422})
_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})


class Webhook(Notifier):
    """Posts to the URL of ``[vmexpire_webhook]``.

    :param clock: seconds since 1970, for the signature.
    """

    def __init__(self, conf: cfg.ConfigOpts, clock: Callable[[], float] = time.time) -> None:
        group = conf.vmexpire_webhook
        self._url = _checked(group.url)
        self._secret: bytes | None = group.secret.encode() if group.secret else None
        self._timeout: float = group.timeout.total_seconds()
        self._clock = clock
        self._session = requests.Session()
        # Given with each request: a session's own is overridden by REQUESTS_CA_BUNDLE.
        self._verify: str | bool = group.cafile or True

    def notify(self, notification: Notification) -> None:
        """Post; a status of 200 to 299 means that the other side has it."""
        body = json.dumps({"text": notification.text, "notification": notification.payload})
        content = body.encode()
        try:
            answer = self._session.post(
                self._url,
                data=content,
                headers=self._headers(notification, content),
                timeout=self._timeout,
                verify=self._verify,
                # Where it leads, nobody has allowed.
                allow_redirects=False,
                stream=True,
            )
            # What it answers is of no interest, however long it is.
            answer.close()
        except requests.RequestException as error:
            # Its words have the URL in them, which for chat programs is a secret.
            raise NotDelivered(f"the webhook cannot be reached: {type(error).__name__}") from None
        if answer.ok and not answer.is_redirect:
            return
        said = f"the webhook answered {answer.status_code} {words.one_line(answer.reason or '')}"
        if answer.status_code in _WRONG_BODY:
            raise Rejected(said)
        raise NotDelivered(said)

    def _headers(self, notification: Notification, content: bytes) -> dict[str, str]:
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "blazar-vmexpire",
            "X-VMExpire-Event": notification.event_type,
            "X-VMExpire-Delivery": notification.id,
        }
        if self._secret is not None:
            sent_at = str(int(self._clock()))
            signed = hmac.new(self._secret, sent_at.encode() + b"." + content, hashlib.sha256)
            headers["X-VMExpire-Timestamp"] = sent_at
            headers["X-VMExpire-Signature"] = f"sha256={signed.hexdigest()}"
        return headers

    def close(self) -> None:
        """Close the connection."""
        self._session.close()


def _checked(url: str | None) -> str:
    """See that what is sent cannot be read on the way.

    :raises ConfigError: it can, or there is no URL.
    """
    where = urllib.parse.urlsplit(url or "")
    encrypted = where.scheme == "https" or (where.scheme == "http" and where.hostname in _LOCAL)
    if not url or not where.hostname or not encrypted:
        # Of the URL no word: its path is a secret.
        raise ConfigError(
            "[vmexpire_webhook] url has to be set for the notifier webhook, and to begin with"
            " https:// (http:// for this very host alone)"
        )
    return url
