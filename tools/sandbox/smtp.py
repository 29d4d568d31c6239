# SPDX-License-Identifier: Apache-2.0
"""The mail server of the sandbox: smtp.py PORT DIRECTORY (run by the venv's python).

Each mail it takes becomes one file `<UTC time>-<number>-<first recipient>.eml` in DIRECTORY, there
in one step; the envelope is in X-Mail-From and X-Rcpt-To. DIRECTORY/.control.json, read at every
RCPT, makes it misbehave:

    {"refuse_recipients": ["gone@example.org"],   550 for these
     "temporary_failure": true,                   451 for everybody
     "hang": true}                                no answer as long as this is set
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP, Envelope, Session

HOST = "127.0.0.1"
MAXIMUM_SIZE = 32 << 20


class MailDirectory:
    """An aiosmtpd handler that files what it takes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._numbers = itertools.count(1)

    def _control(self) -> dict[str, Any]:
        try:
            control = json.loads((self.directory / ".control.json").read_text())
        except (OSError, ValueError):
            # Not there, or being written at this moment.
            return {}
        return control if isinstance(control, dict) else {}

    async def handle_RCPT(
        self,
        server: SMTP,
        session: Session,
        envelope: Envelope,
        address: str,
        options: list[str],
    ) -> str:
        while self._control().get("hang"):
            await asyncio.sleep(0.2)
        control = self._control()
        if control.get("temporary_failure"):
            return "451 4.3.0 told to fail for now"
        if address.lower() in {name.lower() for name in control.get("refuse_recipients", ())}:
            return f"550 5.1.1 <{address}>: told to refuse this recipient"
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        recipient = re.sub(r"[^\w@.+-]", "_", envelope.rcpt_tos[0])
        name = f"{now}-{next(self._numbers):06d}-{recipient}.eml"
        head = f"X-Mail-From: {envelope.mail_from}\r\nX-Rcpt-To: {', '.join(envelope.rcpt_tos)}\r\n"
        temporary = self.directory / f".{name}.new"
        with temporary.open("wb") as file:
            file.write(head.encode())
            file.write(envelope.original_content or b"")
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(self.directory / name)
        return f"250 2.0.0 filed as {name}"


async def serve(port: int, directory: Path) -> None:
    handler = MailDirectory(directory)
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    server = await loop.create_server(
        lambda: SMTP(
            handler, hostname="sandbox", enable_SMTPUTF8=True, data_size_limit=MAXIMUM_SIZE
        ),
        HOST,
        port,
    )
    print(f"taking mail on {HOST}:{port} into {directory}", flush=True)
    await stopped.wait()
    server.close()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), Path(sys.argv[2])))
