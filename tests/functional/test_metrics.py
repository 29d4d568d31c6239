# SPDX-License-Identifier: Apache-2.0
"""The port for programs: what Prometheus scrapes, what the alerts name, and whether we are well."""

from __future__ import annotations

import concurrent.futures
import json
import os
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import requests
import yaml
from oslo_db import exception as oslo_db_exception
from prometheus_client.parser import text_string_to_metric_families

from blazar_vmexpire.db import models
from blazar_vmexpire.intake.arrivals import Arrivals
from blazar_vmexpire.monitoring import Endpoint, Health
from tests.fakes.cloud import FakeCloud
from tests.fault_proxy import REFUSE
from tests.functional.borders import Borders, Ways
from tests.functional.worker_process import Command, wait_until
from tests.functional.world import World
from tests.mail_servers import listening_socket

pytestmark = pytest.mark.databases("sqlite")

CONTRIB = Path(__file__).resolve().parents[2] / "contrib"
PREFIX = "blazar_vmexpire_"

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def free_port() -> int:
    """Find a port that nobody has at this moment."""
    with listening_socket() as sock:
        port: int = sock.getsockname()[1]
    return port


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture
def ask(world: World, port: int) -> Iterator[Callable[[str], requests.Response]]:
    """A service with its port open, which does no work by itself."""
    conf = world.harness.conf
    conf.set_override("port", port, group="vmexpire_metrics")
    world.harness.restart()
    endpoint = world.harness.plugin.service._endpoint
    endpoint.start()

    def get(path: str) -> requests.Response:
        return requests.get(f"http://127.0.0.1:{port}{path}", timeout=30)

    wait_until(lambda: endpoint._server is not None, "it listens", 30)
    yield get
    endpoint.stop()


def samples(answer: requests.Response) -> Samples:
    """Read what was scraped, as Prometheus' own parser does."""
    assert answer.status_code == 200
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def value(found: Samples, name: str, **labels: str) -> float:
    """Return one sample."""
    return found[PREFIX + name, frozenset(labels.items())]


def test_a_life_is_in_the_metrics(world: World, ask: Callable[[str], requests.Response]) -> None:
    world.cloud.identity.users[world.bob]["email"] = "refused@example.org"
    world.mail.refused["refused@example.org"] = "550 5.1.1 no such mailbox"
    ended = world.adopt()
    world.live(world.lease(ended).end_date + timedelta(minutes=1))
    world.adopt("web2")
    world.adopt("web3", user_id=world.bob)
    world.live(world.lease(world.rows()[0].server_id).end_date - timedelta(days=40))
    world.clock.advance(days=20)
    world.cloud.fault("/servers/", status=503)
    world.see(world.rows()[-1].server_id)

    scraped = ask("/metrics")
    found = samples(scraped)
    assert value(found, "database_up") == 1
    states = {row.state for row in world.rows()}
    for state in states:
        count = sum(row.state == state for row in world.rows())
        assert value(found, "vms", state=state) == count
    assert value(found, "vms", state="failed") == 0
    now = world.clock.now()
    for days in (1, 7, 30):
        coming = [
            row
            for row in world.rows()
            if row.state != "deleted" and row.ends_at <= now + timedelta(days=days)
        ]
        assert value(found, "ends_due", days=str(days)) == len(coming)
    history = [event for row in world.rows() for event in world.events(row.server_id)]
    for event in set(history):
        assert value(found, "events_total", event=event) == history.count(event)
    assert value(found, "notices_total", result="accepted") == len(world.mails)
    assert value(found, "steps_total", state="seen", result="done") == 3
    assert value(found, "errors_total", service="nova", kind="unavailable") >= 1
    assert value(found, "claimed_total") >= len(history) / 2
    assert value(found, "lateness_seconds_count") > 0
    assert value(found, "step_seconds_count", state="seen") == 3
    assert value(found, "reconciliation_servers_total", finding="listed") > 0
    finished = value(found, "chore_last_success_timestamp_seconds", chore="audit")
    assert finished > 0
    # Nobody who scrapes learns whose VMs these are.
    for private in (ended, "web2", world.alpha, world.alice, "example.org"):
        assert private not in scraped.text


