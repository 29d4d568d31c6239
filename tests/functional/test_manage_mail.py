# SPDX-License-Identifier: Apache-2.0
"""``blazar-vmexpire-manage mail``, without a database or a cloud."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import pytest

from blazar_vmexpire.notices import DIGEST, KINDS, samples
from tests.functional.manage import Done, Manage
from tests.functional.world import parsed
from tests.mail_servers import MailServer

Command = Callable[..., Done]


@pytest.fixture
def command(manage: Manage, mail: MailServer) -> Command:
    """Run ``mail`` with options of its group."""

    def run(*arguments: str, **options: Any) -> Done:
        group = {"host": "127.0.0.1", "port": mail.port, **options}
        return manage(None, "mail", *arguments, options={"vmexpire_mail": group})

    return run


@pytest.mark.parametrize("kind", [*KINDS, DIGEST, *samples.ALARMS])
def test_preview_shows_each_kind(command: Command, tmp_path: pathlib.Path, kind: str) -> None:
    done = command("preview", kind)
    assert (done.returncode, done.stderr) == (0, "")
    head, _, body = done.stdout.partition("\n\n")
    assert head.startswith("Subject: ")
    assert len(body) > 100
    path = tmp_path / "mail.html"
    done = command("preview", kind, "--html", str(path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert path.read_text().startswith("<!DOCTYPE html>")


def test_preview_is_by_the_templates_that_are_configured(
    command: Command, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "footer.txt.j2").write_text("The help desk.")
    (tmp_path / "ended.txt.j2").write_text("Subject: x\n\n{{ oops }}")
    path, link = str(tmp_path), "https://cloud.example.org"
    done = command("preview", "reminder", template_path=path, dashboard_url=link)
    assert done.stdout.endswith("The help desk.\n")
    assert f"    {link}/project/instances/" in done.stdout
    done = command("preview", "ended", template_path=path)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{path}/ended.txt.j2:3: UndefinedError: 'oops' is undefined" in done.stderr


def test_preview_of_what_is_not_there(command: Command, tmp_path: pathlib.Path) -> None:
    assert command("preview", "remainder").returncode == 2
    done = command("preview", "reminder", "--html", str(tmp_path / "no" / "where"))
    assert (done.returncode, "No such file" in done.stderr) == (1, True)
    done = command("preview", "reminder", "--html", str(tmp_path / "x"), html="false")
    assert (done.returncode, "html is false" in done.stderr) == (1, True)


def test_a_test_mail_arrives_and_says_that_it_is_one(command: Command, mail: MailServer) -> None:
    for _ in range(2):
        done = command("test", "ops@example.org")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == (
            "The mail server took the mail to ops@example.org: 250 2.0.0 queued as 4711\n"
        )
    first, second = (parsed(envelope) for envelope in mail.mails)
    assert first["Subject"].startswith("[test] VM ")
    assert first.get_content().startswith("This is a test of the mails of VM expiration")
    assert "will be saved as an image" in first.get_content()
    assert first["Message-ID"] != second["Message-ID"]


@pytest.mark.parametrize(
    ("port", "refused", "said"),
    [
        (1, None, "the mail was not sent: mail server 127.0.0.1:1: "),
        (None, "550 5.1.1 no such user", "550 5.1.1 no such user"),
        (None, "451 4.7.1 greylisted", "451 4.7.1 greylisted"),
    ],
)
def test_what_the_mail_server_says_is_told(
    command: Command, mail: MailServer, port: int | None, refused: str | None, said: str
) -> None:
    if refused is not None:
        mail.refused["ops@example.org"] = refused
    done = command("test", "ops@example.org", **({} if port is None else {"port": port}))
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr


def test_wrong_addresses(command: Command) -> None:
    assert "is not a usable mail address" in command("test", "ops").stderr
    done = command("test", "ops@example.org", from_address="nobody")
    assert (done.returncode, "[vmexpire_mail] from_address" in done.stderr) == (1, True)
