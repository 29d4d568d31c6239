# SPDX-License-Identifier: Apache-2.0
"""Listening to Nova's notifications, whatever the message bus does."""

from __future__ import annotations

import threading

import pytest

from blazar_vmexpire.intake.notifications import Listening


class Listener:
    """A listener, as oslo.messaging makes them, of which each step is noted."""

    def __init__(self, refusals: list[Exception], *, bus_is_there: bool = True) -> None:
        self.refusals = refusals
        self.bus_is_there = threading.Event()
        if bus_is_there:
            self.bus_is_there.set()
        self.steps: list[str] = []

    def start(self) -> None:
        """Connect: wait for the bus, for as long as that takes."""
        self.steps.append("start")
        if self.refusals:
            raise self.refusals.pop()
        assert self.bus_is_there.wait(30)

    def stop(self) -> None:
        """Take no further message."""
        self.steps.append("stop")

    def wait(self) -> None:
        """Finish the one in hand."""
        self.steps.append("wait")


def test_it_listens_until_it_is_stopped() -> None:
    listener = Listener([])
    listening = Listening(lambda: listener)
    assert listening.start()
    assert listener.steps == ["start"]
    assert listening.stop()
    assert listener.steps == ["start", "stop", "wait"]


def test_a_bus_that_refuses_us_is_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    listener = Listener([PermissionError("no such account"), PermissionError("no such account")])
    listening = Listening(lambda: listener, again=0.01)
    assert listening.start()
    assert listening.stop()
    assert listener.steps == ["start"] * 3 + ["stop", "wait"]
    assert "Cannot listen to Nova's notifications" in caplog.text


def test_a_bus_that_comes_when_we_have_stopped_is_let_go_of() -> None:
    listener = Listener([], bus_is_there=False)
    listening = Listening(lambda: listener, patience=0.05)
    assert not listening.start()
    assert not listening.stop()
    listener.bus_is_there.set()
    assert listening.stop()
    assert listener.steps == ["start", "stop", "wait"]