def test_when_a_notification_last_came_is_no_chore(
    world: World, ask: Callable[[str], requests.Response]
) -> None:
    tools = world.harness.plugin.tools
    Arrivals(tools.database, tools.clock).note()
    found = samples(ask("/metrics"))
    assert value(found, "last_notification_timestamp_seconds") > 0
    assert not any(dict(labels).get("chore") == "notifications" for _, labels in found)


def expressions() -> Iterator[str]:
    """Read what the alerts and the dashboard ask Prometheus."""
    rules = yaml.safe_load((CONTRIB / "prometheus-rules.yaml").read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            assert {"alert", "expr", "labels", "annotations"} <= set(rule)
            assert rule["labels"]["severity"] in ("warning", "critical")
            assert {"summary", "description"} == set(rule["annotations"])
            yield rule["expr"]
    dashboard = json.loads((CONTRIB / "grafana-dashboard.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield target["expr"]


def selectors(node: Any) -> Iterator[promql_parser.VectorSelector]:
    """Find every metric that an expression names."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
        return
    for name in ("expr", "lhs", "rhs", "vector_selector", "vs"):
        if (below := getattr(node, name, None)) is not None:
            yield from selectors(below)
    for argument in getattr(node, "args", None) or []:
        yield from selectors(argument)


def test_what_alerts_and_dashboard_ask_for_is_there(
    world: World, ask: Callable[[str], requests.Response]
) -> None:
    world.adopt()
    there: dict[str, list[dict[str, str]]] = {}
    for name, labels in samples(ask("/metrics")):
        there.setdefault(name, []).append(dict(labels))
    explained = {name.removesuffix("_total") for name in documented(ask("/metrics").text)}
    asked = 0
    for expression in expressions():
        named = list(selectors(promql_parser.parse(expression)))
        assert named, expression
        for selector in named:
            asked += 1
            # Some have no sample before something has happened.
            base = re.sub("_(bucket|sum|count|total)$", "", selector.name)
            assert selector.name in there or base in explained, expression
            for matcher in selector.matchers.matchers:
                labels = there.get(selector.name, [])
                assert not labels or any(matcher.name in each for each in labels), expression
                if matcher.op == promql_parser.MatchOp.Equal and labels:
                    assert any(each.get(matcher.name) == matcher.value for each in labels), (
                        expression
                    )
    assert asked > 30


def documented(text: str) -> set[str]:
    """Name the metrics that a scrape explains, be there samples of them or not."""
    return {line.split()[2] for line in text.splitlines() if line.startswith("# HELP ")}


def test_the_documentation_names_every_metric_and_no_other(
    ask: Callable[[str], requests.Response],
) -> None:
    page = (CONTRIB.parent / "doc" / "source" / "admin" / "monitoring.rst").read_text()
    named = set(re.findall(r"^   \* - ``(\w+)``$", page, re.MULTILINE))
    there = {name for name in documented(ask("/metrics").text) if not name.endswith("_created")}
    assert {name for name in named if name.startswith(PREFIX)} == there


def test_one_that_is_well_says_so(ask: Callable[[str], requests.Response]) -> None:
    answer = ask("/healthz")
    assert (answer.status_code, answer.text) == (200, "ok\n")
    assert ask("/").status_code == 404
    assert requests.post(answer.url, timeout=30).status_code == 405


def test_a_worker_that_hangs_or_has_lost_a_thread_is_not_well(
    world: World, ask: Callable[[str], requests.Response]
) -> None:
    worker = world.harness.plugin.service.worker
    worker._turn_at -= 601
    answer = ask("/healthz")
    assert answer.status_code == 503
    assert answer.text.startswith("due work has not been asked for in 601 seconds")
    worker._turn_at += 601
    gone = threading.Thread(target=str, name="vmexpire-claim")
    gone.start()
    gone.join()
    worker._threads.append(gone)
    answer = ask("/healthz")
    assert (answer.status_code, answer.text) == (503, "thread vmexpire-claim has died\n")
    worker._threads.remove(gone)


@pytest.mark.databases("mariadb")
class TestDatabaseAway:
    """The database is behind a proxy."""

    @pytest.fixture
    def ways(self, borders: Borders) -> Ways:
        return borders.ways

    def test_a_database_that_is_away_or_hangs_is_said_and_the_rest_is_still_told(
        self, world: World, borders: Borders, ask: Callable[[str], requests.Response]
    ) -> None:
        world.adopt()
        borders["database"].break_(REFUSE)
        answer = ask("/healthz")
        assert answer.status_code == 503
        assert "the database cannot be used" in answer.text
        found = samples(ask("/metrics"))
        assert value(found, "database_up") == 0
        assert value(found, "steps_total", state="seen", result="done") == 1
        borders["database"].mend()
        assert ask("/healthz").status_code == 200


def test_who_asks_at_the_same_moment_gets_the_same_answer(world: World) -> None:
    health = Health(world.harness.database, lambda: [])
    together = threading.Barrier(8)

    def ask(_: int) -> list[str]:
        together.wait()
        return health.problems()

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(8))) == [[]] * 8


def test_a_database_that_does_not_answer_is_not_waited_for(world: World) -> None:
    """And is not asked once more before it has."""
    hold = threading.Event()

    class Hanging:
        def begin(self) -> Any:
            hold.wait(30)
            raise oslo_db_exception.DBConnectionError

    health = Health(Hanging(), lambda: [], patience=0.1)  # type: ignore[arg-type]
    assert health.problems() == ["the database does not answer within 0.1 seconds"]
    assert health.problems() == ["the database has not answered yet when it was asked before"]
    hold.set()
    said = ["the database cannot be used: DBConnectionError"]
    wait_until(lambda: health.problems() == said, "it is asked again")


def test_a_port_that_is_taken_is_said_once_and_taken_when_it_is_free(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    registry = world.harness.plugin.tools.metrics.registry
    with listening_socket() as taken:
        port = taken.getsockname()[1]
        endpoint = Endpoint("127.0.0.1", port, registry, lambda: [], again=0.05)
        endpoint.start()
        said = f"[vmexpire_metrics] 127.0.0.1 port {port} cannot be used: {os.strerror(98)}"
        wait_until(lambda: said in caplog.text, "it is said", 30)
        # The work goes on meanwhile.
        assert world.state(world.adopt()) == "active"
    wait_until(lambda: endpoint._server is not None, "it is free, and ours", 30)
    assert requests.get(f"http://127.0.0.1:{port}/healthz", timeout=30).text == "ok\n"
    endpoint.stop()
    assert caplog.text.count("cannot be used") == 1
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5).close()


def test_it_is_off_unless_a_port_is_given(world: World) -> None:
    assert world.harness.plugin.service._endpoint is None


def test_many_vms_that_are_taken_in_are_counted_a_page_at_a_time(world: World) -> None:
    counted: list[tuple[str, int]] = []
    metrics = world.harness.plugin.tools.metrics
    inner = metrics.happened
    metrics.happened = lambda event, count=1: (counted.append((event, count)), inner(event, count))
    for number in range(40):
        world.boot(f"web{number}")
    world.harness.work()
    assert [entry for entry in counted if entry[0] == "adopted"] == [("adopted", 40)]
    with world.harness.database.begin() as connection:
        there = connection.execute(models.history.select()).all()
    assert len(there) == 40


def test_of_two_workers_on_one_port_one_answers_and_both_work(
    tmp_path: Path, database_url: str, cloud: FakeCloud
) -> None:
    """As processes of their own, which are stopped by a signal."""
    port = free_port()
    commands = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        command = Command(tmp_path / name, database_url, cloud)
        command.options["vmexpire_metrics"] = {"port": port}
        commands.append(command)
    first, second = commands
    processes = [first.start()]
    try:
        answer = _when_it_answers(f"http://127.0.0.1:{port}/healthz")
        assert (answer.status_code, answer.text) == (200, "ok\n")
        processes.append(second.start())
        said = f"[vmexpire_metrics] 127.0.0.1 port {port} cannot be used"
        wait_until(lambda: said in second.log, "it is said", 120)
        wait_until(lambda: "is at work" in second.log, "it works all the same", 120)
        assert said not in first.log
        for process in processes:
            process.send_signal(signal.SIGTERM)
        assert [process.wait(60) for process in processes] == [0, 0]
    finally:
        for command in commands:
            command.kill()


def _when_it_answers(url: str) -> requests.Response:
    found: list[requests.Response] = []

    def asked() -> bool:
        try:
            found.append(requests.get(url, timeout=30))
        except requests.ConnectionError:
            return False
        return True

    wait_until(asked, "it answers", 120)
    return found[0]
