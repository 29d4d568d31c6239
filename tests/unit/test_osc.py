# SPDX-License-Identifier: Apache-2.0
"""Parts of ``openstack vm expiration`` that need no cloud."""

from __future__ import annotations

import importlib.metadata
import io
import sys

import pytest

from blazar_vmexpire.lifecycle import State
from blazar_vmexpire.osc import arguments
from blazar_vmexpire.osc.columns import Lines, Pairs, StateOf, Text, TimeLeft

COMMANDS = sorted(
    importlib.metadata.entry_points(group="openstack.vm_expiration.v1"), key=lambda e: e.name
)


class Terminal(io.StringIO):
    """Something that says of itself that it is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


def print_to_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have what is printed go to a terminal; no fixture, as pytest sets it after those."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys, "stdout", Terminal())


def test_every_state_can_be_asked_for() -> None:
    assert list(arguments.STATES) == [state.value for state in State if state != State.SEEN]


def test_commands_are_loaded_and_say_in_a_line_what_they_do() -> None:
    assert len(COMMANDS) == 15
    for command in COMMANDS:
        described = command.load()(None, None).get_description()
        first = described.strip().partition("\n")[0]
        assert first, command.name
        assert not first.endswith("."), "as the OpenStack client writes it"


@pytest.mark.parametrize(
    ("seconds", "words", "colour"),
    [
        (None, "", None),
        (86400 * 60, "60 days", None),
        (86400 * 9 + 3600 * 4 + 59, "9 days and 4 hours", 33),
        (3600, "1 hour", 31),
        (30, "less than a minute", 31),
        (-7200, "2 hours ago", 31),
    ],
)
def test_time_left_is_said_in_words_and_in_colour_where_it_is_short(
    monkeypatch: pytest.MonkeyPatch, seconds: int | None, words: str, colour: int | None
) -> None:
    print_to_a_terminal(monkeypatch)
    column = TimeLeft(seconds)
    coloured = [f"\x1b[{colour}m{word}\x1b[0m" if colour else word for word in words.split(" ")]
    assert column.human_readable() == " ".join(coloured)
    assert column.machine_readable() == seconds
    monkeypatch.setenv("NO_COLOR", "1")
    assert column.human_readable() == words
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert column.human_readable() == words


def test_what_has_no_end_is_sorted_last() -> None:
    some = [TimeLeft(None), TimeLeft(5), TimeLeft(-5), TimeLeft(None)]
    assert [column.machine_readable() for column in sorted(some)] == [-5, 5, None, None]


def test_states_that_need_somebody_are_coloured(monkeypatch: pytest.MonkeyPatch) -> None:
    print_to_a_terminal(monkeypatch)
    assert StateOf("failed").human_readable() == "\x1b[31mfailed\x1b[0m"
    assert StateOf("noticed").human_readable() == "\x1b[33mnoticed\x1b[0m"
    assert StateOf("active").human_readable() == "active"


def test_foreign_text_stays_on_its_line() -> None:
    assert Text("a\x1b[2Jb\nc").human_readable() == "a [2Jb c"
    assert Text(None).human_readable() == ""
    assert Pairs({"b": "x\ny", "a": None}).human_readable() == "b='x y'"
    assert Pairs(None).human_readable() == ""
    assert Lines([{"a": 1}, {"a": "\n"}]).human_readable().count("\n") == 1
