# SPDX-License-Identifier: Apache-2.0
"""A RabbitMQ of its own, as the sandbox has one, without a cloud around it.

Its tests leave behind no exchange or queue as Nova declares it, which no Nova could bear.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.mail_servers import Certificates, make_certificates
from tools.sandbox import Sandbox, config, layout, ports
from tools.sandbox.layout import State
from tools.sandbox.readiness import Readiness
from tools.sandbox.services import table

#: RabbitMQ's options for TLS. One file has the key and the certificate.
_TLS = """
listeners.ssl.1 = {host}:{port}
ssl_options.cacertfile = {certificates.ca}
ssl_options.certfile = {certificates.chain}
ssl_options.keyfile = {certificates.chain}
"""


@dataclasses.dataclass(frozen=True)
class Broker:
    """Where it listens.

    :ivar url: its transport URL, in plain text.
    :ivar tls_port: where it speaks TLS, on the same address.
    """

    url: str
    tls_port: int
    certificates: Certificates


@contextmanager
def rabbitmq(directory: Path) -> Iterator[Broker]:
    """Run one in a directory."""
    report: list[str] = []
    sandbox = Sandbox(directory, report.append)
    files = sandbox.files
    files.claim()
    # The table of services asks for everybody's, whoever is started.
    names = [*ports.STANDARD_PORTS, *ports.AUXILIARY_PORTS, "tls"]
    known = dict(zip(names, ports.free_ports(len(names), avoid=()), strict=True))
    state = files.remember(State(known, port_offset=0))
    files.make_directories()
    etc = files.etc / "rabbitmq"
    etc.mkdir()
    (etc / "enabled_plugins").write_text("[].\n")
    text = config.fill(["rabbitmq.conf"], config.variables(files, state))
    certificates = make_certificates(etc)
    text += _TLS.format(host=ports.HOST, port=known["tls"], certificates=certificates)
    (etc / "rabbitmq.conf").write_text(text)
    entry = table(files, state)["rabbitmq"]
    try:
        sandbox.supervisor.start(entry.name, entry.argv, entry.env)
        Readiness(sandbox.supervisor, _runs_nothing, report.append).wait([entry], state)
        yield Broker(layout.broker_url(state), known["tls"], certificates)
    finally:
        sandbox.down()


def _runs_nothing(*arguments: object) -> bytes:
    raise AssertionError(f"a broker is ready when it listens, without {arguments}")
