# SPDX-License-Identifier: Apache-2.0
"""How many notices can be worded and handed to a mail server, beside what smtplib does bare.

Like the other measures, each function can run in a process of its own.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import multiprocessing
import smtplib
import time
import uuid
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import Synchronized

from aiosmtpd.smtp import SMTP, Envelope, Session
from oslo_config import cfg

from blazar_vmexpire.conf import mail
from blazar_vmexpire.notices import (
    Mailer,
    Notice,
    Renderer,
    build_message,
    invitation,
    message_id_for,
    parse_sender,
    samples,
)
from tests import mail_servers

_HOST = "127.0.0.1"
_SENDER = "vm-expiration@cloud.example.org"
_RECIPIENT = "alice@example.org"


class MailServer:
    """A real SMTP server in a process of its own, which counts what it takes and keeps nothing."""

    def __init__(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._taken: Synchronized[int] = spawn.Value("q", 0)
        ours, theirs = spawn.Pipe(duplex=False)
        self._process = spawn.Process(target=_serve, args=(theirs, self._taken), daemon=True)
        self._process.start()
        theirs.close()
        self.port: int = ours.recv()

    @contextlib.contextmanager
    def expecting(self, count: int) -> Iterator[None]:
        """Check that so many mails come in meanwhile."""
        before = self._taken.value
        yield
        taken = self._taken.value - before
        assert taken == count, f"the mail server took {taken} mails instead of {count}"

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()


class _Counting(mail_servers.MailServer):
    def __init__(self, taken: Synchronized[int]) -> None:
        super().__init__()
        self._taken = taken

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        assert envelope.content
        self._taken.value += 1
        return "250 2.0.0 queued"


def _serve(port: Connection, taken: Synchronized[int]) -> None:
    server = _Counting(taken)
    server.start()
    port.send(server.port)
    # Until it is killed, or whoever began it is gone.
    multiprocessing.parent_process().join()  # type: ignore[union-attr]


def notices(count: int) -> list[Notice]:
    """Make reminders about so many VMs."""
    return [
        dataclasses.replace(samples.REMINDER, server_id=str(uuid.UUID(int=number)))
        for number in range(count)
    ]


def hand_over(port: int, count: int, threads: int) -> dict[str, float]:
    """Word so many notices, with HTML and calendar entry, and send them as a worker's threads do.

    :returns: ``seconds``; ``cpu``, those of this process.
    """
    conf = cfg.ConfigOpts()
    conf.register_opts(mail.OPTS, group=mail.GROUP.name)
    conf([], default_config_files=[], default_config_dirs=[])
    for name, value in (("host", _HOST), ("port", port), ("from_address", _SENDER)):
        conf.set_override(name, value, group=mail.GROUP.name)
    renderer, mailer = Renderer.from_conf(conf), Mailer(conf)

    def send(notice: Notice) -> None:
        message = build_message(
            renderer.render(notice),
            notice=notice,
            recipient=_RECIPIENT,
            from_address=_SENDER,
            message_id=message_id_for(notice.server_id, notice.kind, 1, mailer.domain),
            date=notice.now,
            calendar=invitation.entry(
                notice,
                generation=1,
                sender=parse_sender(_SENDER),
                said_in=renderer.said_in(notice),
            ),
        )
        mailer.send(message, _RECIPIENT)

    # Not measured: templates that are compiled on first use.
    todo = notices(count)
    renderer.render(todo[0])
    began, cpu = time.perf_counter(), time.process_time()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(send, todo):
            pass
    mailer.rest()
    return {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}


def send_bare(port: int, count: int) -> float:
    """Send so many mails of the same size that are there already, by smtplib, one after the other.

    :returns: seconds.
    """
    notice = samples.REMINDER
    content = build_message(
        Renderer().render(notice),
        notice=notice,
        recipient=_RECIPIENT,
        from_address=_SENDER,
        message_id=message_id_for(notice.server_id, notice.kind, 1, "cloud.example.org"),
        date=notice.now,
    ).as_bytes()
    began = time.perf_counter()
    with smtplib.SMTP(_HOST, port, local_hostname="localhost") as connection:
        for _ in range(count):
            connection.sendmail(_SENDER, _RECIPIENT, content)
    return time.perf_counter() - began
