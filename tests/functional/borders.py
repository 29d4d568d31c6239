# SPDX-License-Identifier: Apache-2.0
"""The borders of our plug-in: how it reaches what is not its own, and proxies to break that."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

import sqlalchemy as sa

from tests.blazar_harness import Options
from tests.fakes.cloud import FakeCloud
from tests.fault_proxy import HOST, Address, FaultProxy
from tests.mail_servers import MailServer


@dataclasses.dataclass(frozen=True)
class Ways:
    """How our plug-in reaches what it needs.

    :param options: by group.
    :param database_url: of the database, where it is another than Blazar and the test use.
    """

    options: Options
    database_url: str | None = None


@dataclasses.dataclass(frozen=True)
class Borders:
    """A proxy at each border. Blazar, its API and the test itself have ways of their own."""

    nova: FaultProxy
    glance: FaultProxy
    keystone: FaultProxy
    smtp: FaultProxy
    database: FaultProxy | None
    """None for SQLite, which is not reached over a network."""
    ways: Ways

    def __getitem__(self, name: str) -> FaultProxy:
        found = getattr(self, name)
        assert isinstance(found, FaultProxy), f"there is no proxy before {name}"
        return found

    @property
    def services(self) -> list[FaultProxy]:
        """All but the database."""
        return [self.nova, self.glance, self.keystone, self.smtp]

    def mend(self) -> None:
        """Let all be well."""
        for proxy in (*self.services, self.database):
            if proxy is not None:
                proxy.mend()


@contextlib.contextmanager
def borders_of(cloud: FakeCloud, mail: MailServer, database_url: str) -> Iterator[Borders]:
    """Put a proxy at each border, and let the cloud's catalogue lead to those of its services."""
    with contextlib.ExitStack() as stack:

        def proxy(target: Address) -> FaultProxy:
            return stack.enter_context(FaultProxy(target))

        nova, glance, keystone = (proxy((HOST, cloud.port)) for _ in range(3))
        smtp = proxy((HOST, mail.port))
        identity = cloud.identity
        identity.compute_url = f"http://{HOST}:{nova.port}/compute/v2.1"
        identity.image_url = f"http://{HOST}:{glance.port}/image"
        identity.identity_url = f"http://{HOST}:{keystone.port}/identity"
        options = {
            "DEFAULT": {"os_auth_port": str(keystone.port)},
            "vmexpire_mail": {"host": HOST, "port": smtp.port},
        }
        url = sa.make_url(database_url)
        database = None
        if (path := _unix_socket(url)) is not None:
            database = proxy(path)
            database_url = _over_tcp(url, database.port).render_as_string(hide_password=False)
        yield Borders(
            nova, glance, keystone, smtp, database, Ways(options, database and database_url)
        )


def _unix_socket(url: sa.URL) -> str | None:
    """Name the socket of the server that ``tests/databases.py`` has started."""
    if url.get_backend_name() == "mysql":
        return str(url.query["unix_socket"])
    if url.get_backend_name() == "postgresql":
        return f"{url.query['host']}/.s.PGSQL.5432"
    return None


def _over_tcp(url: sa.URL, port: int) -> sa.URL:
    url = url.difference_update_query(["unix_socket", "host"]).set(host=HOST, port=port)
    if url.get_backend_name() == "postgresql":
        # Each would be an exchange of its own, before the first of interest.
        url = url.update_query_dict({"sslmode": "disable", "gssencmode": "disable"})
    return url
